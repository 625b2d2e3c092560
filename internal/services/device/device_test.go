package device

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/nbd/attach"
)

// rig is a Device whose program is a script that says what it was called with.
type rig struct {
	*Device
	t        testing.TB
	dir      string
	released []bool // the own of each Release
	refuse   error  // of Release
}

// newRig makes a rig; script is run after the call was noted.
func newRig(t testing.TB, script string) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir()}
	path := filepath.Join(r.dir, "lockstep")
	text := fmt.Sprintf("#!/bin/sh\necho \"$*\" >>%s/calls\n%s\n", r.dir, script)
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	r.Device = New(Config{
		Resource: "r0", Device: "/dev/nbd0", Node: "n1", Socket: "/s", Flags: []string{"--connections=4"}, Program: path, Dir: r.dir,
		Release: func(_ context.Context, own bool) error { r.released = append(r.released, own); return r.refuse },
	})
	return r
}

// state makes the file that a relay leaves.
func (r *rig) state(resource, ended string, configured bool) {
	r.t.Helper()
	b, err := json.Marshal(attach.State{Version: 1, Spec: attach.Spec{Resource: resource, Device: "/dev/nbd0"}, Ended: ended, Configured: configured})
	if err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.dir, "nbd0.json"), b, 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) calls() []string {
	b, err := os.ReadFile(filepath.Join(r.dir, "calls"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}

func (r *rig) wantCalls(want ...string) {
	r.t.Helper()
	got := r.calls()
	if len(got) != len(want) {
		r.t.Fatalf("lockstep was called with %q, want %q", got, want)
	}
	for i := range got {
		if !strings.HasPrefix(got[i], want[i]) {
			r.t.Errorf("call %d is %q, want %q", i, got[i], want[i])
		}
	}
}

func TestStart_EndsWhatTheLastPrimaryHad_ThenAttaches(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(*rig)
		own     bool
	}{
		"nothing here: the key of an own one is lost": {func(*rig) {}, true},
		"a relay's state: it goes on with it":         {func(r *rig) { r.state("r0", "", true) }, false},
		"its registration has ended":                  {func(r *rig) { r.state("r0", "superseded", false) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "")
			c.prepare(r)
			if err := r.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if len(r.released) != 1 || r.released[0] != c.own {
				t.Errorf("released %v, want own %v", r.released, c.own)
			}
			r.wantCalls("attach r0 /dev/nbd0 --state-dir " + r.dir + " --holder n1/services --connections=4 --socket /s")
		})
	}
}

func TestStart_LastPrimaryNotReleased_NothingIsAttached(t *testing.T) {
	r := newRig(t, "")
	r.refuse = errors.New("no majority")
	if err := r.Start(t.Context()); !errors.Is(err, r.refuse) {
		t.Errorf("%v", err)
	}
	r.wantCalls()
}

func TestStart_HeldByAnother_SaysByWhom(t *testing.T) {
	r := newRig(t, "echo 'lockstep: held by another host: desk\n  data: safe\n  next: detach it there first' >&2; exit 3")
	if err := r.Start(t.Context()); err == nil || err.Error() != "held by another host: desk; next: detach it there first" {
		t.Errorf("%v", err)
	}
}

