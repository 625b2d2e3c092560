package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// fakeOCF makes an agent of a shell script in a root of its own.
func fakeOCF(t *testing.T, script string, params ...string) *OCF {
	t.Helper()
	o := &OCF{Provider: "test", Type: "Fake", Instance: "r0-Fake", Params: params, Interval: 10 * time.Second, Root: t.TempDir()}
	if err := os.MkdirAll(filepath.Dir(o.path()), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(o.path(), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return o
}

func TestOCF_ExitCodes(t *testing.T) {
	good := map[string][]int{"start": {0}, "stop": {0, 7}, "monitor": {0, 8, 190, 191}}
	o := fakeOCF(t, `exit "$OCF_RESKEY_code"`)
	for _, code := range []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 190, 191} {
		o.Params = []string{"code=" + strconv.Itoa(code)}
		for action, act := range map[string]func(context.Context) error{"start": o.Start, "stop": o.Stop, "monitor": o.Monitor} {
			if err := act(t.Context()); (err == nil) != slices.Contains(good[action], code) {
				t.Errorf("%s with exit %d: %v", action, code, err)
			}
		}
	}
}

func TestOCF_TellsTheAgentWhatTheStandardAsksFor(t *testing.T) {
	o := fakeOCF(t, `env | grep ^OCF_ > "$OCF_RESKEY_file"; echo "$0 $*" >> "$OCF_RESKEY_file"`)
	file := filepath.Join(t.TempDir(), "env")
	o.Params = []string{"file=" + file, "ip=10.0.0.1"}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := o.Monitor(ctx); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(string(b), "\n")
	for _, want := range []string{
		"OCF_ROOT=" + o.Root, "OCF_RA_VERSION_MAJOR=1", "OCF_RESOURCE_INSTANCE=r0-Fake", "OCF_RESOURCE_TYPE=Fake",
		"OCF_RESOURCE_PROVIDER=test", "OCF_RESKEY_ip=10.0.0.1", "OCF_RESKEY_CRM_meta_interval=10000", o.path() + " monitor",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("no line %q in:\n%s", want, b)
		}
	}
	if !strings.Contains(string(b), "OCF_RESKEY_CRM_meta_timeout=5") { // 59 seconds and some
		t.Errorf("no timeout in:\n%s", b)
	}
}

func TestOCF_DeadlineKillsTheAgent(t *testing.T) {
	o := fakeOCF(t, `sleep 1000`)
	cause := errors.New("no time left")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, cause)
	defer cancel()
	if err := o.Stop(ctx); !errors.Is(err, cause) {
		t.Errorf("error %v", err)
	}
}

func TestOCF_ExamineNamesWhatIsNotThere(t *testing.T) {
	o := &OCF{Provider: "heartbeat", Type: "NoSuchAgent"}
	if err := o.Examine(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

func TestHook_ExamineNamesWhatIsNoProgram(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hook")
	h := &Hook{Path: path}
	if err := h.Examine(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nothing there: %v", err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := h.Examine(t.Context()); err == nil || !strings.Contains(err.Error(), "is no program") {
		t.Errorf("not executable: %v", err)
	}
	if err := os.Chmod(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := h.Examine(t.Context()); err != nil {
		t.Error(err)
	}
}

// The agent Dummy of the resource-agents package keeps its state in a file.
func TestOCF_Dummy_StartsMonitorsAndStops(t *testing.T) {
	o := &OCF{Provider: "heartbeat", Type: "Dummy", Instance: "r0-Dummy", Params: []string{"state=" + filepath.Join(t.TempDir(), "state")}}
	if err := o.Examine(t.Context()); err != nil {
		if os.Getenv("LOCKSTEP_REQUIRE") == "all" {
			t.Fatalf("LOCKSTEP_REQUIRE=all: %v (package resource-agents)", err)
		}
		t.Skipf("%v (package resource-agents)", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := o.Stop(ctx); err != nil {
		t.Errorf("stop of what is stopped: %v", err)
	}
	if err := o.Monitor(ctx); err == nil {
		t.Error("monitor of what is stopped says that it runs")
	}
	for range 2 {
		if err := o.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.Monitor(ctx); err != nil {
		t.Errorf("monitor: %v", err)
	}
	if err := o.Stop(ctx); err != nil {
		t.Errorf("stop: %v", err)
	}
	if err := o.Monitor(ctx); err == nil || !strings.Contains(err.Error(), "exit 7, not running") {
		t.Errorf("monitor after stop: %v", err)
	}
}

func TestHook_IsToldActionResourceAndNode(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "hook")
	script := "#!/bin/sh\necho \"$* $LOCKSTEP_ACTION $LOCKSTEP_RESOURCE $LOCKSTEP_NODE\" >> " + dir + "/log\n[ $1 != monitor ] || { echo it is gone; exit 3; }\n"
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	h := &Hook{Path: path, Args: []string{"x y"}, Resource: "r0", Node: "n1"}
	if err := errors.Join(h.Start(t.Context()), h.Stop(t.Context())); err != nil {
		t.Error(err)
	}
	if err := h.Monitor(t.Context()); err == nil || !strings.Contains(err.Error(), "exit 3: it is gone") {
		t.Errorf("monitor: %v", err)
	}
	b, _ := os.ReadFile(dir + "/log")
	if got, want := string(b), "start x y start r0 n1\nstop x y stop r0 n1\nmonitor x y monitor r0 n1\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestStop_OfWhatCouldNotBeRun_Succeeds_UnlessItRanOnce(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "hook")
	h := &Hook{Path: path, Resource: "r0", Node: "n1"}
	if err := h.Examine(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("examined: %v", err)
	}
	if err := h.Stop(t.Context()); err == nil {
		t.Error("a stop by a program that is not there succeeds, although nobody knows what runs")
	}
	if err := h.Start(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("start: %v", err)
	}
	if err := h.Stop(t.Context()); err != nil {
		t.Errorf("stop of what was never started: %v", err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := h.Stop(t.Context()); err == nil {
		t.Error("the exit code of a program that is there does not count")
	}
	if err := h.Start(t.Context()); err == nil {
		t.Error("start succeeds")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := h.Stop(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("stop of what was started, by a program that has gone: %v", err)
	}

	o := &OCF{Provider: "test", Type: "Fake", Root: dir}
	if err := o.Start(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("start of an agent: %v", err)
	}
	if err := o.Stop(t.Context()); err != nil {
		t.Errorf("stop of an agent: %v", err)
	}
}

func TestOCF_SaysTheReasonThatTheAgentMarks(t *testing.T) {
	o := fakeOCF(t, `echo "ocf-exit-reason:it has no ip"; echo "ERROR: and more"; exit 6`)
	if err := o.Start(t.Context()); err == nil || err.Error() != "test:Fake start: exit 6, not configured: it has no ip" {
		t.Errorf("%v", err)
	}
	o = fakeOCF(t, `echo "ERROR: and more"; exit 1`)
	if err := o.Start(t.Context()); err == nil || err.Error() != "test:Fake start: exit 1, an error: ERROR: and more" {
		t.Errorf("%v", err)
	}
}
