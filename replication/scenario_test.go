package replication

import (
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/bitmap"
)

// settleWorld lets everything under way come to an end.
func settleWorld(w *world, d time.Duration) {
	for end := w.now + d; w.now < end; {
		for range 100 { // a link that is refused connects again and again
			if !w.progress() {
				break
			}
		}
		w.tick(10 * time.Millisecond)
	}
}

func serving(t *testing.T) (*world, *wnode, *wnode) {
	w := newWorld(t, 7)
	w.promote(w.nodes[0])
	settleWorld(w, time.Second)
	if !w.rested() {
		t.Fatalf("does not start: %+v", w.nodes[0].core.Status(w.now))
	}
	return w, w.nodes[0], w.nodes[1]
}

func TestPrimary_PeerLost_HoldsWritesUntilDropIsRecorded(t *testing.T) {
	w, a, b := serving(t)
	w.link = false
	w.breakSession()
	settled := len(w.asks)
	for range 200 { // deliver everything but the ledger's answer
		for _, n := range w.nodes {
			for len(n.downs) > 0 || len(n.io) > 0 || len(n.saves) > 0 {
				asks := w.asks
				w.asks = nil
				w.progress()
				w.asks = append(asks, w.asks...)
			}
		}
		w.tick(10 * time.Millisecond)
		if len(w.asks) > settled {
			break
		}
	}
	w.request(a, OpWrite, bitmap.Extent{Len: bitmap.BlockSize}, 0)
	if s := a.core.Status(w.now); s.IO != "frozen" || s.Reason == "" {
		t.Errorf("I/O is %s (%s) while the member is away", s.IO, s.Reason)
	}
	if len(a.requests) == 0 {
		t.Fatal("a write was answered before the Drop")
	}
	settleWorld(w, time.Second)
	if len(a.requests) != 0 || w.rec.in[b.i] {
		t.Errorf("after the Drop: %d requests wait, record %+v", len(a.requests), w.rec)
	}
}

func TestSwitchover_CopiesNothing(t *testing.T) {
	w, a, b := serving(t)
	for range 200 {
		w.issue(a)
		w.progress()
	}
	settleWorld(w, time.Second)
	a.step(&Event{Kind: EvStop})
	settleWorld(w, 200*time.Millisecond)
	if w.rec.primary != -1 {
		t.Fatalf("did not step down: %+v", w.rec)
	}
	w.promote(b)
	settleWorld(w, 50*time.Millisecond) // the promise ended with the StepDown: no lease is waited for
	if !b.core.Serving() || !w.rec.in[a.i] {
		t.Fatalf("n2 does not serve: %+v", b.core.Status(w.now))
	}
	if n := b.core.peers[0].resync.copied + b.core.peers[0].dirty.Bytes(); n != 0 {
		t.Errorf("%d bytes copied after a planned switchover", n)
	}
}

func TestSecondary_ProcessKilled_ResyncCopiesWhatItMissed(t *testing.T) {
	w, a, b := serving(t)
	for range 300 {
		w.issue(a)
		w.progress()
	}
	settleWorld(w, time.Second)
	w.kill(b, false)
	settleWorld(w, time.Second)
	for range 100 {
		w.issue(a)
		w.progress()
	}
	settleWorld(w, time.Second)
	missed := a.core.peers[0].dirty.Bytes()
	b.start()
	settleWorld(w, 2*time.Second)
	p := a.core.peers[0]
	if missed == 0 || p.resync.copied != missed || p.resync.equal != 0 {
		t.Errorf("missed %d bytes, copied %d, compared equal %d", missed, p.resync.copied, p.resync.equal)
	}
	w.checkEqual("after resync")
}

// A node that is recorded as turned off and runs is refused until an operator lets it back, with a record
// that does not change meanwhile.
func TestPrimary_JoinIsRefused_AsksLessAndLessOften_AndSaysSoOnce(t *testing.T) {
	w, a, b := serving(t)
	w.kill(b, false)
	settleWorld(w, time.Second)
	w.noJoin = true
	refused := w.events[NoticeRefused.String()]
	b.start()
	settleWorld(w, 20*time.Second)
	if w.joins < 5 || w.joins > 16 { // 5 while the pause grows to 2 s, then one in 2 s
		t.Errorf("asked %d times in 20 s", w.joins)
	}
	if n := w.events[NoticeRefused.String()] - refused; n != 1 {
		t.Errorf("said %d times that the ledger refuses", n)
	}
	w.noJoin = false
	settleWorld(w, 2100*time.Millisecond)
	if !w.rec.in[b.i] || a.core.peers[0].joinPause != 0 {
		t.Errorf("not joined after it was let back: %+v", w.rec)
	}
	w.checkEqual("after the Join")
}

func TestDiscard_DivergedReplica_IsCopiedInFull(t *testing.T) {
	w, a, b := serving(t)
	w.issue(a)
	settleWorld(w, time.Second)
	w.kill(b, false)
	settleWorld(w, time.Second) // a drops b
	b.stored.Lineage = append([]uint64{1, 2}, 99)
	w.mayDiverge = true
	b.start()
	settleWorld(w, 3*time.Second)
	if w.rec.in[b.i] {
		t.Fatal("a replica of another history was taken in")
	}
	b.step(&Event{Kind: EvDiscard})
	settleWorld(w, 5*time.Second)
	if !w.rec.in[b.i] || b.stored.State != UpToDate {
		t.Fatalf("not copied: %+v", b.core.Status(w.now))
	}
	w.checkEqual("after the copy")
}

