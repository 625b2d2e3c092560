package nbdtest

import (
	"sync/atomic"

	"github.com/lockstep-ha/lockstep/nbd"
)

// Memory is a device in memory. It completes every request within Submit. Like a disk, it gives
// overlapping requests of different connections no order.
type Memory struct {
	Data    []byte
	Flushes atomic.Int64 // requests of OpFlush
	FUA     atomic.Int64 // requests with FlagFUA
}

// NewMemory returns a device of size bytes, all zero.
func NewMemory(size int64) *Memory { return &Memory{Data: make([]byte, size)} }

// Submit implements nbd.Backend.
func (m *Memory) Submit(batch []*nbd.Request) {
	for _, r := range batch {
		if r.Flags&nbd.FlagFUA != 0 {
			m.FUA.Add(1)
		}
		switch r.Op {
		case nbd.OpRead:
			copy(r.Buf.B, m.Data[r.Off:])
		case nbd.OpWrite:
			copy(m.Data[r.Off:], r.Buf.B)
		case nbd.OpTrim, nbd.OpWriteZeroes:
			clear(m.Data[r.Off : r.Off+r.Len])
		case nbd.OpFlush:
			m.Flushes.Add(1)
		}
		r.Reply(nil)
	}
}
