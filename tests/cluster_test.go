package tests

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/pki"
	"github.com/lockstep-ha/lockstep/tests/internal/ackload"
	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/need"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

// formed is a cluster that is formed as an operator forms one: init, token, join.
type formed struct {
	t     testing.TB
	dir   string
	nodes map[string]*formedNode
}

type formedNode struct {
	dir, listen, gossip, nbd string
	proc                     *proc.Proc
}

// freePort returns a port of loopback that nobody uses now, for TCP and UDP.
func freePort(t testing.TB) string {
	t.Helper()
	for range 50 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		addr := l.Addr().String()
		u, err := net.ListenPacket("udp", addr)
		l.Close()
		if err == nil {
			u.Close()
			return addr
		}
	}
	t.Fatal("no free port")
	return ""
}

// form starts a cluster of one, n1.
func form(t testing.TB, edit func(text string) string) *formed {
	t.Helper()
	f := &formed{t: t, dir: cluster.ShmDir(t), nodes: map[string]*formedNode{}}
	n := f.seat("n1")
	cluster.MustCLI(t, append([]string{"cluster", "init", "--name", "c1"}, f.flags("n1")...)...)
	if edit != nil {
		path := filepath.Join(n.dir, "node.toml")
		must(t, os.WriteFile(path, []byte(edit(string(read(t, path)))), 0o600))
	}
	f.start("n1")
	return f
}

func (f *formed) seat(name string) *formedNode {
	f.t.Helper()
	n := &formedNode{dir: filepath.Join(f.dir, name), listen: freePort(f.t), gossip: freePort(f.t), nbd: freePort(f.t)}
	f.nodes[name] = n
	return n
}

func (f *formed) flags(name string) []string {
	n := f.nodes[name]
	return []string{"--node", name, "--listen", n.listen, "--gossip", n.gossip, "--nbd", n.nbd, "--data-dir", n.dir}
}

// token makes a token on n1 and returns the path of a file with it.
func (f *formed) token(args ...string) string {
	f.t.Helper()
	path := filepath.Join(f.t.TempDir(), "token")
	must(f.t, os.WriteFile(path, []byte(f.cli("n1", append([]string{"cluster", "token"}, args...)...)), 0o600))
	return path
}

// join makes name a member and starts it.
func (f *formed) join(name string, more ...string) {
	f.t.Helper()
	f.seat(name)
	args := append([]string{"cluster", "join", f.nodes["n1"].listen, "--token-file", f.token()}, f.flags(name)...)
	cluster.MustCLI(f.t, append(args, more...)...)
	f.start(name)
}

func (f *formed) start(name string) {
	f.t.Helper()
	n := f.nodes[name]
	n.proc = proc.Start(f.t, cluster.Binary(f.t), "node", "--config", filepath.Join(n.dir, "node.toml"))
	n.proc.WaitForSocket(f.t, f.socket(name))
}

func (f *formed) kill(name string) {
	f.t.Helper()
	must(f.t, f.nodes[name].proc.Cmd.Process.Signal(syscall.SIGKILL))
	f.nodes[name].proc.Wait(f.t) // it was killed: the error says so
}

func (f *formed) socket(name string) string { return filepath.Join(f.nodes[name].dir, "control.sock") }

func (f *formed) uri(name string) string {
	return "nbd+unix:///r0?socket=" + filepath.Join(f.nodes[name].dir, "nbd.sock")
}

func (f *formed) cli(name string, args ...string) string {
	f.t.Helper()
	return cluster.MustCLI(f.t, append([]string{"--socket", f.socket(name)}, args...)...)
}

func (f *formed) status(name string) (control.Status, error) {
	r := cluster.CLI(f.t, "--socket", f.socket(name), "status", "--json")
	var st control.Status
	if r.Code != 0 {
		return st, errors.New(r.String())
	}
	return st, json.Unmarshal([]byte(r.Stdout), &st)
}

// untilVoters waits until these nodes, and no others, vote, as name sees it.
func (f *formed) untilVoters(name string, want ...string) {
	f.t.Helper()
	proc.Eventually(f.t, fmt.Sprintf("%s to see the voters %v", name, want), func() error {
		st, err := f.status(name)
		var got []string
		for _, n := range st.Nodes {
			if n.Voter {
				got = append(got, n.Name)
			}
		}
		slices.Sort(got)
		if err == nil && (!slices.Equal(got, want) || !st.Ledger.Quorum) {
			err = fmt.Errorf("voters %v, quorum %t, problem %q", got, st.Ledger.Quorum, st.Ledger.Problem)
		}
		return err
	})
}

// create makes r0 on n1 and n2, with n1 as primary.
func (f *formed) create() {
	f.t.Helper()
	f.cli("n1", "resource", "create", "r0", "--size", "64MiB", "--replica", "n1="+f.nodes["n1"].dir+"/r0.img", "--replica", "n2="+f.nodes["n2"].dir+"/r0.img")
	proc.Eventually(f.t, "a promotion", func() error {
		if r := cluster.CLI(f.t, "--socket", f.socket("n1"), "promote", "r0"); r.Code != 0 {
			return errors.New(r.String())
		}
		return nil
	})
}

