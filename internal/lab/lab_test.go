package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
)

// envFake makes the test program a node; its value says how the node behaves.
const envFake = "LOCKSTEP_LAB_TEST_NODE"

func TestMain(m *testing.M) {
	if mode := os.Getenv(envFake); mode != "" && len(os.Args) > 2 && os.Args[1] == "--config" {
		if err := fakeNode(mode, os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// fakeBackend knows one resource, which it keeps in a file.
type fakeBackend struct {
	control.Backend // nil: what a lab does not call would panic
	cfg             config.Node
	mu              sync.Mutex
	promoted        bool // by this process; a process that starts is never primary
}

func (b *fakeBackend) path() string { return filepath.Join(b.cfg.DataDir, "resource.json") }

func (b *fakeBackend) Status(_ context.Context, name string) (control.Status, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	st := control.Status{Node: b.cfg.Name, Ledger: control.Ledger{Quorum: true, Leader: "n1"}}
	text, err := os.ReadFile(b.path())
	if err != nil {
		if name != "" {
			return st, control.ErrNotFound
		}
		return st, nil
	}
	var r control.Resource
	if err := json.Unmarshal(text, &r); err != nil {
		return st, err
	}
	r.Role, r.IO.State = control.RoleSecondary, control.IONone
	if b.promoted {
		r.Role, r.IO.State = control.RolePrimary, control.IORunning
	}
	st.Resources = []control.Resource{r}
	return st, nil
}

func (b *fakeBackend) CreateResource(_ context.Context, req control.CreateRequest) error {
	r := control.Resource{Name: req.Resource, SizeBytes: req.SizeBytes, DiskState: control.DiskUpToDate}
	for _, p := range req.Replicas {
		r.InSync = append(r.InSync, p.Node)
		r.Replicas = append(r.Replicas, control.Replica{Node: p.Node, DiskState: control.DiskUpToDate})
	}
	return b.save(r)
}

func (b *fakeBackend) Promote(ctx context.Context, name string, _ control.PromoteOptions) error {
	st, err := b.Status(ctx, name)
	if err != nil {
		return err
	}
	r := st.Resources[0]
	r.Primary = b.cfg.Name
	b.mu.Lock()
	b.promoted = true
	b.mu.Unlock()
	return b.save(r)
}

func (b *fakeBackend) save(r control.Resource) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return os.WriteFile(b.path(), text, 0o600)
}

func fakeNode(mode, path string) error {
	cfg, err := config.Load(path)
	if err != nil {
		return err
	}
	marker := filepath.Join(filepath.Dir(filepath.Dir(path)), "failed-once")
	switch mode {
	case "dies":
		return errors.New("no disk here")
	case "taken-once":
		if _, err := os.Stat(marker); err != nil && cfg.Name == "n2" {
			os.WriteFile(marker, nil, 0o600)
			return errors.New("listen tcp: bind: address already in use")
		}
	}
	sigs := []os.Signal{syscall.SIGTERM}
	if mode == "deaf" {
		signal.Ignore(syscall.SIGTERM)
		sigs = []os.Signal{syscall.SIGUSR1}
	}
	ctx, stop := signal.NotifyContext(context.Background(), sigs...)
	defer stop()
	peer, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return err
	}
	defer peer.Close()
	go echo(peer) // until the process ends
	ln, err := control.ListenUnix(ctx, cfg.ControlSocket)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	return control.NewServer(control.Options{Node: cfg.Name, Backend: &fakeBackend{cfg: cfg}}).Serve(ctx, ln)
}

// echo sends back what clients send.
func echo(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			io.Copy(conn, conn)
		}()
	}
}

// up brings a lab of fake nodes up and takes it down when the test ends.
func up(t *testing.T, mode string, opts Options) *Lab {
	t.Helper()
	t.Setenv(envFake, mode)
	opts.Command = []string{os.Args[0]}
	opts.Logf = t.Logf
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	l, err := Up(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(context.Background()); err != nil {
			t.Errorf("Down: %v", err)
		}
	})
	return l
}

func running(t *testing.T, l *Lab, name string, want bool) {
	t.Helper()
	if got, err := l.Running(name); err != nil || got != want {
		t.Errorf("node %s runs: %v, %v; want %v", name, got, err, want)
	}
}

