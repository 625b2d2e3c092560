package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/memnet"
)

// cutOff fails unless err is the end of a connection: a reply with an error number would fail a
// mounted file system (rule 15).
func cutOff(w *bubble, what string, err error) {
	w.Helper()
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, end) {
			return
		}
	}
	w.Errorf("the %s: %v, want the end of the connection", what, err)
}

func TestBubble_IsolatedPrimary_ServesNothingOnceAnotherMay(t *testing.T) {
	const lease = 3 * time.Second
	for name, then := range map[string]func(w *bubble){
		"n2 waits for it":          func(*bubble) {},
		"n2 is told to give it up": func(w *bubble) { check(w.T, "disconnect", w.client("n2").Disconnect(w.Context(), "r0", "n1")) },
		"n2 is another process by then": func(w *bubble) {
			w.crash("n2")
			w.start("n2")
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, []string{"n1", "n2", "w"}, func(w *bubble) {
				for n, f := range w.files {
					f.Lease, f.PeerTimeout = lease, 2*lease
					w.files[n] = f
				}
				w.slow["n1"] = 0.08 // within the margin for drift
				w.startAll()
				w.create()
				isolated(w, lease*100/92, then)
			})
		})
	}
}

// isolated cuts n1 off, whose lease is that long in true time, has n2 take over in the state that
// then leaves it in, and takes n1 back.
func isolated(w *bubble, lease time.Duration, then func(w *bubble)) {
	model := make([]byte, bubbleSize)
	writer := w.mustOpen("n1")
	writeAt(w.T, writer, model, 0, pattern(1, 4096))
	cut := time.Now()
	w.isolate("n1", true)
	lost := ask(writer, cmdWrite, 1<<20, pattern(2, 4096))
	reads := w.readOn("n1")
	then(w)
	w.takeOver("n2")
	served := time.Now()
	conn := w.mustOpen("n2")
	writeAt(w.T, conn, model, 0, pattern(3, 4096))
	memnet.Pass(10 * time.Second)
	last := reads.last()
	if d := last.Sub(cut); d < lease-2*w.files["n1"].BeaconInterval || d > lease {
		w.Errorf("n1 answered reads for %v after it was cut off; the lease is %v", d, lease)
	}
	if !last.Before(served) {
		w.Errorf("n1 answered a read %v after n2 began to serve", last.Sub(served))
	}
	lost.waits(w, "write that only n1 has")

	w.isolate("n1", false)
	check(w.T, "connect", w.client("n2").Connect(w.Context(), "r0", "n1"))
	cutOff(w, "read", <-reads.ended)
	cutOff(w, "write", <-lost.reply)
	w.untilInSync("n2", "n1", "n2")
	writeAt(w.T, conn, model, 2<<20, pattern(4, 8192))
	conn.Close()
	w.sameDisks(model)
}

// reads is a client that reads the first block again and again until its connection ends.
type reads struct {
	ended chan error // capacity 1

	mu       sync.Mutex
	answered time.Time // the newest
}

func (w *bubble) readOn(node string) *reads {
	w.Helper()
	conn := w.mustOpen(node)
	r := &reads{ended: make(chan error, 1)}
	go func() {
		for got := make([]byte, 4096); ; time.Sleep(time.Millisecond) {
			if err := conn.do(cmdRead, 0, got); err != nil {
				r.ended <- err
				return
			}
			r.mu.Lock()
			r.answered = time.Now()
			r.mu.Unlock()
		}
	}()
	return r
}

// last returns when the newest read was answered.
func (r *reads) last() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.answered
}

// takeOver makes node primary on the operator's word that the recorded one is down, as often as it
// takes: at first it is still believed to be there.
func (w *bubble) takeOver(node string) {
	w.Helper()
	var err error
	for giveUp := time.Now().Add(time.Minute); time.Now().Before(giveUp); memnet.Pass(10 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(w.Context(), 30*time.Second)
		err = w.client(node).Promote(ctx, "r0", control.PromoteOptions{TakeOver: true})
		cancel()
		if err == nil {
			return
		}
	}
	w.Fatalf("%s never took over: %v", node, err)
}

