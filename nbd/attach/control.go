package attach

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"time"
)

// Status is a device as operators see it.
type Status struct {
	Device      string    `json:"device"`
	Resource    string    `json:"resource"`
	State       string    `json:"state"`           // one of the words below
	Cause       string    `json:"cause,omitempty"` // why it does not serve
	AwaySeconds float64   `json:"away_s,omitempty"`
	Server      string    `json:"server,omitempty"`
	Number      uint64    `json:"registration"`
	Session     uint64    `json:"session"`
	Sessions    uint64    `json:"sessions"` // since the relay started
	Resent      uint64    `json:"resent"`   // requests that were sent again
	Unfinished  int       `json:"unfinished"`
	SizeBytes   int64     `json:"size_bytes"`
	ReadOnly    bool      `json:"read_only"`
	Shared      bool      `json:"shared"`
	Connections int       `json:"connections"`
	PID         int       `json:"pid,omitempty"` // of the relay; 0: none runs
	Since       time.Time `json:"since,omitzero"`
}

// States of a device.
const (
	StateServing = "serving"  // requests are carried
	StateWaiting = "waiting"  // no server: requests wait
	StateFailing = "failing"  // no server for too long: requests fail
	StateEnded   = "ended"    // for good
	StateNoRelay = "no-relay" // the kernel has the device and nobody serves it: requests wait
	StateLeft    = "left"     // no device; a registration may remain
)

// request and answer are what travels on the control socket: one line of JSON each.
type request struct {
	Op    string        `json:"op"` // status or detach
	Force bool          `json:"force,omitempty"`
	Limit time.Duration `json:"limit_ns,omitempty"`
}

type answer struct {
	Status *Status `json:"status,omitempty"`
	Report *Report `json:"report,omitempty"`
}

// Report is the outcome of something that another process did.
type Report struct {
	OK   bool   `json:"ok"`
	Kind string `json:"kind,omitempty"` // of the error, see kinds
	Text string `json:"text,omitempty"`
}

// kinds are the errors that are told apart across processes.
var kinds = map[string]error{
	"held": ErrHeld, "unknown": ErrUnknown, "elsewhere": ErrElsewhere, "superseded": ErrSuperseded, "not-lockstep": ErrNotLockstep,
	"tls": ErrNeedsTLS, "no-module": ErrNoModule, "not-allowed": ErrNotAllowed, "busy": ErrBusy, "no-device": ErrNoDevice,
	"attached": ErrAttached, "shrunk": ErrShrunk, "late": context.DeadlineExceeded,
}

// ReportOf is the report of err.
func ReportOf(err error) Report {
	if err == nil {
		return Report{OK: true}
	}
	r := Report{Text: err.Error()}
	for kind, e := range kinds {
		if errors.Is(err, e) && (r.Kind == "" || kind < r.Kind) {
			r.Kind = kind
		}
	}
	return r
}

// remote is an error of another process.
type remote struct {
	text string
	is   error
}

func (e *remote) Error() string { return e.text }
func (e *remote) Unwrap() error { return e.is }

// Err is the error that was reported.
func (r Report) Err() error {
	if r.OK {
		return nil
	}
	return &remote{r.Text, kinds[r.Kind]}
}

func socketPath(dir, name string) string { return filepath.Join(dir, name+".sock") }

// listen opens the control socket. One that is there is a dead relay's, for this one has the lock.
func (h *host) listen() (net.Listener, error) {
	path := socketPath(h.state.Spec.Dir, h.state.Spec.name())
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return net.Listen("unix", path)
}

// answer answers on the control socket until ctx ends.
func (h *host) answer(ctx context.Context, l net.Listener) {
	var conns sync.WaitGroup
	defer conns.Wait()
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		conns.Go(func() {
			defer c.Close()
			h.answerOne(ctx, c)
		})
	}
}

func (h *host) answerOne(ctx context.Context, c net.Conn) {
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	var q request
	line, err := bufio.NewReaderSize(c, 4096).ReadSlice('\n')
	if err != nil || json.Unmarshal(line, &q) != nil {
		return // whoever it is speaks something else
	}
	var a answer
	switch q.Op {
	case "status":
		st := h.status()
		a.Status = &st
	case "detach":
		r := ReportOf(h.order(ctx, q))
		a.Report = &r
	default:
		a.Report = &Report{Text: fmt.Sprintf("unknown request %q", q.Op)}
	}
	b, err := json.Marshal(a)
	if err == nil {
		_ = c.SetWriteDeadline(time.Now().Add(5 * time.Second))
		_, _ = c.Write(append(b, '\n')) // who has gone does not hear it
	}
}

