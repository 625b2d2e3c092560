package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/fencing"
	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/memnet"
	"github.com/lockstep-ha/lockstep/quorum"
)

// plugs turns nodes of a bubble off, as one device that all of them use.
type plugs struct {
	w *bubble

	mu    sync.Mutex
	takes time.Duration       // how long the device takes before the node is off
	fault map[string]error    // by node: its fence does not work
	shots []string            // "n1>n2", in the order of firing
	off   map[string]struct{} // nodes that are off
}

// outlet is the device as one node uses it.
type outlet struct {
	*plugs
	node string
}

func (o outlet) Can(node string) bool { return node != o.node }

// Fence takes the target off the network at once, as a power failure would, and ends its process.
func (o outlet) Fence(ctx context.Context, req fencing.Request) (string, error) {
	if req.Still != nil {
		if err := req.Still(ctx); err != nil {
			return "", fmt.Errorf("%w: %w", fencing.ErrWithdrawn, err)
		}
	}
	o.mu.Lock()
	if _, off := o.off[o.node]; off { // its daemon runs on in the bubble, as nobody can end it from here
		o.mu.Unlock()
		return "", errors.New("a node that is off reaches nothing")
	}
	o.shots = append(o.shots, o.node+">"+req.Node)
	err, takes := o.fault[req.Node], o.takes
	o.mu.Unlock()
	if errors.Is(err, fencing.ErrTimeout) {
		takes = 50 * time.Second
	}
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if err != nil {
		return "", err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.off[req.Node] = struct{}{}
	o.w.isolate(req.Node, true)
	return "the plug of " + req.Node + " is off", nil
}

func (o outlet) Test(context.Context, fencing.Target) fencing.Report {
	return fencing.Report{Works: true}
}
func (o outlet) History() []fencing.Attempt { return nil }
func (o outlet) Unfence(_ context.Context, t fencing.Target) ([]fencing.Attempt, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.off, t.Node)
	return nil, nil
}

func (p *plugs) fired() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.shots)
}

// fail has every fence of node fail with err.
func (p *plugs) fail(node string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault[node] = err
}

// inPair runs f with two data nodes without a witness, r0 in sync on them, n1 its primary, and a device
// that turns either off.
func inPair(t *testing.T, f func(w *bubble, p *plugs)) {
	t.Helper()
	inBubble(t, []string{"n1", "n2"}, func(w *bubble) {
		p := &plugs{w: w, takes: time.Second, fault: map[string]error{}, off: map[string]struct{}{}}
		w.arms = func(node string) armory { return outlet{p, node} }
		w.startAll()
		w.create()
		memnet.Pass(2 * time.Second)
		f(w, p)
	})
}

// recorded returns the fence of target that the ledger on node records.
func (w *bubble) recorded(node, target string) *control.FenceRecord {
	w.Helper()
	h, err := w.client(node).FenceHistory(w.Context())
	check(w.T, "fence history", err)
	for _, f := range h.Recorded {
		if f.Node == target {
			return &f
		}
	}
	return nil
}

// blackout ends a node without a word: what is left of its daemon finds nobody any more.
func (w *bubble) blackout(node string) {
	w.isolate(node, true)
	w.crash(node)
}

func TestPair_OneIsLost_TheOtherShootsItAndGoesOnAlone(t *testing.T) {
	for name, tc := range map[string]struct {
		lose  func(w *bubble)
		alone string
		gone  string
		limit time.Duration
	}{
		"the secondary dies": {func(w *bubble) { w.blackout("n2") }, "n1", "n2", 8 * time.Second},
		"the primary dies":   {func(w *bubble) { w.blackout("n1") }, "n2", "n1", 16 * time.Second},
		// Both live, and the one that is primary is favoured.
		"the link is cut": {func(w *bubble) { w.split("n1", "n2") }, "n1", "n2", 8 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inPair(t, func(w *bubble, p *plugs) {
				model := make([]byte, bubbleSize)
				conn := w.mustOpen("n1")
				writeAt(w.T, conn, model, 0, pattern(1, 100_000))
				conn.Close()
				tc.lose(w)
				if took := w.serves(tc.alone); took > tc.limit {
					w.Errorf("%s served after %v, not within %v", tc.alone, took, tc.limit)
				}
				conn = w.mustOpen(tc.alone)
				writeAt(w.T, conn, model, 50_000, pattern(2, 100_000))
				conn.Close()
				if got := p.fired(); !slices.Equal(got, []string{tc.alone + ">" + tc.gone}) {
					w.Errorf("fired: %v", got)
				}
				w.until(tc.alone, "the fence is recorded", func(control.Status, control.Resource) bool {
					f := w.recorded(tc.alone, tc.gone)
					return f != nil && f.Phase == control.FenceConfirmed && f.By == tc.alone && strings.Contains(f.Text, "the plug of "+tc.gone+" is off")
				})
			})
		})
	}
}

