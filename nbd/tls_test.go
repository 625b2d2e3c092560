package nbd_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/pki"
	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/nbd/nbdtest"
)

// certs is a cluster's authority, with the identity of the node that serves.
type certs struct {
	ca   *pki.Authority
	node *pki.Identity
}

func newCerts(tb testing.TB) *certs {
	tb.Helper()
	ca, err := pki.NewAuthority("prod", time.Now, rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	c := &certs{ca: ca}
	c.node = c.identity(tb, pki.RoleNode, "n1")
	return c
}

// credentials are for clients whose files other programs read.
func (c *certs) credentials(tb testing.TB, role pki.Role, name string) pki.Credentials {
	tb.Helper()
	csr, key, err := pki.NewCSR(name, rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	s := pki.Subject{Role: role, Name: name}
	if role == pki.RoleNode {
		s.Addresses = []string{"127.0.0.1", "localhost"}
	}
	cert, err := c.ca.Issue(csr, s, 0)
	if err != nil {
		tb.Fatal(err)
	}
	return pki.Credentials{Cert: cert, Key: key}
}

func (c *certs) identity(tb testing.TB, role pki.Role, name string) *pki.Identity {
	tb.Helper()
	dir := tb.TempDir()
	if err := pki.Create(dir, c.credentials(tb, role, name), c.ca.Bundle(), time.Now()); err != nil {
		tb.Fatal(err)
	}
	i, err := pki.Open(pki.Config{Dir: dir, Clock: time.Now})
	if err != nil {
		tb.Fatal(err)
	}
	return i
}

// tls is how a node offers TLS to clients that have a certificate.
func (c *certs) tls(mode nbd.TLSMode) nbd.TLS {
	return nbd.TLS{
		Mode: mode, Config: c.node.ServerConfig(pki.KindNBD),
		Verify: func(st tls.ConnectionState) (string, error) {
			p, err := c.node.PeerNode(st)
			return p.Name, err
		},
	}
}

// client is the configuration of a client with a certificate.
func (c *certs) client(tb testing.TB, name string) *tls.Config {
	return c.identity(tb, pki.RoleClient, name).ClientConfig(pki.KindNBD, "n1")
}

// openTLS is nbdtest.Open within TLS.
func openTLS(tb testing.TB, addr net.Addr, export string, cfg *tls.Config) *nbdtest.Client {
	tb.Helper()
	c := nbdtest.Dial(tb, addr)
	c.Greet()
	if err := c.StartTLS(cfg); err != nil {
		tb.Fatal(err)
	}
	replies := c.Option(7, nbdtest.InfoRequest(export))
	if last := replies[len(replies)-1]; last.Type != 1 {
		tb.Fatalf("export %q: option reply %#x %q", export, last.Type, last.Data)
	}
	return c
}

const startTLS = optMagic + "00000005 00000000"

// What clients get without TLS from a listener that requires it, as in negotiations.
var required = []struct {
	name       string
	send, want string
	closed     bool
}{
	{"go", optMagic + "00000007 00000008 00000002 7230 0000", refused("00000007"), false},
	{"info", optMagic + "00000006 00000008 00000002 7230 0000", refused("00000006"), false},
	{"list", optMagic + "00000003 00000000", refused("00000003"), false},
	{"structured replies", optMagic + "00000008 00000000", refused("00000008"), false},
	{"unknown option", optMagic + "0000ffff 00000004 deadbeef", refused("0000ffff"), false},
	{"export name", optMagic + "00000001 00000002 7230", "", true},
	{"abort", optMagic + "00000002 00000000", repMagic + "00000002 00000001 00000000", true},
	{"STARTTLS with data, then list", optMagic + "00000005 00000001 00" + optMagic + "00000003 00000000",
		repMagic + "00000005 80000003 00000016" + text("STARTTLS takes no data") + refused("00000003"), false},
	{"list, then STARTTLS", optMagic + "00000003 00000000" + startTLS,
		refused("00000003") + repMagic + "00000005 00000001 00000000", false},
	{"STARTTLS with an option behind it", startTLS + optMagic + "00000003 00000000", "", true},
	{"STARTTLS with one byte behind it", startTLS + "16", "", true},
	{"STARTTLS with a handshake behind it", startTLS + "1603010005 01000001 00", "", true},
}

func refused(option string) string {
	return repMagic + option + "80000005 00000018" + text("this server requires TLS")
}

func TestTLSRequired_BeforeTLS_EveryByteIsAsTheProtocolSays(t *testing.T) {
	_, addr := serveTLS(t, nbd.Config{Logger: quiet}, handshakeExports(), newCerts(t).tls(nbd.TLSRequired))
	for _, tc := range required {
		t.Run(tc.name, func(t *testing.T) {
			c := nbdtest.Dial(t, addr)
			c.Read(18)
			c.Write(unhex(t, "00000003"+tc.send))
			want := unhex(t, tc.want)
			if got := c.Read(len(want)); !bytes.Equal(got, want) {
				t.Fatalf("got\n%x, want\n%x", got, want)
			}
			if tc.closed {
				c.Closed()
			}
		})
	}
}

func TestSTARTTLS_FromAClientWithoutFixedNewstyle_IsRefused(t *testing.T) {
	_, addr := serveTLS(t, nbd.Config{Logger: quiet}, handshakeExports(), newCerts(t).tls(nbd.TLSRequired))
	c := nbdtest.Dial(t, addr)
	c.Read(18)
	c.Write(make([]byte, 4))
	if r := c.Option(nbdtest.OptStartTLS, nil); r[0].Type != 1<<31|2 {
		t.Errorf("reply %#x, want NBD_REP_ERR_POLICY", r[0].Type)
	}
}

func TestSTARTTLS_PlaintextBehindTheAnswer_EndsTheConnection(t *testing.T) {
	s, addr := serveTLS(t, nbd.Config{Logger: quiet}, handshakeExports(), newCerts(t).tls(nbd.TLSRequired))
	c := nbdtest.Dial(t, addr)
	c.Greet()
	c.Option(nbdtest.OptStartTLS, nil)
	c.Write(nbdtest.AppendOption(nil, 7, nbdtest.InfoRequest("r0")))
	c.Closed()
	if st := s.Stats(); st.HandshakesFailed != 1 {
		t.Errorf("%+v, want one failed handshake", st)
	}
}

func TestTLS_ServesWhatPlainConnectionsGet(t *testing.T) {
	certs := newCerts(t)
	for _, mode := range []nbd.TLSMode{nbd.TLSAllowed, nbd.TLSRequired} {
		mem := nbdtest.NewMemory(8 * mib)
		s, addr := serveTLS(t, nbd.Config{Logger: quiet}, oneExport(mem, 8*mib, nbd.FeaturesUsual), certs.tls(mode))
		c := openTLS(t, addr, "m", certs.client(t, "backup"))
		if st := c.Conn.(*tls.Conn).ConnectionState(); st.Version != tls.VersionTLS13 {
			t.Errorf("TLS version %#x", st.Version)
		}
		data := make([]byte, 3*mib+77)
		rand.Read(data)
		if errno, _ := c.Do(nbdtest.Command{Type: nbdtest.CmdWrite, Cookie: 1, Off: 5, Len: uint32(len(data))}, data); errno != 0 {
			t.Fatal(errno)
		}
		errno, got := c.Do(nbdtest.Command{Type: nbdtest.CmdRead, Cookie: 2, Off: 5, Len: uint32(len(data))}, nil)
		if errno != 0 || !bytes.Equal(got, data) {
			t.Errorf("mode %v: read back: errno %d", mode, errno)
		}
		pipeline(t, c, 64)()
		if info := s.Conns()[0]; !info.TLS || info.Client != "backup" || info.Export != "m" {
			t.Errorf("mode %v: %+v", mode, info)
		}
	}
}

func TestTLS_TheClientDisconnects_AndIsToldGoodbye(t *testing.T) {
	certs := newCerts(t)
	s, addr := serveTLS(t, nbd.Config{Logger: quiet}, memoryExports(mib), certs.tls(nbd.TLSRequired))
	c := openTLS(t, addr, "m", certs.client(t, "backup"))
	c.Send(nbdtest.Command{Type: nbdtest.CmdFlush, Cookie: 7}, nil)
	c.Send(nbdtest.Command{Type: nbdtest.CmdDisc}, nil)
	if cookie, errno := c.Reply(); cookie != 7 || errno != 0 {
		t.Errorf("reply %d, errno %d", cookie, errno)
	}
	// Without close_notify this would be io.ErrUnexpectedEOF.
	if n, err := c.Conn.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("%d bytes, %v, want io.EOF", n, err)
	}
	if st := s.Stats(); st.Failed != 0 {
		t.Errorf("%+v, want no failure", st)
	}
}

func TestTLS_TheClientAborts_AndIsToldGoodbye(t *testing.T) {
	certs := newCerts(t)
	_, addr := serveTLS(t, nbd.Config{Logger: quiet}, memoryExports(mib), certs.tls(nbd.TLSRequired))
	c := nbdtest.Dial(t, addr)
	c.Greet()
	if err := c.StartTLS(certs.client(t, "x")); err != nil {
		t.Fatal(err)
	}
	if r := c.Option(2, nil); r[0].Type != 1 {
		t.Errorf("ABORT: reply %#x", r[0].Type)
	}
	if n, err := c.Conn.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("%d bytes, %v, want io.EOF", n, err)
	}
}

