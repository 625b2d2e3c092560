package linkcheck

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
)

// echoes hands out connections to an echo, and waits for its ends.
type echoes struct {
	t     *testing.T
	wg    sync.WaitGroup
	mu    sync.Mutex
	conns []net.Conn
	down  error // of dial
}

func (e *echoes) dial(ctx context.Context) (net.Conn, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.down != nil {
		return nil, e.down
	}
	near, far := net.Pipe()
	e.conns = append(e.conns, far)
	e.wg.Go(func() {
		if err := Serve(e.t.Context(), far); err != nil {
			e.t.Error(err)
		}
	})
	return near, nil
}

// cut breaks all connections and answers every further dial with err.
func (e *echoes) cut(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.down = err
	for _, c := range e.conns {
		c.Close()
	}
	e.conns = nil
}

func config(e *echoes, count int) Config {
	return Config{From: "n1", To: "n2", Addr: "there", Timing: lan, Slower: []control.Timing{lan, wan},
		Count: count, Interval: 20 * ms, Timeout: lan.Lease, Dial: e.dial}
}

func silentProgress(control.LinkReport) error { return nil }

func TestRun_MeasuresAnEcho(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &echoes{t: t}
		words := 0
		rep, err := Run(t.Context(), config(e, 200), func(control.LinkReport) error { words++; return nil })
		e.wg.Wait()
		if err != nil || rep.Verdict != control.LinkGood || rep.Sent != 200 || rep.Answered != 200 || rep.Broken != 0 {
			t.Errorf("%+v, %v", rep, err)
		}
		if words != 3 && words != 4 { // 4 s, a word each second
			t.Errorf("%d words of progress", words)
		}
	})
}

func TestRun_CountsWhatABrokenConnectionTakes_AndConnectsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &echoes{t: t}
		words := 0
		rep, err := Run(t.Context(), config(e, 250), func(control.LinkReport) error {
			switch words++; words {
			case 1:
				e.cut(errors.New("refused"))
			case 2:
				e.cut(nil)
			}
			return nil
		})
		e.wg.Wait()
		if err != nil || rep.Lost < 45 || rep.Lost > 60 || rep.Broken < 2 || rep.Answered+rep.Lost != 250 {
			t.Errorf("%+v, %v", rep, err)
		}
		if rep.Verdict != control.LinkSlow || rep.LongestGap < time.Second || rep.Reliability > 90 {
			t.Errorf("a second without a connection: %s, gap %v, reliability %v", rep.Verdict, rep.LongestGap, rep.Reliability)
		}
	})
}

func TestRun_EndsWithTheFirstDial_WithProgress_AndWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused, enough := errors.New("refused"), errors.New("enough")
		if _, err := Run(t.Context(), config(&echoes{t: t, down: refused}, 10), silentProgress); !errors.Is(err, refused) {
			t.Errorf("first dial: %v", err)
		}
		e := &echoes{t: t}
		if _, err := Run(t.Context(), config(e, 1000), func(control.LinkReport) error { return enough }); !errors.Is(err, enough) {
			t.Errorf("progress: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := Run(ctx, config(e, 1000), silentProgress); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("context: %v", err)
		}
		e.wg.Wait()
	})
}

func TestServe_RefusesWhatIsNoFrame(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	done := make(chan error, 1)
	go func() { done <- Serve(t.Context(), far) }()
	if _, err := near.Write(make([]byte, frameSize)); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, errFrame) {
		t.Errorf("%v", err)
	}
}

func TestCompare_TellsAClockThatIsAhead(t *testing.T) {
	begin := time.Now().UnixNano()
	for _, ahead := range []time.Duration{0, 3 * time.Second, -3 * time.Second} {
		// 10 ms there, 2 ms at the echo, 10 ms back.
		f := frame{came: begin + int64(ahead+10*ms), answered: begin + int64(ahead+12*ms)}
		if c := compare(begin, f, 22*ms); c.Ahead != ahead || c.Error != 10*ms || c.RTT != 22*ms {
			t.Errorf("ahead by %v: %+v", ahead, c)
		}
		// All of the way there: the estimate is wrong by no more than it says.
		f = frame{came: begin + int64(ahead+20*ms), answered: begin + int64(ahead+22*ms)}
		if c := compare(begin, f, 22*ms); (c.Ahead - ahead).Abs() > c.Error {
			t.Errorf("ahead by %v, one way slow: %+v", ahead, c)
		}
	}
}

func FuzzDecode(f *testing.F) {
	var b [frameSize]byte
	frame{7, 8, 9}.encode(&b)
	f.Add(b[:])
	f.Fuzz(func(t *testing.T, in []byte) {
		var b, again [frameSize]byte
		if copy(b[:], in) < frameSize {
			return
		}
		fr, err := decode(&b)
		if err != nil {
			return
		}
		if fr.encode(&again); again != b {
			t.Errorf("%x decodes to %+v, which is %x", b, fr, again)
		}
	})
}
