package control

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	"github.com/lockstep-ha/lockstep/internal/config"
)

// Bodies that are not types of the Backend.
type (
	resizeBody struct {
		SizeBytes int64 `json:"size_bytes"`
	}
	toBody struct {
		To string `json:"to"`
	}
	peerBody struct {
		Peer string `json:"peer"`
	}
)

func (s *Server) routes() {
	b := s.opts.Backend
	s.mux.HandleFunc("GET /v1/status", s.status)
	s.mux.HandleFunc("GET /v1/events", s.events)
	s.mux.HandleFunc("POST /v1/resources", s.create)
	s.mux.HandleFunc("DELETE /v1/resources/{resource}", s.plain(b.DeleteResource))
	s.mux.HandleFunc("POST /v1/resources/{resource}/resize", s.resize)
	s.mux.HandleFunc("POST /v1/resources/{resource}/promote", s.promote)
	s.mux.HandleFunc("POST /v1/resources/{resource}/demote", s.plain(b.Demote))
	s.mux.HandleFunc("POST /v1/resources/{resource}/switchover", s.switchover)
	s.mux.HandleFunc("POST /v1/resources/{resource}/connect", s.peer(b.Connect))
	s.mux.HandleFunc("POST /v1/resources/{resource}/disconnect", s.peer(b.Disconnect))
	s.mux.HandleFunc("POST /v1/resources/{resource}/invalidate", s.plain(b.Invalidate))
	s.mux.HandleFunc("POST /v1/resources/{resource}/replace", s.plain(b.ReplaceReplica))
	s.mux.HandleFunc("POST /v1/resources/{resource}/resync/pause", s.plain(b.PauseResync))
	s.mux.HandleFunc("POST /v1/resources/{resource}/resync/resume", s.plain(b.ResumeResync))
	s.mux.HandleFunc("POST /v1/resources/{resource}/verify", s.verify)
	s.settleRoutes()
	s.governorRoutes()
	s.serviceRoutes()
	s.examinerRoutes()
	s.formerRoutes()
	s.fenceRoutes()
	s.attacherRoutes()
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	err := checkQuery(r, "resource")
	if err == nil {
		err = readBody(w, r, nil)
	}
	name := r.URL.Query().Get("resource")
	if err == nil && name != "" {
		err = usage(config.CheckName("resource", name))
	}
	if err != nil {
		writeError(w, AsError(err))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.opts.CallTimeout)
	defer cancel()
	st, err := s.opts.Backend.Status(ctx, name)
	if err != nil {
		e := AsError(err)
		if e.Code == CodeOutcomeUnknown {
			e.Code = CodeFailed // a read that did not end has no outcome to be unsure of
		}
		writeError(w, e)
		return
	}
	st.normalize()
	writeJSON(w, http.StatusOK, st)
}

// normalize makes lists empty rather than null, so that programs need not tell the two apart.
func (st *Status) normalize() {
	if st.Resources == nil {
		st.Resources = []Resource{}
	}
	if st.Nodes == nil {
		st.Nodes = []Node{}
	}
	for i := range st.Resources {
		r := &st.Resources[i]
		if r.InSync == nil {
			r.InSync = []string{}
		}
		if r.Replicas == nil {
			r.Replicas = []Replica{}
		}
		if r.Attachments == nil {
			r.Attachments = []Attachment{}
		}
		if r.Advice == nil {
			r.Advice = []string{}
		}
	}
}

func (s *Server) create(w http.ResponseWriter, r *http.Request) {
	var req CreateRequest
	s.change(w, r, "", &req, func(ctx context.Context, _ string) error {
		if err := req.Validate(); err != nil {
			return err
		}
		return s.opts.Backend.CreateResource(ctx, req)
	})
}

func (s *Server) resize(w http.ResponseWriter, r *http.Request) {
	var body resizeBody
	s.change(w, r, "resource", &body, func(ctx context.Context, name string) error {
		if err := CheckSize(body.SizeBytes); err != nil {
			return err
		}
		return s.opts.Backend.ResizeResource(ctx, name, body.SizeBytes)
	})
}

