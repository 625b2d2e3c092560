package replication

import (
	"fmt"
	"syscall"
	"time"

	"github.com/lockstep-ha/lockstep/internal/mark"
	"github.com/lockstep-ha/lockstep/internal/planted"
)

// What becomes of requests while a primary can go on neither with all who count nor without them.
// The resource's policy says how far it goes:
//
//	goes on --a member is away, or the lease is out--> frozen: requests wait
//	frozen --io-error, and patience is over--> erring: every request is answered with EIO
//	frozen, erring --the deadline--> closed: connections end unanswered, none is taken
//	frozen, erring, closed --the member follows, or its drop is recorded--> goes on
//
// A new epoch of anybody ends all of it: then connections close, whatever the policy (rule 15).
//
// Both erring and closed give requests up. One that was not begun ends at once and has no effect.
// One that was begun ends for its client alone: its frame may be with the member, so it keeps its
// range locked, its payload and its place in the activity log, and no watermark passes it, until it
// is complete on all who count, as if somebody waited for it (rule 7).
//
// To mark its blocks dirty and forget it is shorter, and wrong: the watermark passes it, and a third
// replica that has it forgets that the one which is away may not (rule 6).

// freezeState is where a primary stands in that.
type freezeState struct {
	since  time.Duration // it is frozen; 0: it goes on
	awayAt time.Duration // a member that counts is away, by Resource.awake; 0: none is
	erring bool
	closed bool
}

// told is what a client has heard of its request while that is under way.
type told uint8

const (
	toldNothing told = iota // an answer is owed
	toldError               // that it failed; the ID goes on until ActFree
	toldNever               // its connection is closed
)

// advanceFreeze judges where the primary stands now.
func (r *Resource) advanceFreeze() {
	f := &r.freeze
	if r.role != rolePrimary {
		*f = freezeState{}
		return
	}
	stuck, away := r.stuck()
	switch {
	case !away:
		f.awayAt, f.erring = 0, false
		if !r.prop.busy {
			r.prop.owedAt = 0 // what was asked is not wanted any more
		}
	case f.awayAt == 0:
		f.awayAt = r.awake
	}
	switch {
	case !stuck:
		f.since, f.closed = 0, false
		return
	case f.since == 0:
		f.since = r.now
	}
	switch left, counted := r.patience(); {
	case f.erring && !r.rec.NoQuorumError:
		f.erring = false // the policy has changed
	case !f.erring && counted && left <= 0:
		r.beginErring()
	}
	if d := r.rec.FreezeDeadline; d > 0 && !f.closed && r.now-f.since >= d {
		r.closeFrozen()
	}
}

// stuck reports whether requests may have to wait, and whether a member that counts is away.
func (r *Resource) stuck() (stuck, away bool) {
	for _, p := range r.peers {
		if p.counts {
			away = away || p.phase != phaseFollowing
			stuck = stuck || away || r.now >= p.leaseUntil
		}
	}
	return stuck, away
}

// patience returns how long requests still wait for somebody before they get errors: a member that
// counts is away, and the ledger owes an answer about the set, both for less than PeerTimeout. false:
// that is not so, or the policy is to wait. It is counted by awake: what came while this process stood
// still has to be heard first, it may be a newer epoch.
func (r *Resource) patience() (left time.Duration, counted bool) {
	f := &r.freeze
	if !r.rec.NoQuorumError || f.awayAt == 0 || r.prop.owedAt == 0 {
		return 0, planted.On(planted.ErrorsAtOnce) && r.rec.NoQuorumError && f.awayAt != 0
	}
	return r.cfg.PeerTimeout - (r.awake - max(f.awayAt, r.prop.owedAt)), true
}

// beginErring begins to answer requests with errors.
func (r *Resource) beginErring() {
	mark.Hit("errors-without-quorum")
	r.freeze.erring = true
	r.notice(NoticeErrors, "", "requests are answered with errors: %s; it has not answered for %v", r.whyFrozen(),
		(r.awake - r.prop.owedAt).Round(roughly))
	r.giveUp(syscall.EIO)
}

