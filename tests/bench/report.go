package main

import (
	"fmt"
	"io"
	"slices"
)

// results are all measures, by job and entry; the index is the round.
type results struct {
	Rounds  int                              `json:"rounds"`
	Runtime int                              `json:"runtime_s"`
	Entries []string                         `json:"entries"`
	Runs    map[string]map[string][]*measure `json:"runs"` // a run that failed is null
	Faults  map[string]string                `json:"faults,omitempty"`
	Extra   *extra                           `json:"extra,omitempty"`
}

func newResults(o options) *results {
	return &results{Rounds: o.rounds, Runtime: o.runtime, Runs: map[string]map[string][]*measure{}, Faults: map[string]string{}}
}

// add keeps one run.
func (r *results) add(job, entry string, round int, m measure, err error) {
	if r.Runs[job] == nil {
		r.Runs[job] = map[string][]*measure{}
	}
	runs := r.Runs[job][entry]
	for len(runs) <= round {
		runs = append(runs, nil)
	}
	if err == nil {
		runs[round] = &m
	} else {
		r.Faults[job+" "+entry] = err.Error()
	}
	r.Runs[job][entry] = runs
}

// peerOf names the entry that Lockstep is compared with in a job.
func peerOf(j job) string {
	if j.write {
		return "quorum-nbdkit"
	}
	return "nbdkit"
}

// ratios returns the ratios of operations per second within each round, sorted.
func (r *results) ratios(job, a, b string) []float64 {
	var out []float64
	x, y := r.Runs[job][a], r.Runs[job][b]
	for i := range min(len(x), len(y)) {
		if x[i] != nil && y[i] != nil {
			out = append(out, x[i].IOPS/y[i].IOPS)
		}
	}
	slices.Sort(out)
	return out
}

// median of sorted or unsorted values; 0 of none.
func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// of returns the median of one number over the rounds.
func (r *results) of(job, entry string, pick func(*measure) float64) float64 {
	var v []float64
	for _, m := range r.Runs[job][entry] {
		if m != nil {
			v = append(v, pick(m))
		}
	}
	return median(v)
}

func ratioText(v []float64) string {
	if len(v) == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f (%.2f-%.2f)", median(v), v[0], v[len(v)-1])
}

// print writes the table in Markdown.
func (r *results) print(w io.Writer) {
	fmt.Fprintf(w, "Medians of %d rounds of %d s, files on tmpfs; ratios are within each round (smallest-largest).\n\n", r.Rounds, r.Runtime)
	fmt.Fprintln(w, "| job | entry | op/s | MB/s | p50 us | p99 us | flush p50 us | lockstep to this |")
	fmt.Fprintln(w, "|---|---|---:|---:|---:|---:|---:|---|")
	for _, j := range jobs {
		if r.Runs[j.name] == nil {
			continue
		}
		for _, e := range r.Entries {
			if !j.write && e == "quorum-nbdkit" {
				continue // it asks all children: not a fair number
			}
			if fault := r.Faults[j.name+" "+e]; fault != "" {
				fmt.Fprintf(w, "| %s | %s | FAILED: %s |\n", j.name, e, fault)
				continue
			}
			flush := "-"
			if j.flush {
				flush = fmt.Sprintf("%.0f", r.of(j.name, e, func(m *measure) float64 { return m.Flush }))
			}
			ratio := "-"
			if e != "lockstep" {
				ratio = ratioText(r.ratios(j.name, "lockstep", e))
			}
			if e == peerOf(j) {
				ratio = "**" + ratio + "**"
			}
			fmt.Fprintf(w, "| %s | %s | %.0f | %.0f | %.0f | %.0f | %s | %s |\n", j.name, e,
				r.of(j.name, e, func(m *measure) float64 { return m.IOPS }),
				r.of(j.name, e, func(m *measure) float64 { return m.MBs }),
				r.of(j.name, e, func(m *measure) float64 { return m.P50us }),
				r.of(j.name, e, func(m *measure) float64 { return m.P99us }), flush, ratio)
		}
	}
	fmt.Fprintln(w)
	fmt.Fprintln(w, "| job | Lockstep to its peer | noise (nbdkit to nbdkit) |")
	fmt.Fprintln(w, "|---|---|---|")
	for _, j := range jobs {
		if r.Runs[j.name] != nil {
			fmt.Fprintf(w, "| %s | %s of %s | %s |\n", j.name, ratioText(r.ratios(j.name, "lockstep", peerOf(j))), peerOf(j),
				ratioText(r.ratios(j.name, "nbdkit-again", "nbdkit")))
		}
	}
}

// printExtra writes what was measured of Lockstep alone.
func (r *results) printExtra(w io.Writer) {
	if r.Extra == nil {
		return
	}
	fmt.Fprintln(w)
	fmt.Fprintln(w, "| Lockstep alone | |")
	fmt.Fprintln(w, "|---|---:|")
	for _, n := range r.Extra.RSS {
		fmt.Fprintf(w, "| resident memory of %s after 1 MiB writes at depth 32 | %.0f MiB |\n", n.Node, n.MiB)
	}
	if r.Extra.ResyncBytes > 0 {
		fmt.Fprintf(w, "| resync after %d s away under 4 KiB writes | %.0f MiB in %.2f s: %.0f MiB/s |\n", r.Extra.OutageSeconds,
			float64(r.Extra.ResyncBytes)/(1<<20), r.Extra.ResyncSeconds, float64(r.Extra.ResyncBytes)/(1<<20)/r.Extra.ResyncSeconds)
	}
}
