package ledger

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/quorum"
)

// cluster runs ledgers on a memNet.
type cluster struct {
	testing.TB
	net     *memNet
	members []Member
	edit    func(*Config)
	nodes   map[string]*testNode
}

type testNode struct {
	*Ledger
	name   string
	dir    string
	host   *memHost
	cancel context.CancelFunc
	ended  chan error // nil when it does not run
}

// newCluster makes, and does not start, nodes of these names; "W" is a witness.
func newCluster(t testing.TB, edit func(*Config), names ...string) *cluster {
	c := &cluster{TB: t, net: newMemNet(), edit: edit, nodes: map[string]*testNode{}}
	for _, n := range names {
		c.members = append(c.members, Member{Name: n, Addr: n + ":7700", Witness: n == "W"})
		c.nodes[n] = &testNode{name: n, dir: t.TempDir()}
	}
	t.Cleanup(func() {
		for _, n := range c.nodes {
			c.stop(n.name)
		}
	})
	return c
}

func (c *cluster) config(name string) Config {
	cfg := Config{Dir: c.nodes[name].dir, Cluster: "c", Node: name, Members: c.members, Logger: testLogger(c),
		TickInterval: 5 * time.Millisecond, ProposeTimeout: 20 * time.Second}
	if c.edit != nil {
		c.edit(&cfg)
	}
	return cfg
}

func testLogger(t testing.TB) *slog.Logger {
	if os.Getenv("LOCKSTEP_TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(slog.NewTextHandler(io.Discard, nil))
}

func (c *cluster) start(names ...string) {
	c.Helper()
	for _, name := range names {
		n := c.nodes[name]
		n.host = c.net.host(name)
		cfg := c.config(name)
		cfg.Transport = n.host
		l, err := Open(cfg)
		if err != nil {
			c.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		n.Ledger, n.cancel, n.ended = l, cancel, make(chan error, 1)
		go func() { n.ended <- l.Run(ctx) }()
	}
}

// stop ends a node as an orderly stop does; its file stays.
func (c *cluster) stop(name string) {
	c.Helper()
	n := c.nodes[name]
	if n.ended == nil {
		return
	}
	n.cancel()
	if err := <-n.ended; err != nil {
		c.Errorf("%s ended: %v", name, err)
	}
	n.host.stop()
	n.ended = nil
}

func (c *cluster) all() []string {
	var out []string
	for _, m := range c.members {
		out = append(out, m.Name)
	}
	return out
}

// until waits until ok, which is asked again whenever the node's status or state changes.
func (c *cluster) until(name, what string, ok func(Status) bool) Status {
	c.Helper()
	timeout, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	n := c.nodes[name]
	for {
		moved := n.Changed()
		s := n.Status()
		if ok(s) {
			return s
		}
		select {
		case <-moved:
		case <-timeout.Done():
			c.Fatalf("%s: not %s; status %+v", name, what, s)
		}
	}
}

// untilLink waits until the direct link is as said. Links have no event of their own, so the
// loop's ticks are the clock.
func (c *cluster) untilLink(name, peer string, up bool) {
	c.Helper()
	timeout, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	n := c.nodes[name]
	for n.mesh.Up(peer) != up {
		if err := n.call(timeout, func() {}); err != nil {
			c.Fatalf("link %s to %s never became up=%t", name, peer, up)
		}
	}
}

// leader waits until all the named nodes follow one leader, and returns it.
func (c *cluster) leader(names ...string) string {
	c.Helper()
	for {
		lead := c.until(names[0], "led", func(s Status) bool { return s.Leader != "" }).Leader
		same := true
		for _, n := range names {
			s := c.until(n, "led", func(s Status) bool { return s.Leader != "" })
			same = same && s.Leader == lead
		}
		if same && c.nodes[lead].ended != nil && c.nodes[lead].Status().IsLeader {
			return lead
		}
	}
}

// toLeader makes one node the leader.
func (c *cluster) toLeader(name string) {
	c.Helper()
	id := c.nodes[name].Status().Voter
	for {
		lead := c.leader(c.all()...)
		if lead == name {
			return
		}
		n := c.nodes[lead]
		if err := n.call(context.Background(), func() { n.v.Transfer(id) }); err != nil {
			c.Fatal(err)
		}
		c.until(lead, "deposed", func(s Status) bool { return !s.IsLeader })
	}
}

func (c *cluster) propose(name string, cmd quorum.Command) quorum.Result {
	c.Helper()
	res, err := c.nodes[name].Propose(context.Background(), cmd)
	if err != nil {
		c.Fatalf("%s proposes: %v", name, err)
	}
	return res
}

// barrier makes the node's state fresh and returns it.
func (c *cluster) barrier(name string) *quorum.State {
	c.Helper()
	if err := c.nodes[name].Barrier(context.Background()); err != nil {
		c.Fatalf("%s reads: %v", name, err)
	}
	return c.nodes[name].State()
}

func createCmd(s *quorum.State, name string, id uint64, node string) quorum.Command {
	return quorum.Command{Resource: name, ResourceID: id, Version: s.Version, CreateResource: &quorum.CreateResource{
		SizeBytes: 1 << 30, Replicas: []quorum.NewReplica{{Node: node, DataPath: "/d"}}}}
}

// create makes resource name on node "A", through the named node.
func (c *cluster) create(through, name string, id uint64) {
	c.Helper()
	if err := c.propose(through, createCmd(c.barrier(through), name, id, "A")).Err(); err != nil {
		c.Fatal(err)
	}
}

func errText(id uint64, r *quorum.Resource) quorum.Command {
	cmd := quorum.On(r)
	cmd.ReplicaError = &quorum.ReplicaError{Node: "A", Text: fmt.Sprintf("text %d", id)}
	return cmd
}
