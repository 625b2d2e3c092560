package tests

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/tests/internal/ackload"
	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

func TestSecondaryKilled_InTheMiddleOfVerifiedWrites_ClientSeesNothing_AndOnlyDirtyBlocksAreCopied(t *testing.T) {
	const size = 256 * cluster.MiB
	c := cluster.Up(t, cluster.Options{SizeBytes: size})
	// Paced, so that the kill falls into the middle however fast the machine is.
	fio := startFio(t, c.URI("n1"), append(verifyArgs(24), "--rate=12m", "--fsync=64")...)
	waitAllocated(t, c.Data("n2"), 12*cluster.MiB)
	c.Kill("n2")
	if !fio.p.Running() {
		t.Fatal("fio ended before the secondary was killed: the test proves nothing")
	}
	c.WaitAlone("n1", "n2")
	if sum := fio.wait(); sum.reads == 0 {
		t.Error("fio verified nothing")
	}

	// Nobody writes any more: what is dirty now is what has to be copied.
	before, _ := cluster.Replica(c.Status("n1"), "n2")
	if before.DirtyBytes == 0 || before.DirtyBytes >= size/2 {
		t.Errorf("%d bytes are dirty after the kill; fio wrote about 96 MiB of %d", before.DirtyBytes, size)
	}
	known := lastSeq(c.Events("n1"))
	c.Start("n2")
	c.Identical("n1")
	copied := resynced(t, c.Events("n1"), known, "n2")
	// What was in flight to n2 when it was killed is dirty already; more than that, for instance
	// the whole device or whole regions of its activity log, must not be copied.
	if copied != before.DirtyBytes {
		t.Errorf("%d bytes were resynced; %d were dirty", copied, before.DirtyBytes)
	}
	t.Logf("dirty %d, resynced %d, device %d", before.DirtyBytes, copied, int64(size))
}

func lastSeq(evs []control.Event) uint64 {
	if len(evs) == 0 {
		return 0
	}
	return evs[len(evs)-1].Seq
}

// resynced sums the amounts of the resyncs into node that ended after the event numbered after.
func resynced(t testing.TB, evs []control.Event, after uint64, node string) (total int64) {
	t.Helper()
	found := false
	for _, ev := range evs {
		if ev.Seq <= after || ev.Kind != "resync_done" || ev.Attrs["peer"] != node {
			continue
		}
		n, err := strconv.ParseInt(ev.Attrs["bytes"], 10, 64)
		if err != nil {
			t.Errorf("event %+v: %v", ev, err)
		}
		found = true
		total += n
	}
	if !found {
		t.Errorf("no event tells of a resync into %s: %+v", node, evs)
	}
	return total
}

func TestSecondaryLeavesAndReturns_TenTimesUnderLoad_ReplicasEndIdentical(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB})
	l := ackload.New(64 * cluster.MiB / ackload.Block)
	finish := background(t, l, c.URI("n1"), 2, 8)
	for i := range 10 {
		sig := syscall.SIGKILL
		if i%2 == 1 {
			sig = syscall.SIGTERM
		}
		c.Signal("n2", sig)
		acked := l.Acked()
		proc.Eventually(t, "writes to go on alone", func() error { return more(l, acked+50) })
		c.Start("n2")
		c.WaitInSync("n1")
	}
	finish()
	if err := errors.Join(l.Failed()...); err != nil {
		t.Error(err)
	}
	if err := l.Check(dial(t, c.URI("n1"))); err != nil {
		t.Error(err)
	}
	c.Identical("n1")
}

func more(l *ackload.Load, want int64) error {
	if n := l.Acked(); n < want {
		return fmt.Errorf("%d of %d writes are acknowledged", n, want)
	}
	return nil
}

// background runs a load on some connections until the function it returns is called, or the
// connections end.
func background(t testing.TB, l *ackload.Load, uri string, connections, depth int) (finish func()) {
	t.Helper()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range connections {
		conn := dial(t, uri)
		wg.Add(1)
		go func() {
			defer wg.Done()
			l.Run(conn, depth, uint64(i)+1, stop)
		}()
	}
	finish = sync.OnceFunc(func() {
		close(stop)
		wg.Wait()
	})
	t.Cleanup(finish)
	return finish
}

// failover kills the primary from under a load, promotes the other node on the operator's word,
// and checks every acknowledged write there; then the old primary returns.
func failover(t *testing.T, c *cluster.Cluster, l *ackload.Load, from, to string) {
	t.Helper()
	finish := background(t, l, c.URI(from), 3, 32)
	acked := l.Acked()
	proc.Eventually(t, "writes", func() error { return more(l, acked+3000) })
	c.Kill(from)
	finish()
	if err := errors.Join(l.Failed()...); err != nil {
		t.Errorf("a write was answered with an error: %v", err)
	}
	c.MustCLI(to, "promote", "r0", "--on", to, "--confirm-peer-down")
	c.WaitPrimary(to)
	if err := l.Check(dial(t, c.URI(to))); err != nil {
		t.Errorf("after the failover to %s: %v", to, err)
	}

	// Writes of the new timeline, then the old primary returns as a resync target.
	finish = background(t, l, c.URI(to), 1, 8)
	acked = l.Acked()
	proc.Eventually(t, "writes on the new primary", func() error { return more(l, acked+500) })
	c.Start(from)
	c.WaitInSync(to)
	finish()
	// Its copy of the ledger may take a moment to catch up.
	proc.Eventually(t, "the old primary to know the new one", func() error {
		if r := c.Status(from); r.Role != control.RoleSecondary || r.Primary != to {
			return fmt.Errorf("it came back as %s, with primary %q", r.Role, r.Primary)
		}
		return nil
	})
	if err := l.Check(dial(t, c.URI(to))); err != nil {
		t.Errorf("after the return of %s: %v", from, err)
	}
	c.Identical(to)
}

