package nbd_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/nbd/nbdtest"
)

// serveTLS is serve with TLS.
func serveTLS(tb testing.TB, cfg nbd.Config, ex nbd.Exports, how nbd.TLS) (*nbd.Server, net.Addr) {
	tb.Helper()
	l, err := net.Listen("unix", filepath.Join(tb.TempDir(), "nbd"))
	if err != nil {
		tb.Fatal(err)
	}
	s := nbd.NewServer(cfg, ex)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.ServeTLS(ctx, l, how) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("ServeTLS: %v", err)
		}
	})
	return s, l.Addr()
}

// waitGone returns when the server has booked the end of every connection.
func waitGone(t testing.TB, s *nbd.Server) {
	t.Helper()
	eventually(t, "no connection left", func() bool { return s.Stats().Open == 0 })
}

// eventually polls: a server tells nobody when it has booked something.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// syncLog is a log that a test reads while it is written.
type syncLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *syncLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *syncLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *syncLog) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func TestTLS_HandshakeThatIsNotFinished_IsClosedInTime(t *testing.T) {
	how := newCerts(t).tls(nbd.TLSAllowed)
	how.HandshakeTimeout = 20 * time.Millisecond
	s, addr := serveTLS(t, nbd.Config{Logger: quiet}, memoryExports(mib), how)
	for _, sent := range []string{"", "1603010200", "160301020001"} {
		c := nbdtest.Dial(t, addr)
		c.Greet()
		c.Option(nbdtest.OptStartTLS, nil)
		c.Write(unhex(t, sent))
		c.Closed()
	}
	waitGone(t, s)
	if st := s.Stats(); st.HandshakesFailed != 3 {
		t.Errorf("%+v", st)
	}
}

func TestTLS_HandshakeIsPartOfTheNegotiationTime(t *testing.T) {
	how := newCerts(t).tls(nbd.TLSAllowed)
	how.HandshakeTimeout = time.Hour
	_, addr := serveTLS(t, nbd.Config{Logger: quiet, NegotiationTimeout: 20 * time.Millisecond}, memoryExports(mib), how)
	c := nbdtest.Dial(t, addr)
	c.Greet()
	c.Option(nbdtest.OptStartTLS, nil)
	c.Closed()
}

func TestTLS_ClientThatIsSilentAfterTheHandshake_IsClosedInTime(t *testing.T) {
	certs := newCerts(t)
	_, addr := serveTLS(t, nbd.Config{Logger: quiet, NegotiationTimeout: time.Second}, memoryExports(mib), certs.tls(nbd.TLSRequired))
	c := nbdtest.Dial(t, addr)
	c.Greet()
	if err := c.StartTLS(certs.client(t, "x")); err != nil {
		t.Fatal(err)
	}
	c.Closed()
}

func TestMaxNegotiating_TheOldestMakesRoom_BoundClientsStay(t *testing.T) {
	certs := newCerts(t)
	s, addr := serveTLS(t, nbd.Config{Logger: quiet, MaxNegotiating: 3}, memoryExports(mib), certs.tls(nbd.TLSAllowed))
	flush := func(c *nbdtest.Client) {
		t.Helper()
		if errno, _ := c.Do(nbdtest.Command{Type: nbdtest.CmdFlush, Cookie: 1}, nil); errno != 0 {
			t.Fatal(errno)
		}
	}
	bound := []*nbdtest.Client{nbdtest.Open(t, addr, "m"), openTLS(t, addr, "m", certs.client(t, "x"))}
	// A connection that has its greeting is among those that negotiate, in the order of accept.
	var silent []*nbdtest.Client
	for i := range 10 {
		c := nbdtest.Dial(t, addr)
		c.Greet()
		if i%2 == 0 {
			c.Option(nbdtest.OptStartTLS, nil) // and no handshake
		}
		silent = append(silent, c)
	}
	for _, c := range silent[:7] {
		c.Closed()
	}
	for _, c := range bound {
		flush(c)
	}
	flush(openTLS(t, addr, "m", certs.client(t, "y"))) // an honest client gets through the crowd
	silent[7].Closed()                                 // whose place it took
	if r := silent[9].Option(3, nil); r[len(r)-1].Type != 1 {
		t.Errorf("the last of the crowd: %+v", r)
	}
	eventually(t, "8 displaced", func() bool { return s.Stats().Displaced == 8 })
	if st := s.Stats(); st.HandshakesFailed != 0 || st.Refused != 0 {
		t.Errorf("%+v: the displaced count as such alone", st)
	}
}

