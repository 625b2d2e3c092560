package nbd_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/nbd/nbdtest"
)

// registry is Exports with registrations. What it answers is set by the test.
type registry struct {
	nbdtest.Exports
	open func(ctx context.Context, a nbd.Attach) error // nil: at once
	fail error                                         // of Attach

	mu       sync.Mutex
	asked    []nbd.Attach
	detached []nbd.Key
	gone     chan uint64 // sessions that have ended
}

type claim struct {
	r *registry
	a nbd.Attach
}

func (r *registry) Attach(_ context.Context, a nbd.Attach) (nbd.Attached, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, a)
	if r.fail != nil {
		return nil, r.fail
	}
	return &claim{r, a}, nil
}

func (r *registry) Detach(_ context.Context, resource string, key nbd.Key) error {
	if resource != "r0" {
		return &nbd.ErrNotServed{Kind: nbd.NotServedUnknown, Reason: "no " + resource}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.detached = append(r.detached, key)
	return nil
}

func (c *claim) Number() uint64 { return 7 }

func (c *claim) Lookup(ctx context.Context) (*nbd.Export, error) {
	return c.r.Lookup(ctx, c.a.Resource)
}

func (c *claim) Open(ctx context.Context) (*nbd.Export, error) {
	if c.r.open != nil {
		if err := c.r.open(ctx, c.a); err != nil {
			return nil, err
		}
	}
	exp, err := c.r.Lookup(ctx, c.a.Resource)
	if err != nil {
		return nil, err
	}
	own := *exp
	own.Gone = func() { c.r.gone <- c.a.Session }
	return &own, nil
}

// heard returns what was asked for so far.
func (r *registry) heard() ([]nbd.Attach, []nbd.Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.asked), slices.Clone(r.detached)
}

func newRegistry() *registry {
	return &registry{Exports: handshakeExports(), gone: make(chan uint64, 16)}
}

// serveUnix serves ex on a unix socket until the test ends.
func serveUnix(t *testing.T, ex nbd.Exports) (*nbd.Server, net.Addr) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	srv := nbd.NewServer(nbd.Config{Logger: quiet}, ex)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return srv, l.Addr()
}

func someAttach(session uint64) nbd.Attach {
	return nbd.Attach{Resource: "r0", Key: nbd.Key{1, 2, 15: 16}, Session: session, Holder: "h1", Device: "/dev/nbd0", Boot: "b1"}
}

// attached returns a client whose connection is registered.
func attached(t *testing.T, addr net.Addr, a nbd.Attach) *nbdtest.Client {
	t.Helper()
	c := nbdtest.Dial(t, addr)
	c.Greet()
	if n, refused, text := c.Attach(a); n != 7 || refused != 0 {
		t.Fatalf("ATTACH: %d, %#x %s", n, refused, text)
	}
	return c
}

const (
	errPolicy   = 1<<31 | 2
	errInvalid  = 1<<31 | 3
	errUnsup    = 1<<31 | 1
	errUnknown  = 1<<31 | 6
	errShutdown = 1<<31 | 7
)

func TestAttach_GoldenBytes(t *testing.T) {
	a := someAttach(0x0102030405)
	a.Resume = true
	want := unhex(t, "0001 0002 01020000000000000000000000000010 0000000102030405 0002 7230 0002 6831 0009 2f6465762f6e626430 0002 6231")
	if got := nbd.AppendAttach(nil, a); !bytes.Equal(got, want) {
		t.Errorf("ATTACH\n got %x\nwant %x", got, want)
	}
	want = unhex(t, "0001 01020000000000000000000000000010 0002 7230")
	if got := nbd.AppendDetach(nil, "r0", a.Key); !bytes.Equal(got, want) {
		t.Errorf("DETACH\n got %x\nwant %x", got, want)
	}
	if nbd.OptAttach != 0x4c530001 || nbd.OptDetach != 0x4c530002 || nbd.RepAttached != 0x4c530001 || nbd.RepErrSuperseded != 0x80004c53 {
		t.Error("numbers of the private protocol have changed")
	}
	r := newRegistry()
	_, addr := serveUnix(t, r)
	a.Shared = true
	attached(t, addr, a)
	if asked, _ := r.heard(); len(asked) != 1 || asked[0] != a {
		t.Errorf("heard %+v, want %+v", asked, a)
	}
}

