package sim

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/mark"
)

// A set of seeds is run by several processes, each of which reports a line of JSON for each seed.
// Threads would not do: raft draws from a source that is the process's (raftrand.go), and a run that
// loops or overflows its stack would take the report with it. The seeds are dealt out one by one, so
// the parent knows which one a process was at when it died.

// seedLine is what a worker reports of one seed.
type seedLine struct {
	Seed    uint64
	At      time.Duration `json:",omitempty"` // of the failure
	Failure string        `json:",omitempty"`
	Stats   Stats
	Marks   map[string]int `json:",omitempty"` // since the worker began
}

// work is the worker's side.
func work(t *testing.T, share string) {
	var i, n uint64
	if _, err := fmt.Sscanf(share, "%d/%d", &i, &n); err != nil || n == 0 {
		t.Fatalf("-worker %s: want i/n", share)
	}
	out := json.NewEncoder(os.Stdout)
	for seed := *firstFlag + i; seed < *firstFlag+*seedsFlag; seed += n {
		w := Run(Draw(seed), false)
		line := seedLine{Seed: seed, Stats: w.Stats(), Marks: mark.Counts()}
		if f := w.Failure(); f != nil {
			line.At, line.Failure = f.At, f.Text
		}
		if err := out.Encode(line); err != nil {
			t.Fatal(err)
		}
	}
}

// Patience of the parent.
const (
	progressEvery = 10 * time.Second
	seedTimeout   = 2 * time.Minute // a seed takes 30 ms; what takes that much longer goes round in circles
	toldInFull    = 2               // failures of a set that are shrunk and shown with their logs
)

// worker is one process as the parent sees it.
type worker struct {
	index int
	next  uint64 // the seed that it is at
	heard time.Time
	stop  context.CancelFunc
	late  bool // it was stopped for want of an answer
	over  bool
	marks map[string]int
}

// said is something that a worker reported: a line, or its end.
type said struct {
	from  *worker
	line  seedLine
	ended bool
	err   error
	words string // what it printed beside its lines, at its end
	cpu   time.Duration
}

// fleet is a set of seeds under way.
type fleet struct {
	first, seeds uint64
	workers      []*worker
	done         uint64
	total        Stats
	failures     []seedLine
	broken       []string // workers that died
	cpu          time.Duration
	start        time.Time
	spent        time.Duration
}

func runFleet(t *testing.T, procs int, first, n uint64) {
	procs = int(min(uint64(procs), n))
	f := &fleet{first: first, seeds: n, start: time.Now()}
	fmt.Printf("seeds %d to %d in %d processes\n", first, first+n-1, procs)
	f.run(t, procs)
	f.spent = time.Since(f.start)
	for _, b := range f.broken {
		t.Error(b)
	}
	slices.SortFunc(f.failures, func(a, b seedLine) int { return int(int64(a.Seed) - int64(b.Seed)) })
	for i, line := range f.failures {
		if i < toldInFull {
			t.Error(autopsy(line.Seed, &Failure{line.At, line.Failure}))
			continue
		}
		t.Errorf("seed %d: %s\n  %s", line.Seed, headline(line.Failure), replayCommand(line.Seed))
	}
	f.summarize(t)
}

// run starts the workers and listens until all have ended.
func (f *fleet) run(t *testing.T, procs int) {
	heard := make(chan said, procs)
	for i := range procs {
		w := &worker{index: i, next: f.first + uint64(i), heard: time.Now()}
		f.workers = append(f.workers, w)
		f.launch(t, w, procs, heard)
	}
	watch := time.NewTicker(progressEvery)
	defer watch.Stop()
	for running := procs; running > 0; {
		select {
		case s := <-heard:
			if s.ended {
				running--
				f.ended(s)
			} else {
				f.took(s, uint64(procs))
			}
		case <-watch.C:
			f.progress()
		}
	}
}

