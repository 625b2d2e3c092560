package e2e

import (
	"errors"
	"syscall"
	"testing"

	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

func TestPrimaryKilled_TheOtherTakesOver_AndTheOldOneReturnsAsItsTarget(t *testing.T) {
	t.Parallel()
	r := start(t, cluster.Options{})
	primary, secondary := r.roles()
	epoch := r.epoch(primary)
	r.Kill(primary)
	at := r.h.Now()
	r.flows(200)
	t.Logf("no write was acknowledged for %v", r.h.LongestGap(at, r.h.Now()))
	if now := r.WaitPrimary(secondary).Epoch; now <= epoch {
		t.Errorf("epoch %d follows epoch %d", now, epoch)
	}
	r.Start(primary)
	r.whole()
	if now := r.primary(); now != secondary {
		t.Errorf("%s is primary again: nobody asked for that", now)
	}
	r.finish()
}

func TestSecondaryKilled_WritesGoOnInTheSameEpoch(t *testing.T) {
	t.Parallel()
	r := start(t, cluster.Options{})
	primary, secondary := r.roles()
	epoch := r.epoch(primary)
	r.Kill(secondary)
	at := r.h.Now()
	r.WaitAlone(primary, secondary)
	r.flows(200)
	t.Logf("no write was acknowledged for %v", r.h.LongestGap(at, r.h.Now()))
	r.Start(secondary)
	r.whole()
	if now := r.epoch(primary); now != epoch || r.primary() != primary {
		t.Errorf("%s serves in epoch %d; before it was %s in %d", r.primary(), now, primary, epoch)
	}
	r.finish()
}

func TestWitnessKilled_NothingChanges(t *testing.T) {
	t.Parallel()
	r := start(t, cluster.Options{})
	primary, _ := r.roles()
	epoch := r.epoch(primary)
	r.Kill("w")
	r.flows(500)
	r.Start("w")
	r.flows(200)
	if now := r.epoch(primary); now != epoch || r.primary() != primary {
		t.Errorf("%s serves in epoch %d; before it was %s in %d", r.primary(), now, primary, epoch)
	}
	r.finish()
}

func TestLedgerLeaderKilled_ThreeTimes_WritesGoOn(t *testing.T) {
	t.Parallel()
	r := start(t, cluster.Options{})
	for range 3 {
		leader := r.leader()
		t.Logf("leader %s, primary %s", leader, r.primary())
		r.Kill(leader)
		r.flows(200)
		proc.Eventually(t, "another leader", func() error {
			if now := r.leader(); now == leader {
				return errors.New(leader + " is still named")
			}
			return nil
		})
		r.Start(leader)
		r.whole()
	}
	r.finish()
}

func TestAllKilled_AndStarted_ServeAgainByThemselves(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		sig  syscall.Signal
	}{{"killed", syscall.SIGKILL}, {"stopped", syscall.SIGTERM}} {
		t.Run(tc.name, func(t *testing.T) {
			r := start(t, cluster.Options{})
			for range 2 {
				for _, n := range []string{"n2", "w", "n1"} {
					r.Signal(n, tc.sig)
				}
				for _, n := range []string{"n1", "n2", "w"} {
					r.StartUnready(n)
				}
				r.flows(200)
				r.whole()
			}
			r.finish()
		})
	}
}

func TestThreeDataNodes_ThePrimaryKilled_AndThenTheNextOne(t *testing.T) {
	t.Parallel()
	r := start(t, cluster.Options{DataNodes: 3, NoWitness: true})
	first := r.primary()
	r.Kill(first)
	r.flows(200)
	second := r.primary()
	r.Start(first)
	r.whole()
	r.Kill(second)
	r.flows(200)
	r.Start(second)
	r.whole()
	r.finish()
}