func TestAttach_MalformedDataIsRefusedAndNothingIsAsked(t *testing.T) {
	r := newRegistry()
	_, addr := serveUnix(t, r)
	c := nbdtest.Dial(t, addr)
	c.Greet()
	good := nbd.AppendAttach(nil, someAttach(1))
	edit := func(at int, v byte) []byte {
		b := bytes.Clone(good)
		b[at] = v
		return b
	}
	for name, b := range map[string][]byte{
		"empty":             nil,
		"format":            edit(1, 2),
		"unknown flag":      edit(3, 4),
		"session 0":         edit(27, 0),
		"session too high":  edit(22, 1),
		"one byte short":    good[:len(good)-1],
		"one byte more":     append(bytes.Clone(good), 0),
		"length beyond":     edit(29, 0xff),
		"empty name":        nbd.AppendAttach(nil, nbd.Attach{Session: 1, Holder: "h", Device: "d", Boot: "b"}),
		"NUL in the holder": nbd.AppendAttach(nil, nbd.Attach{Session: 1, Resource: "r0", Holder: "h\x00", Device: "d", Boot: "b"}),
		"long name":         nbd.AppendAttach(nil, nbd.Attach{Session: 1, Resource: strings.Repeat("r", 4097), Holder: "h", Device: "d", Boot: "b"}),
	} {
		if got := c.Option(nbd.OptAttach, b); got[0].Type != errInvalid {
			t.Errorf("%s: %#x %s", name, got[0].Type, got[0].Data)
		}
	}
	for name, b := range map[string][]byte{
		"empty":  nil,
		"format": unhex(t, "0002 01020000000000000000000000000010 0002 7230"),
		"short":  unhex(t, "0001 01020000000000000000000000000010 0002 72"),
		"more":   unhex(t, "0001 01020000000000000000000000000010 0002 7230 00"),
	} {
		if got := c.Option(nbd.OptDetach, b); got[0].Type != errInvalid {
			t.Errorf("DETACH %s: %#x %s", name, got[0].Type, got[0].Data)
		}
	}
	if asked, detached := r.heard(); len(asked)+len(detached) > 0 {
		t.Errorf("asked for %+v, %v", asked, detached)
	}
}

func TestAttach_ServerWithoutRegistrationsDoesNotKnowTheOptions(t *testing.T) {
	_, addr := serveUnix(t, handshakeExports())
	c := nbdtest.Dial(t, addr)
	c.Greet()
	if _, refused, _ := c.Attach(someAttach(1)); refused != errUnsup {
		t.Errorf("ATTACH: %#x", refused)
	}
	if refused, _ := c.Detach("r0", nbd.Key{}); refused != errUnsup {
		t.Errorf("DETACH: %#x", refused)
	}
}

func TestAttach_RefusalsHaveTheirNumbersAndTexts(t *testing.T) {
	for kind, want := range map[nbd.NotServedKind]uint32{
		nbd.NotServedUnknown: errUnknown, nbd.NotServedPolicy: errPolicy, nbd.NotServedShutdown: errShutdown, nbd.NotServedSuperseded: 0x80004c53,
	} {
		r := newRegistry()
		r.fail = &nbd.ErrNotServed{Kind: kind, Reason: "held by h9"}
		_, addr := serveUnix(t, r)
		c := nbdtest.Dial(t, addr)
		c.Greet()
		if _, refused, text := c.Attach(someAttach(1)); refused != want || text != "held by h9" {
			t.Errorf("kind %d: %#x %s", kind, refused, text)
		}
		r.mu.Lock()
		r.fail = nil
		r.mu.Unlock()
		if _, refused, text := c.Attach(someAttach(1)); refused != 0 { // the connection is still good
			t.Errorf("asked again: %#x %s", refused, text)
		}
	}
	r := newRegistry()
	r.fail = errors.New("a secret of the server")
	_, addr := serveUnix(t, r)
	c := nbdtest.Dial(t, addr)
	c.Greet()
	if _, refused, text := c.Attach(someAttach(1)); refused != errUnknown || strings.Contains(text, "secret") {
		t.Errorf("other error: %#x %s", refused, text)
	}
	if refused, text := c.Detach("r9", nbd.Key{}); refused != errUnknown || text != "no r9" {
		t.Errorf("DETACH: %#x %s", refused, text)
	}
	if refused, text := c.Detach("r0", nbd.Key{5}); refused != 0 {
		t.Errorf("DETACH: %#x %s", refused, text)
	}
	if _, detached := r.heard(); !slices.Equal(detached, []nbd.Key{{5}}) {
		t.Errorf("detached %v", detached)
	}
}

