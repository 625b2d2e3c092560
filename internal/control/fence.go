package control

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/lockstep-ha/lockstep/internal/config"
)

// Fencer is the part of a Backend that turns nodes off, finds out beforehand whether it could, and
// tells what was fired.
type Fencer interface {
	// FenceTest finds out whether this node could turn node off. It fires nothing.
	FenceTest(ctx context.Context, node string) (FenceReport, error)
	// Fence has node turned off, and returns when that is proven and recorded in the ledger. A fence of
	// it that is under way is waited for.
	Fence(ctx context.Context, node string, opts FenceOptions) (FenceRecord, error)
	// Unfence lets node back: devices that hold it off let it go, and the ledger forgets that it is off.
	Unfence(ctx context.Context, node string) (UnfenceResult, error)
	// FenceHistory tells what the ledger records, and what this process has fired.
	FenceHistory(ctx context.Context) (FenceHistory, error)
}

// FenceReport is what a test of the devices for one node found.
type FenceReport struct {
	Node     string         `json:"node"`  // that would be turned off
	By       string         `json:"by"`    // that would fire
	Works    bool           `json:"works"` // nothing was fired, so it is as good a word as can be had
	Findings []FenceFinding `json:"findings"`
}

// FenceFinding is one thing that a test found out.
type FenceFinding struct {
	Device   string `json:"device,omitempty"` // empty: it is about the node as a whole
	Severity string `json:"severity"`         // FenceGood, FenceWarning or FenceFault
	Text     string `json:"text"`
}

// Values of FenceFinding.Severity.
const (
	FenceGood    = "ok"
	FenceWarning = "warning" // it works, and somebody should look
	FenceFault   = "fault"   // it would not work
)

// FenceOptions modify a fence.
type FenceOptions struct {
	By string `json:"by,omitempty"` // the node that fires; empty: one that can
}

// FenceRecord is what the ledger records about fencing one node.
type FenceRecord struct {
	Node  string `json:"node"`
	Boot  string `json:"boot"` // that it is about
	By    string `json:"by"`   // who fires
	Phase string `json:"phase"`
	Text  string `json:"text,omitempty"` // what proved it, or why it failed
}

// Values of FenceRecord.Phase.
const (
	FenceRequested = "requested"
	FenceConfirmed = "confirmed" // proven off; it stands until the node registers another boot
	FenceFailed    = "failed"
)

// UnfenceResult is what an unfence did.
type UnfenceResult struct {
	Attempts []FenceAttempt `json:"attempts"` // devices that were told to let the node back
	Was      *FenceRecord   `json:"was"`      // that the ledger forgot; nil: it had none
}

// FenceHistory is what is known on one node.
type FenceHistory struct {
	Node     string         `json:"node"`
	Can      []string       `json:"can"`      // nodes that this one has a way to turn off
	Recorded []FenceRecord  `json:"recorded"` // in the ledger, the newest of each node
	Attempts []FenceAttempt `json:"attempts"` // of this process, the oldest first
}

// FenceAttempt is one try of one device.
type FenceAttempt struct {
	Node     string    `json:"node"`
	Boot     string    `json:"boot,omitempty"`
	Resource string    `json:"resource,omitempty"` // on whose behalf
	Reason   string    `json:"reason,omitempty"`
	Device   string    `json:"device"`
	Level    int       `json:"level"`
	Try      int       `json:"try"`
	Action   string    `json:"action"` // off or on
	Begun    time.Time `json:"begun"`
	Ended    time.Time `json:"ended"`
	Failure  string    `json:"failure,omitempty"` // empty: it succeeded
	Text     string    `json:"text,omitempty"`    // what the device proved
	Output   string    `json:"output,omitempty"`  // the end of what its program printed
}

func (s *Server) fenceRoutes() {
	b := s.opts.Backend
	s.mux.HandleFunc("GET /v1/fences", func(w http.ResponseWriter, r *http.Request) {
		s.answer(w, r, "", nil, func(ctx context.Context, _ string) (any, error) {
			h, err := b.FenceHistory(ctx)
			h.Can, h.Recorded, h.Attempts = list(h.Can), list(h.Recorded), list(h.Attempts)
			return h, err
		})
	})
	s.mux.HandleFunc("POST /v1/nodes/{name}/fence-test", s.onNode(nil, func(ctx context.Context, node string) (any, error) {
		rep, err := b.FenceTest(ctx, node)
		rep.Findings = list(rep.Findings)
		return rep, err
	}))
	s.mux.HandleFunc("POST /v1/nodes/{name}/unfence", s.onNode(nil, func(ctx context.Context, node string) (any, error) {
		res, err := b.Unfence(ctx, node)
		res.Attempts = list(res.Attempts)
		return res, err
	}))
	s.mux.HandleFunc("POST /v1/nodes/{name}/fence", func(w http.ResponseWriter, r *http.Request) {
		var opts FenceOptions
		s.onNode(&opts, func(ctx context.Context, node string) (any, error) {
			if opts.By != "" {
				if err := config.CheckName("node", opts.By); err != nil {
					return nil, Usagef("%v", err)
				}
			}
			return b.Fence(ctx, node, opts)
		})(w, r)
	})
}

// onNode is the handler of a call about the node in the path.
func (s *Server) onNode(body any, do func(ctx context.Context, node string) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.answer(w, r, "", body, func(ctx context.Context, _ string) (any, error) {
			node := r.PathValue("name")
			if err := config.CheckName("node", node); err != nil {
				return nil, Usagef("%v", err)
			}
			return do(ctx, node)
		})
	}
}

// list makes a list empty rather than null, so that programs need not tell the two apart.
func list[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}

// FenceTest has the target node test its devices for node; see Fencer.
func (c *Client) FenceTest(ctx context.Context, node string) (FenceReport, error) {
	var rep FenceReport
	err := c.aboutNode(ctx, node, "fence-test", nil, &rep)
	return rep, err
}

// Fence has node turned off; see Fencer.
func (c *Client) Fence(ctx context.Context, node string, opts FenceOptions) (FenceRecord, error) {
	var f FenceRecord
	err := c.aboutNode(ctx, node, "fence", opts, &f)
	return f, err
}

// Unfence lets node back; see Fencer.
func (c *Client) Unfence(ctx context.Context, node string) (UnfenceResult, error) {
	var res UnfenceResult
	err := c.aboutNode(ctx, node, "unfence", nil, &res)
	return res, err
}

// FenceHistory asks what the target node knows of fences; see Fencer.
func (c *Client) FenceHistory(ctx context.Context) (FenceHistory, error) {
	var h FenceHistory
	err := c.call(ctx, http.MethodGet, "/v1/fences", nil, nil, &h)
	return h, err
}

func (c *Client) aboutNode(ctx context.Context, node, verb string, body, out any) error {
	return c.call(ctx, http.MethodPost, "/v1/nodes/"+url.PathEscape(node)+"/"+verb, nil, body, out)
}
