package control

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/services/service"
)

// Governor is the part of a Backend that says who may decide about a resource, and how.
type Governor interface {
	// Set changes the settings of a resource that s names and leaves the others as they are.
	Set(ctx context.Context, resource string, s Settings) error
	// PauseFailover keeps the cluster from promoting anybody by itself, until it is lifted. An
	// operator's verbs work all the same. why is for the next operator, and may be empty.
	PauseFailover(ctx context.Context, resource string, on bool, why string) error
}

// Settings are what an operator may change about a resource while it is in use. nil and empty
// fields are left as they are.
type Settings struct {
	Failover       *string        `json:"failover,omitempty"`           // auto or manual
	Fencing        *string        `json:"fencing,omitempty"`            // lease, stonith or manual
	OnNoQuorum     *string        `json:"on_no_quorum,omitempty"`       // freeze or io-error
	FreezeDeadline *time.Duration `json:"freeze_deadline_ns,omitempty"` // 100 ms to 24 h; 0: never
	Lease          *time.Duration `json:"lease_ns,omitempty"`           // 50 ms to 1 min
	ReadsConfirm   *bool          `json:"reads_confirm,omitempty"`      // each read asks a peer
	ResyncImpact   *int           `json:"resync_impact,omitempty"`      // percent, 1 to 1000
	Priorities     map[string]int `json:"priorities,omitempty"`         // by node; the highest one is promoted first
	// Services follow the primary. They replace all that there were; an empty list: none.
	Services *[]service.Spec `json:"services,omitempty"`
}

// Validate reports what is wrong with s by itself, as ErrUsage; the ledger judges the values.
func (s *Settings) Validate() error {
	for node := range s.Priorities {
		if err := config.CheckName("node", node); err != nil {
			return Usagef("%v", err)
		}
	}
	if s.Services != nil {
		if err := service.ValidateAll(*s.Services); err != nil {
			return Usagef("%v", err)
		}
	}
	if s.Services == nil && s.Failover == nil && s.Fencing == nil && s.OnNoQuorum == nil && s.FreezeDeadline == nil && s.Lease == nil &&
		s.ReadsConfirm == nil && s.ResyncImpact == nil && len(s.Priorities) == 0 {
		return Usagef("nothing is to be changed; name a setting")
	}
	return nil
}

type pauseBody struct {
	On  bool   `json:"on"`
	Why string `json:"why,omitempty"`
}

func (s *Server) governorRoutes() {
	s.mux.HandleFunc("POST /v1/resources/{resource}/set", func(w http.ResponseWriter, r *http.Request) {
		var body Settings
		s.change(w, r, "resource", &body, func(ctx context.Context, name string) error {
			if err := body.Validate(); err != nil {
				return err
			}
			return s.opts.Backend.Set(ctx, name, body)
		})
	})
	s.mux.HandleFunc("POST /v1/resources/{resource}/pause-failover", func(w http.ResponseWriter, r *http.Request) {
		var body pauseBody
		s.change(w, r, "resource", &body, func(ctx context.Context, name string) error {
			return s.opts.Backend.PauseFailover(ctx, name, body.On, body.Why)
		})
	})
}

// Set changes settings of a resource; see Governor.
func (c *Client) Set(ctx context.Context, resource string, s Settings) error {
	return c.change(ctx, resource, "set", s)
}

// PauseFailover sets or lifts a pause; see Governor.
func (c *Client) PauseFailover(ctx context.Context, resource string, on bool, why string) error {
	return c.call(ctx, http.MethodPost, "/v1/resources/"+url.PathEscape(resource)+"/pause-failover", nil, pauseBody{on, why}, nil)
}