// order has the device detached.
func (h *host) order(ctx context.Context, q request) error {
	limit := q.Limit
	if limit <= 0 {
		limit = detachTime
	}
	// Not the context of the relay: that ends half way through.
	octx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	o := detachOrder{ctx: octx, force: q.Force, done: make(chan error, 1)}
	select {
	case h.detach <- o:
		return <-o.done
	case <-ctx.Done():
		return errors.New("the relay is ending")
	}
}

// status describes the device.
func (h *host) status() Status {
	r := h.relay.Status()
	sp := &h.state.Spec
	st := Status{
		Device: sp.Device, Resource: sp.Resource, ReadOnly: sp.ReadOnly, Shared: sp.Shared, Connections: sp.Connections,
		Cause: r.Cause, AwaySeconds: r.Away.Seconds(), Server: r.Server, Number: r.Number, Session: r.Session, Sessions: r.Sessions,
		Resent: r.Resent, Unfinished: r.Unfinished, SizeBytes: r.Size, PID: os.Getpid(), Since: h.started,
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.ended != "":
		st.State, st.Cause = StateEnded, h.ended
	case r.Serving:
		st.State = StateServing
	case r.Failing:
		st.State = StateFailing
	default:
		st.State = StateWaiting
	}
	return st
}

// ErrNoRelay means that no relay runs for a device.
var ErrNoRelay = errors.New("no relay runs for the device")

// ask sends one request to the relay of a device.
func ask(ctx context.Context, dir, name string, q request) (a answer, err error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socketPath(dir, name))
	if err != nil {
		return a, fmt.Errorf("%w: %w", ErrNoRelay, err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	b, err := json.Marshal(q)
	if err != nil {
		return a, err
	}
	if _, err := c.Write(append(b, '\n')); err != nil {
		return a, fmt.Errorf("ask the relay: %w", err)
	}
	if err := json.NewDecoder(c).Decode(&a); err != nil {
		return a, fmt.Errorf("ask the relay: %w", err)
	}
	return a, nil
}

// Query asks the relay of a device how it is. ErrNoRelay: there is none.
func Query(ctx context.Context, dir, device string) (Status, error) {
	a, err := ask(ctx, dir, strings.TrimPrefix(device, "/dev/"), request{Op: "status"})
	if err == nil && a.Status == nil {
		err = errors.New("ask the relay: an answer without a status")
	}
	if err != nil {
		return Status{}, err
	}
	return *a.Status, nil
}

// Detach has the relay of a device end the attachment, within limit (0: a usual time). ErrNoRelay: there
// is none; Remove is for that.
func Detach(ctx context.Context, dir, device string, force bool, limit time.Duration) error {
	a, err := ask(ctx, dir, strings.TrimPrefix(device, "/dev/"), request{Op: "detach", Force: force, Limit: limit})
	if err == nil && a.Report == nil {
		err = errors.New("ask the relay: an answer without a report")
	}
	if err != nil {
		return err
	}
	return a.Report.Err()
}

// List returns the devices of this host that relays whose state is in dir serve, or have left.
func List(ctx context.Context, dir string) ([]Status, error) {
	files, err := filepath.Glob(filepath.Join(dir, "nbd*.json"))
	if err != nil {
		return nil, err
	}
	var out []Status
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".json")
		st, err := LoadState(dir, name)
		if errors.Is(err, os.ErrNotExist) {
			continue // detached this moment
		}
		if err != nil {
			return nil, err
		}
		live, err := Query(ctx, dir, name)
		if err == nil {
			out = append(out, live)
			continue
		}
		out = append(out, left(st))
	}
	sort.Slice(out, func(i, j int) bool {
		a, b := out[i].Device, out[j].Device
		return len(a) < len(b) || len(a) == len(b) && a < b // nbd2 before nbd10
	})
	return out, nil
}

// left describes a device without a relay.
func left(st State) Status {
	s := Status{
		Device: st.Spec.Device, Resource: st.Spec.Resource, ReadOnly: st.Spec.ReadOnly, Shared: st.Spec.Shared,
		Connections: st.Spec.Connections, Number: st.Number, SizeBytes: st.Size,
	}
	boot, err := bootID()
	switch {
	case st.Ended != "":
		s.State, s.Cause = StateEnded, st.Ended
	case st.Configured && err == nil && st.Boot == boot:
		s.State = StateNoRelay
		s.Cause = fmt.Sprintf("no relay serves it; next: lockstep attach %s %s", st.Spec.Resource, st.Spec.Device)
	default:
		s.State = StateLeft
		s.Cause = fmt.Sprintf("there is no device; next: lockstep detach %s", st.Spec.Device)
	}
	return s
}
