package node

import (
	"context"
	"sync"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
)

// journalLen is how many events are kept.
const journalLen = 4096

// journal keeps the newest events in a ring. A reader that is slower than the ring misses the
// events that were overwritten and goes on with the oldest kept one: the gap in Seq shows it.
type journal struct {
	node string
	now  func() time.Time

	mu   sync.Mutex
	ring []control.Event // event seq stands at (seq-1) % cap
	last uint64          // seq of the newest; 0: none
	more chan struct{}   // closed and replaced when an event is added
}

func newJournal(node string, capacity int) *journal {
	return &journal{node: node, now: time.Now, ring: make([]control.Event, capacity), more: make(chan struct{})}
}

// add appends an event; kind is stable and for programs, text a sentence for people. attrs are
// key, value, key, value. It never blocks.
func (j *journal) add(resource, kind, text string, attrs ...string) {
	ev := control.Event{Node: j.node, Resource: resource, Kind: kind, Text: text, Time: j.now()}
	for i := 0; i+1 < len(attrs); i += 2 {
		if ev.Attrs == nil {
			ev.Attrs = make(map[string]string, len(attrs)/2)
		}
		ev.Attrs[attrs[i]] = attrs[i+1]
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.last++
	ev.Seq = j.last
	j.ring[(ev.Seq-1)%uint64(len(j.ring))] = ev
	close(j.more)
	j.more = make(chan struct{})
}

// after returns the kept events above since, oldest first, and a channel that is closed when
// there are more.
func (j *journal) after(since uint64) ([]control.Event, <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if since > j.last {
		since = 0 // a number of an earlier process
	}
	if n := uint64(len(j.ring)); j.last > n {
		since = max(since, j.last-n)
	}
	var out []control.Event
	for s := since + 1; s <= j.last; s++ {
		out = append(out, j.ring[(s-1)%uint64(len(j.ring))])
	}
	return out, j.more
}

// read is Backend.Events.
func (j *journal) read(ctx context.Context, since uint64, follow bool, fn func(control.Event) error) error {
	for {
		evs, more := j.after(since)
		for _, ev := range evs {
			if err := fn(ev); err != nil {
				return err
			}
			since = ev.Seq
		}
		if !follow {
			return nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil
		}
	}
}
