package voter

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	mathrand "math/rand/v2"
	"slices"
	"testing"

	"github.com/lockstep-ha/lockstep/quorum"
)

// cluster runs Voters on one network in one goroutine. Frames travel as bytes, in order, and a
// step is a tick of every node and all that comes of it.
type cluster struct {
	testing.TB
	rng   *mathrand.ChaCha8
	names []string
	hosts map[string]*host
	queue []packet
	cut   map[[2]string]bool // from, to
	trace hash.Hash          // of everything that was sent, shown and answered
	sent  func(packet) bool  // may drop what is sent; nil: nothing
}

type packet struct {
	from, to string
	frame    []byte
}

type host struct {
	*Voter
	c      *cluster
	name   string
	mem    *Memory
	router *Router
	fault  error // that ended the voter
}

// newCluster founds a ledger on nodes of these names and starts them; "W" is a witness.
func newCluster(t testing.TB, seed byte, names ...string) *cluster {
	t.Helper()
	c := empty(t, seed, names...)
	var seats []Seat
	for _, n := range names {
		seats = append(seats, Seat{Node: quorum.Node{Name: n, Addr: n + ":1", Witness: n == "W"}, Storage: c.hosts[n].mem})
	}
	if err := FoundOn("c", seats, c.rng.Uint64); err != nil {
		t.Fatal(err)
	}
	c.start(names...)
	return c
}

// empty makes nodes with new storages and starts none.
func empty(t testing.TB, seed byte, names ...string) *cluster {
	c := &cluster{TB: t, rng: mathrand.NewChaCha8([32]byte{seed}), names: names, hosts: map[string]*host{},
		cut: map[[2]string]bool{}, trace: sha256.New()}
	system := rand.Reader
	rand.Reader = mathrand.NewChaCha8([32]byte{seed, 1}) // raft's election timeouts
	t.Cleanup(func() { rand.Reader = system })
	for _, n := range names {
		c.hosts[n] = &host{c: c, name: n, mem: NewMemory()}
	}
	return c
}

func (c *cluster) config(name string) Config {
	cfg := Config{Cluster: "c", Node: name, SnapshotEntries: 20, KeepEntries: 3,
		OnState: func(s *quorum.State) {
			b, err := quorum.EncodeState(s)
			if err != nil {
				c.Fatal(err)
			}
			fmt.Fprintf(c.trace, "%s shows %s\n", name, b)
		},
		OnStatus: func(s Status) { fmt.Fprintf(c.trace, "%s is %+v\n", name, s) }}
	for _, n := range c.names {
		cfg.Members = append(cfg.Members, Member{Name: n, Witness: n == "W"})
	}
	return cfg
}

// start begins a process of each node on what its storage holds.
func (c *cluster) start(names ...string) {
	c.Helper()
	for _, n := range names {
		h := c.hosts[n]
		h.router, h.fault = NewRouter(n, links{h}), nil
		v, err := New(c.config(n), h.mem, h.router, c.rng.Uint64)
		if err != nil {
			c.Fatalf("%s: %v", n, err)
		}
		h.Voter = v
		c.ready(h)
	}
}

// kill ends a process; what it had not written is lost.
func (c *cluster) kill(names ...string) {
	for _, n := range names {
		c.hosts[n].Voter = nil
	}
}

func (c *cluster) ready(h *host) {
	if err := h.Ready(); err != nil {
		h.fault, h.Voter = err, nil
	}
}

// step is one tick of every node, and what comes of it.
func (c *cluster) step() {
	c.Helper()
	for _, n := range c.names {
		if h := c.hosts[n]; h.Voter != nil {
			h.Tick()
			c.ready(h)
		}
	}
	c.pump()
}

// pump delivers what is under way until nothing is.
func (c *cluster) pump() {
	c.Helper()
	for n := 0; len(c.queue) > 0; n++ {
		if n > 10_000 {
			c.Fatal("the nodes answer each other without end")
		}
		p := c.queue[0]
		c.queue = c.queue[1:]
		h := c.hosts[p.to]
		if h.Voter == nil || c.cut[[2]string{p.from, p.to}] {
			continue
		}
		f, err := ParseFrame(p.frame)
		if err != nil {
			c.Fatal(err)
		}
		if h.router.Arrived(p.from, f) {
			h.Receive(p.from, f)
			c.ready(h)
		}
	}
}

// until steps until ok.
func (c *cluster) until(what string, ok func() bool) {
	c.Helper()
	for range 600 {
		if ok() {
			return
		}
		c.step()
	}
	for _, n := range c.names {
		if h := c.hosts[n]; h.Voter != nil {
			c.Logf("%s: %+v", n, h.Status())
		} else {
			c.Logf("%s: does not run, %v", n, h.fault)
		}
	}
	c.Fatalf("never: %s", what)
}

func (c *cluster) steps(n int) {
	c.Helper()
	for range n {
		c.step()
	}
}

// links are those of one host. A link that is cut one way is down both ways, as unanswered pings
// show.
type links struct{ h *host }

