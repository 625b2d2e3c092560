package transport

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

var testKey = bytes.Repeat([]byte{7}, 32)

// logLines collects what a Transport logs.
type logLines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

type end struct {
	*Transport
	addr string
	log  *logLines
	stop func() error // ends Serve and returns its error
}

// serve starts a node's transport on loopback.
func serve(t testing.TB, node string, edit func(*Config)) *end {
	t.Helper()
	log := &logLines{}
	cfg := Config{Cluster: "c1", Node: node, Key: testKey, Logger: slog.New(slog.NewTextHandler(log, nil))}
	if edit != nil {
		edit(&cfg)
	}
	tr, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- tr.Serve(ctx, ln) }()
	stop := sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return &end{Transport: tr, addr: ln.Addr().String(), log: log, stop: stop}
}

func echo(ctx context.Context, conn net.Conn, peer string) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	fmt.Fprintf(conn, "hello %s\n", peer)
	_, _ = io.Copy(conn, conn)
}

func TestDial_ProvenPeersGetTheRawConnection(t *testing.T) {
	a, b := serve(t, "a", nil), serve(t, "b", nil)
	raw := make(chan bool, 1)
	b.Handle("replication", func(ctx context.Context, conn net.Conn, peer string) {
		_, ok := conn.(*net.TCPConn)
		raw <- ok
		echo(ctx, conn, peer)
	})
	conn, err := a.Dial(t.Context(), b.addr, "b", "replication")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, ok := conn.(*net.TCPConn); !ok || !<-raw {
		t.Fatalf("not the raw connection: %T", conn)
	}
	got := make([]byte, 8+4)
	if _, err := conn.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "hello a\nping" {
		t.Fatalf("%q %v", got, err)
	}
}

func TestDial_TypedErrors(t *testing.T) {
	b := serve(t, "b", nil)
	b.Handle("ledger", echo)
	for name, tc := range map[string]struct {
		edit          func(*Config)
		node, service string
		want          error
		logged        string
	}{
		"other key":     {func(c *Config) { c.Key = bytes.Repeat([]byte{8}, 32) }, "b", "ledger", ErrKey, "key may be another"},
		"other cluster": {func(c *Config) { c.Cluster = "c2" }, "b", "ledger", ErrCluster, "another cluster"},
		"other node":    {nil, "c", "ledger", ErrNode, "asks for"},
		"no service":    {nil, "b", "nonsense", ErrService, "no such service"},
		"bad name":      {nil, "b b", "ledger", ErrConfig, ""},
	} {
		t.Run(name, func(t *testing.T) {
			a := serve(t, "a", tc.edit)
			conn, err := a.Dial(t.Context(), b.addr, tc.node, tc.service)
			if !errors.Is(err, tc.want) || conn != nil {
				t.Fatalf("%v, want %v", err, tc.want)
			}
			if tc.logged != "" {
				waitFor(t, b.log, tc.logged)
			}
		})
	}
}

// waitFor waits until the log has the text: the refusing side logs after its peer has its error.
func waitFor(t *testing.T, log *logLines, text string) {
	t.Helper()
	for ctx := t.Context(); !strings.Contains(log.String(), text); {
		if !pause(ctx, time.Millisecond) {
			t.Fatalf("no %q in the log:\n%s", text, log)
		}
	}
}

func TestDial_OtherVersionIsNamed(t *testing.T) {
	b := serve(t, "b", nil)
	h := &hello{version: 9, service: "ledger", cluster: "c1", dialer: "a", listener: "b"}
	conn := dialRaw(t, b.addr)
	mustWrite(t, conn, h.encode())
	got, _ := io.ReadAll(conn)
	c, err := decodeChallenge(got)
	if err != nil || !errors.Is(c.refused(), ErrVersion) {
		t.Fatalf("%v %v", c, err)
	}
	for _, answer := range []*challenge{{version: 2}, {version: 1, verdict: otherVersion}} {
		if !errors.Is(answer.refused(), ErrVersion) {
			t.Errorf("%+v is %v", answer, answer.refused())
		}
	}
	if err := (&challenge{version: 1, verdict: 77}).refused(); !errors.Is(err, ErrProtocol) {
		t.Error(err)
	}
}