func TestPair_WithoutAProofNobodyGoesOn_AndTheOperatorIsTold(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		says string
	}{
		"the fence fails": {fmt.Errorf("%w: the plug says that it is on", fencing.ErrUnproven), "the plug says that it is on"},
		"the fence hangs": {fmt.Errorf("off: %w", fencing.ErrTimeout), "no answer in time"},
	} {
		t.Run(name, func(t *testing.T) {
			inPair(t, func(w *bubble, p *plugs) {
				p.fail("n1", tc.err)
				w.blackout("n1")
				memnet.Pass(5 * time.Minute)
				st, err := w.client("n2").Status(w.Context(), "r0")
				check(w.T, "status", err)
				if st.Ledger.Quorum || st.Resources[0].Role == control.RolePrimary || st.Resources[0].Epoch != 1 {
					w.Errorf("it went on: %+v", st)
				}
				if advice := strings.Join(st.Resources[0].Advice, " "); !strings.Contains(advice, tc.says) || !strings.Contains(advice, "confirm-down n1") {
					w.Errorf("advice: %s", advice)
				}
				if n := len(p.fired()); n < 3 || n > 8 {
					w.Errorf("fired %d times in five minutes", n)
				}
				p.fail("n1", nil) // somebody has mended the device
				memnet.Pass(5 * time.Minute)
				w.serves("n2")
			})
		})
	}
}

func TestPair_FavouredOnesFenceFails_TheOtherOneGoesOn(t *testing.T) {
	inPair(t, func(w *bubble, p *plugs) {
		p.fail("n2", fmt.Errorf("%w: no route to the plug", fencing.ErrUnproven))
		w.split("n1", "n2")
		w.serves("n2")
		if got := p.fired(); !slices.Equal(got, []string{"n1>n2", "n2>n1"}) {
			w.Errorf("fired: %v", got)
		}
		memnet.Pass(time.Minute)
		w.serves("n2")
	})
}

// Neither of two voters decides anything alone, so who stops takes its vote along only when the other one has
// done without it.
func TestPair_OneIsStopped_TheOtherGoesOnAtOnce_AndNobodyIsShot(t *testing.T) {
	for _, tc := range []struct{ stops, stays string }{{"n2", "n1"}, {"n1", "n2"}} {
		t.Run(tc.stops, func(t *testing.T) {
			for i := range 5 { // at different moments between two beacons
				inPair(t, func(w *bubble, p *plugs) {
					model := make([]byte, bubbleSize)
					conn := w.mustOpen("n1")
					writeAt(w.T, conn, model, 0, pattern(1, 100_000))
					conn.Close()
					memnet.Pass(time.Duration(i) * 23 * time.Millisecond)
					took := w.stop(tc.stops)
					if took >= lingerTimeout {
						w.Errorf("it took %v to stop %s", took, tc.stops)
					}
					if took := w.serves(tc.stays); took > 200*time.Millisecond {
						w.Errorf("%s served %v later", tc.stays, took)
					}
					conn = w.mustOpen(tc.stays)
					writeAt(w.T, conn, model, 50_000, pattern(2, 100_000))
					conn.Close()
					w.start(tc.stops)
					w.untilInSync(tc.stays, "n1", "n2")
					if got := p.fired(); len(got) > 0 {
						w.Errorf("fired: %v", got)
					}
					w.Logf("stopped in %v", took)
				})
			}
		})
	}
}

