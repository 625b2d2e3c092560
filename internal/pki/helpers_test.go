package pki

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// clock is a time that tests set.
type clock struct{ ns atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.ns.Store(time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC).UnixNano())
	return c
}

func (c *clock) now() time.Time          { return time.Unix(0, c.ns.Load()).UTC() }
func (c *clock) advance(d time.Duration) { c.ns.Add(int64(d)) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error is %v, want %v", err, want)
	}
}

func newAuthority(t testing.TB, cluster ClusterID, c *clock) *Authority {
	t.Helper()
	a, err := NewAuthority(cluster, c.now, rand.Reader)
	must(t, err)
	return a
}

// issue makes credentials for a subject.
func issue(t testing.TB, a *Authority, s Subject, lifetime time.Duration) Credentials {
	t.Helper()
	csr, key, err := NewCSR(s.Name, rand.Reader)
	must(t, err)
	cert, err := a.Issue(csr, s, lifetime)
	must(t, err)
	return Credentials{cert, key}
}

// forge makes credentials as for s, after change had its way with the certificate.
func forge(t testing.TB, a *Authority, s Subject, change func(*x509.Certificate)) Credentials {
	t.Helper()
	c := issue(t, a, s, 0)
	tmpl := *c.Cert
	tmpl.ExtraExtensions = nil
	change(&tmpl)
	cert, err := sign(rand.Reader, &tmpl, a.creds.Cert, &c.Key.PublicKey, a.creds.Key)
	must(t, err)
	return Credentials{cert, c.Key}
}

// identity makes and opens an identity in a directory of its own.
func identity(t testing.TB, c *clock, creds Credentials, b Bundle) *Identity {
	t.Helper()
	dir := t.TempDir()
	must(t, Create(dir, creds, b, c.now()))
	i, err := Open(Config{Dir: dir, Clock: c.now})
	must(t, err)
	return i
}

func node(name string) Subject { return Subject{Role: RoleNode, Name: name} }

func nodeIdentity(t testing.TB, c *clock, a *Authority, name string) *Identity {
	t.Helper()
	return identity(t, c, issue(t, a, node(name), 0), a.Bundle())
}

// impostor presents credentials without looking at them first, as Open would.
func impostor(c *clock, creds Credentials, b Bundle) *Identity {
	i := &Identity{cfg: Config{Clock: c.now}}
	cert := &tls.Certificate{Certificate: [][]byte{creds.Cert.Raw}, PrivateKey: creds.Key}
	i.cur.Store(&current{creds: creds, bundle: b, alone: cert, chain: cert})
	return i
}

// meet connects two configurations through a listener on loopback and returns what each side makes
// of it: the server's handshake, and the client's up to its first byte from the server.
func meet(t testing.TB, server, client *tls.Config) (cs tls.ConnectionState, atServer, atClient error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	type result struct {
		err error
		cs  tls.ConnectionState
	}
	served := make(chan result, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			served <- result{err: err}
			return
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		tc := tls.Server(conn, server)
		if err = tc.Handshake(); err == nil {
			_, err = tc.Write([]byte{1})
			tc.CloseWrite()
			io.Copy(io.Discard, tc) // so that no reset overtakes the byte
		}
		served <- result{err, tc.ConnectionState()}
	}()
	_, atClient = hello(t, l.Addr(), client)
	r := <-served
	return r.cs, r.err, atClient
}

// hello connects and reads one byte, which shows that the server has agreed to the client, too.
func hello(t testing.TB, addr net.Addr, client *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	conn, err := net.Dial(addr.Network(), addr.String())
	must(t, err)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	tc := tls.Client(conn, client)
	_, err = io.ReadFull(tc, make([]byte, 1))
	tc.Close()
	return tc.ConnectionState(), err
}

// open makes one connection and returns the states of its client's and its server's end.
func open(t testing.TB, server, client *tls.Config) (atClient, atServer tls.ConnectionState, done func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	raw, err := net.Dial("tcp", l.Addr().String())
	must(t, err)
	far, err := l.Accept()
	must(t, err)
	c, s := tls.Client(raw, client), tls.Server(far, server)
	ended := make(chan error, 1)
	go func() { ended <- s.Handshake() }()
	must(t, c.Handshake())
	must(t, <-ended)
	return c.ConnectionState(), s.ConnectionState(), func() { raw.Close(); far.Close() }
}
