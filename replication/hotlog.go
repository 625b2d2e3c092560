package replication

import (
	"math"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/mark"
	"github.com/lockstep-ha/lockstep/internal/planted"
)

// enterLog begins op i once its regions are in the activity log.
func (r *Resource) enterLog(i int32) {
	o := &r.ops[i]
	if planted.On(planted.LogOnPrimaryOnly) && o.kind == opApply {
		r.startLogged(i)
		return
	}
	if len(r.logFull) > 0 { // those who came first go first
		o.state = opLogging
		r.logFull = append(r.logFull, r.id(i))
		return
	}
	if !r.tryLog(i) {
		r.logFull = append(r.logFull, r.id(i))
	}
}

// tryLog asks the activity log to admit op i; it returns false when the log has no room.
func (r *Resource) tryLog(i int32) bool {
	o := &r.ops[i]
	o.state = opLogging
	adm, gen := r.log.Begin(o.ext)
	switch adm {
	case bitmap.Hot:
		o.logged = true
		r.startLogged(i)
	case bitmap.Staged:
		o.logged, o.logGen = true, gen
		r.saveLog()
		if planted.On(planted.LogAfterWrite) {
			r.startLogged(i)
			return true
		}
		r.logging = append(r.logging, r.id(i))
	default:
		mark.Hit("activity-log-full")
		return false
	}
	return true
}

func (r *Resource) startLogged(i int32) {
	if r.ops[i].kind == opApply {
		r.startApply(i)
		return
	}
	r.start(i)
}

// retryLog gives those another try that the log had no room for.
func (r *Resource) retryLog() {
	r.saveLog()
	for len(r.logFull) > 0 {
		i, o := r.find(r.logFull[0])
		if o != nil && o.state == opLogging && !r.tryLog(i) {
			return
		}
		r.logFull = r.logFull[1:]
	}
	r.logFull = nil
}

// unlog gives op i's references in the activity log back.
func (r *Resource) unlog(i int32) {
	o := &r.ops[i]
	if o.logged {
		o.logged = false
		r.log.End(o.ext, o.seq)
	}
}

// saveLog begins a transaction of the activity log when one is wanted and none is on its way.
func (r *Resource) saveLog() {
	if r.leader < 0 {
		r.log.SetWatermark(math.MaxUint64)
	}
	tx, ok := r.log.NextTx()
	if !ok {
		return
	}
	r.logTx = &bitmap.Tx{Gen: tx.Gen, Active: tx.Active, Evicted: tx.Evicted} // tx itself stays off the heap above
	r.emitLog()
}

func (r *Resource) emitLog() {
	r.logRetryAt = 0
	r.emit(Action{Kind: ActSaveLog, Token: r.logTx.Gen, Log: r.logTx, Pages: r.evictedPages(r.logTx.Evicted)})
}

// logSaved begins what the transaction has made possible.
func (r *Resource) logSaved(ev *Event) {
	switch {
	case ev.Err == nil:
		r.log.Committed(ev.Gen)
		r.stamp++
	case transient(ev.Err): // no room for a bitmap page, say: tried again until there is
		r.logRetryAt = r.now + saveRetry
	default:
		r.diskError(ev.Err)
		return
	}
	list := r.logging
	r.logging = nil
	for _, id := range list {
		i, o := r.find(id)
		switch {
		case o == nil || o.state != opLogging:
		case o.logGen > ev.Gen:
			r.logging = append(r.logging, id)
		case ev.Err != nil:
			r.refuseLogged(i, ev.Err)
		default:
			r.startLogged(i)
		}
	}
}

// refuseLogged ends op i, which was not begun anywhere: its region could not be logged.
func (r *Resource) refuseLogged(i int32, err error) {
	o := &r.ops[i]
	if o.kind == opApply {
		r.applyDone(i, o, err)
		return
	}
	r.unlog(i)
	r.unlock(i)
	r.answer(i, err)
}
