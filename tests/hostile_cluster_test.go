package tests

import (
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	mrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/lockstep-ha/lockstep/internal/pki"
	"github.com/lockstep-ha/lockstep/tests/internal/ackload"
	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

// pairOf forms n1 and n2 with r0, n1 being primary.
func pairOf(t testing.TB) *formed {
	t.Helper()
	f := form(t, nil)
	f.join("n2")
	f.untilVoters("n1", "n1", "n2")
	f.create()
	f.untilPrimary("n1", "n1", "n2")
	return f
}

// requireUnharmed writes, reads back, and finds every node alive.
func (f *formed) requireUnharmed() {
	f.t.Helper()
	must(f.t, f.writeSome("n1").Check(dial(f.t, f.uri("n1"))))
	f.untilPrimary("n1", "n1", "n2")
	for name, n := range f.nodes {
		if n.proc != nil && !n.proc.Running() {
			f.t.Errorf("%s has ended", name)
		}
	}
}

// identityOf makes the identity of a node by an authority whose clock is off by so much.
func identityOf(t testing.TB, caDir, cluster, node string, off time.Duration) *pki.Identity {
	t.Helper()
	clock := func() time.Time { return time.Now().Add(off) }
	var ca *pki.Authority
	var err error
	if caDir == "" {
		ca, err = pki.NewAuthority(pki.ClusterID(cluster), clock, rand.Reader)
	} else {
		ca, err = pki.LoadAuthority(caDir, clock, rand.Reader)
	}
	must(t, err)
	csr, key, err := pki.NewCSR(node, rand.Reader)
	must(t, err)
	cert, err := ca.Issue(csr, pki.Subject{Role: pki.RoleNode, Name: node}, time.Hour)
	must(t, err)
	dir := filepath.Join(t.TempDir(), "pki")
	must(t, pki.Create(dir, pki.Credentials{Cert: cert, Key: key}, ca.Bundle(), clock()))
	id, err := pki.Open(pki.Config{Dir: dir, Clock: clock})
	must(t, err)
	return id
}

// knock does a handshake and returns what the other end says to a hello, or why it says nothing.
func knock(addr string, cfg *tls.Config) error {
	cfg.VerifyConnection = nil // a liar does not mind whom it talks to
	cfg.InsecureSkipVerify = true
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", addr, cfg)
	if err != nil {
		return err
	}
	defer conn.Close()
	hello := make([]byte, 272)
	copy(hello, "lockstep\x00\x63")
	if _, err := conn.Write(hello); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 160))
	return err
}

func TestHostile_StrangersOnTheNetwork_GetNothing(t *testing.T) {
	f := pairOf(t)
	ca := filepath.Join(f.nodes["n1"].dir, "pki")
	n1 := f.nodes["n1"].listen
	config := func(id *pki.Identity) *tls.Config { return id.ClientConfig(pki.KindPeers, "") }
	none := config(identityOf(t, ca, "", "n2", 0))
	none.GetClientCertificate = nil
	for name, cfg := range map[string]*tls.Config{
		"no certificate":              none,
		"another cluster, same names": config(identityOf(t, "", "c1", "n2", 0)),
		"expired":                     config(identityOf(t, ca, "", "n2", -20*time.Hour)),
		"not valid yet":               config(identityOf(t, ca, "", "n2", 48*time.Hour)),
		"signed, but no member":       config(identityOf(t, ca, "", "n9", 0)),
		"a member's name, made anew":  config(identityOf(t, ca, "", "n2", 0)), // it lacks what tells n2 from its namesakes
	} {
		if err := knock(n1, cfg); err == nil {
			t.Errorf("%s: it was answered", name)
		}
	}
	own, err := pki.Open(pki.Config{Dir: ca, Clock: time.Now})
	must(t, err)
	if err := knock(f.nodes["n2"].listen, config(own)); err != nil {
		t.Errorf("a member is not answered either: %v", err)
	}
	f.requireUnharmed()
}

func TestHostile_Tokens_AreGoodForOneNodeOfOneCluster(t *testing.T) {
	f := form(t, nil)
	token := f.token("--for", "n2")
	join := func(name, tokenFile string) cluster.Result {
		t.Helper()
		if f.nodes[name] == nil {
			f.seat(name)
		}
		return cluster.CLI(t, append([]string{"cluster", "join", f.nodes["n1"].listen, "--token-file", tokenFile}, f.flags(name)...)...)
	}
	if r := join("n3", token); r.Code == 0 || !strings.Contains(r.Stderr, "it is for n2") {
		t.Errorf("under another name: %s", r)
	}
	if r := join("n2", token); r.Code != 0 {
		t.Errorf("the right one: %s", r)
	}
	f.nodes["twin"] = &formedNode{dir: filepath.Join(f.dir, "twin"), listen: freePort(t), gossip: freePort(t), nbd: freePort(t)}
	args := f.flags("twin")
	args[1] = "n2"
	if r := cluster.CLI(t, append([]string{"cluster", "join", f.nodes["n1"].listen, "--token-file", token}, args...)...); r.Code == 0 || !strings.Contains(r.Stderr, "used") {
		t.Errorf("replayed by a twin: %s", r)
	}
	// The cluster of the token's authority is another one: the joiner itself turns back.
	other := form(t, nil)
	if r := join("n4", other.token()); r.Code == 0 || !strings.Contains(r.Stderr, "authority") {
		t.Errorf("token of another cluster: %s", r)
	}
	made, err := pki.NewToken(authorityOf(t, f), rand.Reader)
	must(t, err)
	forged := filepath.Join(f.dir, "forged")
	must(t, os.WriteFile(forged, []byte(made.Text()), 0o600))
	if r := join("n5", forged); r.Code == 0 || !strings.Contains(r.Stderr, "not known") {
		t.Errorf("forged: %s", r)
	}
	f.requireNoSecrets(string(read(t, token)))
}