func TestPrimary_DiskHangs_RoleIsGivenUpAndNothingIsAnswered(t *testing.T) {
	w, a, b := serving(t)
	a.hang = true
	w.request(a, OpWrite, bitmap.Extent{Len: bitmap.BlockSize}, 0)
	settleWorld(w, 40*time.Second)
	if w.rec.primary != -1 || a.core.Serving() {
		t.Fatalf("still primary: %+v", a.core.Status(w.now))
	}
	if w.events["reply"] != 0 {
		t.Error("a write was answered that its disk never completed")
	}
	w.promote(b)
	settleWorld(w, 20*time.Second)
	if !b.core.Serving() || w.rec.in[a.i] {
		t.Fatalf("n2 does not go on alone: %+v", b.core.Status(w.now))
	}
	w.request(b, OpWrite, bitmap.Extent{Len: bitmap.BlockSize}, 0)
	settleWorld(w, time.Second)
	a.hang = false // the write that hung lands at last, into a replica that will be resynced
	for len(a.io) > 0 {
		a.finishIO()
	}
	w.kill(a, false)
	a.start()
	settleWorld(w, 5*time.Second)
	if !w.rec.in[a.i] {
		t.Fatal("n1 did not come back")
	}
	w.checkEqual("after the return")
}

func TestPrimary_NoRoomForBitmapPages_WritesFailAndThenGoOn(t *testing.T) {
	w, a, b := serving(t)
	w.kill(b, false)
	settleWorld(w, time.Second)
	region := func(i int64) bitmap.Extent {
		return bitmap.Extent{Off: i * bitmap.RegionSize, Len: bitmap.BlockSize}
	}
	for i := range int64(7) { // fills the log of the model
		w.request(a, OpWrite, region(i), 0)
		settleWorld(w, 100*time.Millisecond)
	}
	a.noRoom = true
	w.request(a, OpWrite, region(8), 0) // evicts a region: its page has to be stored
	settleWorld(w, time.Second)
	if len(a.requests) != 0 || a.core.failed {
		t.Fatalf("%d requests wait, disk failed %v", len(a.requests), a.core.failed)
	}
	if a.cache[region(8).Off/bitmap.BlockSize] != 0 {
		t.Error("a write was begun whose region is not in the log")
	}
	a.noRoom = false
	settleWorld(w, time.Second)
	w.request(a, OpWrite, region(8), 0)
	settleWorld(w, time.Second)
	if a.cache[region(8).Off/bitmap.BlockSize] == 0 {
		t.Error("writes do not go on when there is room again")
	}
	b.start()
	settleWorld(w, 5*time.Second)
	if !w.rec.in[b.i] {
		t.Fatal("n2 did not come back")
	}
	w.checkEqual("at the end")
}

// restartWithSuspect leaves a write that only n1's disk holds, and n1's process ended.
func restartWithSuspect(t *testing.T) (w *world, a, b *wnode, x bitmap.Extent) {
	w, a, b = serving(t)
	x = bitmap.Extent{Off: 3 * bitmap.BlockSize, Len: bitmap.BlockSize}
	w.request(a, OpWrite, x, 0)
	settleWorld(w, 100*time.Millisecond) // its region is in the log now, on both
	w.request(a, OpWrite, x, 0)
	w.breakSession() // the second frame is lost
	for len(a.io) > 0 {
		a.finishIO()
	}
	w.link = false
	a.stop(false)
	if i := x.Off / bitmap.BlockSize; a.cache[i] == b.cache[i] {
		t.Fatal("the write reached n2")
	}
	settleWorld(w, 500*time.Millisecond)
	a.start()
	return w, a, b, x
}

func TestPrimary_SuspectBlock_IsReadOnlyWhenTheMemberHoldsItToo(t *testing.T) {
	w, a, b, x := restartWithSuspect(t)
	w.link = true
	w.promote(a)
	for a.core.peers[0].phase != phaseFollowing {
		if !w.progress() {
			w.tick(10 * time.Millisecond)
		}
	}
	b.hang = true // beacons are answered, copies are not applied
	settleWorld(w, time.Second)
	if !a.core.Serving() {
		t.Fatalf("n1 does not serve: %+v", a.core.Status(w.now))
	}
	w.request(a, OpRead, x, 0)
	settleWorld(w, 500*time.Millisecond)
	if len(a.requests) != 1 {
		t.Fatal("a block was read that only one member holds")
	}
	b.hang = false
	settleWorld(w, time.Second)
	if len(a.requests) != 0 {
		t.Fatal("the read is not answered")
	}
	w.checkEqual("after the read")
}

func TestPrimary_MemberSilent_ServesNothingUntilItIsDropped(t *testing.T) {
	w, a, b, _ := restartWithSuspect(t)
	w.promote(a)
	for len(a.records) > 0 {
		a.deliverRecord()
	}
	a.deaf = true // the ledger does not answer
	settleWorld(w, 3*time.Second)
	if a.core.Serving() {
		t.Fatal("serves although a member of the set neither follows nor was dropped")
	}
	a.deaf = false
	settleWorld(w, time.Second)
	if !a.core.Serving() || w.rec.in[b.i] {
		t.Fatalf("does not go on after the Drop: %+v", a.core.Status(w.now))
	}
}
