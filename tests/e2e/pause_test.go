package e2e

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

// A client stays at the primary's own socket all the time: what it asked last is what the process
// finds first when it goes on.
func TestPrimaryStandsStillFor10s_GoesOn_ServesNothingStale(t *testing.T) {
	t.Parallel()
	r := start(t, cluster.Options{})
	primary, secondary := r.roles()
	epoch := r.epoch(primary)
	r.do(r.Lab.Pause(t.Context(), primary))
	at := r.h.Now()
	r.flows(500)
	t.Logf("no write was acknowledged for %v", r.h.LongestGap(at, r.h.Now()))
	r.lasts(10*time.Second - (r.h.Now() - at))
	r.Signal(primary, syscall.SIGCONT)
	proc.Eventually(t, "the old primary to know the new one", func() error {
		if st := r.Status(primary); st.Role != control.RoleSecondary || st.Primary != secondary || st.Epoch <= epoch {
			return fmt.Errorf("it is %s, names %q, epoch %d", st.Role, st.Primary, st.Epoch)
		}
		return nil
	})
	r.whole()
	r.silentSince(primary, at)
	r.finish()
}

func TestSecondaryStandsStill_IsDropped_AndReturns(t *testing.T) {
	t.Parallel()
	r := start(t, cluster.Options{})
	primary, secondary := r.roles()
	r.Signal(secondary, syscall.SIGSTOP)
	r.WaitAlone(primary, secondary)
	r.flows(200)
	r.Signal(secondary, syscall.SIGCONT)
	r.whole()
	if now := r.primary(); now != primary {
		t.Errorf("%s is primary now", now)
	}
	r.finish()
}

func TestPrimaryStandsStill_Often_Briefly(t *testing.T) {
	t.Parallel()
	r := start(t, cluster.Options{})
	for i := range rounds(4, 20) {
		primary := r.primary()
		r.Signal(primary, syscall.SIGSTOP)
		// Around the lease of 300 ms and the moment of promotion.
		r.lasts(time.Duration(200+100*(i%5)) * time.Millisecond)
		r.Signal(primary, syscall.SIGCONT)
		r.flows(100)
		r.whole()
	}
	r.finish()
}
