package device

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/buf"
	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/replication"
)

// opened is what came of an OpenClient.
type opened struct {
	b   nbd.Backend
	err error
}

// openClient opens a session beside the test, in a bubble.
func (r *rig) openClient(ctx context.Context, client replication.ClientID, number uint64) chan opened {
	out := make(chan opened, 1)
	go func() {
		b, err := r.d.OpenClient(ctx, client, number)
		out <- opened{b, err}
	}()
	synctest.Wait()
	return out
}

// emit has the core say a in answer to a tick.
func (r *rig) emit(a replication.Action) {
	hook := r.core.hook
	r.core.hook = func(_ *replication.Event, emit func(replication.Action)) bool { emit(a); return false }
	r.d.tick()
	r.core.hook = hook
}

func TestOpenClient_ReturnsWithTheWordOfTheCore(t *testing.T) {
	for name, tc := range map[string]struct {
		a    replication.Action
		want error
	}{
		"admitted":            {replication.Action{Kind: replication.ActAdmitClient, Client: 1, Number: 7}, nil},
		"refused":             {replication.Action{Kind: replication.ActRefuseClient, Client: 1, Number: 7, Err: replication.ErrTooManyClients}, replication.ErrTooManyClients},
		"a newer one came":    {replication.Action{Kind: replication.ActCloseClient, Client: 1, Number: 7}, replication.ErrOldSession},
		"the role is lost":    {replication.Action{Kind: replication.ActCloseClients}, replication.ErrNotPrimary},
		"nobody waits for it": {replication.Action{Kind: replication.ActAdmitClient, Client: 1, Number: 8}, context.Canceled},
		"another client's":    {replication.Action{Kind: replication.ActCloseClient, Client: 2, Number: 9}, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, Config{}, Deps{})
				var gone []uint64
				r.core.hook = func(ev *replication.Event, _ func(replication.Action)) bool {
					if ev.Kind == replication.EvClientGone {
						gone = append(gone, ev.Number)
					}
					return true
				}
				ctx, cancel := context.WithCancel(t.Context())
				out := r.openClient(ctx, 1, 7)
				r.emit(tc.a)
				synctest.Wait()
				if errors.Is(tc.want, context.Canceled) {
					select {
					case o := <-out:
						t.Fatalf("ended before its time: %+v", o)
					default:
					}
				}
				cancel()
				o := <-out
				if !errors.Is(o.err, tc.want) || (o.b == nil) != (tc.want != nil) {
					t.Errorf("got %v, %v; want %v", o.b, o.err, tc.want)
				}
				if given := errors.Is(tc.want, context.Canceled); given != (len(gone) == 1 && gone[0] == 7) {
					t.Errorf("the core was told of the end of sessions %v", gone)
				}
				if len(r.d.openings) > 0 {
					t.Errorf("%d openings are kept", len(r.d.openings))
				}
			})
		})
	}
}

// Two connections may claim one number. The second is refused, and the first still waits.
func TestOpenClient_SecondClaimOfANumberIsTheOneThatIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{}, Deps{})
		first := r.openClient(t.Context(), 1, 7)
		r.core.hook = func(ev *replication.Event, emit func(replication.Action)) bool {
			emit(replication.Action{Kind: replication.ActRefuseClient, Client: ev.Client, Number: ev.Number, Err: replication.ErrOldSession})
			return false
		}
		if o := <-r.openClient(t.Context(), 1, 7); !errors.Is(o.err, replication.ErrOldSession) {
			t.Errorf("second claim: %v", o.err)
		}
		r.emit(replication.Action{Kind: replication.ActAdmitClient, Client: 1, Number: 7})
		if o := <-first; o.err != nil {
			t.Errorf("first claim: %v", o.err)
		}
	})
}

func TestOpenClient_NotWhereNobodyIsServed(t *testing.T) {
	r := newRig(t, Config{}, Deps{})
	r.core.serving = false
	if _, err := r.d.OpenClient(t.Context(), 1, 1); !errors.Is(err, replication.ErrNotPrimary) {
		t.Errorf("secondary: %v", err)
	}
	r.core.serving = true
	stop := r.run()
	stop()
	if _, err := r.d.OpenClient(t.Context(), 1, 1); !errors.Is(err, replication.ErrNotPrimary) {
		t.Errorf("ended: %v", err)
	}
	r.d.CloseClient(1, 1) // of a device that is gone: without effect
}

func TestHerald_ClosesTheSessionsOfOneClientUpToTheHighestNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed := map[replication.ClientID]uint64{}
		var h herald
		h.init()
		for _, n := range []uint64{3, 5, 4} {
			h.closeClient(1, n)
		}
		h.closeClient(2, 9)
		h.stop()
		h.run(Deps{OnCloseClient: func(c replication.ClientID, n uint64) { closed[c] = n }})
		if len(closed) != 2 || closed[1] != 5 || closed[2] != 9 {
			t.Errorf("closed %v", closed)
		}
	})
}

// knock writes data at off as the reader of a connection does, and returns the answer.
func knock(t *testing.T, b nbd.Backend, op replication.Op, off int64, data []byte) error {
	t.Helper()
	from := b.(*door)
	mem := buf.Get(len(data))
	copy(mem.B, data)
	q := &fakeRequest{mem: mem, done: make(chan struct{})}
	c := from.d.newCall()
	c.ans, c.conn, c.op, c.ext, c.buf = q, &fakeConn{}, op, bitmap.Extent{Off: off, Len: int64(len(data))}, mem
	c.cost = from.d.window.cost(c.payloadLen())
	tn := from.d.begin(true)
	from.d.submit(tn, from, []*call{c})
	tn.finish()
	<-q.done
	if op == replication.OpRead {
		copy(data, q.data)
	}
	return q.answers[0]
}

// lateWrite has a client's old session write after its new one was admitted and has written, and
// returns what is then on the device, and the answer to the late write.
func lateWrite(t *testing.T) (got []byte, late error) {
	t.Helper()
	p := newPair(t, t.TempDir(), 4<<20, nil)
	p.promote("n1")
	d := p.nodes["n1"].device()
	open := func(number uint64) nbd.Backend {
		b, err := d.OpenClient(t.Context(), 1, number)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	write := func(b nbd.Backend, fill byte) error {
		return knock(t, b, replication.OpWrite, 8192, bytes.Repeat([]byte{fill}, 4096))
	}
	old := open(5)
	if err := write(old, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := d.OpenClient(t.Context(), 1, 5); !errors.Is(err, replication.ErrOldSession) {
		t.Errorf("the same number again: %v", err)
	}
	fresh := open(6)
	if err := write(fresh, 2); err != nil {
		t.Fatal(err)
	}
	late = write(old, 3)
	got = make([]byte, 4096)
	if err := knock(t, fresh, replication.OpRead, 8192, got); err != nil {
		t.Fatal(err)
	}
	d.CloseClient(1, 5) // the old connection has ended: the new session goes on
	if err := write(fresh, got[0]); err != nil {
		t.Errorf("after the end of the old connection: %v", err)
	}
	return got, late
}

func TestPair_LateWriteOfAnOldSessionIsNeverApplied(t *testing.T) {
	got, late := lateWrite(t)
	if !errors.Is(late, nbd.ErrDrop) || !bytes.Equal(got, bytes.Repeat([]byte{2}, 4096)) {
		t.Errorf("the late write was answered with %v, the device begins with %d", late, got[0])
	}
}
