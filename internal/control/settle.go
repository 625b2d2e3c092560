package control

import (
	"context"
	"net/http"
	"net/url"

	"github.com/lockstep-ha/lockstep/internal/config"
)

// Settler is the part of a Backend that decides what the cluster must not decide by itself: whose
// writes are given up, and who is down.
type Settler interface {
	// ForcePromote makes this node primary and the only in-sync member, although its replica may
	// lack acknowledged writes. It is refused, and the error says what would be lost, until every
	// other member is proven or confirmed to be down.
	ForcePromote(ctx context.Context, resource string, opts ForceOptions) (ForceResult, error)
	// Resolve settles a divergence: this node's data is kept, and every replica that holds another
	// history is given up. Ending ctx ends it; what was given up by then stays so.
	Resolve(ctx context.Context, resource string, opts ResolveOptions) (ResolveResult, error)
	// GiveUp gives up this node's diverged replica, which is then copied anew, after a copy of its
	// backing was made.
	GiveUp(ctx context.Context, resource string, opts GiveUpOptions) (GivenUp, error)
	// ConfirmDown is an operator's word that node is down, on which this one goes on alone.
	ConfirmDown(ctx context.Context, node string) error
	// DecideLedger keeps this node's ledger, or gives it up, after it has met another one.
	DecideLedger(ctx context.Context, keep bool) error
}

// ForceOptions modify a forced promotion.
type ForceOptions struct {
	ConfirmDown []string `json:"confirm_down,omitempty"` // nodes that are down, on the operator's word
}

// ForceResult is what a forced promotion has done.
type ForceResult struct {
	Epoch uint64 `json:"epoch"`
	Lost  Loss   `json:"lost"` // Node is empty: whoever holds it
}

// Loss is what is given up: a stretch of history, and the writes in it.
type Loss struct {
	Node        string       `json:"node,omitempty"` // whose replica is given up
	Fork        string       `json:"fork"`           // newest generation that stays; empty: none
	Generations []Generation `json:"generations"`    // what is lost, oldest first
	Bytes       int64        `json:"bytes"`          // written in them, as far as that is known; -1: it is not
	Undo        string       `json:"undo,omitempty"` // path, on Node, of the copy that was made before; empty: none
	Shared      bool         `json:"shared"`         // the copy shares its blocks with the backing
}

// Generation is a stretch of history: it begins with a promotion or with the loss of a replica.
type Generation struct {
	ID    string `json:"id"`              // hexadecimal
	Node  string `json:"node,omitempty"`  // who was primary; empty: not known
	Epoch uint64 `json:"epoch,omitempty"` // 0: not known
}

// Divergence tells how the history of a replica differs from the one that the ledger records.
type Divergence struct {
	Fork     string       `json:"fork"`     // newest generation that both hold; empty: none
	Recorded []Generation `json:"recorded"` // since then, as the ledger records it, oldest first
	Own      []Generation `json:"own"`      // since then, on that replica, oldest first
	Bytes    int64        `json:"bytes"`    // that the replica wrote without the others, as it tracked them; -1: not known
}

// Undo says what is kept of a replica that is given up.
type Undo struct {
	Dir  string `json:"dir,omitempty"`  // absolute, on the replica's node; empty: beside the backing
	Copy bool   `json:"copy,omitempty"` // copy the bytes where blocks cannot be shared
	None bool   `json:"none,omitempty"` // keep nothing
}

// ResolveOptions say how a divergence is settled.
type ResolveOptions struct {
	Undo   Undo `json:"undo"`
	DryRun bool `json:"dry_run,omitempty"` // only tell what would be lost
	// Expect is what DryRun has told: node and newest generation of each replica that is given up. If
	// that is not so any more, nothing is done. nil: the operator has not been asked.
	Expect []Expected `json:"expect,omitempty"`
}

// Expected is a replica as the operator saw it.
type Expected struct {
	Node   string `json:"node"`
	Newest string `json:"newest"` // generation, hexadecimal
}

// ResolveResult is what a resolve has done, or would do.
type ResolveResult struct {
	Keep   string   `json:"keep"`
	Forced bool     `json:"forced"` // the ledger recorded the other timeline: Keep becomes primary by force
	Lost   []Loss   `json:"lost"`
	Silent []string `json:"silent"` // nodes with a replica that did not answer
}

// GiveUpOptions say how one replica is given up.
type GiveUpOptions struct {
	Undo   Undo   `json:"undo"`
	Newest string `json:"newest"`        // its newest generation; with another one, nothing is done
	Try    bool   `json:"try,omitempty"` // only find out whether the copy can be made, diverged or not
}

// GivenUp is the replica that was given up.
type GivenUp struct {
	Undo   string `json:"undo"` // path of the copy; empty: none
	Shared bool   `json:"shared"`
}

// validate reports what is wrong with u by itself, as ErrUsage.
func (u Undo) validate() error {
	switch {
	case u.None && (u.Copy || u.Dir != ""):
		return Usagef("no undo copy is wanted, and yet it is said how to make it")
	case u.Dir != "" && u.Dir[0] != '/':
		return Usagef("the directory %s of the undo copy is not absolute", u.Dir)
	}
	return nil
}

