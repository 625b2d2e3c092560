package replication

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/bitmap"
)

// block returns the extent of block i.
func block(i int64) bitmap.Extent {
	return bitmap.Extent{Off: i * bitmap.BlockSize, Len: bitmap.BlockSize}
}

// frozenPair is a primary that has lost its peer and the ledger in the same moment, with one write
// under way, which the peer has not got, and one that came after.
func frozenPair(t *testing.T, policy func(*world)) (w *world, a, b *wnode) {
	w = newWorld(t, 8) // a seed whose own policy is to freeze without a deadline
	policy(w)
	w.promote(w.nodes[0])
	settleWorld(w, time.Second)
	a, b = w.nodes[0], w.nodes[1]
	w.request(a, OpWrite, block(3), 0)
	settleWorld(w, 100*time.Millisecond) // its region is in the activity log now
	w.request(a, OpWrite, block(3), 0)
	a.deaf, w.link = true, false
	w.breakSession() // the frame is lost
	settleWorld(w, 20*time.Millisecond)
	w.request(a, OpWrite, block(4), 0)
	return w, a, b
}

func (w *world) bringBack(a *wnode) { a.deaf, w.link = false, true }

// answersOf counts what a's requests are answered with from now on.
func answersOf(a *wnode) (eio, early *int) {
	eio, early = new(int), new(int)
	a.onReply = func(x Action) {
		if errors.Is(x.Err, syscall.EIO) {
			*eio++
		}
		if x.Kind == ActReplyEarly {
			*early++
		}
	}
	return eio, early
}

func ioError(w *world) { w.ioError = true }

func TestPrimary_NoQuorumFreeze_RequestsWaitAndGoOn(t *testing.T) {
	w, a, b := frozenPair(t, func(*world) {})
	eio, _ := answersOf(a)
	settleWorld(w, 30*time.Second)
	if len(a.requests) != 2 || a.core.Status(w.now).IO != "frozen" {
		t.Fatalf("%d requests wait: %+v", len(a.requests), a.core.Status(w.now))
	}
	w.bringBack(a)
	settleWorld(w, 2*time.Second)
	if len(a.requests) != 0 || *eio != 0 || b.cache[4] != a.cache[4] || a.cache[4] == 0 {
		t.Errorf("%d requests wait, %d errors, block 4 holds %d and %d", len(a.requests), *eio, a.cache[4], b.cache[4])
	}
}

func TestPrimary_NoQuorumError_BeginsAfterPeerTimeoutAndEndsByItself(t *testing.T) {
	w, a, b := frozenPair(t, ioError)
	eio, early := answersOf(a)
	settleWorld(w, 2*time.Second) // DropGrace and PeerTimeout are 2.1 s
	if s := a.core.Status(w.now); *eio != 0 || s.IO != "frozen" || !strings.Contains(s.Reason, "errors begin in 100ms") {
		t.Fatalf("%d errors before the ledger was silent for PeerTimeout: %+v", *eio, s)
	}
	settleWorld(w, 200*time.Millisecond)
	if *eio != 2 || *early != 1 || len(a.requests) != 0 {
		t.Fatalf("%d errors, %d of them early, %d requests wait", *eio, *early, len(a.requests))
	}
	if s := a.core.Status(w.now); s.IO != "failed" || !strings.Contains(s.Reason, "errors") || !s.Serving || !a.core.TakesClients() {
		t.Errorf("status %+v", s)
	}
	w.request(a, OpWrite, block(5), 0)
	w.request(a, OpRead, block(5), 0)
	w.request(a, OpFlush, bitmap.Extent{}, 0)
	if *eio != 5 || len(a.core.locks.entries) != 1 {
		t.Fatalf("%d errors, locks %v", *eio, a.core.locks.entries)
	}
	w.bringBack(a)
	settleWorld(w, 2*time.Second)
	w.request(a, OpWrite, block(5), 0)
	settleWorld(w, time.Second)
	if *eio != 5 || len(a.requests) != 0 || a.core.live != 0 || a.core.givenUp != 0 {
		t.Errorf("%d errors, %d requests wait, %d operations live, %d given up", *eio, len(a.requests), a.core.live, a.core.givenUp)
	}
	if a.cache[4] != 0 || a.cache[3] != b.cache[3] || a.cache[5] == 0 {
		t.Errorf("blocks 3 to 5 hold %v and %v", a.cache[3:6], b.cache[3:6])
	}
	for _, kind := range []string{"io_frozen", "io_errors", "io_resumed"} {
		if w.events[kind] != 1 {
			t.Errorf("%d notices %s", w.events[kind], kind)
		}
	}
}

