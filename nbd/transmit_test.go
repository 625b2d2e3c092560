package nbd_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/nbd/nbdtest"
)

const mib = 1 << 20

// manual is a backend whose requests the test completes.
type manual struct{ got chan *nbd.Request }

func newManual() *manual { return &manual{got: make(chan *nbd.Request, 4096)} }

func (m *manual) Submit(batch []*nbd.Request) {
	for _, r := range batch {
		m.got <- r
	}
}

func oneExport(b nbd.Backend, size int64, f nbd.Features) nbdtest.Exports {
	return nbdtest.Exports{"m": {Name: "m", Size: size, Features: f, Backend: b}}
}

func TestCommands_OutsideWhatIsAllowed_AreRefusedWithTheErrorOfTheProtocol(t *testing.T) {
	type q = nbdtest.Command
	const size = 64 * mib
	ex := nbdtest.Exports{
		"all":  {Name: "all", Size: size, Features: nbd.FeaturesUsual, Backend: nbdtest.NewMemory(size)},
		"none": {Name: "none", Size: size, Backend: nbdtest.NewMemory(size)},
		"ro":   {Name: "ro", Size: size, ReadOnly: true, Features: nbd.FeaturesUsual, Backend: nbdtest.NewMemory(size)},
		"4k": {
			Name: "4k", Size: size, BlockSize: nbd.BlockSize{Min: 4096},
			Features: nbd.FeaturesUsual | nbd.FeatureFastZero, Backend: nbdtest.NewMemory(size),
		},
	}
	_, addr := serve(t, nbd.Config{Logger: quiet}, ex)
	for _, tc := range []struct {
		name, export string
		q            nbdtest.Command
		errno        uint32
	}{
		{"read", "all", q{Type: nbdtest.CmdRead, Len: 4096}, 0},
		{"read of the last byte", "all", q{Type: nbdtest.CmdRead, Off: size - 1, Len: 1}, 0},
		{"read of 32 MiB", "all", q{Type: nbdtest.CmdRead, Len: 32 * mib}, 0},
		{"read of 32 MiB and a byte", "all", q{Type: nbdtest.CmdRead, Len: 32*mib + 1}, 22},
		{"read of 4 GiB", "all", q{Type: nbdtest.CmdRead, Len: 1<<32 - 1}, 22},
		{"read beyond the end", "all", q{Type: nbdtest.CmdRead, Off: size - 1, Len: 2}, 22},
		{"read at 2^64-1", "all", q{Type: nbdtest.CmdRead, Off: 1<<64 - 1, Len: 2}, 22},
		{"read at 2^63", "all", q{Type: nbdtest.CmdRead, Off: 1 << 63, Len: 1}, 22},
		{"read of nothing", "all", q{Type: nbdtest.CmdRead, Off: 5}, 0},
		{"read with FUA", "all", q{Type: nbdtest.CmdRead, Flags: 1, Len: 1}, 0},
		{"read with DF", "all", q{Type: nbdtest.CmdRead, Flags: 4, Len: 1}, 22},
		{"write of 32 MiB", "all", q{Type: nbdtest.CmdWrite, Len: 32 * mib}, 0},
		{"write of 32 MiB and a byte", "all", q{Type: nbdtest.CmdWrite, Len: 32*mib + 1}, 22},
		{"write of 64 MiB", "all", q{Type: nbdtest.CmdWrite, Len: 64 * mib}, 22},
		{"write beyond the end", "all", q{Type: nbdtest.CmdWrite, Off: size - 1, Len: 2}, 28},
		{"write of nothing", "all", q{Type: nbdtest.CmdWrite}, 0},
		{"write with unknown flag", "all", q{Type: nbdtest.CmdWrite, Flags: 1 << 15, Len: 100}, 22},
		{"write with NO_HOLE", "all", q{Type: nbdtest.CmdWrite, Flags: 2, Len: 100}, 22},
		{"write with FUA, not offered", "none", q{Type: nbdtest.CmdWrite, Flags: 1, Len: 100}, 22},
		{"write to a read-only export", "ro", q{Type: nbdtest.CmdWrite, Len: 200000}, 1},
		{"trim of a read-only export", "ro", q{Type: nbdtest.CmdTrim, Len: 1}, 1},
		{"zeroes to a read-only export", "ro", q{Type: nbdtest.CmdWriteZeroes, Len: 1}, 1},
		{"zeroes to all", "all", q{Type: nbdtest.CmdWriteZeroes, Flags: 2, Len: size}, 0},
		{"zeroes beyond the end", "all", q{Type: nbdtest.CmdWriteZeroes, Len: size + 1}, 28},
		{"fast zeroes, not offered", "all", q{Type: nbdtest.CmdWriteZeroes, Flags: 16, Len: 1}, 22},
		{"fast zeroes", "4k", q{Type: nbdtest.CmdWriteZeroes, Flags: 16, Len: 4096}, 0},
		{"zeroes, not offered", "none", q{Type: nbdtest.CmdWriteZeroes, Len: 1}, 22},
		{"trim", "all", q{Type: nbdtest.CmdTrim, Flags: 1, Len: size}, 0},
		{"trim beyond the end", "all", q{Type: nbdtest.CmdTrim, Off: 1, Len: size}, 22},
		{"trim, not offered", "none", q{Type: nbdtest.CmdTrim, Len: 1}, 22},
		{"cache", "all", q{Type: nbdtest.CmdCache, Len: size}, 0},
		{"cache, not offered", "none", q{Type: nbdtest.CmdCache, Len: 1}, 22},
		{"flush", "all", q{Type: nbdtest.CmdFlush}, 0},
		{"flush of a range", "all", q{Type: nbdtest.CmdFlush, Len: 1}, 22},
		{"flush, not offered", "none", q{Type: nbdtest.CmdFlush}, 22},
		{"unaligned offset", "4k", q{Type: nbdtest.CmdRead, Off: 512, Len: 4096}, 22},
		{"unaligned length", "4k", q{Type: nbdtest.CmdWrite, Len: 512}, 22},
		{"block status", "all", q{Type: 7, Len: 4096}, 22},
		{"unknown", "all", q{Type: 0xffff, Len: 1 << 31}, 22},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := nbdtest.Open(t, addr, tc.export)
			var payload []byte
			if tc.q.Type == nbdtest.CmdWrite {
				payload = make([]byte, tc.q.Len)
			}
			tc.q.Cookie = 0x0123456789abcdef
			if errno, _ := c.Do(tc.q, payload); errno != tc.errno {
				t.Errorf("errno %d, want %d", errno, tc.errno)
			}
			// Whatever came of it, the connection is in step.
			if errno, _ := c.Do(q{Type: nbdtest.CmdRead, Cookie: 7, Len: 4096}, nil); errno != 0 {
				t.Errorf("the next read: errno %d", errno)
			}
		})
	}
}

