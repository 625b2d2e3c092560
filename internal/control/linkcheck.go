package control

import (
	"context"
	"net/http"
	"time"

	"github.com/lockstep-ha/lockstep/internal/config"
)

// Bounds of a link check.
const (
	MaxLinkProbes   = 1_000_000
	MinLinkInterval = time.Millisecond
	MaxLinkInterval = time.Minute
)

// LinkOptions say how a link is measured.
type LinkOptions struct {
	Peer     string        `json:"peer"`
	Count    int           `json:"count"`       // probes; 1 to MaxLinkProbes
	Interval time.Duration `json:"interval_ns"` // between two of them
	// Timeout is when a probe without an answer counts as lost. 0: the lease that the node is set to.
	Timeout time.Duration `json:"timeout_ns,omitempty"`
}

// Validate reports what is wrong with o by itself, as ErrUsage.
func (o *LinkOptions) Validate() error {
	if err := config.CheckName("peer", o.Peer); err != nil {
		return Usagef("%v", err)
	}
	switch {
	case o.Count < 1 || o.Count > MaxLinkProbes:
		return Usagef("%d probes are not between 1 and %d", o.Count, MaxLinkProbes)
	case o.Interval < MinLinkInterval || o.Interval > MaxLinkInterval:
		return Usagef("an interval of %v is not between %v and %v", o.Interval, MinLinkInterval, MaxLinkInterval)
	case o.Timeout < 0 || o.Timeout > MaxLinkInterval:
		return Usagef("a timeout of %v is not between 0 and %v", o.Timeout, MaxLinkInterval)
	}
	return nil
}

// LinkReport is what a link check found, or has found so far.
type LinkReport struct {
	From    string        `json:"from"`
	To      string        `json:"to"`
	Addr    string        `json:"addr"`
	Timing  Timing        `json:"timing"` // of From: what the link is judged by
	Elapsed time.Duration `json:"elapsed_ns"`

	Sent     int `json:"sent"`
	Answered int `json:"answered"` // in time
	Late     int `json:"late"`     // after the timeout
	Lost     int `json:"lost"`     // never; a connection that broke takes with it what was on its way
	Broken   int `json:"broken"`   // connections that broke or could not be made

	// Round trips of all that was answered, the late ones too. 0: there was none.
	Min    time.Duration `json:"min_ns"`
	Median time.Duration `json:"median_ns"`
	P99    time.Duration `json:"p99_ns"`
	Max    time.Duration `json:"max_ns"`
	Jitter time.Duration `json:"jitter_ns"` // mean difference of two successive round trips
	// LongestGap is the longest time for which the sender had to rest on one answered probe: from
	// when that one was sent to when the next answer came. A lease has to be longer.
	LongestGap  time.Duration `json:"longest_gap_ns"`
	SenderLate  time.Duration `json:"sender_late_ns"` // the longest that the sender itself was late: its host was busy
	LossPercent float64       `json:"loss_percent"`   // late and lost ones of those sent
	// Reliability is the share of the time, in percent, for which the lease would have held.
	Reliability float64 `json:"reliability_percent"`

	// Done says that nothing more comes; the rest is set only then.
	Done    bool   `json:"done"`
	Verdict string `json:"verdict,omitempty"` // LinkGood, LinkSlow or LinkUnfit
	Text    string `json:"text,omitempty"`    // the verdict in words, and what to do
}

// Values of LinkReport.Verdict.
const (
	LinkGood  = "good"     // the lease that is set would have held all the time
	LinkSlow  = "slow"     // that of a slower preset would have
	LinkUnfit = "unfit"    // none would have
	LinkShort = "no_proof" // too little was measured to tell
)

func (s *Server) linkCheck(w http.ResponseWriter, r *http.Request) {
	var opts LinkOptions
	err := checkQuery(r)
	if err == nil {
		err = readBody(w, r, &opts)
	}
	if err == nil {
		err = opts.Validate()
	}
	if err != nil {
		writeError(w, AsError(err))
		return
	}
	st := startStream(r.Context(), w)
	rep, err := s.opts.Backend.LinkCheck(st.ctx, opts, func(so LinkReport) error {
		so.Done = false
		return st.write(line{Link: &so})
	})
	if err != nil {
		st.finish(line{Error: AsError(err)})
		return
	}
	rep.Done = true
	st.finish(line{Link: &rep})
}

// LinkCheck measures the way from the target node to a peer; see Examiner.
func (c *Client) LinkCheck(ctx context.Context, opts LinkOptions, progress func(LinkReport) error) (LinkReport, error) {
	var rep LinkReport
	var stop error // of progress: returned as it is
	err := c.stream(ctx, http.MethodPost, "/v1/link-check", nil, opts, func(l line) (bool, error) {
		switch {
		case l.Error != nil:
			return true, l.Error
		case l.Link != nil && l.Link.Done:
			rep = *l.Link
			return true, nil
		case l.Link != nil:
			stop = progress(*l.Link)
			return stop != nil, nil
		}
		return false, nil
	})
	if stop != nil {
		return rep, stop
	}
	return rep, err
}