func TestStart_IsGivenItsTime(t *testing.T) {
	r := newRig(t, "sleep 60")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := r.Start(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if c := r.calls(); len(c) != 1 || !strings.Contains(c[0], "--timeout 100ms") {
		t.Errorf("%q", c)
	}
}

func TestStop(t *testing.T) {
	// No relay of these lives, so that one is started first for what has a device.
	gone := `[ "$1" = attach ] || rm "$4/nbd0.json"`
	both := []string{"attach r0 /dev/nbd0", "detach /dev/nbd0"}
	for name, c := range map[string]struct {
		prepare func(*rig)
		script  string
		calls   []string
		fails   string
	}{
		"nothing is attached":               {prepare: func(*rig) {}},
		"another resource's":                {prepare: func(r *rig) { r.state("r1", "", true) }},
		"it was ended elsewhere":            {func(r *rig) { r.state("r0", "superseded", false) }, gone, []string{"detach /dev/nbd0"}, ""},
		"that cannot be forgotten":          {func(r *rig) { r.state("r0", "superseded", false) }, "exit 1", []string{"detach /dev/nbd0"}, ""},
		"only the record is left":           {prepare: func(r *rig) { r.state("r0", "", false) }},
		"attached":                          {func(r *rig) { r.state("r0", "", true) }, gone, both, ""},
		"the device went, the record stays": {func(r *rig) { r.state("r0", "", true) }, gone + `; [ "$1" = attach ]`, both, ""},
		"in use":                            {func(r *rig) { r.state("r0", "", true) }, `[ "$1" = attach ] || { echo in use; exit 1; }`, both, "in use"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, c.script)
			c.prepare(r)
			err := r.Stop(t.Context())
			if c.fails == "" && err != nil || c.fails != "" && (err == nil || err.Error() != c.fails) {
				t.Errorf("%v, want %q", err, c.fails)
			}
			r.wantCalls(c.calls...)
		})
	}
}

// A start that was broken off leaves a relay, which ends by itself, but not at once.
func TestStop_AndStart_WaitForARelayThatIsAboutToEnd(t *testing.T) {
	for name, op := range map[string]func(*rig, context.Context) error{
		"stop":  func(r *rig, ctx context.Context) error { return r.Stop(ctx) },
		"start": func(r *rig, ctx context.Context) error { return r.Start(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "")
			r.state("r0", "", false)
			relay, err := os.Create(filepath.Join(r.dir, "nbd0.lock"))
			if err != nil {
				t.Fatal(err)
			}
			defer relay.Close()
			if err := syscall.Flock(int(relay.Fd()), syscall.LOCK_EX); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if err := op(r, ctx); !errors.Is(err, context.DeadlineExceeded) || len(r.calls()) != 0 {
				t.Errorf("with a relay under way: %v, calls %q", err, r.calls())
			}
			time.AfterFunc(100*time.Millisecond, func() { relay.Close() })
			if err := op(r, t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestMonitor_RelayDied_AnotherTakesTheDeviceUp(t *testing.T) {
	r := newRig(t, "")
	if err := r.Monitor(t.Context()); err == nil || !strings.Contains(err.Error(), "not attached") {
		t.Errorf("with no device: %v", err)
	}
	r.wantCalls()
	r.state("r0", "", true)
	if err := r.Monitor(t.Context()); err != nil {
		t.Error(err)
	}
	r.wantCalls("attach r0 /dev/nbd0")
	if len(r.released) != 0 {
		t.Error("who goes on needs nobody's place")
	}
}

func TestResume_TriesUntilThereIsARelay(t *testing.T) {
	r := newRig(t, `[ $(wc -l <"$5/calls") = 2 ]`)
	r.Resume(t.Context()) // nothing to resume
	r.wantCalls()
	r.state("r0", "", true)
	r.Resume(t.Context())
	r.wantCalls("attach r0 /dev/nbd0", "attach r0 /dev/nbd0")
}

func TestExamine_NeedsTheKernelsDevice(t *testing.T) {
	r := newRig(t, "")
	r.cfg.Device = "/dev/null"
	if err := r.Examine(t.Context()); err != nil {
		t.Error(err)
	}
	r.cfg.Device = filepath.Join(r.dir, "nbd0")
	if err := r.Examine(t.Context()); err == nil || !strings.Contains(err.Error(), "modprobe nbd") {
		t.Errorf("%v", err)
	}
	r.cfg.Device = r.dir
	if err := r.Examine(t.Context()); err == nil || !strings.Contains(err.Error(), "is no device") {
		t.Errorf("%v", err)
	}
	r.wantCalls()
}

func TestHolder_IsNoHostsName(t *testing.T) {
	if !OfServices(Holder("n1")) || OfServices("n1") || OfServices("n1.services") {
		t.Error("an attachment of services is not told from one that was made by hand")
	}
}