// untilPrimary waits until name serves r0 with these replicas in sync.
func (f *formed) untilPrimary(name string, inSync ...string) {
	f.t.Helper()
	proc.Eventually(f.t, name+" to serve r0", func() error {
		st, err := f.status(name)
		if err != nil {
			return err
		}
		if len(st.Resources) != 1 {
			return fmt.Errorf("%d resources", len(st.Resources))
		}
		if r := st.Resources[0]; r.Role != control.RolePrimary || r.IO.State != control.IORunning || !slices.Equal(r.InSync, inSync) {
			return fmt.Errorf("role %s, io %s, in sync %v, %v", r.Role, r.IO.State, r.InSync, r.Advice)
		}
		return nil
	})
}

// writeSome writes blocks over a primary and returns what is to be read back.
func (f *formed) writeSome(name string) *ackload.Load {
	f.t.Helper()
	const span = 16 * cluster.MiB
	l := ackload.New(span / ackload.Block)
	must(f.t, dial(f.t, f.uri(name)).ZeroAt(0, span)) // the load expects to begin with zeros
	finish := background(f.t, l, f.uri(name), 2, 8)
	proc.Eventually(f.t, "writes", func() error { return more(l, 300) })
	finish()
	return l
}

// serial returns the serial number of the certificate that a node shows to a member.
func (f *formed) serial(asks, node string) (string, error) {
	id, err := pki.Open(pki.Config{Dir: filepath.Join(f.nodes[asks].dir, "pki"), Clock: time.Now})
	if err != nil {
		return "", err
	}
	conn, err := tls.Dial("tcp", f.nodes[node].listen, id.ClientConfig(pki.KindPeers, node))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
}

func TestCluster_FormedNodeByNode_ThreeVoters_FailsOverAndHealsAgain(t *testing.T) {
	f := form(t, nil)
	f.join("n2")
	f.join("w", "--witness")
	for _, n := range []string{"n1", "n2", "w"} {
		f.untilVoters(n, "n1", "n2", "w")
	}
	f.create()
	f.untilPrimary("n1", "n1", "n2")
	l := f.writeSome("n1")

	f.kill("n1")
	f.untilPrimary("n2", "n2")
	must(t, l.Check(dial(t, f.uri("n2"))))

	f.start("n1") // it finds the others although its file names itself alone
	f.untilPrimary("n2", "n1", "n2")
	f.untilVoters("n1", "n1", "n2", "w")
	if st, err := f.status("n1"); err != nil || st.Security == nil || st.Security.Links != "tls" || !st.Security.Signs {
		t.Errorf("n1 shows %+v, %v", st.Security, err)
	}
}

func TestCluster_PlainReplication_IsShown_AndReplicates(t *testing.T) {
	f := form(t, func(s string) string { return "replication_tls = false\n" + s })
	f.join("n2")
	f.untilVoters("n1", "n1", "n2")
	f.create()
	f.untilPrimary("n1", "n1", "n2")
	f.writeSome("n1")
	for _, n := range []string{"n1", "n2"} { // n2 was told when it joined
		if out := f.cli(n, "status"); !strings.Contains(out, "link:plain") {
			t.Errorf("%s does not say so:\n%s", n, out)
		}
	}
}

func TestCluster_Renewal_NeedsNoRestart(t *testing.T) {
	f := form(t, nil)
	f.join("n2")
	f.untilVoters("n1", "n1", "n2")
	f.create()
	f.untilPrimary("n1", "n1", "n2")
	before, err := f.serial("n1", "n2")
	must(t, err)
	f.cli("n1", "cluster", "renew", "--node", "n2") // n1 signs
	f.cli("n1", "cluster", "renew")
	after, err := f.serial("n1", "n2")
	must(t, err)
	if before == after {
		t.Error("n2 shows its old certificate")
	}
	must(t, f.writeSome("n1").Check(dial(t, f.uri("n1"))))
	if !f.nodes["n1"].proc.Running() || !f.nodes["n2"].proc.Running() {
		t.Error("a node has ended")
	}

	// Without the authority's key nobody can sign, and everything else goes on.
	key := filepath.Join(f.nodes["n1"].dir, "pki", "ca.key")
	must(t, os.Rename(key, filepath.Join(f.dir, "ca.key")))
	f.nodes["n1"].proc.Stop()
	f.start("n1")
	f.untilVoters("n1", "n1", "n2")
	if r := cluster.CLI(t, "--socket", f.socket("n2"), "cluster", "renew"); r.Code == 0 || !strings.Contains(r.Stderr, "ca.key") {
		t.Errorf("renewed by nobody: %s", r)
	}
}