func (s *Server) promote(w http.ResponseWriter, r *http.Request) {
	var opts PromoteOptions
	s.change(w, r, "resource", &opts, func(ctx context.Context, name string) error {
		return s.opts.Backend.Promote(ctx, name, opts)
	})
}

func (s *Server) switchover(w http.ResponseWriter, r *http.Request) {
	var body toBody
	s.change(w, r, "resource", &body, func(ctx context.Context, name string) error {
		if err := config.CheckName("node", body.To); err != nil {
			return Usagef("%v", err)
		}
		return s.opts.Backend.Switchover(ctx, name, body.To)
	})
}

// plain is the handler of a change that takes nothing but the resource.
func (s *Server) plain(do func(ctx context.Context, resource string) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.change(w, r, "resource", nil, do)
	}
}

// peer is the handler of a change that takes the resource and a peer.
func (s *Server) peer(do func(ctx context.Context, resource, peer string) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var body peerBody
		s.change(w, r, "resource", &body, func(ctx context.Context, name string) error {
			if err := config.CheckName("peer", body.Peer); err != nil {
				return Usagef("%v", err)
			}
			return do(ctx, name, body.Peer)
		})
	}
}

// change runs a call that changes something: it checks the request, reads body (a pointer, or nil
// for none), and answers with {} or the error. pathParam is "resource" or empty.
func (s *Server) change(w http.ResponseWriter, r *http.Request, pathParam string, body any, do func(context.Context, string) error) {
	s.answer(w, r, pathParam, body, func(ctx context.Context, name string) (any, error) {
		return struct{}{}, do(ctx, name)
	})
}

// answer is change for a call that has something to say.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, pathParam string, body any, do func(context.Context, string) (any, error)) {
	err := checkQuery(r)
	var name string
	if err == nil && pathParam != "" {
		name, err = resourceOf(r)
	}
	if err == nil {
		err = readBody(w, r, body)
	}
	var out any
	if err == nil {
		ctx, cancel := context.WithTimeout(r.Context(), s.opts.CallTimeout)
		defer cancel()
		out, err = do(ctx, name)
	}
	if err != nil {
		writeError(w, AsError(err))
		return
	}
	writeJSON(w, http.StatusOK, out)
}

func (s *Server) verify(w http.ResponseWriter, r *http.Request) {
	var opts VerifyOptions
	name, err := resourceOf(r)
	if err == nil {
		err = checkQuery(r)
	}
	if err == nil {
		err = readBody(w, r, &opts)
	}
	if err == nil && opts.Source != "" {
		err = usage(config.CheckName("node", opts.Source))
	}
	if err == nil && opts.Source != "" && !opts.Repair {
		err = Usagef("a source is for a repair; without one, verify only compares")
	}
	if err != nil {
		writeError(w, AsError(err))
		return
	}
	st := startStream(r.Context(), w)
	res, err := s.opts.Backend.Verify(st.ctx, name, opts)
	if err != nil {
		st.finish(line{Error: AsError(err)})
		return
	}
	if res.Differences == nil {
		res.Differences = []Difference{}
	}
	st.finish(line{Result: &res})
}

func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	err := checkQuery(r, "since", "follow")
	if err == nil {
		err = readBody(w, r, nil)
	}
	var since uint64
	if v := q.Get("since"); err == nil && v != "" {
		if since, err = strconv.ParseUint(v, 10, 64); err != nil {
			err = Usagef("since %q is no number", v)
		}
	}
	follow := q.Get("follow") == "true"
	if v := q.Get("follow"); err == nil && v != "" && v != "true" && v != "false" {
		err = Usagef("follow %q is neither true nor false", v)
	}
	if err != nil {
		writeError(w, AsError(err))
		return
	}
	st := startStream(r.Context(), w)
	err = s.opts.Backend.Events(st.ctx, since, follow, func(ev Event) error {
		return st.write(line{Event: &ev})
	})
	if err != nil && !errors.Is(err, context.Canceled) {
		st.finish(line{Error: AsError(err)})
		return
	}
	st.finish(line{End: true})
}

// usage turns a complaint about the request into an ErrUsage; nil stays nil.
func usage(err error) error {
	if err == nil {
		return nil
	}
	return Usagef("%v", err)
}