func TestTLS_CloseExport_EndsAClientThatReadsNothing(t *testing.T) {
	certs := newCerts(t)
	mem := nbdtest.NewMemory(mib)
	s, addr := serveTLS(t, nbd.Config{Logger: quiet}, oneExport(mem, mib, nbd.FeaturesUsual), certs.tls(nbd.TLSRequired))
	c := openTLS(t, addr, "m", certs.client(t, "x"))
	var all []byte
	for i := range 40 { // far more than the socket holds: the sender waits in a TLS write
		all = nbdtest.Command{Type: nbdtest.CmdRead, Cookie: uint64(i), Len: mib}.Append(all, nil)
	}
	c.Write(all)
	c.Reply() // it has begun
	if n := s.CloseExport("m", "role lost"); n != 1 {
		t.Fatalf("%d connections closed", n)
	}
	if err := s.WaitExport(t.Context(), "m"); err != nil {
		t.Fatal(err)
	}
	waitGone(t, s)
}

func TestTLS_ServerStopsDuringAHandshake_NothingIsLeft(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	how := newCerts(t).tls(nbd.TLSRequired)
	how.HandshakeTimeout = time.Hour
	s := nbd.NewServer(nbd.Config{Logger: quiet, NegotiationTimeout: time.Hour}, memoryExports(mib))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.ServeTLS(ctx, l, how) }()
	c := nbdtest.Dial(t, l.Addr())
	c.Greet()
	c.Option(nbdtest.OptStartTLS, nil)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	c.Closed()
	if n := s.Stats().Open; n != 0 {
		t.Errorf("%d connections left", n)
	}
}

func TestTLS_SlowReader_IsNotReadFrom(t *testing.T) {
	certs := newCerts(t)
	mem := nbdtest.NewMemory(mib)
	s, addr := serveTLS(t, nbd.Config{Logger: quiet, MaxBytes: 4 * mib}, oneExport(mem, mib, nbd.FeaturesUsual), certs.tls(nbd.TLSRequired))
	c := openTLS(t, addr, "m", certs.client(t, "x"))
	const reads = 50
	go func() {
		for i := range reads {
			c.Conn.Write(nbdtest.Command{Type: nbdtest.CmdRead, Cookie: uint64(i), Len: mib}.Append(nil, nil))
		}
	}()
	for range reads {
		c.Reply()
		c.Read(mib)
		if info := s.Conns()[0]; info.Owed > 4*mib+replies(reads) {
			t.Fatalf("%d bytes are owed", info.Owed)
		}
	}
}

func FuzzNegotiationTLS(f *testing.F) {
	for _, tc := range required {
		f.Add(unhex(f, "00000003"+tc.send))
	}
	f.Add(unhex(f, "00000003"+startTLS))
	certs := newCerts(f)
	f.Fuzz(func(t *testing.T, in []byte) {
		l := &oneConn{conn: &scripted{in: bytes.NewReader(in)}, closed: make(chan struct{})}
		ex := lookupFunc(func(context.Context, string) (*nbd.Export, error) {
			t.Error("an export was looked up without TLS")
			return nil, errors.New("never")
		})
		s := nbd.NewServer(nbd.Config{Logger: quiet, NegotiationTimeout: time.Minute}, ex)
		if err := s.ServeTLS(context.Background(), l, certs.tls(nbd.TLSRequired)); !errors.Is(err, net.ErrClosed) {
			t.Fatal(err)
		}
	})
}
