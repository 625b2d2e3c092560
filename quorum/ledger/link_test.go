package ledger

import (
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lockstep-ha/lockstep/quorum/voter"
)

// A host that lost its power leaves a connection that takes everything and answers nothing. When the node is heard
// from again, the link does not wait for that connection to be found dead.
func TestLink_NodeHeardFromAgain_IsConnectedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		const every = time.Second
		var dials atomic.Int32
		l := newLink("n1", "addr", every, func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			context.AfterFunc(ctx, func() { theirs.Close() })
			if dials.Add(1) == 1 {
				go io.Copy(io.Discard, theirs)
			} else {
				go pongs(theirs)
			}
			return ours, nil
		})
		l.heard, l.lost = func() {}, func() {}
		done := make(chan struct{})
		go func() { defer close(done); l.run(ctx) }()

		time.Sleep((missedPings + 1) * every)
		if l.up() || dials.Load() != 1 {
			t.Fatalf("up %v, %d connections, after %d pings without an answer", l.up(), dials.Load(), missedPings+1)
		}
		l.reachable()
		time.Sleep(every) // the pause before a connection, and nothing else
		if !l.up() || dials.Load() != 2 {
			t.Errorf("up %v, %d connections, a second after the node was heard from", l.up(), dials.Load())
		}
		l.reachable() // which ends no connection that works
		time.Sleep(hopelessPings * every)
		if !l.up() || dials.Load() != 2 {
			t.Errorf("up %v, %d connections, later", l.up(), dials.Load())
		}
		cancel()
		<-done
	})
}

// pongs answers pings until the connection ends.
func pongs(conn net.Conn) {
	for {
		f, err := voter.ReadFrame(conn)
		if err != nil {
			return
		}
		if _, err := conn.Write(voter.NewFrame(voter.FramePong, f.Body)); err != nil {
			return
		}
	}
}
