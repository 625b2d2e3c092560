package device

import (
	"time"

	"github.com/lockstep-ha/lockstep/replication"
)

// inlineTime is, as Device.patience, how long a turn does its own local I/O one after another before it hands the
// rest to the workers.
const inlineTime = 250 * time.Microsecond

// turn is what one goroutine needs to feed the core and to carry out what comes of it. Turns
// are pooled; one belongs to the goroutine that got it until finish.
type turn struct {
	d      *Device
	inline bool // this goroutine may do local I/O itself

	ev       replication.Event // of the present Step; here, since a pointer to it goes to the core
	acts     []replication.Action
	jobs     []job // local I/O to be done here
	done     []job // spare for jobs
	conns    []flusher
	sessions []session
	calls    []*call // of a Submit
	job      job     // of a worker
}

// begin lends a turn.
func (d *Device) begin(inline bool) *turn {
	t := d.turns.Get().(*turn)
	t.d, t.inline = d, inline
	return t
}

// lock takes the device's mutex and reads the clock once for all events of the batch.
func (t *turn) lock() {
	t.d.mu.Lock()
	t.d.now = t.d.clock()
}

// event returns the turn's Event, empty but for Kind and Now, to be filled in for step.
func (t *turn) event(k replication.EventKind) *replication.Event {
	t.ev = replication.Event{Kind: k, Now: t.d.now}
	return &t.ev
}

// step gives the turn's event to the core and carries out what comes of it. Caller holds mu.
func (t *turn) step() {
	t.acts = t.d.core.Step(&t.ev, t.acts[:0])
	t.perform()
}

// unlock ends a batch of events and gives up the mutex.
func (t *turn) unlock() {
	d := t.d
	t.acts = d.core.EndBatch(t.acts[:0])
	t.perform()
	if s := d.core.Serving(); s != d.serving {
		d.serving = s
		d.announce()
	}
	d.mu.Unlock()
}

// finish settles and gives the turn back.
func (t *turn) finish() {
	t.settle()
	t.d.turns.Put(t)
}

// settle does what may only be done without the mutex: frames leave, then local I/O is done, again
// and again until there is no more, then replies leave.
func (t *turn) settle() {
	for {
		t.flushSessions()
		if len(t.jobs) == 0 {
			break
		}
		n := t.runJobs()
		t.lock()
		t.jobs, t.done = t.done[:0], t.jobs
		t.delegate(t.done[n:])
		for i := range t.done[:n] {
			t.complete(&t.done[i])
		}
		clear(t.done)
		t.unlock()
	}
	for i, c := range t.conns {
		c.Flush()
		t.conns[i] = nil
	}
	t.conns = t.conns[:0]
}

// runJobs does the turn's local I/O for as long as the device's patience and returns how many it has done,
// at least one.
func (t *turn) runJobs() int {
	var start time.Time
	if len(t.jobs) > 1 {
		start = time.Now()
	}
	for i := range t.jobs {
		if i > 0 && time.Since(start) > t.d.patience {
			return i
		}
		t.d.run(&t.jobs[i])
	}
	return len(t.jobs)
}

// delegate hands jobs to the workers.
func (t *turn) delegate(jobs []job) {
	for i := range jobs {
		t.d.work.push(jobs[i])
	}
}

// complete reports the end of a local I/O to the core. Caller holds mu.
func (t *turn) complete(j *job) {
	d := t.d
	if j.out != nil {
		d.keep(j.id, j.out)
	}
	ev := t.event(replication.EvLocalDone)
	ev.ID, ev.Err, ev.Zero = j.id, j.err, j.zero
	if j.kind == replication.ActLocalCompare {
		ev.Diff = &j.diff
	}
	t.step()
	d.ended()
}

// flushSessions sends the frames that this turn has appended.
func (t *turn) flushSessions() {
	for i, s := range t.sessions {
		s.Flush()
		t.sessions[i] = nil
	}
	t.sessions = t.sessions[:0]
}

// flushLater remembers a connection that has an answer queued.
func (t *turn) flushLater(c flusher) {
	for _, have := range t.conns {
		if have == c {
			return
		}
	}
	t.conns = append(t.conns, c)
}

// sendLater remembers a session that has a frame queued.
func (t *turn) sendLater(s session) {
	for _, have := range t.sessions {
		if have == s {
			return
		}
	}
	t.sessions = append(t.sessions, s)
}
