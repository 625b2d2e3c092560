package nbd_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/pojntfx/go-nbd/pkg/client"

	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/nbd/nbdtest"
)

// handshakeExports has one export served, one refused, one broken.
func handshakeExports() nbdtest.Exports {
	return nbdtest.Exports{
		"r0": {
			Name: "r0", Description: "db", Size: 1 << 20,
			BlockSize: nbd.BlockSize{Min: 512, Preferred: 4096, Max: 1 << 20},
			Features:  nbd.FeaturesUsual, Backend: nbdtest.NewMemory(1 << 20),
		},
		"r1":     nil,
		"ro":     {Name: "ro", Size: 4096, ReadOnly: true, Features: nbd.FeaturesUsual | nbd.FeatureFastZero, Backend: nbdtest.NewMemory(4096)},
		"broken": {Name: "broken", Size: -1},
	}
}

const (
	greeting = "4e42444d41474943 49484156454f5054 0003"
	optMagic = "49484156454f5054"
	repMagic = "0003e889045565a9"
	infoR0   = repMagic + "00000007 00000003 0000000c 0000 0000000000100000 056d" +
		repMagic + "00000007 00000003 0000000e 0003 00000200 00001000 00100000"
	ackGo = repMagic + "00000007 00000001 00000000"
)

// text encodes an option reply's message as hexadecimal digits.
func text(s string) string { return hex.EncodeToString([]byte(s)) }

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Each case is what a client sends after the greeting, and every byte that it then gets. After
// it, the connection is open, or closed by the server.
var negotiations = []struct {
	name       string
	send, want string
	closed     bool
}{
	{"go", "00000003" + optMagic + "00000007 00000008 00000002 7230 0000", infoR0 + ackGo, false},
	{"go with name and description wanted, one of them twice",
		"00000003" + optMagic + "00000007 0000000e 00000002 7230 0003 0001 0002 0001",
		infoR0 + repMagic + "00000007 00000003 00000004 0001 7230" +
			repMagic + "00000007 00000003 00000004 0002 6462" + ackGo, false},
	{"go without client flags", "00000000" + optMagic + "00000007 00000008 00000002 7230 0000", infoR0 + ackGo, false},
	{"go whose header declares no data",
		"00000000" + optMagic + "00000007 00000000 00000002 7230 0000", infoR0 + ackGo, false},
	{"go without data, then abort",
		"00000003" + optMagic + "00000007 00000000" + optMagic + "00000002 00000000",
		repMagic + "00000007 80000003 00000011" + text("malformed request") +
			repMagic + "00000002 00000001 00000000", true},
	{"info, then go", "00000003" + optMagic + "00000006 00000008 00000002 7230 0000" +
		optMagic + "00000007 00000008 00000002 7230 0000",
		strings.ReplaceAll(infoR0+ackGo, repMagic+"00000007", repMagic+"00000006") + infoR0 + ackGo, false},
	{"read-only export", "00000003" + optMagic + "00000007 00000008 00000002 726f 0000",
		repMagic + "00000007 00000003 0000000c 0000 0000000000001000 050f" +
			repMagic + "00000007 00000003 0000000e 0003 00000001 00001000 02000000" + ackGo, false},
	{"unknown export, then the right one", "00000003" + optMagic + "00000007 00000007 00000001 78 0000" +
		optMagic + "00000007 00000008 00000002 7230 0000",
		repMagic + "00000007 80000006 0000000b" + text("no export x") + infoR0 + ackGo, false},
	{"export served elsewhere", "00000003" + optMagic + "00000007 00000008 00000002 7231 0000",
		repMagic + "00000007 80000002 0000002b" + text(nbdtest.Refusal), false},
	{"broken export", "00000003" + optMagic + "00000007 0000000c 00000006 62726f6b656e 0000",
		repMagic + "00000007 80000006 00000020" + text(`export "broken" cannot be served`), false},
	{"export name", "00000003" + optMagic + "00000001 00000002 7230", "0000000000100000 056d", false},
	{"export name with zeroes", "00000001" + optMagic + "00000001 00000002 7230",
		"0000000000100000 056d" + strings.Repeat("00", 124), false},
	{"export name unknown", "00000003" + optMagic + "00000001 00000001 78", "", true},
	{"export name served elsewhere", "00000003" + optMagic + "00000001 00000002 7231", "", true},
	{"export name not UTF-8", "00000003" + optMagic + "00000001 00000001 ff", "", true},
	{"list", "00000003" + optMagic + "00000003 00000000",
		repMagic + "00000003 00000002 0000000a 00000006 62726f6b656e" +
			repMagic + "00000003 00000002 00000006 00000002 7230" +
			repMagic + "00000003 00000002 00000006 00000002 7231" +
			repMagic + "00000003 00000002 00000006 00000002 726f" +
			repMagic + "00000003 00000001 00000000", false},
	{"list with data", "00000003" + optMagic + "00000003 00000001 00",
		repMagic + "00000003 80000003 00000012" + text("LIST takes no data"), false},
	{"abort", "00000003" + optMagic + "00000002 00000000", repMagic + "00000002 00000001 00000000", true},
	{"STARTTLS, structured replies, unknown", "00000003" + optMagic + "00000005 00000000" +
		optMagic + "00000008 00000000" + optMagic + "0000ffff 00000004 deadbeef",
		repMagic + "00000005 80000001 00000000" + repMagic + "00000008 80000001 00000000" +
			repMagic + "0000ffff 80000001 00000000", false},
	{"name longer than the data", "00000003" + optMagic + "00000007 00000008 00000009 7230 0000",
		repMagic + "00000007 80000003 00000011" + text("malformed request"), false},
	{"more info requests than data", "00000003" + optMagic + "00000007 00000008 00000002 7230 0001",
		repMagic + "00000007 80000003 00000011" + text("malformed request"), false},
	{"name with NUL", "00000003" + optMagic + "00000007 00000008 00000002 7200 0000",
		repMagic + "00000007 80000003 00000011" + text("malformed request"), false},
	{"unknown client flags", "00000007", "", true},
	{"garbage instead of an option", "00000003 474554202f20485454502f312e310d0a0d0a", "", true},
	{"option of 64 KiB and a byte", "00000003" + optMagic + "00000007 00010001", "", true},
	{"option of 4 GiB", "00000003" + optMagic + "0000ffff ffffffff", "", true},
}

