package attach

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/nbd/nbdtest"
)

func write(cookie, v uint64, off int64, n int) (nbdtest.Command, []byte) {
	return nbdtest.Command{Type: nbdtest.CmdWrite, Cookie: cookie, Off: uint64(off), Len: uint32(n)}, fill(v, n)
}

func read(cookie uint64, off int64, n int) nbdtest.Command {
	return nbdtest.Command{Type: nbdtest.CmdRead, Cookie: cookie, Off: uint64(off), Len: uint32(n)}
}

// mustDo carries a request out that has to succeed.
func mustDo(tb testing.TB, c *nbdtest.Client, q nbdtest.Command, payload []byte) []byte {
	tb.Helper()
	errno, data := c.Do(q, payload)
	if errno != 0 {
		tb.Fatalf("%+v: errno %d", q, errno)
	}
	return data
}

// script does one of everything, and checks what it reads.
func script(tb testing.TB, c *nbdtest.Client) {
	tb.Helper()
	q, p := write(1, 11, 0, 512)
	mustDo(tb, c, q, p)
	q, p = write(2, 22, 512, 512)
	q.Flags = cmdFlagFUA
	mustDo(tb, c, q, p)
	mustDo(tb, c, nbdtest.Command{Type: nbdtest.CmdFlush, Cookie: 3}, nil)
	if got := mustDo(tb, c, read(4, 0, 1024), nil); !bytes.Equal(got, append(fill(11, 512), fill(22, 512)...)) {
		tb.Fatal("read returns other than what was written")
	}
	mustDo(tb, c, nbdtest.Command{Type: nbdtest.CmdTrim, Cookie: 5, Off: 0, Len: 512}, nil)
	mustDo(tb, c, nbdtest.Command{Type: nbdtest.CmdWriteZeroes, Flags: cmdFlagNoHole, Cookie: 6, Off: 512, Len: 256}, nil)
	if got := mustDo(tb, c, read(7, 0, 1024), nil); !bytes.Equal(got, append(make([]byte, 768), fill(22, 256)...)) {
		tb.Fatal("read returns other than zeros")
	}
}

// The first connection dies after every possible number of bytes, in each direction, from its greeting to
// the last answer.
func TestRelay_ServerDiesAtEveryByte_EveryRequestIsAnsweredRight(t *testing.T) {
	c := newCluster(t, 1)
	const stride = 13 // bytes; with a step of 1 nothing else was found, and it takes minutes
	for _, dir := range []string{"in", "out"} {
		for at := 0; at < 3000; at += stride {
			conns := 0
			f := func() (in, out int) {
				conns++
				if conns > 1 {
					return -1, -1
				}
				if dir == "in" {
					return at, -1
				}
				return -1, at
			}
			c.nodes[0].budget.Store(&f)
			c.set(func() { clear(c.data) })
			r := open(t, testConfig(c))
			cl := r.dial()
			script(t, cl)
			cl.Conn.Close()
			r.stop()
			if err := <-r.done; err != nil {
				t.Fatalf("%s %d: %v", dir, at, err)
			}
			r.done <- nil
		}
	}
}

func TestRelay_SessionLost_UnfinishedIsSentAgainInOrder_AnsweredIsNot(t *testing.T) {
	c := newCluster(t, 2)
	r := open(t, testConfig(c))
	cl := r.dial()
	q, p := write(1, 1, 0, 8)
	mustDo(t, cl, q, p)
	c.set(func() { c.mute = true })
	for v := uint64(2); v <= 6; v++ {
		q, p := write(v, v, int64(v)*8, 8)
		cl.Send(q, p)
	}
	await(t, "five writes have arrived", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return len(c.brought[0]) == 6 })
	c.set(func() { c.mute = false })
	c.moveTo(1)
	got := map[uint64]bool{}
	for range 5 {
		cookie, errno := cl.Reply()
		if errno != 0 || got[cookie] {
			t.Fatalf("reply to %d with %d", cookie, errno)
		}
		got[cookie] = true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if want := [][]uint64{{1, 2, 3, 4, 5, 6}, {2, 3, 4, 5, 6}}; fmt.Sprint(c.brought) != fmt.Sprint(want) {
		t.Errorf("sessions brought %v, want %v", c.brought, want)
	}
	if st := r.Status(); st.Sessions != 2 || st.Resent != 5 || !st.Serving {
		t.Errorf("status %+v", st)
	}
}