func (l links) Names() []string {
	var out []string
	for _, n := range l.h.c.names {
		if n != l.h.name {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

func (l links) Up(node string) bool {
	c := l.h.c
	to := c.hosts[node]
	return to != nil && node != l.h.name && to.Voter != nil && !c.cut[[2]string{l.h.name, node}] && !c.cut[[2]string{node, l.h.name}]
}

func (l links) Send(node string, frame []byte) bool {
	if !l.Up(node) {
		return false
	}
	p := packet{l.h.name, node, slices.Clone(frame)}
	fmt.Fprintf(l.h.c.trace, "%s to %s: %x\n", p.from, p.to, p.frame)
	if l.h.c.sent == nil || l.h.c.sent(p) {
		l.h.c.queue = append(l.h.c.queue, p)
	}
	return true
}

func (c *cluster) split(a, b string) { c.cut[[2]string{a, b}], c.cut[[2]string{b, a}] = true, true }
func (c *cluster) heal()             { clear(c.cut) }

// isolate cuts a node from all others.
func (c *cluster) isolate(name string) {
	for _, n := range c.names {
		if n != name {
			c.split(n, name)
		}
	}
}

// leader steps until the named nodes, or all, follow one leader among them.
func (c *cluster) leader(names ...string) string {
	c.Helper()
	if len(names) == 0 {
		names = c.names
	}
	lead := ""
	c.until("one leader of "+fmt.Sprint(names), func() bool {
		lead = c.hosts[names[0]].Leader()
		for _, n := range names {
			if c.hosts[n].Leader() != lead {
				return false
			}
		}
		return slices.Contains(names, lead) && c.hosts[lead].Leads()
	})
	return lead
}

// toLeader makes one node the leader of the named ones.
func (c *cluster) toLeader(name string, names ...string) {
	c.Helper()
	for c.leader(names...) != name {
		h := c.hosts[c.leader(names...)]
		h.Transfer(c.hosts[name].Status().Voter)
		c.ready(h)
		c.pump()
	}
}

// answer is what became of a proposal or a wait.
type answer struct {
	res  quorum.Result
	err  error
	done bool
}

// begin proposes and does not wait.
func (c *cluster) begin(name string, cmd quorum.Command) (*Proposal, *answer) {
	c.Helper()
	h, a := c.hosts[name], &answer{}
	p, err := h.Propose(cmd, func(res quorum.Result, err error) {
		if a.done {
			c.Errorf("%s was answered twice", cmd.String())
		}
		*a = answer{res, err, true}
		fmt.Fprintf(c.trace, "%s is answered %d %v\n", name, res.Code, err)
	})
	if err != nil {
		c.Fatalf("%s proposes: %v", name, err)
	}
	c.ready(h)
	c.pump()
	return p, a
}

func (c *cluster) propose(name string, cmd quorum.Command) quorum.Result {
	c.Helper()
	_, a := c.begin(name, cmd)
	c.until(name+" is answered", func() bool { return a.done })
	if a.err != nil {
		c.Fatal(a.err)
	}
	return a.res
}

// fresh makes a node's state fresh and returns it.
func (c *cluster) fresh(name string) *quorum.State {
	c.Helper()
	var a answer
	h := c.hosts[name]
	h.Barrier(func(err error) { a = answer{err: err, done: true} })
	c.ready(h)
	c.pump()
	c.until(name+" has a fresh state", func() bool { return a.done })
	if a.err != nil {
		c.Fatal(a.err)
	}
	return h.State()
}

func createCmd(s *quorum.State, name string, id uint64) quorum.Command {
	return quorum.Command{Resource: name, ResourceID: id, Version: s.Version, CreateResource: &quorum.CreateResource{
		SizeBytes: 1 << 30, Replicas: []quorum.NewReplica{{Node: "A", DataPath: "/d"}}}}
}

// create makes resource name through a node.
func (c *cluster) create(through, name string, id uint64) {
	c.Helper()
	if err := c.propose(through, createCmd(c.fresh(through), name, id)).Err(); err != nil {
		c.Fatal(err)
	}
}

func note(s *quorum.State, text string) quorum.Command {
	cmd := quorum.On(s.Find("r0"))
	cmd.ReplicaError = &quorum.ReplicaError{Node: "A", Text: text}
	return cmd
}

// text returns what the last note in a node's state says.
func (c *cluster) text(name string) string {
	c.Helper()
	if s := c.hosts[name].State(); s != nil && s.Find("r0") != nil {
		return s.Find("r0").Replicas[0].Error
	}
	return ""
}

// votes reports whether a node's own ledger is a voter among n.
func (c *cluster) votes(name string, n int) bool {
	s := c.hosts[name].Status()
	voters := 0
	self := false
	for _, p := range s.Voters {
		if !p.Learner {
			voters++
			self = self || p.ID == s.Voter
		}
	}
	return self && voters == n && s.HasQuorum
}

var errDisk = errors.New("the disk failed")