func TestNegotiation_EveryByteIsAsTheProtocolSays(t *testing.T) {
	_, addr := serve(t, nbd.Config{Logger: quiet}, handshakeExports())
	for _, tc := range negotiations {
		t.Run(tc.name, func(t *testing.T) {
			c := nbdtest.Dial(t, addr)
			if got := c.Read(18); !bytes.Equal(got, unhex(t, greeting)) {
				t.Fatalf("greeting %x", got)
			}
			c.Write(unhex(t, tc.send))
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

func TestNegotiation_SentByteByByte_IsUnderstood(t *testing.T) {
	_, addr := serve(t, nbd.Config{Logger: quiet}, handshakeExports())
	c := nbdtest.Dial(t, addr)
	c.Read(18)
	for _, b := range unhex(t, negotiations[5].send) {
		c.Write([]byte{b})
	}
	want := unhex(t, negotiations[5].want)
	if got := c.Read(len(want)); !bytes.Equal(got, want) {
		t.Fatalf("got\n%x, want\n%x", got, want)
	}
}

func TestNegotiation_NamesUpTo4096Bytes(t *testing.T) {
	name := strings.Repeat("n", 4096)
	ex := nbdtest.Exports{name: {Name: name, Size: 512, Backend: nbdtest.NewMemory(512)}}
	_, addr := serve(t, nbd.Config{Logger: quiet}, ex)
	c := nbdtest.Open(t, addr, name)
	c.Send(nbdtest.Command{Type: nbdtest.CmdDisc}, nil)
	c.Closed()

	c = nbdtest.Dial(t, addr)
	c.Greet()
	r := c.Option(7, nbdtest.InfoRequest(name+"n"))
	if len(r) != 1 || r[0].Type != 1<<31|3 {
		t.Errorf("name of 4097 bytes in GO: %+v", r)
	}
	c.Write(nbdtest.AppendOption(nil, 1, []byte(name+"n")))
	c.Closed()
}

func TestNegotiation_ClientThatSendsNothing_IsClosedInTime(t *testing.T) {
	_, addr := serve(t, nbd.Config{Logger: quiet, NegotiationTimeout: 20 * time.Millisecond}, handshakeExports())
	for _, sent := range []string{"", "00000003", "00000003" + optMagic, "00000000" + optMagic + "00000007 00000000"} {
		c := nbdtest.Dial(t, addr)
		c.Read(18)
		c.Write(unhex(t, sent))
		c.Closed()
	}
}

// lookupFunc answers each lookup.
type lookupFunc func(ctx context.Context, name string) (*nbd.Export, error)

func (f lookupFunc) Lookup(ctx context.Context, name string) (*nbd.Export, error) {
	return f(ctx, name)
}
func (lookupFunc) List() []nbd.ExportInfo { return nil }

func TestNegotiation_LookupRefusals_BecomeTheRepliesOfTheProtocol(t *testing.T) {
	for want, err := range map[uint32]error{
		1<<31 | 6: &nbd.ErrNotServed{Kind: nbd.NotServedUnknown},
		1<<31 | 2: &nbd.ErrNotServed{Kind: nbd.NotServedPolicy},
		1<<31 | 7: &nbd.ErrNotServed{Kind: nbd.NotServedShutdown},
	} {
		ex := lookupFunc(func(context.Context, string) (*nbd.Export, error) { return nil, err })
		_, addr := serve(t, nbd.Config{Logger: quiet}, ex)
		c := nbdtest.Dial(t, addr)
		c.Greet()
		if r := c.Option(7, nbdtest.InfoRequest("x")); r[0].Type != want {
			t.Errorf("%v: reply %#x, want %#x", err, r[0].Type, want)
		}
	}
	ex := lookupFunc(func(context.Context, string) (*nbd.Export, error) { return nil, errors.New("secret") })
	_, addr := serve(t, nbd.Config{Logger: quiet}, ex)
	c := nbdtest.Dial(t, addr)
	c.Greet()
	if r := c.Option(7, nbdtest.InfoRequest("x")); r[0].Type != 1<<31|6 || strings.Contains(string(r[0].Data), "secret") {
		t.Errorf("other error: %#x %q", r[0].Type, r[0].Data)
	}
}

func TestCloseExport_BetweenLookupAndBinding_RefusesTheClient(t *testing.T) {
	var s *nbd.Server
	set := make(chan struct{})
	mem := nbdtest.NewMemory(512)
	ex := lookupFunc(func(context.Context, string) (*nbd.Export, error) {
		<-set
		s.CloseExport("r0", "role lost")
		return &nbd.Export{Name: "r0", Size: 512, Backend: mem}, nil
	})
	srv, addr := serve(t, nbd.Config{Logger: quiet}, ex)
	s = srv
	close(set)
	c := nbdtest.Dial(t, addr)
	c.Greet()
	if r := c.Option(7, nbdtest.InfoRequest("")); r[0].Type != 1<<31|7 {
		t.Errorf("reply %#x, want NBD_REP_ERR_SHUTDOWN", r[0].Type)
	}
}

// go-nbd's client understands only the first REP_SERVER of a list, so there is one export here.
// Its Connect needs a kernel device.
func TestGoNBDClient_ListsOurExport(t *testing.T) {
	_, addr := serve(t, nbd.Config{Logger: quiet}, memoryExports(4096))
	conn, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	names, err := client.List(conn)
	if err != nil || len(names) != 1 || names[0] != "m" {
		t.Errorf("names %q, %v", names, err)
	}
}

func FuzzNegotiation(f *testing.F) {
	for _, tc := range negotiations {
		f.Add(unhex(f, tc.send))
	}
	f.Fuzz(func(t *testing.T, in []byte) { runFuzz(t, in) })
}

func FuzzTransmission(f *testing.F) {
	for _, q := range []nbdtest.Command{
		{Type: nbdtest.CmdRead, Off: 512, Len: 512}, {Type: nbdtest.CmdRead, Len: 1 << 31},
		{Type: nbdtest.CmdTrim, Len: 1024}, {Type: nbdtest.CmdFlush}, {Type: 77, Flags: 0xffff},
	} {
		f.Add(nbdtest.Command{Type: nbdtest.CmdWrite, Len: 512}.Append(nil, make([]byte, 512)), q.Append(nil, nil))
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		in := unhex(t, "00000003"+optMagic+"00000001 00000002 7230")
		runFuzz(t, append(append(in, a...), b...))
	})
}

// runFuzz lets a server read in from a connection that then ends. It must end too, with every
// request replied, which serve waits for.
func runFuzz(t *testing.T, in []byte) {
	ex := handshakeExports()
	l := &oneConn{conn: &scripted{in: bytes.NewReader(in)}, closed: make(chan struct{})}
	s := nbd.NewServer(nbd.Config{Logger: quiet, NegotiationTimeout: time.Minute}, ex)
	if err := s.Serve(context.Background(), l); !errors.Is(err, net.ErrClosed) {
		t.Fatal(err)
	}
	if n := s.Stats().Open; n != 0 {
		t.Fatalf("%d connections left", n)
	}
}

// oneConn is a listener with one connection; the next Accept fails once that is closed.
type oneConn struct {
	conn   *scripted
	closed chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	if c := l.conn; c != nil {
		l.conn = nil
		c.closed = l.closed
		return c, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}
func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return &net.UnixAddr{Name: "fuzz"} }

// scripted is a connection that yields given bytes, then EOF, and takes everything.
type scripted struct {
	in     *bytes.Reader
	closed chan struct{}
}

func (c *scripted) Read(p []byte) (int, error)     { return c.in.Read(p) }
func (c *scripted) Write(p []byte) (int, error)    { return len(p), nil }
func (c *scripted) Close() error                   { close(c.closed); return nil }
func (*scripted) LocalAddr() net.Addr              { return &net.UnixAddr{Name: "fuzz"} }
func (*scripted) RemoteAddr() net.Addr             { return &net.UnixAddr{Name: "fuzz"} }
func (*scripted) SetDeadline(time.Time) error      { return nil }
func (*scripted) SetReadDeadline(time.Time) error  { return nil }
func (*scripted) SetWriteDeadline(time.Time) error { return nil }
