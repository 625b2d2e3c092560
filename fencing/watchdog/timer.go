package watchdog

import (
	"errors"
	"time"
)

// Timer fires unless it is petted in time. One goroutine uses it.
type Timer interface {
	Info() Info
	// Pet starts the timeout anew.
	Pet() error
	// Disarm stops the timer for good, where that is possible.
	Disarm() error
	// Abandon lets go of the timer and leaves it running.
	Abandon() error
}

// Info is what is certain about a Timer.
type Info struct {
	Name     string        // what it calls itself
	Timeout  time.Duration // what it really uses
	Resets   bool          // it resets the machine, not only this process
	Survives bool          // it goes on when this process is killed
}

// Fences reports whether another node may take the firing of this timer for a proof.
func (i Info) Fences() bool { return i.Resets && i.Survives && i.Timeout > 0 }

var (
	// ErrNoWatchdog: there is no such device, or systemd does not watch this service.
	ErrNoWatchdog = errors.New("no watchdog")
	// ErrLeftArmed: Run ended while something was not healthy, so the timer was left running.
	ErrLeftArmed = errors.New("the watchdog was left armed")
)
