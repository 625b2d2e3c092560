package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/doctor"
)

func (a *app) doctorCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find what the cluster would not survive",
		Long: `Doctor asks every node for what it knows of itself and its host, and tells in plain words what could stop
a resource or lose data: a single copy, two voters, nodes on one host or one disk, one network path, failover
that is off, clocks that differ, and more. For each node it tells whether each resource would go on if that
node died now, and why. It changes nothing.

  danger   something that may fail would lose data, or a resource is not usable now
  warning  something that may fail would stop a resource
  note     to know; nothing is lost by it alone

--accept CODE shows a finding and does not count it: what you have chosen to live with. The exit code is 0
when nothing worse than a note is counted, and 6 otherwise. docs/doctor.md explains each code.`,
		Args: cobra.NoArgs,
	}
	var accept []string
	f := cmd.Flags()
	f.StringArrayVar(&accept, "accept", nil, "do not count findings with this `CODE`; give it once for each")
	all := f.Bool("all", false, "show what is as it should be, too")
	_ = cmd.RegisterFlagCompletionFunc("accept", cobra.FixedCompletions(doctor.Codes(), cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = a.do(func(ctx context.Context, _ []string) error {
		for _, code := range accept {
			if !slices.Contains(doctor.Codes(), code) {
				return control.Usagef("--accept %q is no code; these are: %s", code, strings.Join(doctor.Codes(), " "))
			}
		}
		c, err := a.gather(ctx)
		if err != nil {
			return err
		}
		rep := doctor.Examine(c, accept...)
		if a.json {
			err = a.printJSON(rep)
		} else {
			_, err = a.out.Write(renderDoctor(&rep, *all, painter(a.tty && a.getenv("NO_COLOR") == "")))
		}
		if err == nil && rep.Worst.AtLeast(doctor.Warning) {
			err = errDifference
		}
		return err
	})
	return a.remote(a.withJSON(cmd))
}

// gather asks the node that the flags name, and through it all others.
func (a *app) gather(ctx context.Context) (*doctor.Cluster, error) {
	c := a.client()
	return doctor.Gather(ctx, c, func(node string) doctor.Asker { return c.On(node) })
}

var severityColours = map[doctor.Severity]string{
	doctor.OK: colourGood, doctor.Note: "", doctor.Warning: colourWarn, doctor.Danger: colourBad,
}

// textWidth is where the text of findings is wrapped.
const textWidth = 100

// renderDoctor writes a report for people, the worst first.
func renderDoctor(r *doctor.Report, all bool, p painter) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "cluster of %s, asked through %s\n", strings.Join(r.Nodes, ", "), r.Asked)
	counts := map[doctor.Severity]int{}
	accepted := 0
	for _, f := range r.Findings {
		if f.Accepted {
			accepted++
		} else {
			counts[f.Severity]++
		}
		if f.Severity == doctor.OK && !all {
			continue
		}
		head := p.paint(severityColours[f.Severity], strings.ToUpper(string(f.Severity)))
		if f.Accepted {
			head = "accepted " + string(f.Severity)
		}
		fmt.Fprintf(&b, "\n%s  %s  [%s]\n", head, f.Subject, f.Code)
		b.WriteString(wrap("  ", sentence(f.What)))
		if f.Why != "" {
			b.WriteString(wrap("  why:  ", sentence(f.Why)))
		}
		if f.Next != "" {
			b.WriteString(wrap("  next: ", f.Next))
		}
	}
	renderLosses(&b, r.Losses, p)
	fmt.Fprintf(&b, "\n%s, %s, %s; %s as it should be", count(counts[doctor.Danger], "danger"), count(counts[doctor.Warning], "warning"), count(counts[doctor.Note], "note"), count(counts[doctor.OK], "thing"))
	if !all {
		b.WriteString(" (--all shows them)")
	}
	if accepted > 0 {
		fmt.Fprintf(&b, "; %d accepted", accepted)
	}
	b.WriteByte('\n')
	return b.Bytes()
}

// renderLosses writes what becomes of each resource when nodes die.
func renderLosses(b *bytes.Buffer, losses []doctor.Loss, p painter) {
	if len(losses) == 0 {
		return
	}
	b.WriteString("\nIf it dies now:\n")
	for _, l := range losses {
		word := p.paint(colourGood, "goes on")
		if !l.GoesOn {
			word = p.paint(severityColours[l.Severity], "stops")
		}
		b.WriteString(wrap("  ", fmt.Sprintf("%s: %s %s; %s.", strings.Join(l.Lost, "+"), l.Resource, word, l.Because)))
	}
}

// count writes "1 danger" and "2 dangers".
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// sentence makes a sentence of a phrase. Names of nodes and resources keep their case, so it only ends it.
func sentence(s string) string {
	if s == "" || strings.HasSuffix(s, ".") {
		return s
	}
	return s + "."
}

// wrap breaks text into lines below prefix.
func wrap(prefix, text string) string {
	var b strings.Builder
	b.WriteString(prefix)
	indent := strings.Repeat(" ", len(prefix))
	col := len(prefix)
	for i, w := range strings.Fields(text) {
		if i > 0 && col+1+len(w) > textWidth {
			b.WriteString("\n" + indent)
			col = len(indent)
		} else if i > 0 {
			b.WriteByte(' ')
			col++
		}
		b.WriteString(w)
		col += len(w)
	}
	b.WriteByte('\n')
	return b.String()
}
