package drill

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/doctor"
)

// scratchBytes is the size of a scratch resource; roomBytes is what has to be free for it on each node.
const (
	scratchBytes = 16 << 20
	roomBytes    = 64 << 20
)

// Plan is what a drill is going to do.
type Plan struct {
	Like      string   `json:"like"` // the resource whose nodes, directories and policy are taken
	Live      bool     `json:"live"` // it is this very resource whose role is moved
	Nodes     []string `json:"nodes"`
	Events    []Event  `json:"events"`
	Affected  []string `json:"affected"` // resources that fail over, too, or lose a replica for a while
	Isolation string   `json:"isolation,omitempty"`

	asked    string // the node whose control socket is used
	primary  string
	policy   control.Policy
	replicas []control.ReplicaCreate // of the scratch resource, less its name
	still    time.Duration
	hosts    map[string]string // by node: where the others reach it
}

// preflight says what would be done, or everything that speaks against it.
func preflight(cfg *Config, c *doctor.Cluster) (*Plan, []string) {
	var against []string
	no := func(format string, args ...any) { against = append(against, fmt.Sprintf(format, args...)) }
	r := choose(cfg.Like, c)
	if r == nil {
		if cfg.Like == "" {
			no("there is not exactly one resource; name the one whose nodes are to be drilled")
		} else {
			no("there is no resource %s", cfg.Like)
		}
		return nil, against
	}
	p := &Plan{Like: r.Name, Live: cfg.Live, Events: cfg.Events, asked: c.Status.Node, primary: r.Primary, policy: r.Policy, still: stillFor(r.Policy.Lease)}
	for _, x := range r.Replicas {
		p.Nodes = append(p.Nodes, x.Node)
	}
	if slices.Contains(cfg.Events, Isolation) {
		p.Isolation = cfg.Carrier.How()
	}
	health(no, c, r)
	if cfg.Live && (len(cfg.Events) != 1 || cfg.Events[0] != Switchover) {
		no("on a resource that is in use only its role is moved; the other events are drilled on a scratch resource, without --resource")
	}
	if slices.ContainsFunc(cfg.Events, func(e Event) bool { return e != Switchover }) {
		strikes(no, cfg, c, p)
	}
	if !cfg.Live {
		room(no, c, p)
	}
	return p, against
}

// choose returns the resource of a name, or the only one.
func choose(name string, c *doctor.Cluster) *control.Resource {
	all := c.Status.Resources
	if name == "" && len(all) == 1 {
		return &all[0]
	}
	for i := range all {
		if all[i].Name == name {
			return &all[i]
		}
	}
	return nil
}

// stillFor is how long a node is isolated: long enough that another one has to take over.
func stillFor(lease time.Duration) time.Duration {
	return min(max(2*time.Second, 4*lease), control.MaxStill)
}

// health speaks against a drill of what is not whole before it begins.
func health(no func(string, ...any), c *doctor.Cluster, r *control.Resource) {
	if !c.Status.Ledger.Quorum {
		no("the ledger has no majority")
	}
	for _, n := range c.Nodes {
		if n.Facts == nil {
			no("%s does not answer: %s", n.Name, n.Silent)
		}
	}
	if r.Primary == "" || r.IO.State == control.IOFrozen || r.IO.State == control.IOFailed {
		no("%s is not served now", r.Name)
	}
	if len(r.Replicas) < 2 {
		no("%s has one replica only, so nobody could take over", r.Name)
	}
	for _, p := range r.Replicas {
		if !p.InSync {
			no("the replica of %s on %s is not in sync", r.Name, p.Node)
		}
	}
}

