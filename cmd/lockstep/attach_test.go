package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/nbd/attach"
)

func TestAttach_WrongLinesAreUsage(t *testing.T) {
	for _, line := range []string{
		"attach", "attach r0", "attach r0 /dev/sda", "attach r0 nbd0", "attach r0 /dev/nbd0 --connections 0", "attach r0 /dev/nbd0 --connections 99",
		"attach r0 /dev/nbd0 --servers http://x", "attach r0 /dev/nbd0 --block-size 1000", "attach r0 /dev/nbd0 --deadline -1s",
		"attach --list r0", "detach", "detach r0", "detach /dev/nbd0 x",
	} {
		if code, out, errs := cli(t.Context(), nil, strings.Fields(line)...); code != exitUsage || out != "" || errs == "" {
			t.Errorf("%s: exit %d, %q %q", line, code, out, errs)
		}
	}
}

func TestAttach_NoNodeAnswers_SaysThatServersCanBeGiven(t *testing.T) {
	dir := t.TempDir()
	code, _, errs := cli(t.Context(), nil, "attach", "r0", "/dev/nbd0", "--socket", filepath.Join(dir, "none"), "--state-dir", dir)
	if code != exitUnreachable || !strings.Contains(errs, "--servers HOST:PORT") {
		t.Errorf("exit %d, %q", code, errs)
	}
}

func TestDetach_NothingThere_IsNotFound(t *testing.T) {
	code, _, errs := cli(t.Context(), nil, "detach", "/dev/nbd0", "--state-dir", t.TempDir())
	if code != exitFailed || !strings.Contains(errs, "nothing is attached to /dev/nbd0") || !strings.Contains(errs, "attach --list") {
		t.Errorf("exit %d, %q", code, errs)
	}
}

func TestAttachList_DevicesWithoutRelay(t *testing.T) {
	dir := t.TempDir()
	for _, st := range []attach.State{
		{Spec: attach.Spec{Resource: "r1", Device: "/dev/nbd10", ReadOnly: true}, Size: 1 << 30},
		{Spec: attach.Spec{Resource: "r0", Device: "/dev/nbd2", Shared: true}, Size: 1 << 20, Ended: "taken over by h2"},
	} {
		st.Version = 1
		b, err := json.Marshal(st)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(st.Spec.Device)+".json"), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const want = `/dev/nbd2 r0 ended size:1MiB shared
  ! taken over by h2
/dev/nbd10 r1 left size:1GiB read-only
  ! there is no device; next: lockstep detach /dev/nbd10
`
	if code, out, errs := cli(t.Context(), nil, "attach", "--list", "--state-dir", dir); code != exitOK || out != want || errs != "" {
		t.Errorf("exit %d, %q\ngot:\n%s\nwant:\n%s", code, errs, out, want)
	}
	code, out, _ := cli(t.Context(), nil, "attach", "--list", "--json", "--state-dir", t.TempDir())
	if code != exitOK || out != "[]\n" {
		t.Errorf("exit %d, %q", code, out)
	}
}

func TestDiscover_ANodeThatCannotBeAsked_IsLeftOut(t *testing.T) {
	res := control.Resource{Name: "r0", NBD: control.NBD{Unix: "/run/n1.sock", Reach: "10.0.0.1:10809"}, Replicas: []control.Replica{{Node: "n1"}, {Node: "n2"}}}
	vars := serve(t, &fake{status: control.Status{Node: "n1", Resources: []control.Resource{res}}})
	got, err := discover(t.Context(), vars["LOCKSTEP_SOCKET"], "r0")
	// n2 cannot be asked here: what is known is used.
	if want := []attach.Server{{Network: "unix", Addr: "/run/n1.sock"}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	if _, err := discover(t.Context(), vars["LOCKSTEP_SOCKET"], "r9"); !errors.Is(err, control.ErrNotFound) {
		t.Errorf("unknown resource: %v", err)
	}
}

func TestAttachError_CodesThatScriptsDecideOn(t *testing.T) {
	for _, tc := range []struct {
		err  error
		code int
	}{
		{fmt.Errorf("x: %w", attach.ErrHeld), exitRefused},
		{attach.ErrUnknown, exitFailed},
		{attach.ErrNoModule, exitFailed},
		{attach.ErrBusy, exitRefused},
		{attach.ErrAttached, exitRefused},
		{fmt.Errorf("nobody: %w", context.DeadlineExceeded), exitUnreachable},
		{errors.New("anything else"), exitFailed},
		{nil, exitOK},
	} {
		if got := exitCode(attachError(tc.err)); got != tc.code {
			t.Errorf("%v: exit %d, want %d", tc.err, got, tc.code)
		}
	}
}