func TestTLS_SecondSTARTTLS_IsInvalid(t *testing.T) {
	certs := newCerts(t)
	_, addr := serveTLS(t, nbd.Config{Logger: quiet}, memoryExports(mib), certs.tls(nbd.TLSAllowed))
	c := nbdtest.Dial(t, addr)
	c.Greet()
	if err := c.StartTLS(certs.client(t, "x")); err != nil {
		t.Fatal(err)
	}
	if r := c.Option(nbdtest.OptStartTLS, nil); r[0].Type != 1<<31|3 {
		t.Errorf("reply %#x, want NBD_REP_ERR_INVALID", r[0].Type)
	}
	if r := c.Option(3, nil); r[0].Type != 2 || r[len(r)-1].Type != 1 {
		t.Errorf("LIST after it: %+v", r)
	}
}

func TestTLS_ClientsThatDoNotProveThemselves_GetNothing(t *testing.T) {
	ours, theirs := newCerts(t), newCerts(t)
	looked := make(chan string, 16)
	ex := lookupFunc(func(_ context.Context, name string) (*nbd.Export, error) {
		looked <- name
		return nil, &nbd.ErrNotServed{}
	})
	s, addr := serveTLS(t, nbd.Config{Logger: quiet}, ex, ours.tls(nbd.TLSRequired))
	none := ours.client(t, "x")
	none.GetClientCertificate = nil
	stranger := theirs.client(t, "x")
	stranger.VerifyConnection = nil
	old := ours.client(t, "x")
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	operator := ours.identity(t, pki.RoleOperator, "root").ClientConfig(pki.KindNBD, "n1")
	cases := map[string]*tls.Config{"no certificate": none, "other cluster": stranger, "TLS 1.2": old, "role operator": operator}
	for name, cfg := range cases {
		c := nbdtest.Dial(t, addr)
		c.Greet()
		err := c.StartTLS(cfg)
		if err == nil {
			c.Conn.Write(nbdtest.AppendOption(nil, 7, nbdtest.InfoRequest("m"))) // it may be closed by now
			_, err = c.Conn.Read(make([]byte, 1))
		}
		if err == nil || strings.Contains(err.Error(), "prod") {
			t.Errorf("%s: %v, want an alert that says nothing of the cluster", name, err)
		}
	}
	if len(looked) > 0 {
		t.Errorf("export %q was looked up", <-looked)
	}
	// Each client saw its end before the server booked it.
	waitGone(t, s)
	if st := s.Stats(); st.HandshakesFailed != uint64(len(cases)) || st.Failed != uint64(len(cases)) {
		t.Errorf("%+v, want %d failed handshakes", st, len(cases))
	}
}

