package sim

import (
	"fmt"
	"strings"
	"time"
)

const (
	logKept  = 20000 // lines kept of a run
	logShown = 300   // lines printed of a run that failed
)

// Columns of the log beside those of the hosts, which have the numbers of their indices.
const (
	colClients int8 = 4
	colWorld   int8 = 5
)

// Kinds of lines; each has its sign in the column.
const (
	kindFailure uint8 = iota
	kindStart
	kindStop
	kindNotice
	kindNet
	kindFault
	kindLedger
	kindClient
)

var logKinds = [...]struct{ sign, name string }{
	{"X", "failure"}, {"+", "start"}, {"-", "stop"}, {"i", "notice"},
	{"~", "network"}, {"!", "fault"}, {"#", "ledger"}, {".", "client"},
}

// EventLog is what happened in a run, for the person who has to understand it. A run that goes well
// prints nothing, so a line is kept as it comes and made text when it is shown. Most lines are wanted
// only then: a failed seed is run once more with a verbose log, which takes what Addf adds as well.
//
// The last 20000 lines are kept, and every fault and failure.
type EventLog struct {
	names   []string // of the hosts
	verbose bool
	ring    []logLine
	next    int       // place of the next line in a ring that is full
	added   uint64    // lines since the start
	marked  []logLine // faults and failures
}

// logLine is one line. Its text has a verb for a, or for a and b, or none.
type logLine struct {
	number uint64 // of the line, from 0
	at     time.Duration
	a, b   uint64
	text   string
	col    int8
	kind   uint8
}

// NewEventLog returns the log of a run with the given hosts, four at most.
func NewEventLog(names []string, verbose bool) *EventLog {
	if len(names) > int(colClients) {
		panic(fmt.Sprintf("sim: a log with columns for %d hosts", len(names)))
	}
	return &EventLog{names: names, verbose: verbose}
}

// Verbose reports whether Addf keeps anything: who has to work for its arguments asks first.
func (l *EventLog) Verbose() bool { return l.verbose }

// Add adds a line. text may hold up to two verbs of fmt, for a and for b.
func (l *EventLog) Add(at time.Duration, col int8, kind uint8, a, b uint64, text string) {
	line := logLine{l.added, at, a, b, text, col, kind}
	l.added++
	if kind == kindFault || kind == kindFailure {
		l.marked = append(l.marked, line)
	}
	if len(l.ring) < logKept {
		l.ring = append(l.ring, line)
		return
	}
	l.ring[l.next] = line
	l.next = (l.next + 1) % logKept
}

// Addf adds a line to a verbose log.
func (l *EventLog) Addf(at time.Duration, col int8, kind uint8, format string, args ...any) {
	if l.verbose {
		text := fmt.Sprintf(format, args...)
		l.Add(at, col, kind, 0, 0, strings.ReplaceAll(text, "%", "%%"))
	}
}

// String returns the legend, the faults since the start, and the last 300 lines.
func (l *EventLog) String() string {
	var b strings.Builder
	for i, k := range logKinds {
		if i > 0 {
			b.WriteString("  ")
		}
		fmt.Fprintf(&b, "%s %s", k.sign, k.name)
	}
	b.WriteString("\n\n")
	shown := min(len(l.ring), logShown)
	first := l.added - uint64(shown)
	l.header(&b)
	skipped := uint64(0)
	for _, m := range l.marked {
		if m.number >= first {
			break
		}
		l.gap(&b, m.number-skipped)
		l.line(&b, m)
		skipped = m.number + 1
	}
	l.gap(&b, first-skipped)
	for i := len(l.ring) - shown; i < len(l.ring); i++ {
		l.line(&b, l.ring[(l.next+i)%len(l.ring)])
	}
	return b.String()
}

// columns calls f for each column with its number and name.
func (l *EventLog) columns(f func(col int8, name string)) {
	for i, n := range l.names {
		f(int8(i), n)
	}
	f(colClients, "clients")
	f(colWorld, "world")
}

func (l *EventLog) header(b *strings.Builder) {
	fmt.Fprintf(b, "%11s", "seconds")
	l.columns(func(_ int8, name string) { fmt.Fprintf(b, "  %s", name) })
	b.WriteString("  what\n")
}

// gap says that n lines are not shown.
func (l *EventLog) gap(b *strings.Builder, n uint64) {
	if n > 0 {
		fmt.Fprintf(b, "%11s  %d more\n", "...", n)
	}
}

func (l *EventLog) line(b *strings.Builder, m logLine) {
	fmt.Fprintf(b, "%11.6f", m.at.Seconds())
	l.columns(func(col int8, name string) {
		sign := ""
		if col == m.col {
			sign = logKinds[m.kind].sign
		}
		fmt.Fprintf(b, "  %-*s", len(name), sign)
	})
	args := []any{m.a, m.b}
	verbs := strings.Count(m.text, "%") - 2*strings.Count(m.text, "%%")
	text := fmt.Sprintf(m.text, args[:verbs]...)
	indent := "\n" + strings.Repeat(" ", 13)
	l.columns(func(_ int8, name string) { indent += strings.Repeat(" ", len(name)+2) })
	fmt.Fprintf(b, "  %s\n", strings.ReplaceAll(text, "\n", indent))
}
