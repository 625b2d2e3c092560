package nbd

import (
	"io"
	"sync/atomic"
	"syscall"

	"github.com/pojntfx/go-nbd/pkg/backend"
)

// adapterWorkers bounds the calls that a GoNBDBackend has under way.
const adapterWorkers = 16

// zeroChunk is the length in which zeros are written, in bytes.
const zeroChunk = 1 << 20

var zeros [zeroChunk]byte

// GoNBDBackend serves b, whose methods are called from several goroutines at once. Trim and
// cache do nothing, zeros are written. A flush, and a change with FlagFUA, is a Sync that begins
// after the changes it covers have ended. A Sync that fails is disk failure: every later one
// fails too, without being tried. Submit blocks while sixteen calls are under way.
func GoNBDBackend(b backend.Backend) Backend {
	return &goNBD{b: b, slots: make(chan struct{}, adapterWorkers)}
}

type goNBD struct {
	b          backend.Backend
	slots      chan struct{} // one element per call under way
	syncFailed atomic.Bool
}

func (g *goNBD) Submit(batch []*Request) {
	for _, r := range batch {
		g.slots <- struct{}{}
		go func() {
			c := r.Conn()
			r.Reply(g.do(r))
			<-g.slots
			c.Flush()
		}()
	}
}

// do carries r out. Writes that were answered before a flush arrived have ended before it
// begins, for they are answered only when WriteAt has returned.
func (g *goNBD) do(r *Request) error {
	var err error
	switch r.Op {
	case OpRead:
		return full(g.b.ReadAt(r.Buf.B, r.Off))(r.Len)
	case OpFlush:
		return g.sync()
	case OpWrite:
		err = full(g.b.WriteAt(r.Buf.B, r.Off))(r.Len)
	case OpWriteZeroes:
		err = g.writeZeros(r.Off, r.Len)
	}
	if err == nil && r.Flags&FlagFUA != 0 && r.Op != OpCache {
		err = g.sync()
	}
	return err
}

func (g *goNBD) writeZeros(off, length int64) error {
	for length > 0 {
		n := min(length, zeroChunk)
		if err := full(g.b.WriteAt(zeros[:n], off))(n); err != nil {
			return err
		}
		off, length = off+n, length-n
	}
	return nil
}

func (g *goNBD) sync() error {
	if g.syncFailed.Load() {
		return syscall.EIO
	}
	err := g.b.Sync()
	if err != nil {
		g.syncFailed.Store(true)
	}
	return err
}

// full makes a transfer shorter than want an error, and one that is complete a success also
// where the backend met its end with the last byte.
func full(n int, err error) func(want int64) error {
	return func(want int64) error {
		switch {
		case int64(n) == want && (err == nil || err == io.EOF):
			return nil
		case err == nil || err == io.EOF:
			return syscall.EIO
		}
		return err
	}
}