func TestTLS_VerifyRefuses_TheLogHasTheReasonAndTheClientNot(t *testing.T) {
	certs := newCerts(t)
	how := certs.tls(nbd.TLSRequired)
	how.Verify = func(tls.ConnectionState) (string, error) { return "", errors.New("secret reason") }
	log := &syncLog{}
	s, addr := serveTLS(t, nbd.Config{Logger: log.logger()}, memoryExports(mib), how)
	c := nbdtest.Dial(t, addr)
	c.Greet()
	err := c.StartTLS(certs.client(t, "x"))
	if err == nil {
		_, err = c.Conn.Read(make([]byte, 1))
	}
	if err == nil || !strings.Contains(err.Error(), "bad certificate") || strings.Contains(err.Error(), "secret") {
		t.Errorf("the client sees %v", err)
	}
	waitGone(t, s)
	if !strings.Contains(log.String(), "secret reason") {
		t.Errorf("the log is %q", log.String())
	}
}

func TestTLSAllowed_ExportsMayInsistOnTLS(t *testing.T) {
	certs := newCerts(t)
	mem := nbdtest.NewMemory(mib)
	seen := make(chan nbd.Client, 1)
	ex := lookupFunc(func(ctx context.Context, name string) (*nbd.Export, error) {
		cl, ok := nbd.ClientOf(ctx)
		if !ok {
			t.Error("Lookup without a client")
		}
		seen <- cl
		if name == "private" && cl.TLS == nil {
			return nil, &nbd.ErrNotServed{Kind: nbd.NotServedTLS, Reason: "connect with TLS"}
		}
		return &nbd.Export{Name: name, Size: mib, Backend: mem}, nil
	})
	_, addr := serveTLS(t, nbd.Config{Logger: quiet}, ex, certs.tls(nbd.TLSAllowed))
	ask := func(c *nbdtest.Client, name string) uint32 {
		r := c.Option(6, nbdtest.InfoRequest(name))
		return r[len(r)-1].Type
	}
	c := nbdtest.Dial(t, addr)
	c.Greet()
	if got := ask(c, "public"); got != 1 {
		t.Errorf("public, plain: %#x", got)
	}
	if cl := <-seen; cl.TLS != nil || cl.Name != "" || cl.Remote == nil {
		t.Errorf("plain client is %+v", cl)
	}
	if got := ask(c, "private"); got != 1<<31|5 {
		t.Errorf("private, plain: %#x, want NBD_REP_ERR_TLS_REQD", got)
	}
	<-seen
	if err := c.StartTLS(certs.client(t, "backup")); err != nil {
		t.Fatal(err)
	}
	if got := ask(c, "private"); got != 1 {
		t.Errorf("private, TLS: %#x", got)
	}
	if cl := <-seen; cl.TLS == nil || cl.Name != "backup" {
		t.Errorf("TLS client is %+v", cl)
	}

	// proto.md "NOTLS mode": TLS_REQD would send the client after what is not there.
	_, addr = serve(t, nbd.Config{Logger: quiet}, ex)
	c = nbdtest.Dial(t, addr)
	c.Greet()
	if got := ask(c, "private"); got != 1<<31|2 {
		t.Errorf("private where TLS is off: %#x, want NBD_REP_ERR_POLICY", got)
	}
	<-seen
}

