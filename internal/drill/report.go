package drill

import (
	"fmt"
	"slices"
	"time"
)

// Event names what is done to the cluster.
type Event string

// The events, in the order in which they are drilled.
const (
	Switchover Event = "switchover"
	Kill       Event = "kill"
	Isolation  Event = "isolation"
	Secondary  Event = "secondary"
)

// Events lists all events in their order.
func Events() []Event { return []Event{Switchover, Kill, Isolation, Secondary} }

// Result is what became of one event.
type Result struct {
	Event   Event  `json:"event"`
	Node    string `json:"node"`    // that was struck
	Done    string `json:"done"`    // what was done to it, for people
	Primary string `json:"primary"` // afterwards
	// Pause is the longest time without an acknowledged request, from the strike on.
	Pause time.Duration `json:"pause_ns"`
	// Whole is the time from the strike until everything was as before.
	Whole         time.Duration `json:"whole_ns"`
	Answered      int64         `json:"answered"`       // requests, while it went on
	BlocksChecked int           `json:"blocks_checked"` // read back afterwards
	Mismatches    int           `json:"mismatches"`     // blocks that hold what they must not
	WrongAnswers  int           `json:"wrong_answers"`  // errors, and reads that returned what they must not
	Details       []string      `json:"details"`        // of the two, the first few
	Problem       string        `json:"problem,omitempty"`
	Passed        bool          `json:"passed"`
	Meaning       string        `json:"meaning"` // what an application would have gone through
}

// Report is the whole of a drill.
type Report struct {
	Resource string   `json:"resource"` // on which the load ran
	Scratch  bool     `json:"scratch"`  // it was made for the drill, and is deleted
	Like     string   `json:"like"`
	Results  []Result `json:"results"`
	// Differences are blocks in which the replicas differ at the end.
	Differences int    `json:"differences"`
	Leftover    string `json:"leftover,omitempty"` // what the drill could not remove, and what to type
	Problem     string `json:"problem,omitempty"`  // why it ended early
	Passed      bool   `json:"passed"`
}

// judge sets Passed and Meaning.
func (r *Result) judge(maxPause time.Duration, readOnly bool) {
	lost := r.Mismatches > 0
	r.Passed = r.Problem == "" && !lost && r.WrongAnswers == 0 && r.Pause <= maxPause
	pause := r.Pause.Round(time.Millisecond)
	what := "acknowledged writes"
	if readOnly {
		what = "reads"
	}
	switch {
	case lost:
		r.Meaning = fmt.Sprintf("An application would have lost data: %d blocks do not hold the newest write that was acknowledged.", r.Mismatches)
	case r.WrongAnswers > 0:
		r.Meaning = fmt.Sprintf("An application would have seen %d wrong answers: I/O errors or old data.", r.WrongAnswers)
	case r.Problem != "":
		r.Meaning = "The cluster did not get back by itself: " + r.Problem + "."
	case !r.Passed:
		r.Meaning = fmt.Sprintf("An application would have lost nothing, but stood still for %v, which is more than %v.", pause, maxPause)
	default:
		r.Meaning = fmt.Sprintf("An application would have stood still for %v at most, and lost nothing of %d %s.", pause, r.Answered, what)
	}
}

// finish sets Passed of the whole.
func (r *Report) finish() {
	r.Passed = r.Problem == "" && r.Differences == 0 && len(r.Results) > 0 && !slices.ContainsFunc(r.Results, func(x Result) bool { return !x.Passed })
}