func dialRaw(t testing.TB, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func mustWrite(t testing.TB, w io.Writer, b []byte) {
	t.Helper()
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
}

func goodHello() (*hello, []byte) {
	h := &hello{version: Version, service: "ledger", cluster: "c1", dialer: "a", listener: "b"}
	rand.Read(h.nonce[:])
	return h, h.encode()
}

func TestServe_TruncationAtEveryByteReachesNoService(t *testing.T) {
	b := serve(t, "b", nil)
	b.Handle("ledger", func(_ context.Context, conn net.Conn, peer string) {
		conn.Close()
		t.Errorf("a truncated handshake reached the service as %q", peer)
	})
	for n := range helloSize {
		_, first := goodHello()
		conn := dialRaw(t, b.addr)
		mustWrite(t, conn, first[:n])
		conn.(*net.TCPConn).CloseWrite()
		if got, _ := io.ReadAll(conn); len(got) != 0 {
			t.Fatalf("%d bytes of a hello were answered", n)
		}
		conn.Close()
	}
	for n := range macSize {
		_, first := goodHello()
		conn := dialRaw(t, b.addr)
		mustWrite(t, conn, first)
		second := make([]byte, challengeLen)
		if _, err := io.ReadFull(conn, second); err != nil {
			t.Fatal(err)
		}
		mustWrite(t, conn, mac(testKey, labelDialer, first, second)[:n])
		conn.(*net.TCPConn).CloseWrite()
		if got, _ := io.ReadAll(conn); len(got) != 0 {
			t.Fatalf("%d bytes of a proof were accepted", n)
		}
		conn.Close()
	}
}

func TestDial_TruncatedAnswersAreErrors(t *testing.T) {
	a := serve(t, "a", nil)
	// A listener that knows the key and stops after n bytes of what it would answer.
	stopAfter := -1
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	next := make(chan int)
	go func() {
		for n := range next {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			answer(conn, n)
			conn.Close()
		}
	}()
	defer close(next)
	for stopAfter = range challengeLen + macSize {
		next <- stopAfter
		if conn, err := a.Dial(t.Context(), ln.Addr().String(), "b", "ledger"); !errors.Is(err, ErrClosed) {
			t.Fatalf("after %d bytes: %v %v", stopAfter, conn, err)
		}
	}
}

func answer(conn net.Conn, n int) {
	first := make([]byte, helloSize)
	if _, err := io.ReadFull(conn, first); err != nil {
		return
	}
	c := &challenge{version: Version, listener: "b"}
	copy(c.mac[:], mac(testKey, labelListener, first, c.encode()[:challengeMAC]))
	second := c.encode()
	if _, err := conn.Write(second[:min(n, challengeLen)]); err != nil || n < challengeLen {
		return
	}
	proof := make([]byte, macSize)
	if _, err := io.ReadFull(conn, proof); err != nil {
		return
	}
	_, _ = conn.Write(mac(testKey, labelAccept, first, second, proof)[:n-challengeLen])
}

func TestServe_GarbageIsRefusedAndOthersAreServed(t *testing.T) {
	a, b := serve(t, "a", nil), serve(t, "b", nil)
	b.Handle("ledger", echo)
	for range 20 {
		conn := dialRaw(t, b.addr)
		junk := make([]byte, helloSize)
		rand.Read(junk)
		mustWrite(t, conn, junk)
		if got, _ := io.ReadAll(conn); len(got) != 0 {
			t.Fatalf("garbage was answered with %d bytes", len(got))
		}
	}
	waitFor(t, b.log, "does not speak this protocol")
	if n := strings.Count(b.log.String(), "\n"); n > 5 {
		t.Errorf("%d log lines for 20 pieces of garbage", n)
	}
	conn, err := a.Dial(t.Context(), b.addr, "b", "ledger")
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestServe_StalledHandshakesDoNotKeepOthersOut(t *testing.T) {
	a := serve(t, "a", nil)
	b := serve(t, "b", func(c *Config) { c.MaxHandshakes = 4; c.HandshakeTimeout = time.Hour })
	b.Handle("ledger", echo)
	var loris []net.Conn
	for range 4 {
		conn := dialRaw(t, b.addr)
		mustWrite(t, conn, []byte("lock"))
		loris = append(loris, conn)
	}
	for range 3 {
		conn, err := a.Dial(t.Context(), b.addr, "b", "ledger")
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	if got, err := io.ReadAll(loris[0]); len(got) != 0 {
		t.Fatalf("the oldest stalled connection got %q, %v", got, err)
	}
}

func TestServe_HandshakeHasADeadline(t *testing.T) {
	b := serve(t, "b", func(c *Config) { c.HandshakeTimeout = 20 * time.Millisecond })
	conn := dialRaw(t, b.addr)
	mustWrite(t, conn, []byte("lockstep"))
	if got, _ := io.ReadAll(conn); len(got) != 0 { // returns only when b gives up
		t.Fatalf("got %q", got)
	}
	waitFor(t, b.log, "timeout")
}

func TestDial_SilentListenerEndsWithTheContext(t *testing.T) {
	a := serve(t, "a", nil)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		conn, err := ln.Accept()
		if err == nil {
			defer conn.Close()
			_, _ = io.ReadFull(conn, make([]byte, helloSize))
			cancel()
			_, _ = io.ReadAll(conn)
		}
	}()
	if _, err := a.Dial(ctx, ln.Addr().String(), "b", "ledger"); !errors.Is(err, ErrClosed) || !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func TestServe_ReplayedProofIsRefused(t *testing.T) {
	b := serve(t, "b", nil)
	served := make(chan string, 2)
	b.Handle("ledger", func(_ context.Context, conn net.Conn, peer string) { served <- peer; conn.Close() })
	_, first := goodHello()
	handshake := func(proofOf func(second []byte) []byte) []byte {
		conn := dialRaw(t, b.addr)
		mustWrite(t, conn, first)
		second := make([]byte, challengeLen)
		if _, err := io.ReadFull(conn, second); err != nil {
			t.Fatal(err)
		}
		mustWrite(t, conn, proofOf(second))
		got, _ := io.ReadAll(conn)
		return got
	}
	var recorded []byte
	if got := handshake(func(second []byte) []byte {
		recorded = mac(testKey, labelDialer, first, second)
		return recorded
	}); len(got) != macSize || <-served != "a" {
		t.Fatalf("an honest handshake got %d bytes", len(got))
	}
	if got := handshake(func([]byte) []byte { return recorded }); len(got) != 0 {
		t.Fatal("a recorded proof was accepted again")
	}
	// Reflection: the listener's own MAC as proof.
	if got := handshake(func(second []byte) []byte { return second[challengeMAC : challengeMAC+macSize] }); len(got) != 0 {
		t.Fatal("the listener accepted its own proof")
	}
	if len(served) != 0 {
		t.Fatal("a connection without proof reached the service")
	}
}

func TestListener_ServesHTTP(t *testing.T) {
	a, b := serve(t, "a", nil), serve(t, "b", nil)
	srv := &http.Server{
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, peerKey{}, c.RemoteAddr().(PeerAddr).Node)
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "peer %s", r.Context().Value(peerKey{}))
		}),
	}
	done := make(chan error, 1)
	l := b.Listener("control")
	go func() { done <- srv.Serve(l) }()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return a.Dial(ctx, addr, "b", "control")
		}}}
	resp, err := client.Get("http://" + b.addr + "/")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || string(body) != "peer a" {
		t.Fatalf("%q %v", body, err)
	}
	if b.Listener("control") != l {
		t.Error("a second listener for one service")
	}
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("http server ended with %v", err)
	}
}