// What is answered with an error while it is under way stands in the way of what comes later, however
// long that takes.
func TestPrimary_WriteGivenUp_KeepsItsRangeUntilItHasEnded(t *testing.T) {
	w, a, b := frozenPair(t, ioError)
	settleWorld(w, 3*time.Second)
	given := a.cache[3]
	w.link = true // the ledger stays away: otherwise it would drop n2 now
	for a.core.peers[0].phase != phaseFollowing {
		if !w.progress() {
			w.tick(10 * time.Millisecond)
		}
	}
	b.hang = true
	settleWorld(w, 500*time.Millisecond)
	w.request(a, OpWrite, block(3), 0)
	w.request(a, OpRead, block(3), 0)
	settleWorld(w, 500*time.Millisecond)
	if len(a.requests) != 2 || len(a.io) != 0 || b.cache[3] == given {
		t.Fatalf("%d requests wait, local I/O %v, n2 holds %d", len(a.requests), a.io, b.cache[3])
	}
	b.hang = false
	settleWorld(w, time.Second)
	if len(a.requests) != 0 || a.cache[3] == given || a.cache[3] != b.cache[3] {
		t.Errorf("%d requests wait, block 3 holds %d and %d, given up %d", len(a.requests), a.cache[3], b.cache[3], given)
	}
}

func TestPrimary_NewerEpochWhileErring_ClosesConnectionsWithoutAnAnswer(t *testing.T) {
	w, a, b := frozenPair(t, ioError)
	eio, _ := answersOf(a)
	settleWorld(w, time.Second)
	w.promote(b)
	a.deaf = false // it hears of it in time
	settleWorld(w, 3*time.Second)
	if *eio != 0 || len(a.requests) != 0 || a.core.Serving() {
		t.Errorf("%d errors, %d requests wait, serving %v", *eio, len(a.requests), a.core.Serving())
	}
}

func TestPrimary_ProcessStoodStill_HearsWhatCameBeforeItErrs(t *testing.T) {
	w, a, b := frozenPair(t, ioError)
	eio, _ := answersOf(a)
	settleWorld(w, time.Second)
	w.now += time.Minute
	a.step(&Event{Kind: EvTick})
	if *eio != 0 {
		t.Fatal("errors because the process stood still")
	}
	w.promote(b)
	a.deaf = false
	settleWorld(w, 3*time.Second)
	if *eio != 0 {
		t.Errorf("%d errors at the loss of the role", *eio)
	}
}

func TestPrimary_AloneInTheSet_GoesOnWithoutAQuorum(t *testing.T) {
	for name, policy := range map[string]func(*world){"io-error": ioError, "deadline": func(w *world) { w.deadline = time.Second }} {
		t.Run(name, func(t *testing.T) {
			w, a, b := frozenPair(t, policy)
			w.bringBack(a)
			w.link = false
			settleWorld(w, time.Second) // b is dropped
			a.deaf = true
			settleWorld(w, 10*time.Second)
			w.request(a, OpWrite, block(6), 0)
			settleWorld(w, time.Second)
			if w.rec.in[b.i] || len(a.requests) != 0 || a.cache[6] == 0 || w.events["io_errors"]+w.events["clients_closed"] != 0 {
				t.Errorf("%d requests wait: %+v", len(a.requests), a.core.Status(w.now))
			}
		})
	}
}

