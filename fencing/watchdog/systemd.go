package watchdog

import (
	"errors"
	"fmt"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// systemd is the service watchdog of systemd. It kills this process and may start it again; the
// machine goes on, so nobody else may conclude anything from it.
type systemd struct {
	timeout time.Duration
	tell    func(state string) (bool, error)
}

// OpenSystemd returns the watchdog that systemd set up for this process (WatchdogSec= of its unit).
func OpenSystemd() (Timer, error) {
	timeout, err := daemon.SdWatchdogEnabled(false)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: what systemd says about it cannot be read: %w", ErrNoWatchdog, err)
	case timeout <= 0:
		return nil, fmt.Errorf("%w: systemd does not watch this process; set WatchdogSec= in its unit", ErrNoWatchdog)
	}
	return &systemd{timeout: timeout, tell: func(s string) (bool, error) { return daemon.SdNotify(false, s) }}, nil
}

func (s *systemd) Info() Info { return Info{Name: "systemd", Timeout: s.timeout} }

func (s *systemd) Pet() error {
	sent, err := s.tell(daemon.SdNotifyWatchdog)
	switch {
	case err != nil:
		return fmt.Errorf("tell systemd: %w", err)
	case !sent:
		return errors.New("tell systemd: NOTIFY_SOCKET is not set")
	}
	return nil
}

// Disarm does nothing: systemd watches until the process ends.
func (s *systemd) Disarm() error { return nil }

func (s *systemd) Abandon() error { return nil }
