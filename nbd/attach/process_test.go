package attach

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// childEnv makes this test program a relay, of which only the ends are played: what it hears of its spec
// and what it says.
const childEnv = "LOCKSTEP_TEST_RELAY"

func TestMain(m *testing.M) {
	switch os.Getenv(childEnv) {
	case "":
		os.Exit(m.Run())
	case "starter":
		os.Setenv(childEnv, "1")
		_, err := Start(context.Background(), Spec{Resource: "waits", Device: "/dev/nbd3", Dir: os.Args[1]}, []string{os.Args[0]})
		fmt.Println(err)
		os.Exit(1)
	}
	err := Child(context.Background(), os.Stdin, func(ctx context.Context, spec Spec, ready func(Status)) error {
		switch spec.Resource {
		case "waits":
			note := func(name string) error { return os.WriteFile(filepath.Join(spec.Dir, name), nil, 0o600) }
			if err := note("begun"); err != nil {
				return err
			}
			<-ctx.Done()
			return note("ended")
		case "held":
			return &Refusal{Why: ErrHeld, Text: "held by h2"}
		case "dies":
			os.Exit(9)
		}
		stop := make(chan os.Signal, 1)
		notifyTerm(stop)
		ready(Status{Device: spec.Device, State: StateServing, PID: os.Getpid()})
		<-stop
		return nil
	})
	if err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

func startChild(t *testing.T, resource string) (Status, error) {
	t.Setenv(childEnv, "1")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return Start(ctx, Spec{Resource: resource, Device: "/dev/nbd3", Dir: t.TempDir()}, []string{self})
}

func TestStart_ReturnsWhenTheDeviceIsReady_AndTheProcessGoesOn(t *testing.T) {
	st, err := startChild(t, "r0")
	if err != nil || st.Device != "/dev/nbd3" || st.PID == 0 {
		t.Fatalf("%+v, %v", st, err)
	}
	if sid, err := sessionOf(st.PID); err != nil || sid != st.PID {
		t.Errorf("session %d, %v: a terminal that closes would end it", sid, err)
	}
	if err := syscall.Kill(st.PID, syscall.SIGTERM); err != nil {
		t.Error(err)
	}
}

func TestStart_ErrorsArriveAsWhatTheyAre(t *testing.T) {
	if _, err := startChild(t, "held"); !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), "h2") {
		t.Errorf("%v", err)
	}
	if _, err := startChild(t, "dies"); err == nil || !strings.Contains(err.Error(), "nbd3.log") {
		t.Errorf("%v", err)
	}
}

// Killed, and so not able to say anything to the relay.
func TestStart_WhoeverAskedDies_RelayThatIsNotReadyEnds(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	starter := exec.Command(self, dir)
	starter.Env = append(os.Environ(), childEnv+"=starter")
	if err := starter.Start(); err != nil {
		t.Fatal(err)
	}
	there := func(name string) func() bool {
		return func() bool { _, err := os.Stat(filepath.Join(dir, name)); return err == nil }
	}
	await(t, "the relay has begun", there("begun"))
	if there("ended")() {
		t.Fatal("the relay ended with its starter there")
	}
	if err := starter.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = starter.Wait()
	await(t, "the relay has ended", there("ended"))
}

func TestReport_KeepsWhatCallersDecideOn(t *testing.T) {
	for kind, e := range kinds {
		if got := ReportOf(errors.Join(errors.New("so and so"), e)).Err(); !errors.Is(got, e) {
			t.Errorf("%s becomes %v", kind, got)
		}
	}
	if err := ReportOf(nil).Err(); err != nil {
		t.Errorf("no error becomes %v", err)
	}
}
