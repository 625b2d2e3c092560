package sim

import (
	"fmt"
	"reflect"
	"strings"
	"unicode"
)

// shrinkRuns is how many runs may be spent on finding the few faults that matter.
const shrinkRuns = 60

// replayCommand is what to type to see a seed again.
func replayCommand(seed uint64) string {
	return fmt.Sprintf("go test ./internal/sim -run Seed -seed=%d -v", seed)
}

// autopsy tells all about a seed that found something: what, how to see it again, the fewest faults
// with which it still happens, and the event log of the run with those.
func autopsy(seed uint64, found *Failure) string {
	plan := Draw(seed)
	small := shrunk(plan, found)
	w := Run(small, true)
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %v\n", seed, found)
	fmt.Fprintf(&b, "replay: %s\n", replayCommand(seed))
	fmt.Fprintf(&b, "%v\n", plan.Config)
	fmt.Fprintf(&b, "%d of %d faults are needed:\n", len(small.Faults), len(plan.Faults))
	for _, f := range small.Faults {
		fmt.Fprintf(&b, "  %v\n", f)
	}
	if f := w.Failure(); f != nil {
		fmt.Fprintf(&b, "with those alone: %v\n", f)
	} else {
		// A verbose run draws what any other draws. If this shows, verbosity has an effect.
		b.WriteString("with those alone, and a verbose log, nothing is found: the run is not deterministic\n")
	}
	fmt.Fprintf(&b, "\n%v", w.Log())
	return b.String()
}

// shrunk returns the plan with the faults left out that the failure does not need. What is looked for
// is the same failure, not any: a plan with faults taken out has another course, and may meet another.
func shrunk(plan Plan, found *Failure) Plan {
	kind := kindOf(found.Text)
	small := plan
	small.Faults = Shrink(plan.Faults, func(part []Fault) bool {
		p := plan
		p.Faults = part
		f := Run(p, false).Failure()
		return f != nil && kindOf(f.Text) == kind
	}, shrinkRuns)
	return small
}

// kindOf returns what two failures of one kind have in common: their first words without numbers.
func kindOf(text string) string {
	words := strings.Fields(strings.Map(func(r rune) rune {
		if unicode.IsDigit(r) {
			return -1
		}
		return r
	}, headline(text)))
	return strings.Join(words[:min(len(words), 6)], " ")
}

// headline returns the first line, not too long.
func headline(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	if r := []rune(line); len(r) > 200 {
		return string(r[:200]) + "..."
	}
	return line
}

// sumOf adds what two runs counted. It goes by the fields, so a new count needs nothing here.
func sumOf(a, b Stats) Stats {
	sum, more := reflect.ValueOf(&a).Elem(), reflect.ValueOf(b)
	for i := range sum.NumField() {
		sum.Field(i).SetInt(sum.Field(i).Int() + more.Field(i).Int())
	}
	return a
}

// countsOf shows counts as words: LossPoints is "loss points".
func countsOf(s Stats) string {
	v := reflect.ValueOf(s)
	var parts []string
	for i := range v.NumField() {
		parts = append(parts, fmt.Sprintf("%s %d", wordsOf(v.Type().Field(i).Name), v.Field(i).Int()))
	}
	return strings.Join(parts, ", ")
}

// idleOf returns the counts that are 0: what a mix of faults should do and never did.
func idleOf(s Stats) (names []string) {
	v := reflect.ValueOf(s)
	for i := range v.NumField() {
		if v.Field(i).Int() == 0 {
			names = append(names, wordsOf(v.Type().Field(i).Name))
		}
	}
	return names
}

func wordsOf(name string) string {
	var b strings.Builder
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte(' ')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}
