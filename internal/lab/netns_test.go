package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-ha/lockstep/internal/control"
)

// limit bounds what must happen; quiet is how long a test watches that something does not.
const (
	limit = 20 * time.Second
	quiet = 300 * time.Millisecond
)

// upNet brings a lab with namespaces up, with nodes n1, n2 and w.
func upNet(t *testing.T, opts Options) *Lab {
	t.Helper()
	needNamespaces(t)
	opts.Netns, opts.Witness = true, true
	return up(t, "good", opts)
}

func needNamespaces(t *testing.T) {
	t.Helper()
	err := elsewhere(func() error { return unix.Unshare(unix.CLONE_NEWNET) }, func() error { return nil })
	switch {
	case err == nil:
	case os.Getenv("LOCKSTEP_REQUIRE") == "all":
		t.Fatalf("LOCKSTEP_REQUIRE=all: needs root, to make network namespaces: %v", err)
	default:
		t.Skipf("needs root, to make network namespaces: %v", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// remains lists what is called like something of the lab, in nsDir and among the claims.
func remains(t *testing.T, l *Lab) []string {
	t.Helper()
	id := l.State().Net.ID
	names, err := namespacesOf(id)
	must(t, err)
	if _, err := os.Lstat(claimPath(id)); err == nil {
		names = append(names, claimPath(id))
	}
	return names
}

// addrOf returns an address of a node or the client.
func addrOf(t *testing.T, l *Lab, name string, port int) string {
	t.Helper()
	st, err := l.Status()
	must(t, err)
	i := slices.IndexFunc(st.Nodes, func(n NodeStatus) bool { return n.Name == name })
	if i < 0 || st.Nodes[i].Addr == "" {
		t.Fatalf("%s has no address in %+v", name, st)
	}
	return fmt.Sprintf("%s:%d", st.Nodes[i].Addr, port)
}

// connect opens a connection from one namespace to the node of another, which echoes.
func connect(t *testing.T, l *Lab, from, to string) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	conn, err := l.Dial(ctx, from, "tcp", addrOf(t, l, to, netPort))
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

// echoes fails the test unless text comes back within limit.
func echoes(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	_, err := conn.Write([]byte(text))
	must(t, err)
	reads(t, conn, text)
}

func reads(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	must(t, conn.SetReadDeadline(time.Now().Add(limit)))
	buf := make([]byte, len(text))
	if _, err := io.ReadFull(conn, buf); err != nil || string(buf) != text {
		t.Fatalf("read %q, %v; want %q", buf, err, text)
	}
}

// silent fails the test unless conn is open and nothing comes for a while.
func silent(t *testing.T, conn net.Conn) {
	t.Helper()
	must(t, conn.SetReadDeadline(time.Now().Add(quiet)))
	if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read %d bytes, %v; want silence", n, err)
	}
	if got := tcpState(t, conn); got != unix.BPF_TCP_ESTABLISHED {
		t.Fatalf("the connection is in TCP state %d; want established", got)
	}
}

// tcpState returns the kernel's state of a connection.
func tcpState(t *testing.T, conn net.Conn) int {
	t.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	must(t, err)
	var info *unix.TCPInfo
	var ierr error
	must(t, raw.Control(func(fd uintptr) { info, ierr = unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO) }))
	must(t, ierr)
	return int(info.State)
}

// udp opens a socket for datagrams in a namespace.
func udp(t *testing.T, l *Lab, name string) net.PacketConn {
	t.Helper()
	var pc net.PacketConn
	must(t, l.In(name, func() (err error) {
		pc, err = net.ListenPacket("udp4", addrOf(t, l, name, 9000))
		return err
	}))
	t.Cleanup(func() { pc.Close() })
	return pc
}

// send sends a datagram; that it is lost on its way must not be noticed.
func send(t *testing.T, from, to net.PacketConn, text string) {
	t.Helper()
	if _, err := from.WriteTo([]byte(text), to.LocalAddr()); err != nil {
		t.Fatalf("send %q: %v", text, err)
	}
}

// hears fails the test unless the next datagram is text: what was sent before it was lost.
func hears(t *testing.T, pc net.PacketConn, text string) {
	t.Helper()
	must(t, pc.SetReadDeadline(time.Now().Add(limit)))
	buf := make([]byte, 100)
	n, _, err := pc.ReadFrom(buf)
	if err != nil || string(buf[:n]) != text {
		t.Fatalf("heard %q, %v; want %q", buf[:n], err, text)
	}
}

func TestNetns_NodesReachEachOther_AndTheMachineSeesNothing(t *testing.T) {
	before, err := net.Interfaces()
	must(t, err)
	l := upNet(t, Options{})
	for _, from := range []string{"n1", "n2", "w", "client"} {
		for _, to := range []string{"n1", "n2"} {
			echoes(t, connect(t, l, from, to), "hello from "+from)
		}
	}
	after, err := net.Interfaces()
	must(t, err)
	if !reflect.DeepEqual(before, after) {
		t.Errorf("interfaces of the machine: before %v, after %v", before, after)
	}
	n2, err := l.Node("n2")
	must(t, err)
	if want := fmt.Sprintf("nbd://10.%d.0.2:10809/r0", l.State().Net.ID); n2.NBDTCPURI != want {
		t.Errorf("n2 is reached at %s, not %s", n2.NBDTCPURI, want)
	}
	pids, err := processesIn(n2.Namespace)
	must(t, err)
	if !slices.Equal(pids, []int{n2.PID}) {
		t.Errorf("namespace of n2 has processes %v, not %d", pids, n2.PID)
	}
}

func TestNetns_DownLeavesNothing_AndUpHasTheSameAddresses(t *testing.T) {
	l := upNet(t, Options{})
	was, err := l.Node("n1")
	must(t, err)
	must(t, l.Cut("n1", "n2", false))
	must(t, l.Link("w", false))
	must(t, l.Down(t.Context()))
	if got := remains(t, l); len(got) > 0 {
		t.Errorf("left: %v", got)
	}
	must(t, l.Down(t.Context()))
	if err := l.Cut("n1", "n2", false); !errors.Is(err, control.ErrFailed) {
		t.Errorf("cut in a lab that is down: %v", err)
	}
	again := up(t, "good", Options{Dir: l.State().Dir})
	n1, err := again.Node("n1")
	must(t, err)
	if n1.Listen != was.Listen || n1.Namespace != was.Namespace {
		t.Errorf("n1 is %+v, was %+v", n1, was)
	}
	echoes(t, connect(t, again, "n1", "n2"), "all is mended")
}

func TestNetns_DownAfterACrash_RemovesNamespacesOfNodesThatAreGone(t *testing.T) {
	l := upNet(t, Options{})
	for _, n := range l.State().Nodes { // behind the back of the lab
		must(t, syscall.Kill(n.PID, syscall.SIGKILL))
	}
	other, err := Open(l.State().Dir)
	must(t, err)
	must(t, other.Down(t.Context()))
	if got := remains(t, l); len(got) > 0 {
		t.Errorf("left: %v", got)
	}
}

func TestNetns_LeftoverOfALabThatIsNoMore_IsRemoved_ButNotUnderAProcess(t *testing.T) {
	gone := upNet(t, Options{})
	state := filepath.Join(gone.State().Dir, stateFile)
	text, err := os.ReadFile(state)
	must(t, err)
	must(t, os.Remove(state))
	t.Cleanup(func() { os.WriteFile(state, text, 0o600) }) // for its Down

	upNet(t, Options{})
	if got := remains(t, gone); len(got) == 0 {
		t.Fatal("the namespaces of running processes were removed")
	}
	for _, n := range gone.State().Nodes {
		must(t, syscall.Kill(n.PID, syscall.SIGKILL))
		<-gone.children[n.Name].done
	}
	upNet(t, Options{})
	if got := remains(t, gone); len(got) > 0 {
		t.Errorf("left: %v", got)
	}
}

func TestNetns_NamespaceOfSomebodyElse_IsNotTouched(t *testing.T) {
	l := upNet(t, Options{})
	must(t, l.Down(t.Context()))
	foreign := l.State().Net.ns("n1")
	must(t, makeNS(foreign))
	t.Cleanup(func() { removeNS(foreign) })
	must(t, l.Down(t.Context()))
	if have, err := nsExists(foreign); err != nil || !have {
		t.Errorf("a namespace that nobody claimed was removed: %v", err)
	}
	if free, err := numberFree(l.State().Net.ID); err != nil || free {
		t.Errorf("its number is free: %v, %v", free, err)
	}
}

func TestNetns_TwoLabsAtOnce_DoNotMeet(t *testing.T) {
	a, b := upNet(t, Options{}), upNet(t, Options{})
	if a.State().Net.ID == b.State().Net.ID {
		t.Fatalf("both have network %d", a.State().Net.ID)
	}
	must(t, a.Cut("n1", "n2", false))
	echoes(t, connect(t, b, "n1", "n2"), "not cut here")
	_, err := a.Dial(t.Context(), "n1", "tcp", addrOf(t, b, "n2", netPort))
	if !errors.Is(err, unix.ENETUNREACH) {
		t.Errorf("from one lab to the other: %v", err)
	}
}

func TestNetns_NumberTakenWhileTheLabWasDown_IsSaid(t *testing.T) {
	l := upNet(t, Options{})
	must(t, l.Down(t.Context()))
	boot, err := bootID()
	must(t, err)
	other := t.TempDir()
	st := State{Dir: other, Command: []string{"x"}, Net: &Network{ID: l.State().Net.ID, Owner: "another"}}
	st.Nodes = []Node{{Name: "n1", Namespace: st.Net.ns("n1")}}
	must(t, writeState(&st))
	must(t, writeClaim(st.Net.ID, claim{Owner: "another", Dir: other, Boot: boot}))
	if _, err := Up(t.Context(), Options{Dir: l.State().Dir}); !errors.Is(err, control.ErrExists) {
		t.Errorf("up: %v", err)
	}
	// With the other lab gone, its claim is a leftover.
	must(t, os.RemoveAll(other))
	up(t, "good", Options{Dir: l.State().Dir})
}

func TestCut_OneWay_LosesThatWayAlone_AndSendersGetNoError(t *testing.T) {
	l := upNet(t, Options{})
	n1, n2 := udp(t, l, "n1"), udp(t, l, "n2")
	send(t, n1, n2, "before")
	hears(t, n2, "before")
	must(t, l.Cut("n1", "n2", true))
	send(t, n1, n2, "lost")
	send(t, n2, n1, "the other way")
	hears(t, n1, "the other way")
	echoes(t, connect(t, l, "n1", "w"), "elsewhere")
	// Those who never met have to find each other first, which takes an answer of n1's.
	client := udp(t, l, "client")
	must(t, l.Cut("n1", "client", true))
	send(t, client, n1, "nice to meet you")
	hears(t, n1, "nice to meet you")
	must(t, l.Heal("client"))
	st, err := l.Status()
	must(t, err)
	if !slices.Equal(st.Lost, []Loss{{"n1", "n2"}}) {
		t.Errorf("lost: %v", st.Lost)
	}
	must(t, l.Heal("n2", "n1"))
	send(t, n1, n2, "after")
	hears(t, n2, "after")
}

func TestCut_EstablishedConnectionStalls_AndGoesOnAfterHeal(t *testing.T) {
	l := upNet(t, Options{})
	for name, cut := range map[string]func() error{
		"both ways":       func() error { return l.Cut("n2", "n1", false) },
		"requests only":   func() error { return l.Cut("n1", "n2", true) },
		"answers only":    func() error { return l.Cut("n2", "n1", true) },
		"isolated":        func() error { return l.Isolate("n1", BothWays) },
		"isolated, sent":  func() error { return l.Isolate("n2", Sent) },
		"isolated, heard": func() error { return l.Isolate("n2", Received) },
		"cable pulled":    func() error { return l.Link("n2", false) },
	} {
		t.Run(name, func(t *testing.T) {
			conn := connect(t, l, "n1", "n2")
			echoes(t, conn, "before")
			must(t, cut())
			_, err := conn.Write([]byte("meanwhile"))
			must(t, err)
			silent(t, conn)
			must(t, l.Heal())
			reads(t, conn, "meanwhile")
		})
	}
}

func TestIsolate_SentAndReceived_AreTheTwoHalves(t *testing.T) {
	l := upNet(t, Options{})
	must(t, l.Isolate("w", Sent))
	st, err := l.Status()
	must(t, err)
	sent := []Loss{{"w", "n1"}, {"w", "n2"}, {"w", "client"}}
	if !slices.Equal(st.Lost, sent) {
		t.Errorf("sent: %v", st.Lost)
	}
	must(t, l.Isolate("w", Received))
	must(t, l.Heal("w", "n2"))
	if st, err = l.Status(); err != nil {
		t.Fatal(err)
	}
	want := []Loss{{"w", "n1"}, {"w", "client"}, {"n1", "w"}, {"client", "w"}}
	if !slices.Equal(st.Lost, want) {
		t.Errorf("left after heal: %v", st.Lost)
	}
	echoes(t, connect(t, l, "n1", "n2"), "the others meet")
	must(t, l.Heal("w"))
	echoes(t, connect(t, l, "w", "n1"), "so do all")
}

func TestKillHost_PeersSeeNoClose_UnlikeAKill(t *testing.T) {
	l := upNet(t, Options{})
	conn := connect(t, l, "n2", "n1")
	echoes(t, conn, "before")
	must(t, l.Cut("n1", "w", false))
	must(t, l.KillHost(t.Context(), "n1"))
	running(t, l, "n1", false)
	silent(t, conn)
	if err := l.In("n1", func() error { return nil }); !errors.Is(err, control.ErrFailed) {
		t.Errorf("enter a host that is off: %v", err)
	}
	must(t, l.Start(t.Context(), "n1"))
	silent(t, conn) // the new host knows nothing of it, and nobody has sent anything
	st, err := l.Status()
	must(t, err)
	if len(st.Lost) != 2 {
		t.Errorf("the cut did not outlive the host: %v", st.Lost)
	}

	conn = connect(t, l, "n2", "n1")
	echoes(t, conn, "before")
	must(t, l.Kill(t.Context(), "n1", syscall.SIGKILL))
	must(t, conn.SetReadDeadline(time.Now().Add(limit)))
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after a mere kill: %v; want the end of the connection", err)
	}
}