func TestPrimary_FreezeDeadline_ClosesConnectionsAndTakesNoneUntilItGoesOn(t *testing.T) {
	w, a, b := frozenPair(t, func(w *world) { w.deadline = 3 * time.Second })
	eio, _ := answersOf(a)
	settleWorld(w, 2900*time.Millisecond)
	if s := a.core.Status(w.now); len(a.requests) != 2 || s.Closed || !strings.Contains(s.Reason, "connections close in") {
		t.Fatalf("%d requests wait: %+v", len(a.requests), s)
	}
	settleWorld(w, 200*time.Millisecond)
	if s := a.core.Status(w.now); !s.Closed || s.IO != "frozen" || a.core.TakesClients() || w.events["clients_closed"] != 1 {
		t.Fatalf("after the deadline: %+v", s)
	}
	if len(a.requests) != 1 { // the one that was begun; nobody waits for it
		t.Errorf("%d requests are left", len(a.requests))
	}
	w.request(a, OpWrite, block(5), 0) // of a connection that is about to be closed
	a.step(&Event{Kind: EvClient, Client: 9, Number: 1})
	settleWorld(w, 10*time.Second)
	w.bringBack(a)
	settleWorld(w, 2*time.Second)
	if !a.core.TakesClients() || a.core.live != 0 || len(a.requests) != 0 || *eio != 0 {
		t.Fatalf("takes clients %v, %d operations live, %d requests, %d errors", a.core.TakesClients(), a.core.live, len(a.requests), *eio)
	}
	if a.cache[4] != 0 || a.cache[5] != 0 || a.cache[3] != b.cache[3] {
		t.Errorf("blocks 3 to 5 hold %v and %v", a.cache[3:6], b.cache[3:6])
	}
}

func TestClient_FreezeDeadline_EndsItsSessionAndLetsTheNextOneIn(t *testing.T) {
	w, a, _ := frozenPair(t, func(w *world) { w.deadline = time.Second })
	said := map[ActionKind]int{}
	a.onAct = func(x Action) { said[x.Kind]++ }
	a.step(&Event{Kind: EvClient, Client: 9, Number: 4})
	settleWorld(w, 2*time.Second)
	a.step(&Event{Kind: EvClient, Client: 9, Number: 5})
	if said[ActAdmitClient] != 1 || said[ActRefuseClient] != 1 || said[ActCloseClients] != 1 {
		t.Fatalf("actions %v", said)
	}
	w.bringBack(a)
	settleWorld(w, 2*time.Second)
	a.step(&Event{Kind: EvClient, Client: 9, Number: 4}) // late, of the time before
	if said[ActAdmitClient] != 1 || said[ActRefuseClient] != 2 {
		t.Errorf("a late session: actions %v", said)
	}
	a.step(&Event{Kind: EvClient, Client: 9, Number: 6})
	if said[ActAdmitClient] != 2 {
		t.Errorf("the next session is not let in: actions %v", said)
	}
}

// Of a client that sends one request at a time nothing is held: it waits for the one under way.
func TestFitness_OneWriteUnderWayThatNobodyAnswers_IsAFrozenPrimary(t *testing.T) {
	w := newWorld(t, 8)
	w.promote(w.nodes[0])
	settleWorld(w, time.Second)
	a := w.nodes[0]
	frozen := func() bool { return a.core.Fitness(w.now).Frozen }
	w.request(a, OpWrite, block(3), 0)
	settleWorld(w, 100*time.Millisecond)
	if frozen() {
		t.Error("frozen, and all is well")
	}
	w.request(a, OpWrite, block(3), 0)
	a.deaf, w.link = true, false
	w.breakSession() // the frame is lost
	settleWorld(w, 10*time.Second)
	if len(a.requests) != 1 || len(a.core.held) != 0 || !frozen() {
		t.Errorf("%d requests wait, %d of them held, frozen: %v", len(a.requests), len(a.core.held), frozen())
	}
	if !a.core.Fitness(w.now).CannotDrop {
		t.Error("the ledger answers nothing, and it says that it can drop its peer")
	}
	w.bringBack(a)
	settleWorld(w, 2*time.Second)
	if len(a.requests) != 0 || frozen() {
		t.Errorf("%d requests wait, frozen: %v", len(a.requests), frozen())
	}
}