func (s *Server) settleRoutes() {
	s.mux.HandleFunc("POST /v1/resources/{resource}/force-promote", s.forcePromote)
	s.mux.HandleFunc("POST /v1/resources/{resource}/resolve", s.resolve)
	s.mux.HandleFunc("POST /v1/resources/{resource}/give-up", s.giveUp)
	s.mux.HandleFunc("POST /v1/nodes/{name}/confirm-down", s.confirmDown)
	s.mux.HandleFunc("POST /v1/ledger/keep", s.decideLedger(true))
	s.mux.HandleFunc("POST /v1/ledger/give-up", s.decideLedger(false))
}

func (s *Server) forcePromote(w http.ResponseWriter, r *http.Request) {
	var opts ForceOptions
	s.answer(w, r, "resource", &opts, func(ctx context.Context, name string) (any, error) {
		for _, n := range opts.ConfirmDown {
			if err := config.CheckName("node", n); err != nil {
				return nil, Usagef("%v", err)
			}
		}
		res, err := s.opts.Backend.ForcePromote(ctx, name, opts)
		res.Lost.normalize()
		return res, err
	})
}

func (s *Server) confirmDown(w http.ResponseWriter, r *http.Request) {
	s.change(w, r, "", nil, func(ctx context.Context, _ string) error {
		node := r.PathValue("name")
		if err := config.CheckName("node", node); err != nil {
			return Usagef("%v", err)
		}
		return s.opts.Backend.ConfirmDown(ctx, node)
	})
}

func (s *Server) decideLedger(keep bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.change(w, r, "", nil, func(ctx context.Context, _ string) error { return s.opts.Backend.DecideLedger(ctx, keep) })
	}
}

func (s *Server) resolve(w http.ResponseWriter, r *http.Request) {
	var opts ResolveOptions
	s.long(w, r, &opts, func() error { return opts.Undo.validate() }, func(ctx context.Context, name string) (line, error) {
		res, err := s.opts.Backend.Resolve(ctx, name, opts)
		if res.Silent == nil {
			res.Silent = []string{}
		}
		if res.Lost == nil {
			res.Lost = []Loss{}
		}
		for i := range res.Lost {
			res.Lost[i].normalize()
		}
		return line{Resolved: &res}, err
	})
}

func (s *Server) giveUp(w http.ResponseWriter, r *http.Request) {
	var opts GiveUpOptions
	s.long(w, r, &opts, func() error { return opts.Undo.validate() }, func(ctx context.Context, name string) (line, error) {
		res, err := s.opts.Backend.GiveUp(ctx, name, opts)
		return line{GivenUp: &res}, err
	})
}

// normalize makes lists empty rather than null.
func (l *Loss) normalize() {
	if l.Generations == nil {
		l.Generations = []Generation{}
	}
}

// long runs a call that may take hours, as a stream: a copy of a large backing. Who hangs up ends it.
func (s *Server) long(w http.ResponseWriter, r *http.Request, body any, check func() error, do func(context.Context, string) (line, error)) {
	name, err := resourceOf(r)
	if err == nil {
		err = checkQuery(r)
	}
	if err == nil {
		err = readBody(w, r, body)
	}
	if err == nil {
		err = check()
	}
	if err != nil {
		writeError(w, AsError(err))
		return
	}
	st := startStream(r.Context(), w)
	last, err := do(st.ctx, name)
	if err != nil {
		last = line{Error: AsError(err)}
	}
	st.finish(last)
}

// ForcePromote makes the target node primary; see Settler.
func (c *Client) ForcePromote(ctx context.Context, resource string, opts ForceOptions) (ForceResult, error) {
	var res ForceResult
	err := c.call(ctx, http.MethodPost, "/v1/resources/"+url.PathEscape(resource)+"/force-promote", nil, opts, &res)
	return res, err
}

// Resolve keeps the target node's data; see Settler.
func (c *Client) Resolve(ctx context.Context, resource string, opts ResolveOptions) (ResolveResult, error) {
	l, err := c.await(ctx, resource, "resolve", opts)
	if err == nil && l.Resolved == nil {
		err = c.lost(http.MethodPost, errCut)
	}
	if err != nil {
		return ResolveResult{}, err
	}
	return *l.Resolved, nil
}

// GiveUp gives up the target node's replica; see Settler.
func (c *Client) GiveUp(ctx context.Context, resource string, opts GiveUpOptions) (GivenUp, error) {
	l, err := c.await(ctx, resource, "give-up", opts)
	if err == nil && l.GivenUp == nil {
		err = c.lost(http.MethodPost, errCut)
	}
	if err != nil {
		return GivenUp{}, err
	}
	return *l.GivenUp, nil
}

// await sends a change whose answer is a stream, and returns the last line of it.
func (c *Client) await(ctx context.Context, resource, verb string, body any) (last line, err error) {
	path := "/v1/resources/" + url.PathEscape(resource) + "/" + verb
	err = c.stream(ctx, http.MethodPost, path, nil, body, func(l line) (bool, error) {
		last = l
		if l.Error != nil {
			return true, l.Error
		}
		return true, nil
	})
	return last, err
}

// ConfirmDown has the target node go on without node; see Settler.
func (c *Client) ConfirmDown(ctx context.Context, node string) error {
	return c.call(ctx, http.MethodPost, "/v1/nodes/"+url.PathEscape(node)+"/confirm-down", nil, nil, nil)
}

// DecideLedger keeps the target node's ledger, or gives it up; see Settler.
func (c *Client) DecideLedger(ctx context.Context, keep bool) error {
	verb := "give-up"
	if keep {
		verb = "keep"
	}
	return c.call(ctx, http.MethodPost, "/v1/ledger/"+verb, nil, nil, nil)
}
