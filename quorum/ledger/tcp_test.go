package ledger

import (
	"bytes"
	"context"
	"net"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/transport"
)

// TestRealTransport_TwoNodesOverTCP is the ledger as a daemon runs it: authenticated TCP.
func TestRealTransport_TwoNodesOverTCP(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	members := []Member{{Name: "A"}, {Name: "B"}}
	listeners := make([]net.Listener, len(members))
	for i := range members {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners[i], members[i].Addr = ln, ln.Addr().String()
	}
	c := &cluster{TB: t, members: members, nodes: map[string]*testNode{}}
	ended := make(chan error)
	for i, m := range members {
		tr, err := transport.New(transport.Config{Cluster: "c", Node: m.Name, Key: bytes.Repeat([]byte{1}, 32), Logger: testLogger(t)})
		if err != nil {
			t.Fatal(err)
		}
		l, err := Open(Config{Dir: t.TempDir(), Cluster: "c", Node: m.Name, Members: members, Transport: tr,
			Logger: testLogger(t), TickInterval: 10 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		c.nodes[m.Name] = &testNode{Ledger: l, name: m.Name, ended: make(chan error)}
		go func() { ended <- tr.Serve(ctx, listeners[i]) }()
		go func() { ended <- l.Run(ctx) }()
	}
	c.leader("A", "B")
	c.create("A", "r0", 1)
	c.create("B", "r1", 2)
	if s := c.barrier("A"); len(s.Resources) != 2 {
		t.Errorf("A has %d resources", len(s.Resources))
	}
	cancel()
	for range 2 * len(members) {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}
