package device

import (
	"errors"
	"fmt"

	"github.com/lockstep-ha/lockstep/internal/store"
	"github.com/lockstep-ha/lockstep/replication"
)

// perform carries out the actions of one Step, in order. Caller holds mu, so nothing here waits:
// it appends to queues. The actions are forgotten afterwards, so that they keep nothing alive.
func (t *turn) perform() {
	for i := range t.acts {
		t.act(&t.acts[i])
	}
	clear(t.acts)
}

func (t *turn) act(a *replication.Action) {
	d := t.d
	switch a.Kind {
	case replication.ActReply:
		d.end(t, a.ID, a.Err, false)
	case replication.ActReplyEarly:
		d.endEarly(t, a.ID, a.Err)
	case replication.ActDrop:
		d.end(t, a.ID, nil, true)
	case replication.ActFree:
		d.free(a.ID)
	case replication.ActSend:
		t.send(a)
	case replication.ActLocalRead, replication.ActLocalWrite, replication.ActLocalZeroes,
		replication.ActLocalTrim, replication.ActLocalSync, replication.ActLocalHash,
		replication.ActLocalCompare:
		t.local(a)
	case replication.ActSaveLog, replication.ActSaveMeta:
		d.outstanding++
		d.saves.push(newSave(a))
	case replication.ActPropose:
		d.propose(a.Token, *a.Proposal)
	case replication.ActCloseSession:
		if s := d.links[a.Peer].session; s != nil && sessionID(s) == a.Session {
			s.Close(errors.New(a.Reason))
		}
	case replication.ActCloseClients:
		d.closeClients()
	case replication.ActAdmitClient:
		d.settle(a.Client, a.Number, nil)
	case replication.ActRefuseClient:
		d.settle(a.Client, a.Number, a.Err)
	case replication.ActCloseClient:
		d.closeClient(a.Client, a.Number)
	case replication.ActNotice:
		if a.Notice.Kind == replication.NoticeRole {
			d.announce()
		}
		d.news.notice(*a.Notice)
	case replication.ActDiskFailed:
		err := fmt.Errorf("%w: %w", store.ErrFailed, a.Err)
		d.fault.CompareAndSwap(nil, &err)
	default:
		panic(fmt.Sprintf("device: unknown action %d", a.Kind))
	}
}

// send appends a frame to its session's queue. A frame for a session that has ended is dropped:
// the core hears of the end by EvSessionDown.
func (t *turn) send(a *replication.Action) {
	s := t.d.links[a.Peer].session
	if s == nil || sessionID(s) != a.Session {
		return
	}
	t.sendLater(s)
	if !a.Frame.Type.Carries() {
		s.Send(&a.Frame, nil)
		return
	}
	kept := t.d.payload(a)
	if kept.call == nil || !kept.call.sendPacked(s, &a.Frame) {
		s.Send(&a.Frame, part(kept.buf, kept.b))
	}
}

// payload returns the slot that holds the payload of a frame. Caller holds mu.
func (d *Device) payload(a *replication.Action) *slot {
	s := d.find(a.ID)
	if s == nil || s.buf == nil || uint32(len(s.b)) != a.Frame.Payload {
		panic(fmt.Sprintf("device: no payload of %d bytes under %#x for %s", a.Frame.Payload, uint64(a.ID), &a.Frame))
	}
	return s
}

// local hands out one local I/O, to this turn or to the workers. Caller holds mu.
func (t *turn) local(a *replication.Action) {
	d := t.d
	d.outstanding++
	j := job{kind: a.Kind, flags: a.Flags, id: a.ID, ext: a.Ext}
	if a.HashKey != nil {
		j.key = *a.HashKey
	}
	if s := d.find(a.ID); s != nil {
		j.b = s.b
		if s.buf != nil {
			j.mem = s.buf.Retain()
		}
		j.copied = s.call == nil
	} else {
		j.copied = true
	}
	if t.inline && !d.cfg.Direct && j.quick() {
		t.jobs = append(t.jobs, j)
		return
	}
	d.work.push(j)
}

// closeClients shuts every door that is open now, and has the herald close the connections.
// Caller holds mu.
func (d *Device) closeClients() {
	d.doors++
	d.settleAll(replication.ErrNotPrimary, func(*opening) bool { return true })
	d.window.wakeAll()
	d.news.closeClients()
}
