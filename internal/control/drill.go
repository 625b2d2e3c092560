package control

import (
	"context"
	"net/http"
	"regexp"
	"time"
)

// Operations of a DrillOrder.
//
//	arm    ---token---> exit | still     a token is good once, and for ArmedFor
const (
	DrillArm   = "arm"   // answers a token
	DrillExit  = "exit"  // the daemon kills itself, as kill -9 would, right after the answer
	DrillStill = "still" // the daemon stands still for For, as if its host hung, right after the answer
	DrillClean = "clean" // the files of a scratch resource that is deleted are removed
)

const (
	// ArmedFor is how long a token is good: an order that was lost on its way must not be carried
	// out when nobody waits for it any more.
	ArmedFor = 10 * time.Second
	// MinStill and MaxStill bound for how long a daemon may be told to stand still.
	MinStill = 100 * time.Millisecond
	MaxStill = 10 * time.Second
)

// DrillOrder asks one node for one thing.
type DrillOrder struct {
	Op    string        `json:"op"`
	Token string        `json:"token,omitempty"`  // of exit and still
	For   time.Duration `json:"for_ns,omitempty"` // of still; MinStill to MaxStill
	// Resource and Paths, of clean: a scratch resource and its files on this node.
	Resource string   `json:"resource,omitempty"`
	Paths    []string `json:"paths,omitempty"`
}

// DrillAnswer is the answer to an order.
type DrillAnswer struct {
	Token string `json:"token,omitempty"` // of arm
}

// ScratchName is what the resources that a drill makes and deletes are called. Nothing else is ever
// removed for a drill.
var ScratchName = regexp.MustCompile(`^drill-[a-z2-7]{8}$`)

func (s *Server) drill(w http.ResponseWriter, r *http.Request) {
	var order DrillOrder
	s.answer(w, r, "", &order, func(ctx context.Context, _ string) (any, error) {
		return s.opts.Backend.Drill(ctx, order)
	})
}

// Drill has the target node carry out an order; see Examiner.
func (c *Client) Drill(ctx context.Context, order DrillOrder) (DrillAnswer, error) {
	var a DrillAnswer
	err := c.call(ctx, http.MethodPost, "/v1/drill", nil, order, &a)
	return a, err
}
