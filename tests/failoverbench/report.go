package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report is all that was measured.
type report struct {
	Results []*result       `json:"results"`
	Attach  []time.Duration `json:"attach_ns,omitempty"` // in the order of the runs
	Idle    *idleResult     `json:"idle,omitempty"`
}

// idleTarget is what an idle lab of three nodes should use at most, in percent of a core.
const idleTarget = 3.0

func (r *report) print(w io.Writer) {
	fmt.Fprintf(w, "The longest time between two acknowledged writes, in ms; at most the target, in parentheses:\n\n")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "loss\truns\tmedian\t\t9 of 10\tworst\t\tchecks\n")
	for _, res := range r.Results {
		g := slices.Sorted(slices.Values(res.Gaps))
		if len(g) == 0 {
			fmt.Fprintf(t, "%s\t0\t-\t\t-\t-\t\t%s\n", res.Name, res.Verdict)
			continue
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%s\t%d\t%d\t%s\t%s\n", res.Name, len(g),
			g[len(g)/2].Milliseconds(), beside(g[len(g)/2], res.Target.median), g[len(g)*9/10].Milliseconds(),
			g[len(g)-1].Milliseconds(), beside(g[len(g)-1], res.Target.worst), res.Verdict)
	}
	t.Flush()
	if len(r.Attach) > 0 {
		a := slices.Sorted(slices.Values(r.Attach))
		worst := a[len(a)-1]
		fmt.Fprintf(w, "\nAttached, and a read answered, after %d ms in the median of %d; at worst %d %s.\n",
			a[len(a)/2].Milliseconds(), len(a), worst.Milliseconds(), beside(worst, attachTarget))
	}
	if r.Idle != nil {
		var each []string
		for _, n := range slices.Sorted(maps.Keys(r.Idle.Nodes)) {
			each = append(each, fmt.Sprintf("%s %.1f", n, r.Idle.Nodes[n]))
		}
		mark := ""
		if r.Idle.Percent >= idleTarget {
			mark = " MISSED"
		}
		fmt.Fprintf(w, "\nAn idle lab uses %.1f %% of a core (%.0f%s), over %v: %s\n",
			r.Idle.Percent, idleTarget, mark, r.Idle.For.Round(time.Second), strings.Join(each, ", "))
	}
}

// beside shows a target, and whether it was missed.
func beside(got, want time.Duration) string {
	switch {
	case want == 0:
		return ""
	case got > want:
		return fmt.Sprintf("(%d MISSED)", want.Milliseconds())
	}
	return fmt.Sprintf("(%d)", want.Milliseconds())
}
