package load

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lockstep-ha/lockstep/tests/internal/history"
)

const (
	// tryEvery is the time between two questions to a server that does not grant the export.
	tryEvery = 5 * time.Millisecond
	// tryFor bounds one question: a server that is cut off does not even refuse.
	tryFor = 250 * time.Millisecond
	// stallAfter is how long a connection may be silent before the other servers are asked.
	stallAfter = 150 * time.Millisecond
	// stopAfter is how long Stop waits for answers to what is under way.
	stopAfter = 2 * time.Second
)

// Server is a place where the device may be served.
type Server struct {
	Name string // where the history says that it was
	URI  string // nbd:// or nbd+unix://
	// Dial opens the connection, for instance from inside a network namespace. nil: a net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Options of Start.
type Options struct {
	Servers []Server // one of which is the primary, most of the time
	Pinned  []Server // each has one more client, which never leaves it
	History *history.History
	Conns   int           // connections; 0: 4
	Depth   int           // slots of each; 0: 4
	Pause   time.Duration // of each slot between two requests, on average; 0: none
	Hot     int64         // blocks that are used, in runs of 8 spread over the device; 0: 512
	Seed    uint64
}

// Load is a client at work.
type Load struct {
	opts   Options
	cancel context.CancelFunc
	wg     sync.WaitGroup
	search chan struct{} // capacity 1: held by the one that searches
	moves  atomic.Int64

	mu    sync.Mutex
	found int // index of the server that granted the export last
}

// Start begins to work.
func Start(opts Options) *Load {
	if opts.Conns == 0 {
		opts.Conns = 4
	}
	if opts.Depth == 0 {
		opts.Depth = 4
	}
	if opts.Hot == 0 {
		opts.Hot = 512
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &Load{opts: opts, cancel: cancel, search: make(chan struct{}, 1)}
	for i := range opts.Conns {
		var slots []*slot
		for k := range opts.Depth {
			slots = append(slots, l.slot(uint64(i*opts.Depth+k)))
		}
		l.wg.Go(func() { l.follow(ctx, slots) })
	}
	for i, s := range opts.Pinned {
		l.wg.Go(func() { stay(ctx, s, l.slot(uint64(opts.Conns*opts.Depth+i))) })
	}
	return l
}

// slot makes the slot numbered n.
func (l *Load) slot(n uint64) *slot {
	return &slot{
		h: l.opts.History, hot: l.opts.Hot, pause: l.opts.Pause,
		rng: rand.New(rand.NewPCG(l.opts.Seed, n)),
	}
}

// Stop ends the work. Requests that are not answered in time stay unanswered.
func (l *Load) Stop() {
	l.cancel()
	l.wg.Wait()
}

// Moves returns how often a connection was made, the first ones included.
func (l *Load) Moves() int64 { return l.moves.Load() }

// follow keeps one connection to whoever is primary.
func (l *Load) follow(ctx context.Context, slots []*slot) {
	var s *session
	for {
		if s == nil {
			if s = l.find(ctx, ""); s == nil {
				return
			}
		}
		l.moves.Add(1)
		s = l.use(ctx, s, slots)
	}
}

// use works on a connection until it ends or is left for another, which is returned.
func (l *Load) use(ctx context.Context, s *session, slots []*slot) *session {
	var wg sync.WaitGroup
	for _, sl := range slots {
		wg.Go(func() { sl.run(ctx, s) })
	}
	ended := make(chan struct{})
	go func() {
		wg.Wait()
		close(ended)
	}()
	next := l.untilStalled(ctx, s, ended)
	s.client.Abort()
	<-ended
	return next
}

// untilStalled returns when the slots of a session have ended, or with a session of another server
// when this one is silent and that one is not.
func (l *Load) untilStalled(ctx context.Context, s *session, ended <-chan struct{}) (next *session) {
	tick := time.NewTicker(stallAfter / 5)
	defer tick.Stop()
	var late <-chan time.Time
	stopping := ctx.Done()
	for {
		select {
		case <-ended:
			return nil
		case <-late:
			return nil
		case <-stopping:
			timer := time.NewTimer(stopAfter)
			defer timer.Stop()
			late, stopping = timer.C, nil
		case <-tick.C:
			if late == nil && s.silent() > stallAfter {
				if next = l.findOther(ctx, s, ended); next != nil {
					return next
				}
			}
		}
	}
}

// findOther asks the other servers until one grants the export, s answers, or its slots have ended.
func (l *Load) findOther(ctx context.Context, s *session, ended <-chan struct{}) *session {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	result := make(chan *session, 1)
	go func() { result <- l.find(ctx, s.name) }()
	tick := time.NewTicker(tryEvery)
	defer tick.Stop()
	for {
		select {
		case next := <-result:
			return next
		case <-ended:
			cancel()
			ended = nil
		case <-tick.C:
			if s.silent() < stallAfter {
				cancel()
			}
		}
	}
}
