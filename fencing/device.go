package fencing

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Errors of a fence. Each means that nothing is proven; they differ in what the operator has to look at.
var (
	// ErrUnproven: the device answered, and its answer is not that the node is off.
	ErrUnproven = errors.New("not proven off")
	// ErrTimeout: no answer in time. The node may be off, and it may be serving.
	ErrTimeout = errors.New("no answer in time")
	// ErrBroken: the device cannot be asked at all: its program, its metadata, its password.
	ErrBroken = errors.New("the fence device cannot be used")
	// ErrNotArmed: the target declared no watchdog that would turn this boot off.
	ErrNotArmed = errors.New("no armed watchdog is declared")
	// ErrUnsupported: the device has no such action.
	ErrUnsupported = errors.New("not supported by this fence device")
	// ErrNoDevice: the configuration names no way to turn the node off.
	ErrNoDevice = errors.New("no fence device is configured for the node")
	// ErrSelf: a node does not shoot at itself. Its watchdog is for that.
	ErrSelf = errors.New("a node does not fence itself")
	// ErrBusy: the node is being turned off, or let back, by an earlier call.
	ErrBusy = errors.New("another fence or unfence is under way")
	// ErrWithdrawn: the order no longer stood after the delay; nothing was fired.
	ErrWithdrawn = errors.New("the order was taken back before anything was fired")
)

// Power is what a device says about a node's power, or its access to storage.
type Power uint8

// Powers.
const (
	PowerUnknown Power = iota
	PowerOn
	PowerOff
)

func (p Power) String() string {
	switch p {
	case PowerUnknown:
		return "unknown"
	case PowerOn:
		return "on"
	case PowerOff:
		return "off"
	}
	return fmt.Sprintf("power(%d)", uint8(p))
}

// Target is one boot of one node.
type Target struct {
	Node     string
	Boot     string
	Resource string // on whose behalf; "": none
	Reason   string // one sentence for whoever reads the history
	Armed    *Armed // nil: the node declared no watchdog

	// asked is when the fence was asked for here, on the clock behind timers. Zero: now.
	asked time.Time
}

// Armed is what a node declared about its watchdog when it armed it. What it has to keep for that is in
// the package comment.
type Armed struct {
	Boot    string        // the boot that declared it
	Timeout time.Duration // what the hardware really uses, not what it was asked for
	Lease   time.Duration // how long one permit to go on petting lasts
}

// Answer is what a device said. Only the Answer of an Off that returned no error proves anything.
type Answer struct {
	Power  Power
	Text   string // one sentence
	Output string // the end of what the program printed, without secrets
}

// Device is one way to turn nodes off. Its methods may be called at the same time. Each program
// that it runs has a time limit of its own, and ctx ends it earlier.
type Device interface {
	Name() string
	// Off turns the target off and returns once that is proven. Any error means that it is not.
	Off(ctx context.Context, t Target) (Answer, error)
	// On lets the target back, or ErrUnsupported.
	On(ctx context.Context, t Target) (Answer, error)
	// Status asks for the target's power. PowerOff from here is no proof.
	Status(ctx context.Context, t Target) (Answer, error)
	// Monitor asks whether the device itself works.
	Monitor(ctx context.Context, t Target) (Answer, error)
	// Check finds out, without firing, whether Off would work.
	Check(ctx context.Context, t Target) []Finding
	// NeedsOn reports whether On has to run before a node that was turned off comes back, and whether
	// it has to run on that node itself.
	NeedsOn(ctx context.Context) (needed, onTarget bool, err error)
}

// Severity tells how bad a Finding is.
type Severity uint8

// Severities.
const (
	Good    Severity = iota + 1
	Warning          // it works, and somebody should look
	Fault            // it would not work
)

func (s Severity) String() string {
	switch s {
	case Good:
		return "ok"
	case Warning:
		return "warning"
	case Fault:
		return "fault"
	}
	return fmt.Sprintf("severity(%d)", uint8(s))
}

// Finding is one thing that a check found out, in words for an operator.
type Finding struct {
	Device   string // "" when it is about the node as a whole
	Severity Severity
	Text     string
}

// findings gathers what is found about one device.
type findings struct {
	device string
	list   []Finding
}

func (f *findings) add(s Severity, format string, a ...any) {
	f.list = append(f.list, Finding{Device: f.device, Severity: s, Text: fmt.Sprintf(format, a...)})
}
