package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/lockstep-ha/lockstep/internal/lab"
	"github.com/lockstep-ha/lockstep/tests/internal/userdev"
)

// scenario is a way to lose a node.
type scenario struct {
	name    string
	netns   bool
	mounted bool // the load is a file system
	rests   bool // the cluster is left alone before each loss
	target  target
	lose    func(ctx context.Context, r *rig, primary, secondary string) error
	repair  func(ctx context.Context, r *rig, primary, secondary string) error // nil: nothing is broken
}

// target is what a gap should be. 0: none is set.
type target struct{ median, worst time.Duration }

var scenarios = []scenario{
	{
		name: "kill", rests: true, target: target{600 * time.Millisecond, 1500 * time.Millisecond},
		lose: killPrimary, repair: startPrimary,
	},
	{
		name: "isolation", netns: true, rests: true, target: target{0, 2 * time.Second},
		lose: func(_ context.Context, r *rig, primary, _ string) error {
			return r.lab.Isolate(primary, lab.BothWays)
		},
		repair: func(_ context.Context, r *rig, _, _ string) error { return r.lab.Heal() },
	},
	{name: "switchover", target: target{100 * time.Millisecond, 0}, lose: switchOver},
	{
		name: "secondary", target: target{0, 500 * time.Millisecond},
		lose: func(ctx context.Context, r *rig, _, secondary string) error {
			return r.lab.Kill(ctx, secondary, syscall.SIGKILL)
		},
		repair: func(ctx context.Context, r *rig, _, secondary string) error { return r.lab.Start(ctx, secondary) },
	},
	{
		name: "mounted-kill", mounted: true, rests: true, target: target{0, 1500 * time.Millisecond},
		lose: killPrimary, repair: startPrimary,
	},
	{name: "mounted-switchover", mounted: true, target: target{0, 200 * time.Millisecond}, lose: switchOver},
}

func killPrimary(ctx context.Context, r *rig, primary, _ string) error {
	return r.lab.Kill(ctx, primary, syscall.SIGKILL)
}

func startPrimary(ctx context.Context, r *rig, primary, _ string) error {
	return r.lab.Start(ctx, primary)
}

func switchOver(ctx context.Context, r *rig, primary, secondary string) error {
	return r.lab.Client(primary).Switchover(ctx, resource, secondary)
}

// result is what a scenario came to.
type result struct {
	Name    string          `json:"name"`
	Target  target          `json:"-"`
	Gaps    []time.Duration `json:"gaps_ns"` // in the order of the runs
	Verdict string          `json:"verdict"`
}

// measure runs one scenario on a cluster of its own. The result is never nil; it has the gaps up to
// the first failure.
func measure(ctx context.Context, o options, s scenario) (*result, error) {
	res := &result{Name: s.name, Target: s.target}
	if s.netns && os.Geteuid() != 0 {
		res.Verdict = "SKIPPED: network namespaces need root"
		return res, nil
	}
	if missing := userdev.Missing(); s.mounted && missing != "" {
		res.Verdict = "SKIPPED: " + missing
		return res, nil
	}
	r, err := start(ctx, o, s)
	if err != nil {
		res.Verdict = "did not start"
		return res, err
	}
	defer r.close()
	rest := time.Duration(0)
	if s.rests {
		rest = o.rest
	}
	for i := range o.runs {
		gap, err := r.once(ctx, s, rest)
		if err != nil {
			res.Verdict = "SERVICE DID NOT COME BACK"
			return res, errors.Join(fmt.Errorf("run %d: %w", i+1, err), r.keep())
		}
		res.Gaps = append(res.Gaps, gap)
		fmt.Fprintf(os.Stderr, "# %s %d: %v\n", s.name, i+1, gap.Round(time.Millisecond))
	}
	said, err := r.judge(ctx)
	res.Verdict = said
	if err != nil {
		err = errors.Join(err, r.keep())
	}
	return res, err
}

// once loses a node, measures, and makes the cluster whole again.
func (r *rig) once(ctx context.Context, s scenario, rest time.Duration) (gap time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit+rest)
	defer cancel()
	if _, err := r.whole(ctx); err != nil {
		return 0, err
	}
	timer := time.NewTimer(rest)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	primary, err := r.settled(ctx)
	if err != nil {
		return 0, err
	}
	i := slices.IndexFunc(r.data, func(n string) bool { return n != primary })
	secondary := r.data[i]
	at := r.p.Now()
	if err := s.lose(ctx, r, primary, secondary); err != nil {
		return 0, err
	}
	// So many writes, and so long, that a gap that follows the first acknowledgement is seen as well.
	if err := r.flows(ctx, 200); err != nil {
		return 0, err
	}
	gap = r.p.LongestGap(at, r.p.Now())
	if s.repair != nil {
		if err := s.repair(ctx, r, primary, secondary); err != nil {
			return gap, err
		}
	}
	return gap, r.flows(ctx, 50)
}