// closeFrozen carries the freeze deadline out.
func (r *Resource) closeFrozen() {
	mark.Hit("freeze-deadline")
	r.freeze.closed = true
	r.notice(NoticeClosed, "", "frozen for %v, so connections are closed: %s", (r.now - r.freeze.since).Round(roughly), r.whyFrozen())
	if planted.On(planted.FreezeDeadlineAnswers) {
		r.giveUp(syscall.EIO)
	}
	r.emit(Action{Kind: ActCloseClients})
	for _, c := range r.clients {
		c.admitted = false // the numbers are kept: the epoch goes on, and so may a late connection of it
	}
	r.opening = nil
	r.giveUp(nil)
}

// giveUp ends every request as far as its client is concerned: with err, or unanswered if that is nil.
func (r *Resource) giveUp(err error) {
	for _, id := range r.flush.next {
		_, o := r.find(id)
		o.state = opHeld // nothing was begun for it
	}
	r.flush.next = nil
	r.held, r.gated, r.healing, r.leasing = nil, nil, nil, nil
	for i := range r.ops {
		o := &r.ops[i]
		if (o.kind != opRead && o.kind != opWrite && o.kind != opFlush) || o.told != toldNothing || o.state == opOrphan {
			continue
		}
		why := err
		if err != nil && o.err != nil {
			why = o.err
		}
		switch {
		case o.state == opStarted:
			r.giveUpBegun(int32(i), why)
		case err == nil:
			r.discard(int32(i), true)
		case o.state == opHeld && planted.On(planted.ErrorStartsLater):
			o.told = toldError
			r.emit(Action{Kind: ActReplyEarly, ID: r.id(int32(i)), Err: why})
			r.held = append(r.held, r.id(int32(i)))
		default:
			r.unlock(int32(i))
			r.unlog(int32(i))
			r.answer(int32(i), why)
		}
	}
}

// giveUpBegun ends op i, which is under way, for its client.
func (r *Resource) giveUpBegun(i int32, err error) {
	o := &r.ops[i]
	o.told = toldNever
	if err != nil {
		o.told = toldError
		r.emit(Action{Kind: ActReplyEarly, ID: r.id(i), Err: err})
	}
	if o.kind != opWrite {
		return
	}
	mark.Hit("write-given-up")
	r.givenUp++
	switch {
	case planted.On(planted.ErrorUnlocksRange):
		r.unlock(i)
	case planted.On(planted.GivenUpForgotten) && !o.local:
		o.need = 0
		r.finish(i)
	}
}

// lastWord is the action that ends the ID of a request that was given up.
func (t told) lastWord() ActionKind {
	if t == toldError {
		return ActFree
	}
	return ActDrop
}

// TakesClients reports whether connections are to be taken: this replica is a primary that admits
// requests, and has not been frozen for longer than its policy allows.
func (r *Resource) TakesClients() bool {
	return r.role == rolePrimary && (!r.freeze.closed || planted.On(planted.FreezeDeadlineAdmits))
}

// Erring reports whether requests are answered with errors because nothing is left to be waited for.
func (r *Resource) Erring() bool { return r.freeze.erring }

// frozenText adds to why a primary is frozen for how long it has been, and what comes next.
func (r *Resource) frozenText(why string, now time.Duration) string {
	f := &r.freeze
	if f.since == 0 {
		return why
	}
	lasted := max(0, now-f.since)
	text := fmt.Sprintf("%s; frozen for %v", why, lasted.Round(roughly))
	if f.closed {
		return text + ", connections are refused until it goes on"
	}
	if left, counted := r.patience(); f.erring {
		text += ", requests are answered with errors until it goes on"
	} else if counted {
		text += fmt.Sprintf(", errors begin in %v", max(0, left).Round(roughly))
	}
	if d := r.rec.FreezeDeadline; d > 0 {
		text += fmt.Sprintf(", connections close in %v", max(0, d-lasted).Round(roughly))
	}
	return text
}

// roughly is how exactly durations are told to people.
const roughly = 100 * time.Millisecond