func TestAttach_BindsTheConnectionToOneExportAndOpensItsSessionOnce(t *testing.T) {
	r := newRegistry()
	srv, addr := serveUnix(t, r)
	c := attached(t, addr, someAttach(5))
	if _, refused, _ := c.Attach(someAttach(6)); refused != errInvalid {
		t.Errorf("a second ATTACH: %#x", refused)
	}
	if refused, text := c.Go("ro"); refused != errPolicy || !strings.Contains(text, `attached to "r0"`) {
		t.Errorf("GO for another export: %#x %s", refused, text)
	}
	info := c.Option(6, nbdtest.InfoRequest("r0")) // INFO opens nothing
	if info[len(info)-1].Type != 1 || len(srv.Attached("r0")) != 0 {
		t.Errorf("INFO: %+v, bound %v", info, srv.Attached("r0"))
	}
	if refused, text := c.Go("r0"); refused != 0 {
		t.Fatalf("GO: %#x %s", refused, text)
	}
	if errno, _ := c.Do(nbdtest.Command{Type: nbdtest.CmdWrite, Cookie: 1, Len: 512}, make([]byte, 512)); errno != 0 {
		t.Errorf("write: errno %d", errno)
	}
	if all := srv.Attached("r0"); len(all) != 1 || all[0].(*claim).a.Session != 5 {
		t.Errorf("bound: %v", all)
	}
	c.Conn.Close()
	if n := <-r.gone; n != 5 {
		t.Errorf("session %d has ended", n)
	}
}

func TestAttach_SessionThatIsNotOpenedLeavesTheConnectionUnbound(t *testing.T) {
	r := newRegistry()
	calls := 0 // of the one connection's goroutine
	r.open = func(context.Context, nbd.Attach) error {
		if calls++; calls == 1 {
			return &nbd.ErrNotServed{Kind: nbd.NotServedShutdown, Reason: "come again"}
		}
		return nil
	}
	srv, addr := serveUnix(t, r)
	c := attached(t, addr, someAttach(5))
	if refused, text := c.Go("r0"); refused != errShutdown || text != "come again" {
		t.Errorf("GO: %#x %s", refused, text)
	}
	if len(srv.Attached("r0")) != 0 {
		t.Error("the connection is bound all the same")
	}
	if refused, text := c.Go("r0"); refused != 0 {
		t.Errorf("GO again: %#x %s", refused, text)
	}
}

// Whoever ends a registration must find a connection whose session is just being opened.
func TestAttach_ConnectionIsFoundWhileItsSessionIsOpened(t *testing.T) {
	r := newRegistry()
	opening, goOn := make(chan bool), make(chan bool)
	r.open = func(context.Context, nbd.Attach) error { opening <- true; <-goOn; return nil }
	srv, addr := serveUnix(t, r)
	c := attached(t, addr, someAttach(5))
	c.Write(nbdtest.AppendOption(nil, 7, nbdtest.InfoRequest("r0")))
	<-opening
	n := srv.CloseConns("r0", "detached", false, func(a nbd.Attached) bool { return a != nil && a.Number() == 7 })
	if n != 1 {
		t.Errorf("%d connections closed", n)
	}
	close(goOn)
	c.Closed()
	if n := <-r.gone; n != 5 {
		t.Errorf("session %d has ended", n)
	}
}

func TestCloseConns_EndsOnlyThoseThatMatch(t *testing.T) {
	r := newRegistry()
	srv, addr := serveUnix(t, r)
	mine := attached(t, addr, someAttach(5))
	if refused, text := mine.Go("r0"); refused != 0 {
		t.Fatalf("GO: %#x %s", refused, text)
	}
	plain := nbdtest.Open(t, addr, "r0")
	if all := srv.Attached("r0"); len(all) != 2 {
		t.Fatalf("bound: %v", all)
	}
	if n := srv.CloseConns("r0", "it is exclusive now", true, func(a nbd.Attached) bool { return a == nil }); n != 1 {
		t.Errorf("%d connections closed", n)
	}
	plain.Closed()
	if errno, _ := mine.Do(nbdtest.Command{Type: nbdtest.CmdFlush, Cookie: 1}, nil); errno != 0 {
		t.Errorf("flush: errno %d", errno)
	}
}

// slow is Exports whose Lookup waits.
type slow struct {
	nbdtest.Exports
	asked, goOn chan bool
}

func (s slow) Lookup(ctx context.Context, name string) (*nbd.Export, error) {
	s.asked <- true
	<-s.goOn
	return s.Exports.Lookup(ctx, name)
}

func TestCloseConns_WithPlain_RefusesWhoHasLookedUpAndIsNotBoundYet(t *testing.T) {
	for plain, want := range map[bool]uint32{true: errShutdown, false: 0} {
		ex := slow{handshakeExports(), make(chan bool), make(chan bool)}
		srv, addr := serveUnix(t, ex)
		c := nbdtest.Dial(t, addr)
		c.Greet()
		got := make(chan uint32, 1)
		go func() { refused, _ := c.Go("r0"); got <- refused }()
		<-ex.asked
		srv.CloseConns("r0", "it is exclusive now", plain, func(nbd.Attached) bool { return true })
		close(ex.goOn)
		if refused := <-got; refused != want {
			t.Errorf("plain %t: %#x", plain, refused)
		}
	}
}
