package e2e

import (
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/lab"
	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
)

// isolation cuts the primary off from everybody, the clients but the one on its own socket too; the
// other takes over, and the old primary returns to a newer epoch.
func isolation(t *testing.T, what lab.Traffic) {
	t.Parallel()
	r := start(t, cluster.Options{Netns: true})
	primary, secondary := r.roles()
	epoch := r.epoch(primary)
	r.do(r.Lab.Isolate(primary, what))
	at := r.h.Now()
	r.flows(300)
	t.Logf("no write was acknowledged for %v", r.h.LongestGap(at, r.h.Now()))
	if now := r.WaitPrimary(secondary).Epoch; now <= epoch {
		t.Errorf("epoch %d follows epoch %d", now, epoch)
	}
	replaced := r.h.Now()
	r.lasts(time.Second)
	r.do(r.Lab.Heal())
	r.whole()
	r.silentSince(primary, replaced)
	if now := r.primary(); now != secondary {
		t.Errorf("%s is primary: nobody asked for that", now)
	}
	r.finish()
}

func TestPrimaryIsolated_TheOtherTakesOver(t *testing.T)      { isolation(t, lab.BothWays) }
func TestPrimaryCannotSend_TheOtherTakesOver(t *testing.T)    { isolation(t, lab.Sent) }
func TestPrimaryCannotReceive_TheOtherTakesOver(t *testing.T) { isolation(t, lab.Received) }

func TestPrimaryHostGone_TheOtherTakesOver(t *testing.T) {
	t.Parallel()
	r := start(t, cluster.Options{Netns: true})
	primary, secondary := r.roles()
	at := r.h.Now()
	r.do(r.Lab.KillHost(r.t.Context(), primary))
	r.flows(300)
	t.Logf("no write was acknowledged for %v", r.h.LongestGap(at, r.h.Now()))
	r.WaitPrimary(secondary)
	r.Start(primary)
	r.whole()
	r.finish()
}

// Whoever both replicas can still ask hears the primary, so nobody is promoted.
func TestReplicationLinkCut_SecondaryIsDropped_AndReturnsToTheSameEpoch(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		oneWay bool
	}{{"both ways", false}, {"one way", true}} {
		t.Run(tc.name, func(t *testing.T) {
			r := start(t, cluster.Options{Netns: true})
			primary, secondary := r.roles()
			epoch := r.epoch(primary)
			r.do(r.Lab.Cut(primary, secondary, tc.oneWay))
			at := r.h.Now()
			r.WaitAlone(primary, secondary)
			r.flows(300)
			t.Logf("no write was acknowledged for %v", r.h.LongestGap(at, r.h.Now()))
			r.do(r.Lab.Heal())
			r.whole()
			if now := r.epoch(primary); now != epoch || r.primary() != primary {
				t.Errorf("%s serves in epoch %d; before it was %s in %d", r.primary(), now, primary, epoch)
			}
			r.finish()
		})
	}
}

func TestWitnessCutOff_NothingChanges(t *testing.T) {
	t.Parallel()
	r := start(t, cluster.Options{Netns: true})
	primary, _ := r.roles()
	epoch := r.epoch(primary)
	r.do(r.Lab.Isolate("w", lab.BothWays))
	r.lasts(2 * time.Second)
	r.flows(300)
	r.do(r.Lab.Heal())
	r.flows(100)
	r.do(r.Lab.Cut(primary, "w", false))
	r.lasts(2 * time.Second)
	r.flows(300)
	r.do(r.Lab.Heal())
	r.whole()
	if now := r.epoch(primary); now != epoch || r.primary() != primary {
		t.Errorf("%s serves in epoch %d; before it was %s in %d", r.primary(), now, primary, epoch)
	}
	r.finish()
}

// With every link cut nobody has a quorum: the primary freezes, and its writes are answered after
// the links are back, by it or, unanswered, followed by others at a new primary.
func TestEveryLinkCut_NobodyServes_AndAllGoesOnWhenTheyAreBack(t *testing.T) {
	t.Parallel()
	r := start(t, cluster.Options{Netns: true})
	for i := range 2 {
		primary, secondary := r.roles()
		epoch := r.epoch(primary)
		r.do(r.Lab.Cut(primary, secondary, false))
		r.do(r.Lab.Isolate("w", lab.BothWays))
		r.lasts(time.Duration(1+3*i) * time.Second)
		before := r.h.Acked()
		r.lasts(time.Second)
		if n := r.h.Acked(); n != before {
			t.Errorf("%d writes were acknowledged by a primary without peer and quorum", n-before)
		}
		r.do(r.Lab.Heal())
		r.whole()
		t.Logf("%s in epoch %d; %s in epoch %d", primary, epoch, r.primary(), r.epoch(r.primary()))
	}
	r.finish()
}

func TestLinksFlap_NothingIsLost(t *testing.T) {
	t.Parallel()
	r := start(t, cluster.Options{Netns: true})
	for i := range rounds(6, 40) {
		primary, secondary := r.roles()
		cut := [][2]string{{primary, secondary}, {primary, "w"}, {secondary, primary}}[i%3]
		r.do(r.Lab.Cut(cut[0], cut[1], i%2 == 0))
		r.lasts(time.Duration(50+130*(i%6)) * time.Millisecond)
		r.do(r.Lab.Heal())
		r.flows(50)
	}
	r.finish()
}