func TestRelay_ErrorsOfTheServerArePassedOn_ButESHUTDOWNMeansComeAgain(t *testing.T) {
	c := newCluster(t, 2)
	r := open(t, testConfig(c))
	cl := r.dial()
	c.set(func() { c.answer = func(*nbd.Request) error { return syscall.ENOSPC } })
	q, p := write(1, 1, 0, 512)
	if errno, _ := cl.Do(q, p); errno != uint32(syscall.ENOSPC) {
		t.Errorf("errno %d, want ENOSPC", errno)
	}
	c.set(func() { c.answer = func(*nbd.Request) error { return syscall.EIO } })
	if errno, _ := cl.Do(read(2, 0, 512), nil); errno != eio {
		t.Errorf("errno %d, want EIO", errno)
	}
	var times atomic.Int32
	c.set(func() {
		c.answer = func(*nbd.Request) error {
			if times.Add(1) <= 3 {
				return syscall.ESHUTDOWN
			}
			return nil
		}
	})
	q, p = write(3, 3, 0, 512)
	mustDo(t, cl, q, p)
	if n := times.Load(); n != 4 {
		t.Errorf("asked %d times, want 4", n)
	}
}

func TestRelay_RefusalNamesThePrimary_WhichIsTriedThoughNobodyListedIt(t *testing.T) {
	c := newCluster(t, 2)
	cfg := testConfig(c)
	cfg.Servers = cfg.Servers[1:]
	r := open(t, cfg)
	script(t, r.dial())
	if st := r.Status(); st.Server != c.nodes[0].where.String() {
		t.Errorf("server %s", st.Server)
	}
}

func TestRelay_NoPrimaryWithinTheDeadline_RequestsFail_UntilThereIsOne(t *testing.T) {
	c := newCluster(t, 1)
	cfg := testConfig(c)
	cfg.Deadline = 20 * time.Millisecond
	r := open(t, cfg)
	cl := r.dial()
	script(t, cl)
	c.moveTo(-1)
	q, p := write(1, 1, 0, 512)
	if errno, _ := cl.Do(q, p); errno != eio {
		t.Fatalf("errno %d, want EIO", errno)
	}
	if errno, _ := cl.Do(read(2, 0, 512), nil); errno != eio {
		t.Fatalf("errno %d, want EIO at once", errno)
	}
	if st := r.Status(); !st.Failing || st.Serving || st.Cause == "" {
		t.Errorf("status %+v", st)
	}
	c.moveTo(0)
	await(t, "a session", func() bool { return r.Status().Serving })
	script(t, cl)
}

func TestRelay_Superseded_EndsForGood_EverythingFails(t *testing.T) {
	c := newCluster(t, 1)
	r := open(t, testConfig(c))
	cl := r.dial()
	c.set(func() { c.mute = true })
	q, p := write(1, 1, 0, 512)
	cl.Send(q, p)
	await(t, "the write has arrived", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return len(c.brought[0]) == 1 })
	c.set(func() { clear(c.keys) })
	c.nodes[0].srv.CloseExport("r0", "superseded")
	if _, errno := cl.Reply(); errno != eio {
		t.Errorf("errno %d, want EIO", errno)
	}
	if err := <-r.done; !errors.Is(err, ErrSuperseded) {
		t.Errorf("Run returned %v", err)
	}
	r.done <- nil
	if errno, _ := cl.Do(read(2, 0, 512), nil); errno != eio {
		t.Errorf("errno %d, want EIO", errno)
	}
}

func TestOpen_WhatWaitingDoesNotMend_IsReturnedAtOnce(t *testing.T) {
	plain := newPlainServer(t)
	for _, tc := range []struct {
		name   string
		change func(*cluster, *Config)
		resume bool
		want   error
	}{
		{"held", func(c *cluster, _ *Config) { c.heldBy = "h2 (/dev/nbd3)" }, false, ErrHeld},
		{"unknown", func(_ *cluster, cfg *Config) { cfg.Who.Resource = "r9" }, false, ErrUnknown},
		{"superseded", func(*cluster, *Config) {}, true, ErrSuperseded},
		{"no lockstep node", func(_ *cluster, cfg *Config) { cfg.Servers = []Server{plain} }, false, ErrNotLockstep},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t, 2)
			cfg := testConfig(c)
			tc.change(c, &cfg)
			if _, err := NewRelay(cfg).Open(t.Context(), tc.resume); !errors.Is(err, tc.want) {
				t.Errorf("%v, want %v", err, tc.want)
			}
		})
	}
}