func TestKillHost_StartedAgain_CutsFromItHold(t *testing.T) {
	l := upNet(t, Options{})
	must(t, l.Cut("n1", "n2", true))
	must(t, l.KillHost(t.Context(), "n1"))
	must(t, l.KillHost(t.Context(), "n1")) // once more does no harm
	must(t, l.Start(t.Context(), "n1"))
	n1, n2 := udp(t, l, "n1"), udp(t, l, "n2")
	send(t, n1, n2, "lost")
	echoes(t, connect(t, l, "n1", "w"), "elsewhere") // so its link works
	must(t, l.Heal())
	send(t, n1, n2, "after")
	hears(t, n2, "after")
}

func TestPause_ConnectionIsSilentUntilResumed(t *testing.T) {
	l := upNet(t, Options{})
	conn := connect(t, l, "n2", "n1")
	must(t, l.Pause(t.Context(), "n1"))
	st, err := l.Status()
	must(t, err)
	if st.Nodes[0].Process != ProcessPaused {
		t.Errorf("n1 is %s", st.Nodes[0].Process)
	}
	_, err = conn.Write([]byte("meanwhile"))
	must(t, err)
	silent(t, conn)
	must(t, l.Resume(t.Context(), "n1"))
	reads(t, conn, "meanwhile")
}