func TestPrimaryKilled_OtherNodePromoted_HoldsEveryAcknowledgedWrite_AndOldPrimaryIsResynced(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB})
	failover(t, c, ackload.New(64*cluster.MiB/ackload.Block), "n1", "n2")
}

func TestFailover_ThereAndBack_TwiceUnderLoad(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB})
	l := ackload.New(64 * cluster.MiB / ackload.Block)
	for range 2 {
		failover(t, c, l, "n1", "n2")
		failover(t, c, l, "n2", "n1")
	}
}

func TestPrimaryKilled_AndStartedAgain_ServesOnlyAfterANewPromotion(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB})
	l := ackload.New(64 * cluster.MiB / ackload.Block)
	finish := background(t, l, c.URI("n1"), 2, 16)
	proc.Eventually(t, "writes", func() error { return more(l, 1000) })
	epoch := c.Status("n1").Epoch
	c.Kill("n1")
	finish()
	c.Start("n1")
	if r := c.Status("n1"); r.Role == control.RolePrimary && r.Epoch == epoch {
		t.Fatal("a process that starts is primary in the epoch of the one before it")
	}
	if c.Status("n1").Role != control.RolePrimary {
		c.MustCLI("n1", "promote", "r0", "--on", "n1")
	}
	if r := c.WaitPrimary("n1"); r.Epoch <= epoch {
		t.Errorf("epoch %d follows epoch %d", r.Epoch, epoch)
	}
	if err := l.Check(dial(t, c.URI("n1"))); err != nil {
		t.Error(err)
	}
	c.Identical("n1")
}

func TestSwitchover_UnderLoad_LosesNothingAndAnswersNoError(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB})
	l := ackload.New(64 * cluster.MiB / ackload.Block)
	from, to := "n1", "n2"
	for range 4 {
		finish := background(t, l, c.URI(from), 2, 16)
		acked := l.Acked()
		proc.Eventually(t, "writes", func() error { return more(l, acked+500) })
		c.MustCLI(from, "switchover", "r0", "--to", to)
		finish()
		if err := errors.Join(l.Failed()...); err != nil {
			t.Fatalf("a write was answered with an error: %v", err)
		}
		c.WaitPrimary(to)
		if err := l.Check(dial(t, c.URI(to))); err != nil {
			t.Fatalf("after the switchover to %s: %v", to, err)
		}
		from, to = to, from
	}
	c.Identical(from)
}

func TestAllNodesKilled_AfterRestart_EveryAcknowledgedWriteIsThere(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB})
	c.MustCLI("n1", "pause-failover", "r0") // an operator chooses; tests/e2e leaves it to the cluster
	l := ackload.New(64 * cluster.MiB / ackload.Block)
	finish := background(t, l, c.URI("n1"), 2, 32)
	proc.Eventually(t, "writes", func() error { return more(l, 2000) })
	for _, n := range []string{"n2", "n1", "w"} {
		c.Kill(n)
	}
	finish()
	startAll(t, c, "w", "n2", "n1")
	if c.Status("n1").Role != control.RolePrimary {
		c.MustCLI("n1", "promote", "r0", "--on", "n1")
	}
	c.WaitPrimary("n1")
	if err := l.Check(dial(t, c.URI("n1"))); err != nil {
		t.Error(err)
	}
	c.Identical("n1")
}

func TestWitnessKilled_WritesAndReadsGoOn(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB})
	l := ackload.New(64 * cluster.MiB / ackload.Block)
	finish := background(t, l, c.URI("n1"), 2, 8)
	proc.Eventually(t, "writes", func() error { return more(l, 200) })
	c.Kill("w")
	acked := l.Acked()
	proc.Eventually(t, "writes without a witness", func() error { return more(l, acked+2000) })
	finish()
	if err := l.Check(dial(t, c.URI("n1"))); err != nil {
		t.Error(err)
	}
	c.Start("w")
	c.Identical("n1")
}

func TestPrimaryPausedAndResumed_NothingIsLost(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB})
	c.MustCLI("n1", "pause-failover", "r0") // it is to go on itself; tests/e2e replaces it
	l := ackload.New(64 * cluster.MiB / ackload.Block)
	finish := background(t, l, c.URI("n1"), 2, 16)
	proc.Eventually(t, "writes", func() error { return more(l, 500) })
	c.Signal("n1", syscall.SIGSTOP)
	// The secondary notices that the primary is silent.
	c.Eventually("n2", "n2 to miss n1", func(r control.Resource) error {
		if p, ok := cluster.Replica(r, "n1"); ok && p.Connection == control.ConnConnected {
			return errors.New("still connected")
		}
		return nil
	})
	c.Signal("n1", syscall.SIGCONT)
	c.WaitPrimary("n1")
	c.WaitInSync("n1")
	finish()
	if err := l.Check(dial(t, c.URI("n1"))); err != nil {
		t.Error(err)
	}
	c.Identical("n1")
}