func TestPair_BothAreStopped_NeitherWaitsForTheOther(t *testing.T) {
	inPair(t, func(w *bubble, _ *plugs) {
		if took := w.stop("n1", "n2"); took >= lingerTimeout {
			w.Errorf("it took %v", took)
		}
	})
}

func TestPair_NobodyIsShot(t *testing.T) {
	for name, tc := range map[string]struct {
		lose func(w *bubble)
		node string // that is left
		says string
	}{
		"a daemon is stopped on purpose": {func(w *bubble) { w.stop("n2") }, "n1", "said that its daemon stops"},
		"failover is paused": {func(w *bubble) {
			check(w.T, "pause", w.client("n1").PauseFailover(w.Context(), "r0", true, "maintenance"))
			memnet.Pass(time.Second)
			w.blackout("n2")
		}, "n1", "failover of r0 is paused"},
		"the fencing is manual": {func(w *bubble) {
			manual := string(quorum.FencingManual)
			check(w.T, "set", w.client("n1").Set(w.Context(), "r0", control.Settings{Fencing: &manual}))
			memnet.Pass(time.Second)
			w.blackout("n1")
		}, "n2", "fencing of r0 is manual"},
		"the daemon that is left was started again": {func(w *bubble) {
			w.blackout("n1")
			w.crash("n2")
			w.start("n2")
		}, "n2", "did not hold the connection"},
		"a daemon is started again quickly": {func(w *bubble) {
			w.blackout("n2")
			w.isolate("n2", false)
			w.start("n2")
		}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			inPair(t, func(w *bubble, p *plugs) {
				tc.lose(w)
				memnet.Pass(time.Minute)
				if got := p.fired(); len(got) > 0 {
					w.Errorf("fired: %v", got)
				}
				if tc.node == "" {
					w.untilInSync("n1", "n1", "n2")
					return
				}
				st, err := w.client(tc.node).Status(w.Context(), "r0")
				check(w.T, "status", err)
				if advice := strings.Join(st.Resources[0].Advice, " "); !strings.Contains(advice, tc.says) {
					w.Errorf("advice of %s: %s", tc.node, advice)
				}
			})
		})
	}
}

func TestPair_ShotNodeReturns_AsAResyncTargetAndThenAsAVoter_ThereAndBack(t *testing.T) {
	inPair(t, func(w *bubble, p *plugs) {
		model := make([]byte, bubbleSize)
		for i, turn := range []struct{ stays, shot string }{{"n1", "n2"}, {"n2", "n1"}} {
			if i == 0 {
				w.split("n1", "n2") // n2 lives on, until it is shot
			} else {
				w.blackout(turn.shot)
			}
			w.serves(turn.stays)
			conn := w.mustOpen(turn.stays)
			writeAt(w.T, conn, model, i*100_000, pattern(uint64(i), 200_000))
			w.crash(turn.shot)
			w.isolate(turn.shot, false)
			memnet.Pass(time.Second)
			w.start(turn.shot)
			// All nodes here have one boot, the machine's, so the ledger takes it for what was shot.
			memnet.Pass(10 * time.Second)
			if f := w.recorded(turn.stays, turn.shot); f == nil || f.Phase != control.FenceConfirmed {
				w.Fatalf("recorded: %+v", f)
			}
			res, err := w.client(turn.stays).Unfence(w.Context(), turn.shot)
			check(w.T, "unfence", err)
			if res.Was == nil || res.Was.Phase != control.FenceConfirmed {
				w.Errorf("%+v", res)
			}
			w.untilInSync(turn.stays, "n1", "n2")
			w.until(turn.stays, turn.shot+" votes", func(st control.Status, _ control.Resource) bool {
				return st.Ledger.Quorum && !slices.ContainsFunc(st.Nodes, func(n control.Node) bool { return !n.Voter })
			})
			conn.Close()
			memnet.Pass(3 * time.Second)
		}
		w.sameDisks(model)
	})
}
