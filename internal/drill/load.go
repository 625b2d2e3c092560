package drill

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	workers       = 4
	pace          = 2 * time.Millisecond   // between two requests of one worker: a drill is no benchmark
	redial        = 10 * time.Millisecond  // between two looks for a primary
	lookElsewhere = 100 * time.Millisecond // without an answer, after which another primary is looked for
)

// load writes and reads back on an export, wherever it is served.
type load struct {
	endpoints []endpoint
	export    string
	run       uint64
	readOnly  bool // blocks are read, and what they hold is not known
	cells     []cell
	meter     *meter

	stop   chan struct{}
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// start runs the workers until end.
func (l *load) start(ctx context.Context) {
	ctx, l.cancel = context.WithCancel(ctx)
	l.stop = make(chan struct{})
	l.meter.begin(time.Now())
	for i := range workers {
		l.wg.Go(func() { l.work(ctx, i) })
	}
}

// stopWithin is how long requests under way may take when the load ends.
const stopWithin = 2 * time.Second

// end stops the workers and returns when none runs. The outcome of a request that is not answered in time is
// unknown.
func (l *load) end() {
	close(l.stop)
	limit := time.AfterFunc(stopWithin, l.cancel)
	l.wg.Wait()
	limit.Stop()
	l.cancel()
}

func (l *load) stopping(ctx context.Context) bool {
	select {
	case <-l.stop:
		return true
	case <-ctx.Done():
		return true
	default:
		return false
	}
}

// work is one worker: the blocks whose number leaves id when divided by workers are its own.
func (l *load) work(ctx context.Context, id int) {
	rng := rand.New(rand.NewPCG(l.run, uint64(id)))
	var c *client
	defer func() {
		if c != nil {
			c.close()
		}
	}()
	buf, scratch := make([]byte, blockSize), make([]byte, blockSize)
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for n := 0; !l.stopping(ctx); n++ {
		if c == nil {
			if c = l.find(ctx, ""); c == nil {
				return
			}
		}
		if next := l.step(ctx, c, rng, id, n, buf, scratch); next != c {
			c.close()
			c = next
		}
		select {
		case <-tick.C:
		case <-l.stop:
		case <-ctx.Done():
		}
	}
}

// find returns a connection to whoever serves the export, not to except; nil when the load ends. Each node
// is asked again and again by itself: one that hangs must not hide another that serves.
func (l *load) find(ctx context.Context, except string) *client {
	ctx, cancel := context.WithCancel(ctx)
	found := make(chan *client)
	var wg sync.WaitGroup
	for _, at := range l.endpoints {
		if at.node == except {
			continue
		}
		wg.Go(func() {
			if c := l.insist(ctx, at); c != nil {
				select {
				case found <- c:
				case <-ctx.Done():
					c.close()
				}
			}
		})
	}
	defer wg.Wait()
	defer cancel()
	select {
	case c := <-found:
		return c
	case <-l.stop:
	case <-ctx.Done():
	}
	return nil
}

// insist connects to one node, as often as it takes; nil when ctx ends.
func (l *load) insist(ctx context.Context, at endpoint) *client {
	tick := time.NewTicker(redial)
	defer tick.Stop()
	for ctx.Err() == nil {
		if c, err := connect(ctx, at, l.export); err == nil {
			return c
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	return nil
}

// step makes one request and returns the connection for the next one: c, another one, or nil.
func (l *load) step(ctx context.Context, c *client, rng *rand.Rand, id, n int, buf, scratch []byte) *client {
	block := l.pick(rng, id)
	x := &l.cells[block]
	write := !l.readOnly && n%8 != 7 && !x.retired
	switch {
	case write:
		x.pending = x.acked + 1
		payload(buf, l.run, block, x.pending)
		next, err := l.carryOut(ctx, c, cmdWrite, block*blockSize, buf)
		switch {
		case err == nil:
			x.acked, x.pending = x.pending, 0
			l.meter.ack(time.Now(), false)
		case errors.Is(err, errLost):
			x.retired = true
		default:
			x.retired = true
			l.meter.fault("a write was answered with an error: %w", err)
		}
		if n%64 == 0 && err == nil {
			next, err = l.carryOut(ctx, c, cmdFlush, 0, nil)
			if err != nil && !errors.Is(err, errLost) {
				l.meter.fault("a flush was answered with an error: %w", err)
			}
		}
		return next
	default:
		next, err := l.carryOut(ctx, c, cmdRead, block*blockSize, buf)
		switch {
		case err == nil && !l.readOnly:
			err = x.judge(buf, scratch, l.run, block)
			if err != nil {
				l.meter.fault("%s answered a read wrongly: %w", c.node, err)
			}
			l.meter.ack(time.Now(), true)
		case err == nil:
			l.meter.ack(time.Now(), true)
		case !errors.Is(err, errLost):
			l.meter.fault("a read was answered with an error: %w", err)
		}
		return next
	}
}

// pick chooses a block of a worker.
func (l *load) pick(rng *rand.Rand, id int) int64 {
	own := int64(len(l.cells)) / workers
	return rng.Int64N(own)*workers + int64(id)
}

// carryOut makes a request. While no answer comes it looks for another node that serves the export, and
// moves there if it finds one. It returns the connection for the next request, which may be nil.
func (l *load) carryOut(ctx context.Context, c *client, cmd uint16, off int64, p []byte) (next *client, err error) {
	done := make(chan error, 1)
	go func() { done <- c.do(cmd, off, p) }()
	patience := time.NewTimer(lookElsewhere)
	defer patience.Stop()
	select {
	case err = <-done:
	case <-patience.C:
		found := make(chan *client, 1)
		look, cancel := context.WithCancel(ctx)
		go func() { found <- l.find(look, c.node) }()
		select {
		case err = <-done:
			cancel()
			if other := <-found; other != nil {
				other.close()
			}
		case other := <-found:
			cancel()
			c.close()
			if err = <-done; err == nil {
				return other, nil // the answer came at the last moment, and counts
			}
			return other, lostUnlessAnswered(err)
		}
		cancel()
	}
	if errors.Is(err, errLost) {
		return nil, err
	}
	return c, err
}

// lostUnlessAnswered keeps an error that the server answered with.
func lostUnlessAnswered(err error) error {
	if errors.Is(err, errLost) {
		return err
	}
	return fmt.Errorf("answered before the connection was given up: %w", err)
}

// check reads every block that was written, with no load running, and returns how many it read and what
// is wrong with them.
func (l *load) check(ctx context.Context) (read int, wrong []error, err error) {
	l.stop = make(chan struct{})
	c := l.find(ctx, "")
	if c == nil {
		return 0, nil, fmt.Errorf("nobody serves %s: %w", l.export, context.Cause(ctx))
	}
	defer c.close()
	stop := context.AfterFunc(ctx, c.close)
	defer stop()
	buf, scratch := make([]byte, blockSize), make([]byte, blockSize)
	for block := range l.cells {
		x := l.cells[block]
		if x == (cell{}) {
			continue
		}
		if err := c.do(cmdRead, int64(block)*blockSize, buf); err != nil {
			return read, wrong, fmt.Errorf("read block %d back: %w", block, err)
		}
		read++
		if err := x.judge(buf, scratch, l.run, int64(block)); err != nil {
			wrong = append(wrong, err)
		}
	}
	return read, wrong, nil
}