func TestOpen_NobodyThere_ReturnsTheReasonWhenTheContextEnds(t *testing.T) {
	c := newCluster(t, 2)
	c.primary = -1
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := NewRelay(testConfig(c)).Open(ctx, false)
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrElsewhere) {
		t.Errorf("%v", err)
	}
}

func TestRelay_ServerFallsSilent_TheNextPrimaryGetsEverything(t *testing.T) {
	c := newCluster(t, 2)
	cfg := testConfig(c)
	cfg.Stall = 20 * time.Millisecond
	r := open(t, cfg)
	cl := r.dial()
	script(t, cl)
	c.set(func() { c.mute = true })
	q, p := write(1, 1, 0, 512)
	cl.Send(q, p)
	await(t, "the write has arrived", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return slices.Contains(c.brought[0], 1) })
	// Its connections stay open, as those of a host that has lost its power.
	c.set(func() { c.mute, c.primary = false, 1 })
	if _, errno := cl.Reply(); errno != 0 {
		t.Fatalf("errno %d", errno)
	}
	if st := r.Status(); st.Server != c.nodes[1].where.String() {
		t.Errorf("server %s", st.Server)
	}
}

func TestRelay_SlowServerWithTwoAddresses_IsNotItsOwnRival(t *testing.T) {
	c := newCluster(t, 1)
	other := Server{"unix", c.nodes[0].where.Addr + "2"}
	if err := os.Symlink(c.nodes[0].where.Addr, other.Addr); err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(c)
	cfg.Servers = append(cfg.Servers, other)
	cfg.Stall = 5 * time.Millisecond
	r := open(t, cfg)
	cl := r.dial()
	c.set(func() { c.mute = true })
	q, p := write(1, 1, 0, 512)
	cl.Send(q, p)
	await(t, "the other address has been asked three times", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return c.looked >= 3 })
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.brought) != 1 {
		t.Errorf("%d sessions, want the one that is slow", len(c.brought))
	}
}

func TestRelay_ResourceGrows_TellsTheSizeAndServesTheNewPart(t *testing.T) {
	c := newCluster(t, 1)
	cfg := testConfig(c)
	cfg.LookEvery = time.Millisecond
	sizes := make(chan int64, 4)
	cfg.OnSize = func(n int64) { sizes <- n }
	r := open(t, cfg)
	cl := r.dial()
	script(t, cl)
	c.set(func() { c.size = 2 * testSize })
	if n := <-sizes; n != 2*testSize {
		t.Fatalf("size %d", n)
	}
	q, p := write(1, 7, testSize+512, 512)
	mustDo(t, cl, q, p)
}

func TestRelay_ResourceShrinks_EndsForGood(t *testing.T) {
	c := newCluster(t, 1)
	cfg := testConfig(c)
	cfg.LookEvery = time.Millisecond
	r := open(t, cfg)
	cl := r.dial()
	c.set(func() { c.size = testSize / 2 })
	if err := <-r.done; !errors.Is(err, ErrShrunk) {
		t.Errorf("Run returned %v", err)
	}
	r.done <- nil
	if errno, _ := cl.Do(read(2, 0, 512), nil); errno != eio {
		t.Errorf("errno %d, want EIO", errno)
	}
}

func TestRelay_LocalConnectionEnds_ItsRequestsDoNotOutliveTheSession(t *testing.T) {
	c := newCluster(t, 1)
	r := open(t, testConfig(c))
	gone, stays := r.dial(), r.dial()
	c.set(func() { c.mute = true })
	q, p := write(1, 1, 0, 8)
	gone.Send(q, p)
	await(t, "the write has arrived", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return len(c.brought[0]) == 1 })
	gone.Conn.Close()
	await(t, "the relay has noticed", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.table.n == 1 && r.table.slots[r.table.head].orphan
	})
	c.moveTo(-1)
	q, p = write(2, 2, 0, 8)
	stays.Send(q, p)
	await(t, "only the other one's is left", func() bool { return r.Status().Unfinished == 1 && !r.Status().Serving })
	c.set(func() { c.mute = false })
	c.moveTo(0)
	if _, errno := stays.Reply(); errno != 0 {
		t.Fatalf("errno %d", errno)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if fmt.Sprint(c.brought) != "[[1] [2]]" {
		t.Errorf("sessions brought %v", c.brought)
	}
}

