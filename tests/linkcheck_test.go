package tests

import (
	"encoding/json"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

// proxy passes connections on to one address, and holds back or breaks what passes when told to.
type proxy struct {
	t  testing.TB
	ln net.Listener

	mu    sync.Mutex
	to    string
	held  chan struct{} // not nil: nothing passes until it is closed
	conns map[net.Conn]bool
	done  bool
	wg    sync.WaitGroup
}

func newProxy(t testing.TB) *proxy {
	p := &proxy{t: t, ln: listen(t), conns: map[net.Conn]bool{}}
	p.wg.Go(func() {
		for {
			c, err := p.ln.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.pass(c) })
		}
	})
	t.Cleanup(func() {
		p.mu.Lock()
		p.done = true
		p.mu.Unlock()
		p.ln.Close()
		p.release()
		p.cut()
		p.wg.Wait()
	})
	return p
}

// aim returns the proxy's address after it was told where to pass things on to.
func (p *proxy) aim(to string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.to = to
	return p.ln.Addr().String()
}

func (p *proxy) pass(a net.Conn) {
	p.mu.Lock()
	to := p.to
	p.mu.Unlock()
	b, err := net.Dial("tcp", to)
	if err != nil {
		a.Close()
		return
	}
	p.mu.Lock()
	p.conns[a], p.conns[b] = true, true
	done := p.done
	p.mu.Unlock()
	if done {
		a.Close()
		b.Close()
	}
	var both sync.WaitGroup
	both.Go(func() { p.copy(a, b) })
	both.Go(func() { p.copy(b, a) })
	both.Wait()
	p.mu.Lock()
	delete(p.conns, a)
	delete(p.conns, b)
	p.mu.Unlock()
}

func (p *proxy) copy(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		held := p.held
		p.mu.Unlock()
		if held != nil {
			<-held
		}
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}

// hold lets nothing pass until release.
func (p *proxy) hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held == nil && !p.done {
		p.held = make(chan struct{})
	}
}

func (p *proxy) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held != nil {
		close(p.held)
		p.held = nil
	}
}

// cut breaks all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

// measured runs a link check from n1 to n2 and calls disturb when it has begun.
func measured(t testing.TB, c *cluster.Cluster, duration string, disturb func()) (control.LinkReport, int) {
	t.Helper()
	p := proc.Start(t, cluster.Binary(t), "link-check", "n2", "--socket", c.Node("n1").ControlSocket, "--duration", duration, "--json")
	if disturb != nil {
		disturb()
	}
	out, err := p.Wait(t)
	code := 0
	if err != nil {
		code = p.Cmd.ProcessState.ExitCode()
	}
	var rep control.LinkReport
	if err := json.Unmarshal([]byte(out), &rep); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	return rep, code
}

// The probes go out over a proxy, as do all connections that n1 makes to n2. A busy machine holds packets
// back, too, so only what is sure whatever it does is demanded.
func TestLinkCheck_ThroughAProxyThatHoldsBackAndBreaks(t *testing.T) {
	p := newProxy(t)
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB, Configure: through(p.aim)})

	rep, code := measured(t, c, "2s", nil)
	if rep.Sent != 100 || rep.Answered < 90 || rep.Lost != 0 || rep.Addr != p.ln.Addr().String() || (code == 0) != (rep.Verdict == control.LinkGood) {
		t.Errorf("undisturbed: exit %d, %+v", code, rep)
	}

	rep, code = measured(t, c, "4s", func() {
		hold := time.AfterFunc(1500*time.Millisecond, p.hold)
		release := time.AfterFunc(2200*time.Millisecond, p.release)
		t.Cleanup(func() { hold.Stop(); release.Stop() })
	})
	if code != 6 || rep.Verdict == control.LinkGood || rep.LongestGap < 500*time.Millisecond || rep.Late == 0 || rep.Lost != 0 || rep.Reliability > 95 {
		t.Errorf("0.7 s held back: exit %d, %+v", code, rep)
	}
	if rep.LongestGap < 1200*time.Millisecond && (rep.Verdict != control.LinkSlow || !strings.Contains(rep.Text, `timing = "wan"`)) {
		t.Errorf("a gap of %v fits the wan preset: %s: %s", rep.LongestGap, rep.Verdict, rep.Text)
	}

	rep, code = measured(t, c, "6s", func() {
		hold := time.AfterFunc(1500*time.Millisecond, p.hold)
		release := time.AfterFunc(4500*time.Millisecond, p.release)
		t.Cleanup(func() { hold.Stop(); release.Stop() })
	})
	if code != 6 || rep.Verdict != control.LinkUnfit || rep.LongestGap < 2500*time.Millisecond {
		t.Errorf("3 s held back: exit %d, %+v", code, rep)
	}

	rep, code = measured(t, c, "3s", func() {
		cut := time.AfterFunc(1500*time.Millisecond, p.cut)
		t.Cleanup(func() { cut.Stop() })
	})
	if rep.Broken == 0 || rep.Answered < 60 {
		t.Errorf("a broken connection: exit %d, %+v", code, rep)
	}

	if res := c.CLI("n1", "link-check", "n1"); res.Code != 2 {
		t.Errorf("to itself: %v", res)
	}
	c.Kill("n2")
	if res := c.CLI("n1", "link-check", "n2", "--count", "5"); res.Code != 4 {
		t.Errorf("to a node that is down: %v", res)
	}
}

func TestLinkCheck_ASlowLinkIsGoodForTheWanPreset(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB, Configure: func(n *config.Node) {
		n.Timing, n.BeaconInterval, n.Lease = "wan", 500*time.Millisecond, 2*time.Second
		n.PeerTimeout, n.DropGrace = 10*time.Second, time.Second
	}})
	rep, code := measured(t, c, "2s", nil)
	if code != 0 || rep.Verdict != control.LinkGood || !strings.Contains(rep.Text, "the wan preset") {
		t.Errorf("exit %d, %+v", code, rep)
	}
}
