package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/lockstep-ha/lockstep/internal/config"
)

// Limits of the server.
const (
	maxBody       = 64 << 10         // bytes of a request's body
	maxHeader     = 16 << 10         // bytes of a request's line and headers
	readTimeout   = 10 * time.Second // for a request's headers, and again for its body
	writeTimeout  = 10 * time.Second // for an answer, and for each line of a stream
	stopTimeout   = 5 * time.Second  // for requests under way when the server stops
	heartbeat     = 2 * time.Second  // between empty objects of an idle stream
	streamSilence = 15 * time.Second // after which a reader gives a stream up
)

// DefaultCallTimeout bounds a call that is no stream.
const DefaultCallTimeout = 60 * time.Second

// Forwarder returns a client whose connections all lead to the control listener of node, whatever
// host a URL names. An error means that the node is not known; it should be ErrNotFound.
type Forwarder func(node string) (*http.Client, error)

// Options of a Server.
type Options struct {
	Node    string  // name of this node; required
	Backend Backend // required
	// Forward passes requests for other nodes on. nil: they are refused.
	Forward Forwarder
	// CallTimeout bounds a call that is no stream. 0: DefaultCallTimeout.
	CallTimeout time.Duration
	// Logger for what the HTTP server itself reports. nil: slog.Default().
	Logger *slog.Logger
}

// Server offers a Backend over HTTP. Its methods may be used at the same time.
type Server struct {
	opts Options
	mux  *http.ServeMux
}

// NewServer returns a Server; Serve and ServePeers put it on listeners.
func NewServer(opts Options) *Server {
	if opts.Node == "" || opts.Backend == nil {
		panic(fmt.Sprintf("control: server without node or backend: %+v", opts))
	}
	if opts.CallTimeout == 0 {
		opts.CallTimeout = DefaultCallTimeout
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	s := &Server{opts: opts, mux: http.NewServeMux()}
	s.routes()
	return s
}

// Serve answers operators on ln, which it closes, until ctx ends; requests for other nodes are
// passed on. It returns nil when ctx ended, after every request has, or after stopTimeout.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	return s.serve(ctx, ln, s.opts.Forward)
}

// ServePeers is Serve for a listener of authenticated nodes: it never passes a request on.
func (s *Server) ServePeers(ctx context.Context, ln net.Listener) error {
	return s.serve(ctx, ln, nil)
}

// Handler returns what answers operators, for a server that the caller runs.
func (s *Server) Handler() http.Handler { return s.handler(s.opts.Forward) }

func (s *Server) serve(ctx context.Context, ln net.Listener, forward Forwarder) error {
	srv := &http.Server{
		Handler:           s.handler(forward),
		ReadHeaderTimeout: readTimeout,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(s.opts.Logger.Handler(), slog.LevelWarn),
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	select {
	case err := <-done:
		srv.Close()
		return fmt.Errorf("control server: %w", err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := srv.Shutdown(stop); err != nil {
		s.opts.Logger.Warn("control server closed connections that did not end", "after", stopTimeout, "error", err)
		srv.Close()
	}
	<-done
	return nil
}

// handler checks what is common to all requests.
func (s *Server) handler(forward Forwarder) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer crash(r)
		w.Header().Set("Cache-Control", "no-store")
		if node := r.URL.Query().Get("node"); node != "" && node != s.opts.Node {
			s.forward(w, r, node, forward)
			return
		}
		if _, pattern := s.mux.Handler(r); pattern == "" {
			s.noRoute(w, r)
			return
		}
		s.mux.ServeHTTP(w, r)
	})
}

// crash ends the process after a panic in a handler. The HTTP server would swallow it, and a
// daemon whose invariants are broken, perhaps with a mutex held, must not go on.
func crash(r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler {
		panic(p)
	}
	stack := debug.Stack()
	go panic(fmt.Sprintf("control: %s %s: %v\n%s", r.Method, r.URL.Path, p, stack))
	select {}
}

// noRoute answers a request that no route takes.
func (s *Server) noRoute(w http.ResponseWriter, r *http.Request) {
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
		other := r.Clone(r.Context())
		other.Method = method
		if _, pattern := s.mux.Handler(other); pattern != "" {
			w.Header().Set("Allow", method)
			writeErrorStatus(w, http.StatusMethodNotAllowed, Usagef("%s is not allowed on %s; use %s", r.Method, r.URL.Path, method))
			return
		}
	}
	writeErrorStatus(w, http.StatusNotFound, Usagef("this node has no operation %s %s; it may run an older version", r.Method, r.URL.Path))
}

// errorBody is how an error travels.
type errorBody struct {
	Error *Error `json:"error"`
}

var httpStatus = map[Code]int{
	CodeUsage:          http.StatusBadRequest,
	CodeNotFound:       http.StatusNotFound,
	CodeExists:         http.StatusConflict,
	CodeUnsupported:    http.StatusNotImplemented,
	CodeTooLarge:       http.StatusRequestEntityTooLarge,
	CodeRefused:        http.StatusConflict,
	CodeNotPrimary:     http.StatusConflict,
	CodeNoQuorum:       http.StatusServiceUnavailable,
	CodeFenced:         http.StatusConflict,
	CodeDiverged:       http.StatusConflict,
	CodeBusy:           http.StatusConflict,
	CodeUnreachable:    http.StatusBadGateway,
	CodeOutcomeUnknown: http.StatusGatewayTimeout,
	CodeFailed:         http.StatusInternalServerError,
}

func writeError(w http.ResponseWriter, e *Error) {
	status, ok := httpStatus[e.Code]
	if !ok {
		status = http.StatusInternalServerError
	}
	writeErrorStatus(w, status, e)
}

func writeErrorStatus(w http.ResponseWriter, status int, e *Error) {
	writeJSON(w, status, errorBody{Error: e})
}

// writeJSON answers with v. What a client that hung up does not read is lost to it alone.
func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("control: answer %T: %v", v, err))
	}
	// A listener without deadlines (in tests) is no reason not to answer.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n'))
}

// readBody decodes the JSON body of r into v, or checks that there is none when v is nil.
func readBody(w http.ResponseWriter, r *http.Request, v any) error {
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(readTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	_ = rc.SetReadDeadline(time.Time{})
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return Errorf(CodeTooLarge, "the request is longer than %d bytes", maxBody)
	}
	if err != nil {
		return Usagef("read the request: %v", err)
	}
	if v == nil {
		if len(body) > 0 {
			return Usagef("%s %s takes no body", r.Method, r.URL.Path)
		}
		return nil
	}
	if ct, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || ct != "application/json" {
		return Usagef("the body must be application/json, not %q", r.Header.Get("Content-Type"))
	}
	return decodeStrict(body, v)
}

// checkQuery refuses parameters that are not known.
func checkQuery(r *http.Request, known ...string) error {
	for key, values := range r.URL.Query() {
		ok := key == "node"
		for _, k := range known {
			ok = ok || k == key
		}
		if !ok {
			return Usagef("unknown parameter %q", key)
		}
		if len(values) > 1 {
			return Usagef("parameter %q is given %d times", key, len(values))
		}
	}
	return nil
}

// resourceOf returns the resource that the path names.
func resourceOf(r *http.Request) (string, error) {
	name := r.PathValue("resource")
	if err := config.CheckName("resource", name); err != nil {
		return "", Usagef("%v", err)
	}
	return name, nil
}
