package program

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func sh(script string, env ...string) Command {
	return Command{Path: "/bin/sh", Args: []string{"-c", script}, Env: env}
}

func TestRun_ReportsCodeAndTheEndOfTheOutput(t *testing.T) {
	r, err := Run(t.Context(), sh(`yes x | head -c 10000; echo; echo "last $WORD" >&2; exit 7`, "WORD=line"))
	if err != nil || r.Code != 7 || r.LastLine() != "last line" || len(r.Output) > tailBytes {
		t.Errorf("code %d, last line %q, %d bytes, %v", r.Code, r.LastLine(), len(r.Output), err)
	}
}

func TestRun_KeepsWhatIsMeantForTheDaemonFromThePrograms(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "/run/x")
	t.Setenv("LOCKSTEP_SOCKET", "/run/y")
	r, err := Run(t.Context(), sh("env"))
	if err != nil || strings.Contains(r.Output, "NOTIFY_SOCKET") || strings.Contains(r.Output, "LOCKSTEP_") {
		t.Errorf("environment: %s, %v", r.Output, err)
	}
}

func TestRun_DeadlineKillsTheGroup(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	cause := errors.New("no time left")
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := Run(ctx, sh(fmt.Sprintf("sleep 1000 & echo $! > %s.new; mv %s.new %s; wait", file, file, file)))
		done <- err
	}()
	pid := 0
	for tick := time.NewTicker(5 * time.Millisecond); pid == 0; <-tick.C {
		b, _ := os.ReadFile(file)
		pid, _ = strconv.Atoi(strings.TrimSpace(string(b)))
	}
	cancel(cause)
	if err := <-done; !errors.Is(err, cause) {
		t.Errorf("error %v, want the cause", err)
	}
	// The child is nobody's by now and is collected by init; until then it is a zombie.
	for tick := time.NewTicker(5 * time.Millisecond); unix.Kill(pid, 0) == nil; <-tick.C {
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if strings.Contains(string(stat), ") Z ") {
			break
		}
		if t.Context().Err() != nil {
			t.Fatal("the child goes on")
		}
	}
}

func TestRun_WhatAProgramLeavesBehindGoesOn(t *testing.T) {
	r, err := Run(t.Context(), sh("sleep 1000 & echo $!"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(r.LastLine())
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Errorf("the child is gone: %v", err)
	}
}

func TestRun_WhatIsNotThereIsAnError(t *testing.T) {
	if _, err := Run(t.Context(), Command{Path: "/no/such/program"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}
