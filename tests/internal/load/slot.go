package load

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/lockstep-ha/lockstep/tests/internal/history"
	"github.com/lockstep-ha/lockstep/tests/internal/nbdclient"
)

// runBlocks is how many used blocks lie side by side; a request has at most so many.
const runBlocks = 8

// slot has one request under way at a time.
type slot struct {
	h      *history.History
	hot    int64
	pause  time.Duration
	rng    *rand.Rand
	values []history.Value
}

// run sends requests on a session until it or ctx has ended. The request that is under way when ctx
// ends is waited for.
func (sl *slot) run(ctx context.Context, s *session) {
	buf := make([]byte, runBlocks*history.Block)
	answer := make(chan error, 1)
	for ctx.Err() == nil {
		sl.send(s, buf, answer)
		if err := <-answer; errors.Is(err, nbdclient.ErrLost) {
			s.lose()
			return
		}
		if sl.pause == 0 {
			continue
		}
		timer := time.NewTimer(sl.pause/2 + time.Duration(sl.rng.Int64N(int64(sl.pause))))
		select {
		case <-timer.C:
		case <-s.lost:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// place draws the blocks of a request: some of a run of used blocks.
func (sl *slot) place() (block, count int64) {
	i := sl.rng.Int64N(sl.hot)
	stride := sl.h.Blocks() / max(1, sl.hot/runBlocks)
	within := i % runBlocks
	return i/runBlocks*stride + within, 1 + sl.rng.Int64N(runBlocks-within)
}

// send sends one request. Of a hundred, 52 are writes, a tenth of them with FUA, 42 are reads, 3 are
// zeros of both sorts, and 3 are flushes.
func (sl *slot) send(s *session, buf []byte, answer chan<- error) {
	draw := sl.rng.IntN(100)
	block, count := sl.place()
	off, length := block*history.Block, count*history.Block
	switch {
	case draw >= 58:
		sl.read(s, block, count, buf[:length], answer)
	case draw < 52:
		fua := sl.rng.IntN(10) == 0
		id, v := sl.h.BeginWrite(s.name, block, fua)
		history.Fill(buf[:history.Block], block, v)
		s.client.Write(buf[:history.Block], off, fua, sl.done(s, id, answer))
	case draw < 55:
		s.client.Flush(sl.done(s, sl.h.BeginFlush(s.name), answer))
	case draw < 57:
		s.client.Trim(off, uint32(length), false, sl.done(s, sl.h.BeginZero(s.name, block, count), answer))
	default:
		s.client.WriteZeroes(off, uint32(length), false, false, sl.done(s, sl.h.BeginZero(s.name, block, count), answer))
	}
}

// done notes the answer to anything but a read.
func (sl *slot) done(s *session, id history.ID, answer chan<- error) func(error) {
	return func(err error) {
		switch {
		case err == nil:
			sl.h.Done(id)
			s.hear()
		case !errors.Is(err, nbdclient.ErrLost):
			sl.h.Failed(id, err)
			s.hear()
		}
		answer <- err
	}
}

func (sl *slot) read(s *session, block, count int64, into []byte, answer chan<- error) {
	id := sl.h.BeginRead(s.name, block, count)
	s.client.Read(into, block*history.Block, func(err error) {
		switch {
		case err == nil:
			var odd error
			sl.values, odd = history.Values(block, into, sl.values[:0])
			sl.h.DoneRead(id, sl.values, odd)
			s.hear()
		case !errors.Is(err, nbdclient.ErrLost):
			sl.h.Failed(id, err)
			s.hear()
		}
		answer <- err
	})
}
