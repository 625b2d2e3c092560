package vm

import (
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/tests/vm/rig"
)

func TestWatchdog_DaemonThatStandsStill_TheMachineIsReset(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{sizeMiB: 64, watchdog: true})
	s.vm.Run(t, "for i in $(seq 1 100); do [ $(cat /sys/class/watchdog/watchdog0/state) = active ] && exit 0; sleep 0.2; done; cat /lab/n1/log >&2; exit 1")
	begun := time.Now()
	s.vm.Run(t, "lockstep lab kill n1 --signal STOP --dir /lab")
	select {
	case <-s.vm.Ended():
	case <-time.After(rig.Limit):
		t.Fatal("the machine goes on, with a daemon that pets nothing")
	}
	t.Logf("reset after %v (emulated); its watchdog has 10 s", time.Since(begun).Round(time.Millisecond))
	if !strings.Contains(s.vm.Serial(), "softdog: Initiating system reboot") {
		t.Errorf("the machine ended, but not by its watchdog:\n%s", s.vm.Serial())
	}
}