func TestUp_EveryNodeIsReadyAndDescribed(t *testing.T) {
	l := up(t, "good", Options{DataNodes: 2, Witness: true, SizeBytes: 1 << 20})
	for _, name := range []string{"n1", "n2", "w"} {
		running(t, l, name, true)
		if _, err := l.Client(name).Status(t.Context(), ""); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	n2, err := l.Node("n2")
	if err != nil {
		t.Fatal(err)
	}
	dir := l.State().Dir
	if n2.NBDUnixURI != "nbd+unix:///r0?socket="+dir+"/n2/nbd.sock" || !strings.HasPrefix(n2.NBDTCPURI, "nbd://127.0.0.1:") ||
		n2.DataPath != dir+"/n2/r0.img" || n2.MetaPath != dir+"/n2/r0.meta" {
		t.Errorf("n2: %+v", n2)
	}
	if w, _ := l.Node("w"); !w.Witness || w.NBDUnixURI != "" || w.DataPath != "" {
		t.Errorf("w: %+v", w)
	}
	st, err := l.Client("n1").Status(t.Context(), "r0")
	if err != nil || st.Resources[0].Primary != "n1" || st.Resources[0].SizeBytes != 1<<20 || len(st.Resources[0].Replicas) != 2 {
		t.Errorf("%v, %+v", err, st)
	}
	if _, err := l.Node("n3"); !errors.Is(err, control.ErrNotFound) {
		t.Errorf("n3: %v", err)
	}
}

func TestKillAndStart_AnotherProcessCanDoItFromTheDirectory(t *testing.T) {
	l := up(t, "good", Options{})
	other, err := Open(l.State().Dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Kill(t.Context(), "n2", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	running(t, l, "n2", false)
	running(t, l, "n1", true)
	if err := other.Kill(t.Context(), "n2", syscall.SIGTERM); !errors.Is(err, control.ErrFailed) {
		t.Errorf("second kill: %v", err)
	}
	if err := other.Start(t.Context(), "n2"); err != nil {
		t.Fatal(err)
	}
	if err := l.Start(t.Context(), "n2"); !errors.Is(err, control.ErrFailed) {
		t.Errorf("second start: %v", err)
	}
	running(t, l, "n2", true)
	if err := other.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	running(t, l, "n1", false)
	running(t, l, "n2", false)
}

func TestDown_StoppedAndDeafProcessesEnd(t *testing.T) {
	l := up(t, "good", Options{DataNodes: 1})
	if err := l.Kill(t.Context(), "n1", syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	running(t, l, "n1", true)
	if err := l.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	running(t, l, "n1", false)

	l = up(t, "deaf", Options{DataNodes: 1})
	l.termTimeout = 20 * time.Millisecond
	if err := l.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	running(t, l, "n1", false)
}

func TestUp_AgainAfterDownKeepsTheResource(t *testing.T) {
	l := up(t, "good", Options{})
	dir := l.State().Dir
	if _, err := Up(t.Context(), Options{Dir: dir}); !errors.Is(err, control.ErrExists) {
		t.Errorf("Up of a lab that is up: %v", err)
	}
	if err := l.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	again := up(t, "good", Options{Dir: dir, Resource: "ignored"})
	st, err := again.Client("n1").Status(t.Context(), "r0")
	if err != nil || len(st.Resources) != 1 || st.Resources[0].IO.State != control.IORunning {
		t.Errorf("%v, %+v", err, st)
	}
}

func TestUp_LongDirectoryPutsSocketsElsewhere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	l := up(t, "good", Options{Dir: dir})
	run := l.State().RuntimeDir
	if run == "" {
		t.Fatal("no runtime directory")
	}
	if err := l.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(run); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", run, err)
	}
	up(t, "good", Options{Dir: dir})
}

func TestUp_PortTakenInBetween_TriesOthers(t *testing.T) {
	up(t, "taken-once", Options{})
}

func TestUp_NodeThatDies_IsReportedWithItsLogAndNothingRemains(t *testing.T) {
	t.Setenv(envFake, "dies")
	dir := t.TempDir()
	l, err := Up(t.Context(), Options{Dir: dir, Command: []string{os.Args[0]}})
	if err == nil || !strings.Contains(err.Error(), "no disk here") {
		t.Fatalf("error %v", err)
	}
	for _, name := range []string{"n1", "n2"} {
		running(t, l, name, false)
	}
}

func TestOpenProcess_ReusedIDIsNotTakenForTheOldProcess(t *testing.T) {
	start, err := startTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	p, err := openProcess(os.Getpid(), start)
	if err != nil {
		t.Fatal(err)
	}
	p.close()
	if _, err := openProcess(os.Getpid(), start+1); !errors.Is(err, errGone) {
		t.Errorf("got %v", err)
	}
	if _, err := openProcess(0, 0); !errors.Is(err, errGone) {
		t.Errorf("got %v", err)
	}
}

func TestOpen_NoLab(t *testing.T) {
	if _, err := Open(t.TempDir()); !errors.Is(err, ErrNoLab) {
		t.Errorf("got %v", err)
	}
}

func TestParseSignal(t *testing.T) {
	for text, want := range map[string]syscall.Signal{"KILL": 9, "kill": 9, "SIGKILL": 9, "9": 9, "stop": 19, "CONT": 18, "term": 15} {
		if got, err := ParseSignal(text); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0", "-9", "65", "NOPE", "SIG"} {
		if got, err := ParseSignal(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	b, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("1 (a) b) S 1 2 3"))
	f.Fuzz(func(t *testing.T, b []byte) { parseStat(b) })
}

func FuzzParseState(f *testing.F) {
	f.Add([]byte(`{"dir":"/d","command":["x"],"nodes":[{"name":"n1","pid":7}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		st, err := parseState("/d", b)
		if err != nil {
			return
		}
		for _, n := range st.Nodes {
			if n.PID == 1 || n.PID < 0 {
				t.Fatalf("process id %d was accepted", n.PID)
			}
		}
	})
}