func TestTransmission_WhatCannotBeUnderstood_EndsTheConnection(t *testing.T) {
	_, addr := serve(t, nbd.Config{Logger: quiet}, memoryExports(mib))
	for name, send := range map[string][]byte{
		"garbage":                bytes.Repeat([]byte("GET / HTTP/1.1"), 10),
		"payload above 64 MiB":   nbdtest.Command{Type: nbdtest.CmdWrite, Len: 64*mib + 1}.Append(nil, nil),
		"payload of 4 GiB":       nbdtest.Command{Type: nbdtest.CmdWrite, Len: 1<<32 - 1}.Append(nil, nil),
		"a reply for a request":  append(binary.BigEndian.AppendUint32(nil, 0x67446698), make([]byte, 24)...),
		"DISC":                   nbdtest.Command{Type: nbdtest.CmdDisc}.Append(nil, nil),
		"option in transmission": nbdtest.AppendOption(nil, 7, nbdtest.InfoRequest("m", 1, 2, 3)),
	} {
		t.Run(name, func(t *testing.T) {
			c := nbdtest.Open(t, addr, "m")
			c.Write(send)
			c.Closed()
		})
	}
}

func TestTransmission_TruncatedAtEveryByte_EndsQuietly(t *testing.T) {
	s, addr := serve(t, nbd.Config{Logger: quiet}, memoryExports(mib))
	whole := nbdtest.Command{Type: nbdtest.CmdWrite, Len: 64}.Append(nil, make([]byte, 64))
	for n := range whole {
		c := nbdtest.Open(t, addr, "m")
		c.Write(whole[:n])
		c.Conn.Close()
	}
	if err := s.WaitExport(t.Context(), "m"); err != nil {
		t.Fatal(err)
	}
}

