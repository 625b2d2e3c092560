package ledger

import (
	"context"
	"sync"

	"github.com/lockstep-ha/lockstep/quorum"
)

// Subscribe has f called with the newest state, now if there is one, and after it has moved.
// States come in order; one that is overtaken by the next may be left out, the newest never is.
// All subscribers are called from one goroutine, so f should be quick. The returned function
// ends the subscription; a call that has begun may still be running when it returns.
func (l *Ledger) Subscribe(f func(*quorum.State)) (cancel func()) { return l.subs.add(f) }

// subscribers calls those who want to know of a new state.
type subscribers struct {
	wake chan struct{} // capacity 1

	mu   sync.Mutex
	next int
	all  []*subscriber
}

type subscriber struct {
	id   int
	f    func(*quorum.State)
	seen *quorum.State // only the notifier's
}

func (s *subscribers) add(f func(*quorum.State)) func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	id := s.next
	s.all = append(s.all, &subscriber{id: id, f: f})
	s.signal()
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for i, x := range s.all {
			if x.id == id {
				s.all = append(append([]*subscriber(nil), s.all[:i]...), s.all[i+1:]...)
				return
			}
		}
	}
}

func (s *subscribers) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *subscribers) run(ctx context.Context, newest func() *quorum.State) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		}
		s.mu.Lock()
		all := s.all
		s.mu.Unlock()
		st := newest()
		for _, x := range all {
			if st != nil && x.seen != st {
				x.seen = st
				x.f(st)
			}
		}
	}
}
