package fencing

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sh runs a shell script with a time limit and secrets.
func sh(t testing.TB, ctx context.Context, timeout time.Duration, text string, secrets ...string) (r ran, dir string, err error) {
	t.Helper()
	dir = t.TempDir()
	path := write(t, dir, "program", "#!/bin/sh\ncd "+dir+"\n"+text, 0o755)
	r, err = run(ctx, command{path: path, stdin: "action=off\n", secrets: secrets, timeout: timeout})
	return r, dir, err
}

const short = 300 * time.Millisecond

func TestRun_ATimeoutKillsTheWholeGroup(t *testing.T) {
	_, dir, err := sh(t, t.Context(), short, `
echo begun
sh -c 'trap "" TERM INT HUP; echo $$ >child; exec sleep 1000' &
echo $$ >leader
trap "" TERM
wait
sleep 1000
`)
	if !errors.Is(err, ErrTimeout) {
		t.Fatal(err)
	}
	awaitGone(t, dir+"/leader")
	awaitGone(t, dir+"/child")
}

func TestRun_SuccessAfterTheTimeoutIsNone(t *testing.T) {
	r, _, err := sh(t, t.Context(), short, "sleep 1000\nexit 0\n")
	if !errors.Is(err, ErrTimeout) || r.output != "" {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestRun_ACancelledCallerIsNoTimeout(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	dir := t.TempDir()
	fifo := dir + "/begun"
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	path := write(t, dir, "program", "#!/bin/sh\necho $$ >"+dir+"/leader\necho >"+fifo+"\nsleep 1000\n", 0o755)
	done := make(chan error, 1)
	go func() {
		_, err := run(ctx, command{path: path, timeout: patience})
		done <- err
	}()
	read(t, fifo) // opens once the program does
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) || errors.Is(err, ErrTimeout) {
		t.Error(err)
	}
	awaitGone(t, dir+"/leader")
}

func TestRun_WhatTheLeaderLeavesBehindIsKilled(t *testing.T) {
	r, dir, err := sh(t, t.Context(), patience, `
sh -c 'echo $$ >child; echo >ready; exec sleep 1000' &
while [ ! -e ready ]; do :; done
exit 0
`)
	if err != nil || r.code != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	awaitGone(t, dir+"/child")
}

func TestRun_AChildThatLeftTheGroupWithThePipeHoldsNobodyUp(t *testing.T) {
	begun := time.Now()
	r, dir, err := sh(t, t.Context(), patience, `
setsid sh -c 'echo $$ >child; echo >ready; exec sleep 1000' &
while [ ! -e ready ]; do :; done
echo done
exit 0
`)
	if err != nil || r.code != 0 || r.output != "done" {
		t.Errorf("%+v, %v", r, err)
	}
	if d := time.Since(begun); d >= patience {
		t.Errorf("it took %v", d)
	}
	pid := strings.TrimSpace(read(t, dir+"/child"))
	if out, _, err := sh(t, t.Context(), patience, "kill -9 "+pid+"\n"); err != nil || out.code != 0 {
		t.Errorf("%+v, %v: the child was expected to live on", out, err)
	}
	awaitGone(t, dir+"/child")
}

func TestRun_AFloodOfOutputIsBounded(t *testing.T) {
	r, _, err := sh(t, t.Context(), patience, "yes 0123456789 | head -c 20000000\necho the end >&2\nexit 3\n")
	if err != nil || r.code != 3 {
		t.Fatalf("%d, %v", r.code, err)
	}
	if len(r.stdout) != answerBytes || len(r.output) > tailBytes+64 || !strings.HasPrefix(r.output, "(earlier output left out)\n") {
		t.Errorf("%d bytes of stdout, %d of output, which begins %.40q", len(r.stdout), len(r.output), r.output)
	}
}

func TestRun_AnEndlessFloodEndsAtTheTimeout(t *testing.T) {
	r, _, err := sh(t, t.Context(), short, "yes\n")
	if !errors.Is(err, ErrTimeout) || len(r.output) > tailBytes+64 {
		t.Errorf("%d bytes, %v", len(r.output), err)
	}
}

func TestRun_AProgramThatReadsNothingIsNoError(t *testing.T) {
	dir := t.TempDir()
	path := write(t, dir, "program", "#!/bin/sh\nexec <&-\nexit 0\n", 0o755)
	r, err := run(t.Context(), command{path: path, stdin: strings.Repeat("x", 1<<20), timeout: patience})
	if err != nil || r.code != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestRun_TheDaemonsOwnEnvironmentIsNotPassedOn(t *testing.T) {
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LOCKSTEP_KEY"} {
		t.Setenv(name, "daemon")
	}
	t.Setenv("TEST_FENCE_KEPT", "kept")
	r, _, err := sh(t, t.Context(), patience, "env\n")
	if err != nil || strings.Contains(string(r.stdout), "=daemon") || !strings.Contains(string(r.stdout), "TEST_FENCE_KEPT=kept") {
		t.Errorf("%v:\n%s", err, r.stdout)
	}
}

func TestTail_NeverShowsASecretNotEvenACutOne(t *testing.T) {
	const secret = "abcdefghij"
	for limit := 1; limit < 60; limit++ {
		for pad := range 25 {
			tl := &tail{limit: limit, secrets: []string{secret}}
			text := strings.Repeat("-", 200+pad) + secret + strings.Repeat("=", pad) + secret + "~~"
			for i := 0; i < len(text); i += 3 {
				tl.Write([]byte(text[i:min(i+3, len(text))]))
			}
			got := strings.ReplaceAll(strings.TrimPrefix(tl.String(), "(earlier output left out)\n"), hidden, "")
			for i := range got {
				for _, rest := range []string{"cdefghij", "ghij", "ij", "j", "abc"} {
					// "(hidden)" may itself be cut, so only its own letters are let through.
					if strings.HasPrefix(got[i:], rest) {
						t.Fatalf("limit %d, pad %d: %q", limit, pad, got)
					}
				}
			}
		}
	}
}

func TestTail_IsSafeForATerminal(t *testing.T) {
	tl := &tail{limit: 100}
	tl.Write([]byte("a\x1b[2Jb\xff\r\n\tc\x00\n\n"))
	if got := tl.String(); got != "a.[2Jb..\n\tc." {
		t.Errorf("%q", got)
	}
}