func TestWriteRead_PayloadsOfAllSizes_InOneStream(t *testing.T) {
	mem := nbdtest.NewMemory(64 * mib)
	_, addr := serve(t, nbd.Config{Logger: quiet}, oneExport(mem, 64*mib, nbd.FeaturesUsual))
	c := nbdtest.Open(t, addr, "m")
	sizes := []uint32{1, 511, 4096, 4097, 65536, 128<<10 - 28, 128 << 10, 128<<10 + 1, mib, 3*mib + 5, 32 * mib, 7}
	var off uint64
	go func() {
		var off uint64
		for i, n := range sizes {
			p := bytes.Repeat([]byte{byte(i + 1)}, int(n))
			c.Conn.Write(nbdtest.Command{Type: nbdtest.CmdWrite, Cookie: uint64(i), Off: off, Len: n}.Append(nil, p))
			off += uint64(n)
		}
	}()
	for i := range sizes {
		if cookie, errno := c.Reply(); errno != 0 || cookie != uint64(i) {
			t.Fatalf("write %d: reply to %d, errno %d", i, cookie, errno)
		}
	}
	for i, n := range sizes {
		_, got := c.Do(nbdtest.Command{Type: nbdtest.CmdRead, Off: off, Len: n}, nil)
		if !bytes.Equal(got, bytes.Repeat([]byte{byte(i + 1)}, int(n))) {
			t.Errorf("payload %d of %d bytes came back otherwise", i, n)
		}
		off += uint64(n)
	}
}

func TestReply_OutOfOrder_ReachesTheRightRequest(t *testing.T) {
	m := newManual()
	_, addr := serve(t, nbd.Config{Logger: quiet}, oneExport(m, mib, nbd.FeaturesUsual))
	c := nbdtest.Open(t, addr, "m")
	var all []byte
	for i := range 8 {
		all = nbdtest.Command{Type: nbdtest.CmdRead, Cookie: uint64(100 + i), Off: uint64(i), Len: 1}.Append(all, nil)
	}
	c.Write(all)
	var reqs [8]*nbd.Request
	for range reqs {
		r := <-m.got
		reqs[r.Off] = r
	}
	for i := 7; i >= 0; i-- {
		conn := reqs[i].Conn()
		reqs[i].Buf.B[0] = byte(i)
		reqs[i].Reply(nil)
		conn.Flush()
		cookie, errno := c.Reply()
		if data := c.Read(1); cookie != uint64(100+i) || errno != 0 || data[0] != byte(i) {
			t.Fatalf("request %d: reply to %d, errno %d, data %d", i, cookie, errno, data)
		}
	}
}

func TestReply_Errors_KeepTheErrnoAsFarAsNBDKnowsIt(t *testing.T) {
	m := newManual()
	_, addr := serve(t, nbd.Config{Logger: quiet}, oneExport(m, mib, nbd.FeaturesUsual))
	c := nbdtest.Open(t, addr, "m")
	for _, tc := range []struct {
		err  error
		want uint32
	}{
		{syscall.EPERM, 1}, {syscall.EROFS, 1}, {syscall.EIO, 5}, {syscall.ENOMEM, 12},
		{syscall.EINVAL, 22}, {syscall.ENOSPC, 28}, {syscall.EDQUOT, 28}, {syscall.EOVERFLOW, 75},
		{syscall.ENOTSUP, 95}, {syscall.ESHUTDOWN, 108}, {syscall.ETIMEDOUT, 5},
		{fmt.Errorf("write: %w", syscall.ENOSPC), 28}, {errors.New("other"), 5},
	} {
		c.Send(nbdtest.Command{Type: nbdtest.CmdRead, Len: 512}, nil)
		r := <-m.got
		conn := r.Conn()
		r.Reply(tc.err)
		conn.Flush()
		if _, errno := c.Reply(); errno != tc.want {
			t.Errorf("%v: errno %d, want %d", tc.err, errno, tc.want)
		}
	}
}