func TestCluster_RemovedNode_IsShutOut(t *testing.T) {
	f := form(t, nil)
	f.join("n2")
	f.join("w", "--witness")
	f.untilVoters("n1", "n1", "n2", "w")
	f.create()
	f.untilPrimary("n1", "n1", "n2")
	for name, says := range map[string]string{"n2": "replica", "w": "--force", "n1": "itself", "nobody": "no node"} {
		if r := cluster.CLI(t, "--socket", f.socket("n1"), "node", "remove", name); r.Code == 0 || !strings.Contains(r.Stderr, says) {
			// n2 is also needed; with --force the replica is what keeps it
			r = cluster.CLI(t, "--socket", f.socket("n1"), "node", "remove", name, "--force")
			if r.Code == 0 || !strings.Contains(r.Stderr, says) {
				t.Errorf("remove %s: %s", name, r)
			}
		}
	}
	if _, err := f.handshake("w", "n1"); err != nil {
		t.Fatalf("w is a member and is refused: %v", err)
	}
	f.cli("n1", "node", "remove", "w", "--force")
	f.untilVoters("n1", "n1", "n2")
	proc.Eventually(t, "n1 to refuse w", func() error {
		if _, err := f.handshake("w", "n1"); err != nil {
			return nil
		}
		return errors.New("it is let in")
	})
	must(t, f.writeSome("n1").Check(dial(t, f.uri("n1"))))
}

// handshake opens a connection as a node does, and returns once the other end has said something.
func (f *formed) handshake(as, to string) (int, error) {
	id, err := pki.Open(pki.Config{Dir: filepath.Join(f.nodes[as].dir, "pki"), Clock: time.Now})
	if err != nil {
		return 0, err
	}
	conn, err := tls.Dial("tcp", f.nodes[to].listen, id.ClientConfig(pki.KindPeers, to))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	hello := make([]byte, 272) // of a version that nobody speaks: a member is told so
	copy(hello, "lockstep\x00\x63")
	if _, err := conn.Write(hello); err != nil {
		return 0, err
	}
	return conn.Read(make([]byte, 160))
}

func TestCluster_LostNode_IsReplacedUnderItsName(t *testing.T) {
	f := form(t, nil)
	f.join("n2")
	f.join("w", "--witness")
	f.untilVoters("n1", "n1", "n2", "w")
	f.create()
	f.untilPrimary("n1", "n1", "n2")
	l := f.writeSome("n1")

	f.kill("n2")
	f.untilPrimary("n1", "n1")
	lost := filepath.Join(f.dir, "lost")
	must(t, os.Rename(f.nodes["n2"].dir, lost))
	path := filepath.Join(t.TempDir(), "token")
	must(t, os.WriteFile(path, []byte(f.cli("n1", "node", "replace", "n2")), 0o600))
	cluster.MustCLI(t, append([]string{"cluster", "join", f.nodes["n1"].listen, "--token-file", path}, f.flags("n2")...)...)
	f.start("n2")
	f.untilVoters("n1", "n1", "n2", "w")
	f.untilPrimary("n1", "n1", "n2") // copied anew
	must(t, l.Check(dial(t, f.uri("n1"))))
	f.cli("n1", "switchover", "r0", "--to", "n2")
	f.untilPrimary("n2", "n1", "n2")
	must(t, l.Check(dial(t, f.uri("n2"))))

	// Whoever finds the old disk cannot come back with it.
	f.nodes["old"] = &formedNode{dir: lost}
	if _, err := f.handshake("old", "n1"); err == nil {
		t.Error("the old certificate is still good")
	}
}

func TestCluster_NBDOverTCP_NeedsTLSWhereTheFileSaysSo(t *testing.T) {
	need.Tool(t, "nbdinfo", "libnbd-bin")
	f := form(t, func(s string) string { return "nbd_tls = \"required\"\nnbd_client_certs = \"require\"\n" + s })
	f.join("n2")
	f.untilVoters("n1", "n1", "n2")
	f.create()
	f.untilPrimary("n1", "n1", "n2")
	out := filepath.Join(f.dir, "client")
	f.cli("n1", "cluster", "client-cert", "vm1", "--out", out)
	n1 := f.nodes["n1"]
	info := proc.Run(t, "nbdinfo", "--size", "nbds://"+n1.nbd+"/r0?tls-certificates="+out)
	if strings.TrimSpace(info) != fmt.Sprint(64*cluster.MiB) {
		t.Errorf("nbdinfo says %q", info)
	}
	if text, err := proc.Try(t, "nbdinfo", "--size", "nbd://"+n1.nbd+"/r0"); err == nil {
		t.Errorf("without TLS: %s", text)
	}
	must(t, os.Remove(filepath.Join(out, "client-cert.pem")))
	must(t, os.Remove(filepath.Join(out, "client-key.pem")))
	if text, err := proc.Try(t, "nbdinfo", "--size", "nbds://"+n1.nbd+"/r0?tls-certificates="+out); err == nil {
		t.Errorf("without a certificate: %s", text)
	}
}