func TestTLS_SessionsAreNotResumed(t *testing.T) {
	certs := newCerts(t)
	_, addr := serveTLS(t, nbd.Config{Logger: quiet}, memoryExports(mib), certs.tls(nbd.TLSRequired))
	cfg := certs.client(t, "x")
	cfg.ServerName = "n1" // the key of the cache
	cfg.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	cfg.SessionTicketsDisabled = false
	for range 3 {
		c := openTLS(t, addr, "m", cfg)
		if c.Conn.(*tls.Conn).ConnectionState().DidResume {
			t.Error("resumed")
		}
	}
}

func TestServeTLS_RefusesAConfigurationThatCannotWork(t *testing.T) {
	certs := newCerts(t)
	good := certs.tls(nbd.TLSRequired)
	bypass := good.Config.Clone()
	bypass.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, nil }
	for name, how := range map[string]nbd.TLS{
		"no configuration":   {Mode: nbd.TLSAllowed},
		"no certificate":     {Mode: nbd.TLSAllowed, Config: &tls.Config{}},
		"GetConfigForClient": {Mode: nbd.TLSAllowed, Config: bypass},
		"unknown mode":       {Mode: 3, Config: good.Config},
		"negative timeout":   {Mode: nbd.TLSOff, HandshakeTimeout: -1},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if err := nbd.NewServer(nbd.Config{Logger: quiet}, memoryExports(mib)).ServeTLS(t.Context(), l, how); err == nil {
			t.Errorf("%s: served", name)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: the listener is open: %v", name, err)
		}
	}
}