// launch starts a worker. Its goroutine ends after the said that has ended set.
func (f *fleet) launch(t *testing.T, w *worker, procs int, heard chan<- said) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	w.stop = stop
	cmd := exec.CommandContext(ctx, exe, "-test.run=^TestSeeds$", fmt.Sprintf("-worker=%d/%d", w.index, procs),
		fmt.Sprintf("-first=%d", f.first), fmt.Sprintf("-seeds=%d", f.seeds))
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1") // the collector, too, is to stay on its core
	var words bytes.Buffer
	cmd.Stderr = &words
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		stop()
		t.Fatal(err)
	}
	go func() {
		defer stop()
		listen(out, w, &words, heard)
		s := said{from: w, ended: true, err: cmd.Wait(), words: words.String()}
		s.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		heard <- s
	}()
}

// listen passes a worker's lines on. What is no line of its own goes to words.
func listen(out io.Reader, w *worker, words io.Writer, heard chan<- said) {
	lines := bufio.NewReader(out)
	for {
		text, err := lines.ReadBytes('\n')
		s := said{from: w}
		if json.Unmarshal(text, &s.line) == nil && s.line.Seed != 0 {
			heard <- s
		} else {
			words.Write(text)
		}
		if err != nil {
			return
		}
	}
}

// took notes a line.
func (f *fleet) took(s said, procs uint64) {
	w := s.from
	w.heard, w.next, w.marks = time.Now(), s.line.Seed+procs, s.line.Marks
	f.done++
	f.total = sumOf(f.total, s.line.Stats)
	if s.line.Failure == "" {
		return
	}
	fmt.Printf("seed %d FAILS: %s\n", s.line.Seed, headline(s.line.Failure))
	if f.failures = append(f.failures, s.line); len(f.failures) == mostFailures {
		fmt.Printf("%d seeds have failed: that is enough\n", mostFailures)
		for _, w := range f.workers {
			w.stop()
		}
	}
}

// ended notes the end of a worker. One that was not through, and was not told to stop, died of its
// seed.
func (f *fleet) ended(s said) {
	w := s.from
	w.over = true
	f.cpu += s.cpu
	stopped := len(f.failures) >= mostFailures
	switch {
	case w.late:
		f.broken = append(f.broken, fmt.Sprintf("seed %d does not end: nothing was heard for %v\nreplay: %s",
			w.next, seedTimeout, replayCommand(w.next)))
	case s.err != nil && !stopped, w.next < f.first+f.seeds && !stopped:
		f.broken = append(f.broken, fmt.Sprintf("seed %d ends its process: %v\nreplay: %s\n%s", w.next, s.err, replayCommand(w.next),
			strings.TrimSpace(s.words)))
	}
}

// progress prints how far the set is, and stops workers that are stuck.
func (f *fleet) progress() {
	spent := time.Since(f.start)
	fmt.Printf("%6.0f s  %d of %d seeds, %.0f a second, %d failed\n", spent.Seconds(), f.done, f.seeds,
		float64(f.done)/spent.Seconds(), len(f.failures))
	for _, w := range f.workers {
		if !w.over && time.Since(w.heard) > seedTimeout {
			w.late = true
			w.stop()
		}
	}
}

// summarize prints the totals, and fails when the set did not do what it is there for.
func (f *fleet) summarize(t *testing.T) {
	fmt.Printf("%d seeds in %.1f s, %.0f s of processor: %.1f seeds a second for each core\n", f.done, f.spent.Seconds(), f.cpu.Seconds(),
		float64(f.done)/f.cpu.Seconds())
	fmt.Println(countsOf(f.total))
	marks := map[string]int{}
	for _, w := range f.workers {
		for name, n := range w.marks {
			marks[name] += n
		}
	}
	missing := reportMarks(t, marks)
	if f.done < demandedSeeds {
		return // too few to demand anything
	}
	if len(missing) > 0 {
		t.Errorf("rare branches that no seed reached: %s\ntestdata/marks.txt demands them: see docs/simulator.md", strings.Join(missing, ", "))
	}
	if idle := idleOf(f.total); len(idle) > 0 {
		t.Errorf("no seed counted any %s", strings.Join(idle, ", "))
	}
}