func authorityOf(t testing.TB, f *formed) pki.KeyHash {
	t.Helper()
	ca, err := pki.LoadAuthority(filepath.Join(f.nodes["n1"].dir, "pki"), time.Now, rand.Reader)
	must(t, err)
	return ca.Key()
}

// requireNoSecrets looks for a token and the gossip key in logs and in the list of processes.
func (f *formed) requireNoSecrets(token string) {
	f.t.Helper()
	n1 := f.nodes["n1"]
	cmdline := string(read(f.t, fmt.Sprintf("/proc/%d/cmdline", n1.proc.Cmd.Process.Pid)))
	for what, secret := range map[string]string{"token": token, "gossip key": string(read(f.t, filepath.Join(n1.dir, "gossip.key")))} {
		secret = strings.TrimSpace(secret)
		if secret == "" || strings.Contains(n1.proc.Output(), secret) || strings.Contains(cmdline, secret) {
			f.t.Errorf("the %s can be read by others, or is empty", what)
		}
		if db := string(read(f.t, filepath.Join(n1.dir, "ledger.db"))); strings.Contains(db, secret) {
			f.t.Errorf("the %s is in the ledger", what)
		}
	}
}

func TestHostile_GarbageOnEveryPortOfAFormedCluster_NobodyCrashes(t *testing.T) {
	f := pairOf(t)
	rng := mrand.New(mrand.NewPCG(3, 4))
	prefixes := []string{"", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "\x16\x03\x03\xff\xff", "lockstep\x00\x01", "NBDMAGICIHAVEOPT",
		"\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x05\x00\x00\x00\x00", "LSJQ\x01\x00\x00\x00", "GET / HTTP/1.1\r\n\r\n"}
	for range 60 {
		for _, n := range f.nodes {
			for _, addr := range []string{n.listen, n.gossip, n.nbd} {
				must(t, spit("tcp", addr, garbage(rng, prefixes...)))
			}
			must(t, spit("udp", n.gossip, garbage(rng, prefixes...)))
		}
	}
	// And garbage from one who has got as far as a join's TLS, which anybody can.
	tok, err := pki.NewToken(authorityOf(t, f), rand.Reader)
	must(t, err)
	for range 20 {
		conn, err := tls.Dial("tcp", f.nodes["n1"].listen, tok.ClientConfig(time.Now))
		must(t, err)
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		conn.Write(garbage(rng, "\x00\x00\x00\x40LSJQ\x01\x00\x00\x00", "\xff\xff\xff\xff", "\x00\x00\x00\x00\x00\x00\x00\x02{}"))
		conn.CloseWrite()
		if b, err := io.ReadAll(conn); err == nil && len(b) > 0 && !strings.Contains(string(b), "LSJR") {
			t.Errorf("answered with %q", b)
		}
		conn.Close()
	}
	f.requireUnharmed()
}

func TestHostile_AThousandHalfOpenConnections_TheClusterServesAndLetsNodesIn(t *testing.T) {
	f := pairOf(t)
	const span = 16 * cluster.MiB
	l := ackload.New(span / ackload.Block)
	must(t, dial(t, f.uri("n1")).ZeroAt(0, span))
	finish := background(t, l, f.uri("n1"), 2, 8)
	for i := range 1000 {
		addr := f.nodes[[]string{"n1", "n2"}[i%2]].listen
		conn, err := net.Dial("tcp", addr)
		must(t, err)
		defer conn.Close()
		if i%3 > 0 {
			conn.Write([]byte("\x16\x03\x01\x02\x00\x01")) // a hello that never ends
		}
	}
	before := l.Acked()
	f.join("w", "--witness")
	f.untilVoters("n1", "n1", "n2", "w")
	proc.Eventually(t, "writes meanwhile", func() error { return more(l, before+300) })
	finish()
	must(t, l.Check(dial(t, f.uri("n1"))))
}

func TestHostile_GossipWithAnotherKey_JoinsNobody(t *testing.T) {
	f := pairOf(t)
	for name, key := range map[string][]byte{"another key": make([]byte, 32), "no key": nil} {
		c := memberlist.DefaultLocalConfig()
		c.Name, c.Label, c.SecretKey = "n9", "c1", key
		c.BindAddr, c.BindPort, c.AdvertisePort = "127.0.0.1", 0, 0
		c.Logger = log.New(io.Discard, "", 0)
		m, err := memberlist.Create(c)
		must(t, err)
		if n, err := m.Join([]string{f.nodes["n1"].gossip}); n != 0 || err == nil {
			t.Errorf("%s: joined %d: %v", name, n, err)
		}
		must(t, m.Shutdown())
	}
	if out := f.cli("n1", "status"); strings.Contains(out, "n9") {
		t.Errorf("n1 has heard of it:\n%s", out)
	}
	f.requireUnharmed()
}
