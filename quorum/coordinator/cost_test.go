package coordinator

import (
	"fmt"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/quorum"
)

// busy is a leader with n resources of three replicas each, all well.
func busy(t testing.TB, n int) (c *Coordinator, reports []Report) {
	t.Helper()
	g := newRig(t, quorum.Policy{}, "A", "B", "C")
	s := *g.s
	s.Resources = nil
	for i := range n {
		r := *g.r0()
		r.Name, r.ID = fmt.Sprintf("r%03d", i), uint64(1000+i)
		s.Resources = append(s.Resources, r)
	}
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	c, err := New(Config{Node: "W", NewID: g.newID})
	if err != nil {
		t.Fatal(err)
	}
	c.Step(Event{Kind: EvState, State: &s}, nil)
	c.Step(Event{Kind: EvLead, On: true}, nil)
	for i := range n {
		for _, h := range g.hosts {
			h.heard = 0
			rep := g.says(h)
			rep.Resource, rep.ResourceID = s.Resources[i].Name, s.Resources[i].ID
			reports = append(reports, rep)
			c.Step(Event{Kind: EvReport, Report: rep}, nil)
		}
	}
	return c, reports
}

func TestCost_ATickWithAHundredResourcesAllocatesNothing(t *testing.T) {
	c, reports := busy(t, 100)
	now, next := time.Duration(0), 0
	out := make([]Action, 0, 8)
	state := c.state
	if allocs := testing.AllocsPerRun(200, func() {
		now += TickInterval
		for range len(reports) / 2 {
			out = c.Step(Event{Kind: EvReport, Now: now, Report: reports[next%len(reports)]}, out)
			next++
		}
		out = c.Step(Event{Kind: EvState, Now: now, State: state}, out)
		out = c.Step(Event{Kind: EvTick, Now: now}, out)
	}); allocs != 0 || len(out) != 0 {
		t.Errorf("%v allocations, %d actions", allocs, len(out))
	}
}

func BenchmarkTick_100Resources(b *testing.B) {
	c, reports := busy(b, 100)
	now := time.Duration(0)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if now += TickInterval; i%4 == 0 {
			for _, r := range reports {
				c.Step(Event{Kind: EvReport, Now: now, Report: r}, nil)
			}
		}
		c.Step(Event{Kind: EvTick, Now: now}, nil)
	}
}