func TestPauseFor_GoesOnWhenItsCallerIsInterrupted(t *testing.T) {
	l := up(t, "good", Options{DataNodes: 1}) // a lab on the loopback interface can do it, too
	must(t, l.PauseFor(t.Context(), "n1", time.Millisecond))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := l.PauseFor(ctx, "n1", time.Hour); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("pause: %v", err)
	}
	if _, err := l.Client("n1").Status(t.Context(), ""); err != nil {
		t.Errorf("n1 does not go on: %v", err)
	}
}

func TestExec_CommandRunsInTheNamespace(t *testing.T) {
	l := upNet(t, Options{})
	for _, name := range []string{"n1", "client"} {
		cmd := exec.Command("cat", "/proc/net/fib_trie")
		var out bytes.Buffer
		cmd.Stdout = &out
		must(t, l.Exec(name, cmd))
		must(t, cmd.Wait())
		ip, _, _ := strings.Cut(addrOf(t, l, name, 1), ":")
		if !strings.Contains(out.String(), "-- "+ip+"\n") {
			t.Errorf("%s is not an address of %s:\n%s", ip, name, out.String())
		}
	}
	if err := l.Exec("n9", exec.Command("true")); !errors.Is(err, control.ErrNotFound) {
		t.Errorf("n9: %v", err)
	}
	if _, err := l.Dial(t.Context(), "n1", "tcp", "localhost:1"); err == nil {
		t.Error("a name was looked up")
	}
}

func TestFaults_OnTheLoopbackInterface_NameNetns(t *testing.T) {
	l := up(t, "good", Options{DataNodes: 1})
	for name, err := range map[string]error{
		"cut":     l.Cut("n1", "client", false),
		"isolate": l.Isolate("n1", BothWays),
		"link":    l.Link("n1", false),
		"heal":    l.Heal(),
		"host":    l.KillHost(t.Context(), "n1"),
		"exec":    l.Exec("n1", exec.Command("true")),
	} {
		var e *control.Error
		if !errors.As(err, &e) || e.Code != control.CodeUnsupported || !strings.Contains(e.Hint, "--netns") {
			t.Errorf("%s: %v", name, err)
		}
	}
	running(t, l, "n1", true)
	if _, err := Up(t.Context(), Options{Dir: l.State().Dir, Netns: true}); err == nil {
		t.Error("a lab on the loopback interface came up with namespaces")
	}
}
