package linkcheck

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
)

const (
	// maxPending bounds the probes without an answer on one connection, so that they fit into the
	// buffers of the kernel and no write waits.
	maxPending = 500
	dialWithin = 5 * time.Second
	// reportEvery is the time between two words of progress.
	reportEvery = time.Second
)

// Config of Run. All of it is required.
type Config struct {
	From, To, Addr string
	Timing         control.Timing
	Slower         []control.Timing // presets to fall back on, the fastest first
	Count          int
	Interval       time.Duration
	Timeout        time.Duration
	Dial           func(ctx context.Context) (net.Conn, error) // to the echo of To
}

// run is one measurement; its own goroutine alone touches it.
type run struct {
	cfg     Config
	tally   *Tally
	start   time.Time
	conn    net.Conn // nil: there is none
	dialing bool
	pending map[uint64]time.Duration // probes on conn without an answer: when they were sent
	number  uint64
	dials   chan dialed // capacity 1
	answers chan answer // capacity maxPending
	work    sync.WaitGroup
}

type dialed struct {
	conn net.Conn
	err  error
}

// answer is what the reader of a connection found; err ends the connection.
type answer struct {
	conn   net.Conn
	number uint64
	at     time.Duration
	err    error
}

// Run measures until all probes are sent and answered or late, or ctx ends, calling progress about once a
// second; an error of progress ends it and is returned. Errors: of the first dial, of ctx.
func Run(ctx context.Context, cfg Config, progress func(control.LinkReport) error) (control.LinkReport, error) {
	ctx, cancel := context.WithCancel(ctx)
	r := &run{
		cfg: cfg, tally: NewTally(cfg.Timing, cfg.Interval, cfg.Timeout), pending: map[uint64]time.Duration{},
		dials: make(chan dialed, 1), answers: make(chan answer, maxPending),
	}
	conn, err := r.dial(ctx)
	if err != nil {
		cancel()
		return control.LinkReport{}, err
	}
	r.start = time.Now()
	r.use(ctx, conn)
	err = r.loop(ctx, progress)
	cancel()
	r.drop()
	r.work.Wait()
	if len(r.dials) > 0 {
		if d := <-r.dials; d.conn != nil {
			d.conn.Close()
		}
	}
	if err != nil {
		return control.LinkReport{}, err
	}
	r.tally.End(r.now())
	rep := r.report()
	Judge(&rep, cfg.Interval, cfg.Slower)
	return rep, nil
}

func (r *run) now() time.Duration { return time.Since(r.start) }

func (r *run) report() control.LinkReport {
	rep := control.LinkReport{From: r.cfg.From, To: r.cfg.To, Addr: r.cfg.Addr, Timing: r.cfg.Timing}
	r.tally.Report(&rep)
	return rep
}

func (r *run) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialWithin)
	defer cancel()
	return r.cfg.Dial(ctx)
}

// loop sends the probes and takes the answers.
func (r *run) loop(ctx context.Context, progress func(control.LinkReport) error) error {
	tick := time.NewTicker(r.cfg.Interval)
	defer tick.Stop()
	word := time.NewTicker(reportEvery)
	defer word.Stop()
	var end <-chan time.Time // set when all probes are sent
	for sent := 0; ; {
		if sent == r.cfg.Count && r.conn != nil && len(r.pending) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-end:
			return nil
		case <-tick.C:
			if sent == r.cfg.Count {
				continue
			}
			r.probe(ctx)
			if sent++; sent == r.cfg.Count {
				last := time.NewTimer(r.cfg.Timeout)
				defer last.Stop()
				end = last.C
			}
		case d := <-r.dials:
			r.dialing = false
			if d.err != nil {
				r.tally.Break(r.now())
				continue
			}
			r.use(ctx, d.conn)
		case a := <-r.answers:
			r.take(a)
		case <-word.C:
			if err := progress(r.report()); err != nil {
				return err
			}
		}
	}
}

// probe sends the next probe, or begins to dial when there is no connection.
func (r *run) probe(ctx context.Context) {
	at := r.now()
	r.tally.Send(at)
	switch {
	case r.conn == nil && !r.dialing:
		r.dialing = true
		r.work.Go(func() {
			conn, err := r.dial(ctx)
			r.dials <- dialed{conn, err}
		})
		return
	case r.conn == nil, len(r.pending) >= maxPending:
		return
	}
	r.number++
	var b [frameSize]byte
	frame{number: r.number}.encode(&b)
	_ = r.conn.SetWriteDeadline(time.Now().Add(r.cfg.Timeout))
	r.pending[r.number] = at
	if _, err := r.conn.Write(b[:]); err != nil {
		r.tally.Break(at)
		r.drop()
	}
}

// use sends on conn from now on, and starts its reader, which ends with conn.
func (r *run) use(ctx context.Context, conn net.Conn) {
	r.conn = conn
	r.work.Go(func() {
		for {
			f, err := readFrame(conn)
			select {
			case r.answers <- answer{conn, f.number, r.now(), err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	})
}

// take notes an answer of the present connection, or its end.
func (r *run) take(a answer) {
	if a.conn != r.conn {
		return // of one that was given up
	}
	if a.err != nil {
		r.tally.Break(a.at)
		r.drop()
		return
	}
	sent, ok := r.pending[a.number]
	if !ok {
		return // twice, or never asked
	}
	delete(r.pending, a.number)
	r.tally.Answer(sent, a.at)
}

// drop closes the connection; what was on its way is lost.
func (r *run) drop() {
	if r.conn != nil {
		r.conn.Close()
		r.conn = nil
	}
	clear(r.pending)
}
