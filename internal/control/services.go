package control

import (
	"context"
	"net/http"
	"time"
)

// Servicer is the part of a Backend that is about the services which follow the primary.
type Servicer interface {
	// ClearServices forgets that the services of a resource failed, on all nodes: they are tried again.
	ClearServices(ctx context.Context, resource string) error
}

// Services is how the services of a resource are doing on the answering node.
type Services struct {
	List   []Service `json:"list"`             // in the order of starting
	Halted string    `json:"halted,omitempty"` // why nothing is started here although it would be its turn
	Stuck  string    `json:"stuck,omitempty"`  // what cannot be stopped here: the role is not given up
	// Problem is why this node runs none at all.
	Problem string `json:"problem,omitempty"`
}

// Service is how one service is doing on the answering node.
type Service struct {
	Name  string        `json:"service"` // kind, target and options
	State string        `json:"state"`   // stopped, starting, running, stopping, unclear or stuck
	Fault string        `json:"fault,omitempty"`
	For   time.Duration `json:"for_ns"` // in that state
}

func (s *Server) serviceRoutes() {
	s.mux.HandleFunc("POST /v1/resources/{resource}/clear", func(w http.ResponseWriter, r *http.Request) {
		s.change(w, r, "resource", nil, func(ctx context.Context, name string) error {
			return s.opts.Backend.ClearServices(ctx, name)
		})
	})
}

// ClearServices forgets that services failed; see Servicer.
func (c *Client) ClearServices(ctx context.Context, resource string) error {
	return c.change(ctx, resource, "clear", nil)
}