func TestBubble_SecondaryCrashesAndReturns(t *testing.T) {
	for _, away := range []time.Duration{0, 50 * time.Millisecond, time.Second, time.Minute} {
		t.Run(fmt.Sprint("after ", away), func(t *testing.T) {
			inCluster(t, func(w *bubble) {
				model := make([]byte, bubbleSize)
				conn := w.mustOpen("n1")
				writeAt(w.T, conn, model, 0, pattern(1, 4096))
				w.isolate("n2", true) // a host without power answers nothing
				q := ask(conn, cmdWrite, 4096, pattern(2, 4096))
				copy(model[4096:], pattern(2, 4096))
				w.crash("n2")
				memnet.Pass(away)
				w.isolate("n2", false)
				w.start("n2")
				q.done(w, "write", 0, w.files["n1"].PeerTimeout+time.Second)
				w.untilInSync("n1", "n1", "n2")
				writeAt(w.T, conn, model, 1<<20, pattern(3, 4096))
				conn.Close()
				w.sameDisks(model)
			})
		})
	}
}

func TestBubble_DataNodesThatStartAtOnceFindEachOther(t *testing.T) {
	inCluster(t, func(w *bubble) {
		model := make([]byte, bubbleSize)
		check(w.T, "pause", w.client("n1").PauseFailover(w.Context(), "r0", true, "this test promotes"))
		for i := range 10 {
			primary := []string{"n1", "n2"}[i%2]
			if i > 0 {
				w.stop("n1", "n2")
				w.start("n1")
				w.start("n2")
				w.until(primary, "there is a quorum", func(st control.Status, _ control.Resource) bool { return st.Ledger.Quorum })
				check(w.T, "promote", w.client(primary).Promote(w.Context(), "r0", control.PromoteOptions{}))
			}
			conn := w.mustOpen(primary)
			writeAt(w.T, conn, model, i*4096, pattern(uint64(i), 4096))
			w.untilInSync(primary, "n1", "n2")
			conn.Close()
		}
		w.sameDisks(model)
	})
}

func TestBubble_NodeThatStartsLateIsWaitedFor(t *testing.T) {
	inBubble(t, []string{"n1", "n2", "w"}, func(w *bubble) {
		w.start("n1")
		w.start("w")
		memnet.Pass(2 * time.Minute)
		if st, err := w.client("n1").Status(w.Context(), ""); err != nil || st.Ledger.Quorum {
			w.Errorf("a ledger without n2: %+v, %v", st.Ledger, err)
		}
		w.start("n2")
		w.until("n1", "there is a quorum", func(st control.Status, _ control.Resource) bool { return st.Ledger.Quorum })
		w.create()
	})
}

func TestBubble_StopIsBoundedInEveryState(t *testing.T) {
	const (
		grace = time.Second // beyond what a stop may wait for
		// An attempt to join that is under way ends by the timeout of a stream, for each other node.
		joining = 2*3*time.Second + grace
	)
	for name, c := range map[string]struct {
		reach func(w *bubble)
		node  string
		most  time.Duration
	}{
		"secondary": {func(*bubble) {}, "n2", grace},
		"primary":   {func(*bubble) {}, "n1", grace},
		"witness":   {func(*bubble) {}, "w", grace},
		"primary whose peer is silent": {func(w *bubble) {
			w.split("n1", "n2")
			memnet.Pass(500 * time.Millisecond)
		}, "n1", stopTimeout + grace},
		"primary that is cut off": {func(w *bubble) {
			w.isolate("n1", true)
			memnet.Pass(time.Minute)
		}, "n1", stopTimeout + joining},
		"secondary that is cut off": {func(w *bubble) {
			w.isolate("n2", true)
			memnet.Pass(time.Minute)
		}, "n2", joining},
		"node that is alone": {func(w *bubble) {
			w.stop("n2", "w")
			memnet.Pass(time.Minute)
		}, "n1", stopTimeout + grace}, // refused at once
	} {
		t.Run(name, func(t *testing.T) {
			inCluster(t, func(w *bubble) {
				c.reach(w)
				conn := w.client("n1") // asks while the node goes
				asked := make(chan struct{})
				go func() { _, _ = conn.Status(w.Context(), ""); close(asked) }()
				if d := w.stop(c.node); d > c.most {
					w.Errorf("the stop took %v, want at most %v", d, c.most)
				}
				<-asked
			})
		})
	}
}

func TestBubble_StopWithAFrozenWrite_EndsItsConnectionWithoutAnAnswer(t *testing.T) {
	inCluster(t, func(w *bubble) {
		conn := w.mustOpen("n1")
		w.isolate("n1", true)
		q := ask(conn, cmdWrite, 0, pattern(1, 4096))
		memnet.Pass(time.Minute)
		q.waits(w, "write")
		w.stop("n1") // its bound is tested above
		cutOff(w, "write", <-q.reply)
	})
}
