package drill

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/nbd/nbdtest"
)

// server is a backend that can be made to misbehave.
type server struct {
	*nbdtest.Memory

	mu    sync.Mutex
	lose  bool          // writes are acknowledged and not done
	fail  syscall.Errno // every write is answered with it
	hang  bool          // nothing is answered
	stuck []*nbd.Request
}

func (s *server) set(change func(*server)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *server) Submit(batch []*nbd.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range batch {
		switch {
		case s.hang:
			s.stuck = append(s.stuck, r)
		case s.lose && r.Op == nbd.OpWrite:
			r.Reply(nil)
		case s.fail != 0 && r.Op == nbd.OpWrite:
			r.Reply(s.fail)
		default:
			s.Memory.Submit([]*nbd.Request{r})
		}
	}
}

// free drops what was left unanswered, so that the server can end, and answers from now on.
func (s *server) free() {
	s.mu.Lock()
	stuck := s.stuck
	s.hang, s.stuck = false, nil
	s.mu.Unlock()
	for _, r := range stuck {
		r.Reply(nbd.ErrDrop)
	}
}

const testBlocks = 256

// serve serves m as "r0" on a unix socket until the test ends.
func serve(t *testing.T, node string, m *nbdtest.Memory) (*server, endpoint) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "nbd")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Memory: m}
	x := nbd.NewServer(nbd.Config{}, nbdtest.Exports{"r0": {Name: "r0", Size: int64(len(m.Data)), Features: nbd.FeaturesUsual, Backend: s}, "r1": nil})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- x.Serve(ctx, ln) }()
	t.Cleanup(func() {
		s.free()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, endpoint{node: node, network: "unix", addr: path}
}

func newLoad(at ...endpoint) *load {
	return &load{endpoints: at, export: "r0", run: randomRun(), cells: make([]cell, testBlocks), meter: &meter{}}
}

func memory() *nbdtest.Memory { return nbdtest.NewMemory(testBlocks * blockSize) }

// answered waits until n more requests of l are answered, or faults came instead.
func answered(t *testing.T, l *load, n int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	want := l.meter.answered() + n
	for l.meter.answered() < want {
		if wait(ctx, time.Millisecond) != nil {
			t.Fatalf("%d of %d requests are answered", l.meter.answered(), want)
		}
	}
}

func TestLoad_FindsNothingWrongWithAGoodServer(t *testing.T) {
	m := memory()
	_, at := serve(t, "n1", m)
	l := newLoad(at)
	for range 2 { // what is known of the blocks outlives a break
		l.start(t.Context())
		answered(t, l, 400)
		l.end()
		n, wrong, err := l.check(t.Context())
		texts, faults := l.meter.takeFaults()
		if err != nil || len(wrong) > 0 || faults > 0 || n < 100 {
			t.Errorf("%d blocks, wrong %v, faults %v, %v", n, wrong, texts, err)
		}
	}
	if m.Flushes.Load() == 0 || l.meter.read == 0 {
		t.Errorf("%d flushes, %d reads", m.Flushes.Load(), l.meter.read)
	}
}

func TestLoad_FindsLostWrites(t *testing.T) {
	s, at := serve(t, "n1", memory())
	l := newLoad(at)
	l.start(t.Context())
	answered(t, l, 100)
	s.set(func(s *server) { s.lose = true })
	answered(t, l, 400)
	l.end()
	n, wrong, err := l.check(t.Context())
	if err != nil || len(wrong) < n/4 {
		t.Errorf("%d of %d blocks are wrong, %v", len(wrong), n, err)
	}
	if texts, faults := l.meter.takeFaults(); faults == 0 || !strings.Contains(texts[0], "n1 answered a read wrongly") {
		t.Errorf("reads while it ran: %v", texts)
	}
}

func TestLoad_CountsErrors(t *testing.T) {
	s, at := serve(t, "n1", memory())
	s.fail = syscall.EIO
	l := newLoad(at)
	l.start(t.Context())
	for deadline := time.Now().Add(30 * time.Second); ; {
		l.meter.mu.Lock()
		n := l.meter.count
		l.meter.mu.Unlock()
		if n >= 20 {
			break
		}
		if time.Now().After(deadline) || wait(t.Context(), time.Millisecond) != nil {
			t.Fatalf("%d faults", n)
		}
	}
	l.end()
	texts, n := l.meter.takeFaults()
	if n < 20 || len(texts) != maxFaults || !strings.Contains(texts[0], "input/output error") {
		t.Errorf("%d faults: %v", n, texts)
	}
	if _, wrong, err := l.check(t.Context()); err != nil || len(wrong) > 0 {
		t.Errorf("a write that failed may have happened or not: %v, %v", wrong, err)
	}
}

func TestLoad_LeavesAServerThatHangs_AndMissesNothing(t *testing.T) {
	m := memory()
	one, at1 := serve(t, "n1", m)
	l := newLoad(at1)
	l.start(t.Context())
	answered(t, l, 100)
	l.end()

	two, at2 := serve(t, "n2", m) // the same disk: it holds all that was acknowledged
	two.set(func(s *server) { s.hang = true })
	l.endpoints = []endpoint{at1, at2}
	l.start(t.Context())
	answered(t, l, 100)
	one.set(func(s *server) { s.hang = true })
	two.free()
	answered(t, l, 200)
	l.end()
	l.endpoints = []endpoint{at2}
	_, wrong, err := l.check(t.Context())
	if texts, n := l.meter.takeFaults(); n > 0 || len(wrong) > 0 || err != nil {
		t.Errorf("faults %v, wrong %v, %v", texts, wrong, err)
	}
}

func TestLoad_FindsASuccessorThatIsOld(t *testing.T) {
	_, at1 := serve(t, "n1", memory())
	l := newLoad(at1)
	l.start(t.Context())
	answered(t, l, 200)
	l.end()
	_, at2 := serve(t, "n2", memory())
	l.endpoints = []endpoint{at2}
	n, wrong, err := l.check(t.Context())
	if err != nil || len(wrong) != n || n == 0 || !strings.Contains(wrong[0].Error(), "it holds zeros; acknowledged was write") {
		t.Errorf("%d of %d blocks are wrong: %v", len(wrong), n, err)
	}
}

func TestConnect_SaysWhyNot(t *testing.T) {
	_, at := serve(t, "n1", memory())
	c, err := connect(t.Context(), at, "r0")
	if err != nil || c.size != testBlocks*blockSize {
		t.Fatal(c, err)
	}
	c.close()
	if err := c.do(cmdRead, 0, make([]byte, blockSize)); !errors.Is(err, errLost) {
		t.Errorf("on a closed connection: %v", err)
	}
	if c, err = connect(t.Context(), at, ""); err != nil {
		t.Fatalf("a greeting: %v", err)
	}
	c.close()
	if _, err := connect(t.Context(), at, "r1"); err == nil || !strings.Contains(err.Error(), nbdtest.Refusal) {
		t.Errorf("a secondary: %v", err)
	}
	if _, err := connect(t.Context(), endpoint{node: "n2", network: "unix", addr: at.addr + "x"}, "r0"); err == nil {
		t.Error("connected to nobody")
	}
}

func TestCell_HoldsTheNewestAcknowledgedWrite_OrOneOfUnknownOutcome(t *testing.T) {
	p, scratch := make([]byte, blockSize), make([]byte, blockSize)
	for _, tc := range []struct {
		cell    cell
		block   int64
		counter uint64 // what the block holds; 0: zeros
		tear    bool
		says    string // "": nothing is wrong
	}{
		{cell{}, 7, 0, false, ""},
		{cell{acked: 3}, 7, 3, false, ""},
		{cell{acked: 3}, 7, 2, false, "it holds write 2 of block 7; acknowledged was write 3"},
		{cell{acked: 3}, 7, 4, false, "it holds write 4"},
		{cell{acked: 3}, 7, 0, false, "it holds zeros"},
		{cell{acked: 3}, 8, 3, false, "it holds write 3 of block 8"},
		{cell{acked: 3, pending: 4, retired: true}, 7, 3, false, ""},
		{cell{acked: 3, pending: 4, retired: true}, 7, 4, false, ""},
		{cell{acked: 3, pending: 4, retired: true}, 7, 2, false, "it holds write 2"},
		{cell{pending: 1, retired: true}, 7, 0, false, ""},
		{cell{acked: 3}, 7, 3, true, "it holds a part of write 3"},
	} {
		clear(p)
		if tc.counter != 0 {
			payload(p, 9, tc.block, tc.counter)
		}
		if tc.tear {
			clear(p[2048:])
		}
		err := tc.cell.judge(p, scratch, 9, 7)
		if (err == nil) != (tc.says == "") || err != nil && !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%+v with write %d of block %d: %v", tc.cell, tc.counter, tc.block, err)
		}
	}
	payload(p, 10, 7, 3)
	if err := (cell{acked: 3}).judge(p, scratch, 9, 7); err == nil || !strings.Contains(err.Error(), "never wrote") {
		t.Errorf("the same block of another drill: %v", err)
	}
}
