package device

import (
	"errors"
	"testing"
	"testing/synctest"

	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/replication"
	"github.com/lockstep-ha/lockstep/replication/peer"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

func ack(seq uint64) []peer.Received {
	return []peer.Received{{Frame: wire.Frame{Type: wire.Ack, Seq: seq}}}
}

func TestWindow_FullBlocksSubmitWhileEarlierRequestsOfTheBatchAreOnTheirWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{Window: 8192}, Deps{})
		s := r.connect(7)
		var calls []*call
		var asked []*fakeRequest
		for i := range int64(5) {
			c, q := r.ask(replication.OpWrite, i*4096, 4096)
			calls, asked = append(calls, c), append(asked, q)
		}
		returned := make(chan struct{})
		go func() {
			defer close(returned)
			r.submit(calls...)
		}()
		for i := range uint64(3) {
			synctest.Wait()
			if n := len(s.sent); n != int(i)+2 {
				t.Errorf("%d frames sent after %d acknowledgements, want the window's two more", n, i)
			}
			r.d.links[0].frames(s, ack(i+1))
		}
		<-returned
		r.d.links[0].frames(s, ack(5))
		for i, q := range asked {
			if len(q.answers) != 1 || q.answers[0] != nil {
				t.Errorf("request %d: answers %v", i, q.answers)
			}
		}
		r.checkBuffers()
	})
}

func TestWindow_LargerRequestIsAdmittedAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{Window: 4096}, Deps{})
		s := r.connect(7)
		small, q1 := r.ask(replication.OpWrite, 0, 512)
		large, q2 := r.ask(replication.OpWrite, 65536, 65536)
		after, q3 := r.ask(replication.OpWrite, 0, 512)
		r.submit(small)
		go r.submit(large)
		synctest.Wait()
		go r.submit(after)
		synctest.Wait()
		if len(s.sent) != 1 {
			t.Errorf("%d frames sent, want the small request's alone", len(s.sent))
		}
		r.d.links[0].frames(s, ack(1))
		synctest.Wait()
		if len(s.sent) != 2 || len(s.sent[1]) != 65536 {
			t.Error("the large request did not go next, alone")
		}
		r.d.links[0].frames(s, ack(2))
		synctest.Wait()
		r.d.links[0].frames(s, ack(3))
		for i, q := range []*fakeRequest{q1, q2, q3} {
			if len(q.answers) != 1 {
				t.Errorf("request %d: answers %v", i, q.answers)
			}
		}
		r.checkBuffers()
	})
}

func TestWindow_ClosingClientsReleasesWhoWaitsWithoutAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{Window: 4096}, Deps{})
		s := r.connect(7)
		first, q1 := r.ask(replication.OpWrite, 0, 4096)
		second, q2 := r.ask(replication.OpWrite, 0, 4096)
		third, q3 := r.ask(replication.OpFlush, 0, 0)
		r.submit(first)
		go r.submit(second, third)
		synctest.Wait()
		r.d.mu.Lock()
		r.d.closeClients()
		r.d.mu.Unlock()
		synctest.Wait()
		for i, q := range []*fakeRequest{q2, q3} {
			if len(q.answers) != 1 || !errors.Is(q.answers[0], nbd.ErrDrop) {
				t.Errorf("waiting request %d: answers %v, want one ErrDrop", i, q.answers)
			}
		}
		if len(q1.answers) != 0 {
			t.Error("the request that was started ended too")
		}
		r.d.links[0].frames(s, ack(1))
		// The window works on: nothing was lost or taken twice.
		next, q4 := r.ask(replication.OpWrite, 0, 4096)
		r.submit(next)
		r.d.links[0].frames(s, ack(2))
		if len(q4.answers) != 1 || q4.answers[0] != nil {
			t.Errorf("next request: answers %v", q4.answers)
		}
		r.checkBuffers()
	})
}
