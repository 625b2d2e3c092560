package transport

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/pki"
)

// members makes identities of one cluster.
type members struct {
	t  testing.TB
	ca *pki.Authority
	// admit is asked by every identity; nil: all are members.
	mu    sync.Mutex
	admit func(pki.Peer) error
}

func cluster(t testing.TB, name pki.ClusterID) *members {
	t.Helper()
	ca, err := pki.NewAuthority(name, time.Now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &members{t: t, ca: ca}
}

func (m *members) creds(node string, lifetime time.Duration) pki.Credentials {
	m.t.Helper()
	csr, key, err := pki.NewCSR(node, rand.Reader)
	if err != nil {
		m.t.Fatal(err)
	}
	cert, err := m.ca.Issue(csr, pki.Subject{Role: pki.RoleNode, Name: node}, lifetime)
	if err != nil {
		m.t.Fatal(err)
	}
	return pki.Credentials{Cert: cert, Key: key}
}

func (m *members) identity(node string) *pki.Identity {
	m.t.Helper()
	dir := filepath.Join(m.t.TempDir(), node)
	if err := pki.Create(dir, m.creds(node, 0), m.ca.Bundle(), time.Now()); err != nil {
		m.t.Fatal(err)
	}
	id, err := pki.Open(pki.Config{Dir: dir, Clock: time.Now, Admit: m.asked})
	if err != nil {
		m.t.Fatal(err)
	}
	return id
}

func (m *members) asked(p pki.Peer) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.admit == nil {
		return nil
	}
	return m.admit(p)
}

// as makes a node of m out of what serve starts.
func (m *members) as(node string, clear ...string) func(*Config) {
	return func(c *Config) { c.Key, c.Identity, c.Clear = nil, m.identity(node), clear }
}

// talk dials and has one line echoed.
func talk(t testing.TB, from *end, addr, node, service string) (net.Conn, error) {
	t.Helper()
	conn, err := from.Dial(t.Context(), addr, node, service)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { conn.Close() })
	want := fmt.Sprintf("hello %s\nping", from.cfg.Node)
	got := make([]byte, len(want))
	if _, err := conn.Write([]byte("ping")); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		return nil, fmt.Errorf("%q: %w", got, err)
	}
	return conn, nil
}

func TestSecure_MembersTalkWithinTLS(t *testing.T) {
	m := cluster(t, "c1")
	a, b := serve(t, "a", m.as("a")), serve(t, "b", m.as("b"))
	b.Handle("ledger", echo)
	conn, err := talk(t, a, b.addr, "b", "ledger")
	if err != nil {
		t.Fatal(err)
	}
	s, ok := conn.(*Secure)
	if !ok || s.ConnectionState().Version != tls.VersionTLS13 {
		t.Fatalf("%T is not within TLS 1.3", conn)
	}
	if _, ok := s.NetConn().(*net.TCPConn); !ok {
		t.Fatalf("below it is a %T", s.NetConn())
	}
	big := make([]byte, 3<<20) // many records, both ways at once
	rand.Read(big)
	go conn.Write(big)
	got := make([]byte, len(big))
	if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, big) {
		t.Fatalf("what came back differs: %v", err)
	}
}

func TestSecure_ClearService_ProvesItselfAndIsTheRawConnection(t *testing.T) {
	m := cluster(t, "c1")
	a, b := serve(t, "a", m.as("a", "replication")), serve(t, "b", m.as("b", "replication"))
	b.Handle("ledger", echo)
	raw := make(chan bool, 64)
	b.Handle("replication", func(ctx context.Context, conn net.Conn, peer string) {
		_, ok := conn.(*net.TCPConn)
		raw <- ok
		echo(ctx, conn, peer) // it speaks first: nothing of that may be lost in TLS
	})
	for range 32 {
		conn, err := talk(t, a, b.addr, "b", "replication")
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := conn.(*net.TCPConn); !ok || !<-raw {
			t.Fatalf("not the raw connection: %T", conn)
		}
		conn.Close()
	}
	if conn, err := talk(t, a, b.addr, "b", "ledger"); err != nil {
		t.Fatal(err)
	} else if _, ok := conn.(*Secure); !ok {
		t.Fatalf("the other service is a %T", conn)
	}
	c := serve(t, "c", m.as("c"))
	if _, err := c.Dial(t.Context(), b.addr, "b", "replication"); !errors.Is(err, ErrProtection) {
		t.Fatalf("one end in the clear, the other not: %v", err)
	}
}

func TestSecure_Strangers_GetNothing(t *testing.T) {
	m, other := cluster(t, "c1"), cluster(t, "c1") // a namesake with an authority of its own
	b := serve(t, "b", m.as("b"))
	b.Handle("ledger", func(context.Context, net.Conn, string) { t.Error("a stranger was served") })

	keyed := serve(t, "a", nil)
	if _, err := keyed.Dial(t.Context(), b.addr, "b", "ledger"); !errors.Is(err, ErrClosed) && !errors.Is(err, ErrProtocol) {
		t.Errorf("with the shared key: %v", err)
	}
	foreign := serve(t, "a", other.as("a"))
	if _, err := foreign.Dial(t.Context(), b.addr, "b", "ledger"); !errors.Is(err, ErrCertificate) {
		t.Errorf("of another cluster: %v", err)
	}
	c := serve(t, "c", m.as("c"))
	if _, err := c.Dial(t.Context(), b.addr, "d", "ledger"); !errors.Is(err, ErrCertificate) {
		t.Errorf("b taken for d: %v", err)
	}
	liar := serve(t, "d", m.as("c")) // calls itself d, has the certificate of c
	if _, err := liar.Dial(t.Context(), b.addr, "b", "ledger"); !errors.Is(err, ErrNode) {
		t.Errorf("c as d: %v", err)
	}
	for name, edit := range map[string]func(*tls.Config){
		"no certificate": func(c *tls.Config) { c.GetClientCertificate = nil },
		"no ALPN":        func(c *tls.Config) { c.NextProtos = nil },
		"TLS 1.2":        func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
		"joining":        func(c *tls.Config) { c.NextProtos = []string{"lockstep-join/1"} },
	} {
		cfg := m.identity("c").ClientConfig(pki.KindPeers, "b")
		cfg.VerifyConnection = nil
		edit(cfg)
		conn, err := tls.Dial("tcp", b.addr, cfg)
		if err != nil {
			continue
		}
		if n, err := conn.Read(make([]byte, 1)); n > 0 || err == nil {
			t.Errorf("%s: it was answered", name)
		}
		conn.Close()
	}
}