type peerKey struct{}

func TestServe_EndsItsHandlersAndHalfOpenConnections(t *testing.T) {
	a, b := serve(t, "a", nil), serve(t, "b", nil)
	entered, left := make(chan struct{}), make(chan struct{})
	b.Handle("ledger", func(ctx context.Context, conn net.Conn, _ string) {
		close(entered)
		<-ctx.Done()
		conn.Close()
		close(left)
	})
	half := dialRaw(t, b.addr)
	conn, err := a.Dial(t.Context(), b.addr, "b", "ledger")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	<-entered
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-left:
	default:
		t.Error("Serve returned before its handler")
	}
	_, _ = io.ReadAll(half) // ends
}

func TestConfig_ListsAllFaults(t *testing.T) {
	_, err := New(Config{Cluster: "a b", Node: strings.Repeat("n", 65), Key: []byte("short"), MaxHandshakes: -1})
	for _, w := range []string{"cluster name", "node name", "5 bytes, want 32", "negative"} {
		if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), w) {
			t.Errorf("no %q in %v", w, err)
		}
	}
}

func FuzzDecodeHello(f *testing.F) {
	_, good := goodHello()
	f.Add(good)
	f.Add([]byte("lockstep\x00\x02"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeHello(b)
		if err != nil || h.version != Version {
			return
		}
		if !bytes.Equal(h.encode(), b) {
			t.Fatalf("%x decodes to %+v, which encodes to something else", b, h)
		}
	})
}

func FuzzDecodeChallenge(f *testing.F) {
	f.Add((&challenge{version: Version, listener: "b"}).encode())
	f.Add((&challenge{version: Version, verdict: otherCluster, listener: "b"}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := decodeChallenge(b)
		if err != nil || c.refused() != nil {
			return
		}
		if !bytes.Equal(c.encode(), b) {
			t.Fatalf("%x decodes to %+v, which encodes to something else", b, c)
		}
	})
}
