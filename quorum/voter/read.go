package voter

import (
	"encoding/binary"
	"slices"

	"go.etcd.io/raft/v3"
)

// Wait is a Barrier or TransferAway that is not done yet.
type Wait struct {
	done func(error)

	number   uint64 // of a Barrier: what raft answers with
	index    uint64 // to be applied first; known once confirmed
	has      bool
	sentTick int
}

// Barrier has done called with nil, in a later Ready, when State shows everything that was
// applied anywhere before Barrier was called, as confirmed by a majority of the voters. Nothing
// bounds the time; see Forget. If the Voter is stopped first, done gets ErrClosed.
func (v *Voter) Barrier(done func(error)) *Wait {
	w := &Wait{done: done, number: v.rng()} // random: an answer to an earlier process's read may still come
	v.reads = append(v.reads, w)
	v.ask(w)
	return w
}

// Forget ends the wait w: its done is not called any more.
func (v *Voter) Forget(w *Wait) {
	same := func(x *Wait) bool { return x == w }
	v.reads = slices.DeleteFunc(v.reads, same)
	v.leaving = slices.DeleteFunc(v.leaving, same)
	w.done = func(error) {} // its call may be queued already
}

// ask asks raft for the index that a read must wait for.
func (v *Voter) ask(w *Wait) {
	w.sentTick = v.ticks
	if !v.idle() {
		v.rn.ReadIndex(binary.BigEndian.AppendUint64(nil, w.number))
	}
}

// retryReads asks again: raft drops a request without saying so.
func (v *Voter) retryReads() {
	for _, w := range v.reads {
		if !w.has && v.ticks-w.sentTick >= resendTicks {
			v.ask(w)
		}
	}
}

// askAgain forgets what was confirmed: it was of another log.
func (v *Voter) askAgain() {
	for _, w := range v.reads {
		w.has, w.number = false, v.rng()
	}
}

// confirmReads notes the answers.
func (v *Voter) confirmReads(states []raft.ReadState) {
	for _, s := range states {
		if len(s.RequestCtx) != 8 {
			continue
		}
		n := binary.BigEndian.Uint64(s.RequestCtx)
		for _, w := range v.reads {
			if w.number == n && !w.has {
				w.index, w.has = s.Index, true
			}
		}
	}
}

// finishReads releases the reads whose index is applied and shown.
func (v *Voter) finishReads() {
	if v.mach == nil || v.idle() || len(v.reads) == 0 {
		return
	}
	v.reads = slices.DeleteFunc(v.reads, func(w *Wait) bool {
		over := w.has && v.book.pos.Applied >= w.index
		if over {
			v.answers = append(v.answers, func() { w.done(nil) })
		}
		return over
	})
}
