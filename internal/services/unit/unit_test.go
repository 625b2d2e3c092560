package unit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path=%s</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`

// startBus runs a bus of its own and returns its address.
func startBus(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("dbus-daemon")
	if err != nil {
		if os.Getenv("LOCKSTEP_REQUIRE") == "all" {
			t.Fatal("LOCKSTEP_REQUIRE=all: needs dbus-daemon (package dbus)")
		}
		t.Skip("needs dbus-daemon (package dbus)")
	}
	dir := t.TempDir()
	conf := filepath.Join(dir, "bus.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, busConfig, filepath.Join(dir, "bus")), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--config-file="+conf, "--nofork", "--print-address")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(address)
}

func connect(ctx context.Context, address string) (*dbus.Conn, error) {
	return dbus.Connect(address, dbus.WithContext(ctx))
}

// manager is as much of systemd as is needed: units that start and stop as they are told.
type manager struct {
	bus *dbus.Conn

	mu     sync.Mutex
	states map[string]string // ActiveState of each unit that is loaded
	load   string            // LoadState of db.service
	file   string            // its UnitFileState
	result string            // of the next jobs; "": none ever comes
	sticky bool              // jobs change no state
	jobs   int
}

// startManager exports a manager on the bus.
func startManager(t *testing.T, address string) *manager {
	t.Helper()
	bus, err := connect(context.Background(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bus.Close() })
	m := &manager{bus: bus, states: map[string]string{"db.service": "inactive"}, load: "loaded", file: "disabled", result: "done"}
	if err := bus.Export(m, "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"); err != nil {
		t.Fatal(err)
	}
	props := &properties{m}
	if err := bus.Export(props, "/org/freedesktop/systemd1/unit/db_2eservice", "org.freedesktop.DBus.Properties"); err != nil {
		t.Fatal(err)
	}
	if _, err := bus.RequestName("org.freedesktop.systemd1", dbus.NameFlagDoNotQueue); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *manager) StartUnit(name, _ string) (dbus.ObjectPath, *dbus.Error) {
	return m.job(name, "active")
}
func (m *manager) StopUnit(name, _ string) (dbus.ObjectPath, *dbus.Error) {
	return m.job(name, "inactive")
}

func (m *manager) job(name, state string) (dbus.ObjectPath, *dbus.Error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, loaded := m.states[name]; !loaded {
		return "", dbus.NewError(noSuchUnit, []any{"Unit " + name + " not loaded."})
	}
	m.jobs++
	id := m.jobs
	path := dbus.ObjectPath(fmt.Sprintf("/org/freedesktop/systemd1/job/%d", id))
	if !m.sticky {
		m.states[name] = state
	}
	if result := m.result; result != "" {
		m.bus.Emit("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager.JobRemoved", uint32(id), path, name, result)
	}
	return path, nil
}

func (m *manager) set(state, result string, sticky bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.states["db.service"], m.result, m.sticky = state, result, sticky
}

type properties struct{ m *manager }

func (p *properties) Get(_, name string) (dbus.Variant, *dbus.Error) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	switch name {
	case "ActiveState":
		return dbus.MakeVariant(p.m.states["db.service"]), nil
	case "LoadState":
		return dbus.MakeVariant(p.m.load), nil
	case "UnitFileState":
		return dbus.MakeVariant(p.m.file), nil
	}
	return dbus.Variant{}, dbus.MakeFailedError(errors.New("no such property"))
}

func fake(t *testing.T) (*manager, func(name string) *Unit) {
	t.Helper()
	address := startBus(t)
	m := startManager(t, address)
	return m, func(name string) *Unit {
		return New(name, func(ctx context.Context) (*systemd.Conn, error) {
			return systemd.NewConnection(func() (*dbus.Conn, error) { return connect(ctx, address) })
		})
	}
}

func TestUnit_ComesAndGoes(t *testing.T) {
	_, unit := fake(t)
	u := unit("db.service")
	ctx := t.Context()
	if err := u.Monitor(ctx); err == nil || !strings.Contains(err.Error(), `"inactive"`) {
		t.Errorf("monitor of what is stopped: %v", err)
	}
	for _, do := range []func(context.Context) error{u.Stop, u.Start, u.Start, u.Monitor, u.Stop} {
		if err := do(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := u.Monitor(ctx); err == nil {
		t.Error("monitor after stop says that it runs")
	}
}

func TestUnit_JobThatFails_IsAnError(t *testing.T) {
	m, unit := fake(t)
	for _, result := range []string{"failed", "canceled", "timeout", "dependency", "skipped"} {
		m.set("inactive", result, true)
		if err := unit("db.service").Start(t.Context()); err == nil || !strings.Contains(err.Error(), result) {
			t.Errorf("start that ends with %s: %v", result, err)
		}
		m.set("active", result, true)
		if err := unit("db.service").Stop(t.Context()); err == nil || !strings.Contains(err.Error(), result) {
			t.Errorf("stop that ends with %s: %v", result, err)
		}
	}
}

func TestUnit_StartedAndGoneAtOnce_IsAnError(t *testing.T) {
	m, unit := fake(t)
	m.set("inactive", "done", true) // a oneshot unit
	if err := unit("db.service").Start(t.Context()); err == nil {
		t.Error("a unit that is not active is called started")
	}
}

func TestUnit_NotKnown_IsStoppedAndCannotStart(t *testing.T) {
	_, unit := fake(t)
	if err := unit("no.service").Stop(t.Context()); err != nil {
		t.Errorf("stop: %v", err)
	}
	if err := unit("no.service").Start(t.Context()); err == nil {
		t.Error("start of a unit that does not exist succeeds")
	}
}

func TestUnit_JobThatNeverEnds_EndsWithTheContext(t *testing.T) {
	m, unit := fake(t)
	m.set("inactive", "", true)
	cause := errors.New("no time left")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, cause)
	defer cancel()
	if err := unit("db.service").Start(ctx); !errors.Is(err, cause) {
		t.Errorf("start: %v", err)
	}
}

func TestUnit_Examine_FindsWhatStartsAtBoot_AndWhatIsNotThere(t *testing.T) {
	m, unit := fake(t)
	for _, tc := range []struct{ load, file, want string }{
		{"loaded", "disabled", ""}, {"loaded", "static", ""}, {"loaded", "", ""}, {"loaded", "indirect", ""},
		{"loaded", "enabled", ErrAtBoot.Error()}, {"loaded", "enabled-runtime", ErrAtBoot.Error()},
		{"not-found", "", "not-found"}, {"masked", "masked", "masked"},
	} {
		m.mu.Lock()
		m.load, m.file = tc.load, tc.file
		m.mu.Unlock()
		err := unit("db.service").Examine(t.Context())
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%+v: %v", tc, err)
		}
		if errors.Is(err, ErrAtBoot) != (tc.want == ErrAtBoot.Error()) {
			t.Errorf("%+v: %v is not told apart", tc, err)
		}
	}
}

func TestUnit_StatesThatCountAsRunning(t *testing.T) {
	m, unit := fake(t)
	for state, good := range map[string]bool{"active": true, "reloading": true, "refreshing": true, "activating": false, "deactivating": false, "failed": false, "inactive": false, "maintenance": false} {
		m.set(state, "done", true)
		if err := unit("db.service").Monitor(t.Context()); (err == nil) != good {
			t.Errorf("%s: %v", state, err)
		}
	}
}
