package main

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/lockstep-ha/lockstep/internal/control"
)

// maxGenerations is how many generations of a timeline are printed for people: the newest.
const maxGenerations = 6

// renderDivergence writes the two timelines of a replica whose history is another one than the
// ledger records.
func renderDivergence(b *bytes.Buffer, rep *control.Replica, p painter) {
	d := rep.Divergence
	if d == nil {
		return
	}
	since := "the beginning"
	if d.Fork != "" {
		since = "generation " + d.Fork
	}
	fmt.Fprintf(b, "    %s: two timelines since %s\n", p.paint(colourBad, rep.Node+" has diverged"), since)
	fmt.Fprintf(b, "      recorded: %s\n", timelineText(d.Recorded))
	fmt.Fprintf(b, "      on %s: %s", rep.Node, timelineText(d.Own))
	if d.Bytes >= 0 {
		fmt.Fprintf(b, "; at most %s written", bytesText(d.Bytes))
	}
	b.WriteByte('\n')
}

// timelineText lists generations, oldest first, with who was primary where that is known.
func timelineText(gens []control.Generation) string {
	if len(gens) == 0 {
		return "nothing"
	}
	var out []string
	if n := len(gens) - maxGenerations; n > 0 {
		out = append(out, fmt.Sprintf("%d more", n))
		gens = gens[n:]
	}
	for _, g := range gens {
		text := g.ID
		if g.Node != "" {
			text += fmt.Sprintf(" (primary %s, epoch %d)", g.Node, g.Epoch)
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

// lossText says what is given up.
func lossText(l control.Loss) string {
	if len(l.Generations) == 0 {
		return "nothing that the other history lacks"
	}
	text := "the writes of " + timelineText(l.Generations)
	if l.Fork != "" {
		text += ", since generation " + l.Fork
	}
	if l.Bytes >= 0 {
		return text + "; at most " + bytesText(l.Bytes)
	}
	return text + "; how many bytes is not known"
}
