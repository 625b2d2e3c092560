package ledger

import (
	"context"
	"encoding/binary"
	"fmt"

	"go.etcd.io/raft/v3"
)

// read is a Barrier that waits. Only the loop uses it, but for done.
type read struct {
	index    uint64 // to be applied first; known once confirmed
	has      bool
	sentTick int
	done     chan struct{}
}

// Barrier returns when State shows everything that was applied anywhere before Barrier was
// called, as confirmed by a majority of the voters.
//
// Errors: ErrNoQuorum, if that could not be confirmed within ctx; State may then be old.
func (l *Ledger) Barrier(ctx context.Context) error {
	ctx, cancel := l.withTimeout(ctx)
	defer cancel()
	r := &read{done: make(chan struct{})}
	var n uint64
	err := l.call(ctx, func() {
		l.nextRead++
		n = l.nextRead
		l.reads[n] = r
		l.ask(n, r)
	})
	if err == nil {
		select {
		case <-r.done:
			return nil
		case <-l.done:
			err = ErrClosed
		case <-ctx.Done():
			err = ctx.Err()
			_ = l.call(context.Background(), func() { delete(l.reads, n) })
		}
	}
	return fmt.Errorf("read the ledger: %w: %w", ErrNoQuorum, err)
}

// ask asks raft for the index that read n must wait for.
func (l *Ledger) ask(n uint64, r *read) {
	r.sentTick = l.ticks
	l.rn.ReadIndex(binary.BigEndian.AppendUint64(nil, n))
}

// retryReads asks again: raft drops a request without saying so.
func (l *Ledger) retryReads() {
	for n, r := range l.reads {
		if !r.has && l.ticks-r.sentTick >= resendTicks {
			l.ask(n, r)
		}
	}
}

// confirmReads notes the answers.
func (l *Ledger) confirmReads(states []raft.ReadState) {
	for _, s := range states {
		if len(s.RequestCtx) != 8 {
			continue
		}
		if r := l.reads[binary.BigEndian.Uint64(s.RequestCtx)]; r != nil && !r.has {
			r.index, r.has = s.Index, true
		}
	}
}

// finishReads releases the reads whose index is applied and published.
func (l *Ledger) finishReads() {
	for n, r := range l.reads {
		if r.has && l.mach != nil && l.store.applied >= r.index {
			delete(l.reads, n)
			close(r.done)
		}
	}
}