// strikes speaks against striking nodes that something would not survive.
func strikes(no func(string, ...any), cfg *Config, c *doctor.Cluster, p *Plan) {
	kills := slices.Contains(cfg.Events, Kill) || slices.Contains(cfg.Events, Secondary)
	for _, node := range p.Nodes {
		f := factsOf(c, node)
		if f == nil {
			continue // health says so
		}
		if kills && !cfg.Carrier.Restarts(f) {
			no("nobody is known to start the daemon of %s again: run it as a systemd service, or drill only: --only switchover --only isolation", node)
		}
		if slices.Contains(cfg.Events, Isolation) && f.Watchdog != "" && !cfg.AllowFence {
			no("a watchdog (%s) looks after %s and may reset its host while the daemon stands still: --allow-fence, or leave isolation out with --only", f.Watchdog, node)
		}
		if shooter := shotBy(c, node); shooter != "" && !cfg.AllowFence {
			no("%s and %s are the only voters, so %s turns %s off for real when it is lost: --allow-fence if that is what you want", node, shooter, shooter, node)
		}
		for i := range c.Status.Resources {
			r := &c.Status.Resources[i]
			if !slices.ContainsFunc(r.Replicas, func(x control.Replica) bool { return x.Node == node }) {
				continue
			}
			if !slices.Contains(p.Affected, r.Name) {
				p.Affected = append(p.Affected, r.Name)
				if r.Policy.Fencing == "stonith" && !cfg.AllowFence {
					no("the policy of %s is stonith, so a node that is struck is turned off for real: --allow-fence if that is what you want", r.Name)
				}
			}
			if l := c.Lose(r, node); !l.GoesOn {
				no("when %s dies, %s does not go on: %s", node, r.Name, l.Because)
			}
		}
	}
}

// shotBy returns the other one of two voters, if it turns node off in order to go on alone; "" otherwise.
func shotBy(c *doctor.Cluster, node string) string {
	voters, other := 0, ""
	for _, n := range c.Status.Nodes {
		if n.Voter {
			if voters++; n.Name != node {
				other = n.Name
			}
		}
	}
	if f := factsOf(c, other); voters == 2 && f != nil && slices.Contains(f.Fences, node) {
		return other
	}
	return ""
}

// room decides where the files of a scratch resource go: beside those of the resource that it is like, or
// beside its metadata where that is a device.
func room(no func(string, ...any), c *doctor.Cluster, p *Plan) {
	for _, node := range p.Nodes {
		f := factsOf(c, node)
		if f == nil {
			continue
		}
		i := slices.IndexFunc(f.Replicas, func(x control.ReplicaFacts) bool { return x.Resource == p.Like })
		if i < 0 {
			no("%s does not tell where its replica of %s lies", node, p.Like)
			continue
		}
		at, dir := f.Replicas[i].Data, ""
		switch {
		case at.TotalBytes > 0:
			dir = filepath.Dir(at.Path)
		case f.Replicas[i].Meta.TotalBytes > 0:
			at = f.Replicas[i].Meta
			dir = filepath.Dir(at.Path)
		default:
			at = f.DataDir
			dir = at.Path
		}
		if at.FreeBytes < roomBytes {
			no("%s on %s has %d MiB free, and a scratch resource wants %d", dir, node, at.FreeBytes>>20, roomBytes>>20)
		}
		p.replicas = append(p.replicas, control.ReplicaCreate{Node: node, DataPath: dir})
	}
}

func factsOf(c *doctor.Cluster, node string) *control.Facts {
	for _, n := range c.Nodes {
		if n.Name == node {
			return n.Facts
		}
	}
	return nil
}

// Text tells people what is going to happen.
func (p *Plan) Text() string {
	var b strings.Builder
	if p.Live {
		fmt.Fprintf(&b, "The role of %s is moved to another node and back while its blocks are read. Its clients are disconnected twice, and have to connect again.\n", p.Like)
		return b.String()
	}
	fmt.Fprintf(&b, "A scratch resource of %d MiB is made on %s beside %s, written to, and deleted.\n", scratchBytes>>20, strings.Join(p.Nodes, ", "), p.Like)
	for _, e := range p.Events {
		switch e {
		case Switchover:
			fmt.Fprintf(&b, "switchover: its role is moved to another node.\n")
		case Kill:
			fmt.Fprintf(&b, "kill: the daemon of its primary is killed.\n")
		case Isolation:
			fmt.Fprintf(&b, "isolation: its primary is taken away for %v: %s.\n", p.still, p.Isolation)
		case Secondary:
			fmt.Fprintf(&b, "secondary: the daemon of a secondary is killed.\n")
		}
	}
	if len(p.Affected) > 0 {
		fmt.Fprintf(&b, "What a node is primary of fails over with it. That concerns: %s. Their clients have to connect again; nothing of theirs is written to.\n", strings.Join(p.Affected, ", "))
	}
	return b.String()
}