func TestSecure_WhoIsNotAdmittedAnyMore_LosesItsConnectionsAndGetsNoNewOnes(t *testing.T) {
	m := cluster(t, "c1")
	a, b := serve(t, "a", m.as("a")), serve(t, "b", m.as("b"))
	b.Handle("ledger", echo)
	conn, err := talk(t, a, b.addr, "b", "ledger")
	if err != nil {
		t.Fatal(err)
	}
	removed := func(p pki.Peer) error {
		if p.Name == "a" {
			return errors.New("removed")
		}
		return nil
	}
	m.mu.Lock()
	m.admit = removed
	m.mu.Unlock()
	b.Recheck(removed)
	if n, err := conn.Read(make([]byte, 1)); err == nil {
		t.Fatalf("the connection gave %d bytes", n)
	}
	if _, err := a.Dial(t.Context(), b.addr, "b", "ledger"); !errors.Is(err, ErrCertificate) {
		t.Fatalf("a new one: %v", err)
	}
	if b.mu.Lock(); len(b.secured) != 0 {
		t.Errorf("%d connections are still counted", len(b.secured))
	}
	b.mu.Unlock()
}

func TestSecure_ANewCertificate_IsUsedWithoutARestart(t *testing.T) {
	m := cluster(t, "c1")
	a, b := serve(t, "a", m.as("a")), serve(t, "b", m.as("b"))
	b.Handle("ledger", echo)
	old, err := talk(t, a, b.addr, "b", "ledger")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.cfg.Identity.Install(m.creds("b", time.Hour)); err != nil {
		t.Fatal(err)
	}
	fresh, err := talk(t, a, b.addr, "b", "ledger")
	if err != nil {
		t.Fatal(err)
	}
	serial := func(c net.Conn) string {
		return c.(*Secure).ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	if serial(old) == serial(fresh) {
		t.Fatal("the old certificate is still shown")
	}
	if _, err := old.Write([]byte("x")); err != nil {
		t.Fatalf("the old connection: %v", err)
	}
}

func TestSecure_Join_IsServedWithoutACertificate(t *testing.T) {
	m := cluster(t, "c1")
	got := make(chan pki.Binding, 1)
	b := serve(t, "b", func(c *Config) {
		m.as("b")(c)
		c.Join = func(_ context.Context, conn *tls.Conn) {
			if bound, err := pki.BindingOf(conn.ConnectionState()); err == nil {
				got <- bound
			}
			fmt.Fprint(conn, "welcome")
			conn.Close()
		}
	})
	tok, err := pki.NewToken(m.ca.Key(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", b.addr, tok.ClientConfig(time.Now))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if text, err := io.ReadAll(conn); err != nil || string(text) != "welcome" {
		t.Fatalf("%q %v", text, err)
	}
	if mine, err := pki.BindingOf(conn.ConnectionState()); err != nil || mine != <-got {
		t.Fatalf("the two ends see different connections: %v", err)
	}
}

func TestSecure_HalfOpenConnections_DoNotKeepMembersOut(t *testing.T) {
	m := cluster(t, "c1")
	a, b := serve(t, "a", m.as("a")), serve(t, "b", m.as("b"))
	b.Handle("ledger", echo)
	for range 200 {
		conn, err := net.Dial("tcp", b.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.Write([]byte{0x16, 3, 1, 2, 0}) // the head of a record that never comes
	}
	if _, err := talk(t, a, b.addr, "b", "ledger"); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkStream writes blocks to a peer that echoes a byte for each.
func BenchmarkStream(b *testing.B) {
	m := cluster(b, "c1")
	for _, size := range []int{4 << 10, 1 << 20} {
		for name, clear := range map[string][]string{"plain": {"echo"}, "tls": nil} {
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				from, to := serve(b, "a", m.as("a", clear...)), serve(b, "b", m.as("b", clear...))
				to.Handle("echo", func(_ context.Context, conn net.Conn, _ string) {
					defer conn.Close()
					block := make([]byte, size)
					for {
						if _, err := io.ReadFull(conn, block); err != nil {
							return
						}
						if _, err := conn.Write(block[:1]); err != nil {
							return
						}
					}
				})
				conn, err := from.Dial(b.Context(), to.addr, "b", "echo")
				if err != nil {
					b.Fatal(err)
				}
				defer conn.Close()
				block, one := make([]byte, size), make([]byte, 1)
				b.SetBytes(int64(size))
				for b.Loop() {
					if _, err := conn.Write(block); err != nil {
						b.Fatal(err)
					}
					if _, err := io.ReadFull(conn, one); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