func TestReply_ErrDrop_ClosesTheConnectionWithoutAnAnswer(t *testing.T) {
	m := newManual()
	s, addr := serve(t, nbd.Config{Logger: quiet}, oneExport(m, mib, nbd.FeaturesUsual))
	c := nbdtest.Open(t, addr, "m")
	c.Send(nbdtest.Command{Type: nbdtest.CmdWrite, Len: 512}, make([]byte, 512))
	(<-m.got).Reply(fmt.Errorf("role lost: %w", nbd.ErrDrop))
	c.Closed()
	if err := s.WaitExport(t.Context(), "m"); err != nil {
		t.Fatal(err)
	}
}

func TestReply_Twice_Panics(t *testing.T) {
	m := newManual()
	_, addr := serve(t, nbd.Config{Logger: quiet}, oneExport(m, mib, nbd.FeaturesUsual))
	c := nbdtest.Open(t, addr, "m")
	c.Send(nbdtest.Command{Type: nbdtest.CmdFlush}, nil)
	r := <-m.got
	r.Reply(nil)
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	r.Reply(nil)
}

func TestDisc_AnswersWhatIsInFlightBeforeClosing(t *testing.T) {
	m := newManual()
	_, addr := serve(t, nbd.Config{Logger: quiet}, oneExport(m, mib, nbd.FeaturesUsual))
	c := nbdtest.Open(t, addr, "m")
	c.Send(nbdtest.Command{Type: nbdtest.CmdRead, Cookie: 1, Len: 1000}, nil)
	c.Send(nbdtest.Command{Type: nbdtest.CmdDisc}, nil)
	r := <-m.got
	conn := r.Conn()
	r.Reply(nil)
	conn.Flush()
	c.Reply()
	c.Read(1000)
	c.Closed()
}

func TestCloseExport_AnswersNothingAndLeavesOtherExportsAlone(t *testing.T) {
	m := newManual()
	ex := oneExport(m, mib, nbd.FeaturesUsual)
	ex["other"] = &nbd.Export{Name: "other", Size: mib, Backend: nbdtest.NewMemory(mib)}
	s, addr := serve(t, nbd.Config{Logger: quiet}, ex)
	other := nbdtest.Open(t, addr, "other")
	c := nbdtest.Open(t, addr, "m")
	for i := range 10 {
		c.Send(nbdtest.Command{Type: nbdtest.CmdWrite, Off: uint64(i), Len: 1}, []byte{1})
	}
	var reqs []*nbd.Request
	for range 10 {
		reqs = append(reqs, <-m.got)
	}
	if n := s.CloseExport("m", "role lost"); n != 1 {
		t.Errorf("%d connections closed", n)
	}
	c.Closed()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.WaitExport(ctx, "m"); err != context.Canceled {
		t.Errorf("WaitExport with requests unreplied: %v", err)
	}
	for _, r := range reqs {
		conn := r.Conn()
		r.Reply(syscall.EIO)
		conn.Flush()
	}
	if err := s.WaitExport(context.Background(), "m"); err != nil {
		t.Error(err)
	}
	if errno, _ := other.Do(nbdtest.Command{Type: nbdtest.CmdRead, Len: 1}, nil); errno != 0 {
		t.Errorf("the other export: errno %d", errno)
	}
	again := nbdtest.Open(t, addr, "m") // a new lookup decides anew
	again.Send(nbdtest.Command{Type: nbdtest.CmdFlush}, nil)
	(<-m.got).Reply(nil)
}