func TestRelay_Stopped_AnswersNothing(t *testing.T) {
	c := newCluster(t, 1)
	r := open(t, testConfig(c))
	cl := r.dial()
	c.set(func() { c.mute = true })
	q, p := write(1, 1, 0, 512)
	cl.Send(q, p)
	await(t, "the write has arrived", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return len(c.brought[0]) == 1 })
	r.stop()
	cl.Closed()
}

func TestRelay_Detach_EndsTheRegistration_AtWhoeverIsPrimary(t *testing.T) {
	c := newCluster(t, 3)
	r := open(t, testConfig(c))
	c.moveTo(2)
	r.stop()
	<-r.done
	r.done <- nil
	if err := r.Detach(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(c.keys) != 0 || c.detached != 1 {
		t.Errorf("%d registrations, %d ended", len(c.keys), c.detached)
	}
}

// Several writers, each with its own blocks and one request at a time, while servers die at random: what
// a writer reads is what it wrote last; no session brings a write twice, nor out of order, nor one that
// was answered before the session began.
func TestRelay_ServersDieAtRandom_NothingIsLostOrDoneTwice(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		// Deaths are drawn beforehand: connections are made in an order that is not ours to decide.
		deaths := rapid.SliceOfN(rapid.IntRange(0, 20000), 4, 24).Draw(rt, "deaths")
		dirs := rapid.SliceOfN(rapid.Bool(), len(deaths), len(deaths)).Draw(rt, "directions")
		writers := rapid.IntRange(1, 4).Draw(rt, "writers")
		ops := rapid.IntRange(20, 60).Draw(rt, "operations")
		c := newCluster(t, 2)
		var mu sync.Mutex
		conns := 0
		f := func() (in, out int) {
			mu.Lock()
			defer mu.Unlock()
			conns++
			if conns > len(deaths) {
				return -1, -1
			}
			if dirs[conns-1] {
				return deaths[conns-1], -1
			}
			return -1, deaths[conns-1]
		}
		for _, n := range c.nodes {
			n.budget.Store(&f)
		}
		r := open(t, testConfig(c))
		h := &history{c: c, answered: map[uint64]int{}}
		var wg sync.WaitGroup
		for w := range writers {
			cl := r.dial()
			wg.Go(func() { h.writer(cl, w, ops) })
		}
		for range 3 {
			c.set(func() { c.primary = 1 - c.primary })
		}
		wg.Wait()
		r.stop()
		<-r.done
		r.done <- nil
		h.check(rt)
	})
}

// history is what writers saw.
type history struct {
	c        *cluster
	mu       sync.Mutex
	answered map[uint64]int // by value: how many sessions had been opened when its answer came
	faults   []string
}

func (h *history) writer(cl *nbdtest.Client, w, ops int) {
	const block = 512
	var last [4]uint64
	for i := range ops {
		k := i * 7 % len(last)
		off := int64((w*len(last) + k) * block)
		if i%3 == 2 {
			errno, data := cl.Do(read(uint64(i), off, block), nil)
			if errno != 0 || be64(data) != last[k] {
				h.fault("writer %d, operation %d: errno %d, block %d holds %#x, want %#x", w, i, errno, k, be64(data), last[k])
			}
			continue
		}
		v := uint64(w+1)<<32 | uint64(i+1)
		q, p := write(uint64(i), v, off, block)
		if errno, _ := cl.Do(q, p); errno != 0 {
			h.fault("writer %d, operation %d: errno %d", w, i, errno)
		}
		h.c.mu.Lock()
		sessions := len(h.c.brought)
		h.c.mu.Unlock()
		h.mu.Lock()
		h.answered[v] = sessions
		h.mu.Unlock()
		last[k] = v
	}
}

func (h *history) fault(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.faults = append(h.faults, fmt.Sprintf(format, args...))
}

func (h *history) check(rt *rapid.T) {
	for _, f := range h.faults {
		rt.Error(f)
	}
	h.c.mu.Lock()
	defer h.c.mu.Unlock()
	for n, values := range h.c.brought {
		last := map[uint64]uint64{} // by writer
		for _, v := range values {
			if v <= last[v>>32] {
				rt.Errorf("session %d: write %#x comes after %#x", n, v, last[v>>32])
			}
			last[v>>32] = v
			if at, ok := h.answered[v]; ok && n >= at {
				rt.Errorf("session %d brings write %#x, which was answered when %d sessions had been opened", n, v, at)
			}
		}
	}
}
