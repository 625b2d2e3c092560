package health

import (
	"encoding/json"
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"
)

// The values of State.Role.
const (
	RolePrimary   = "Primary"
	RoleSecondary = "Secondary"
	RoleNone      = "None" // this node holds no replica
)

// State is what a node knows of a resource, and the body of an answer.
type State struct {
	Resource string `json:"resource"`
	Node     string `json:"node"` // who answers
	Role     string `json:"role"` // of that node
	// Primary is the node that the ledger records as primary, "" when nobody is, as far as Node knows.
	Primary string `json:"primary"`
	// NBD is where clients reach the primary over TCP, "" when that is not known.
	NBD       string `json:"nbd,omitempty"`
	DiskState string `json:"disk_state"` // of the replica here
	InSync    bool   `json:"in_sync"`    // the replica here is in the in-sync set
	// Reason says why the answer is not 200.
	Reason string `json:"reason,omitempty"`

	Serves   bool `json:"-"` // this node is primary, whatever its lease
	UpToDate bool `json:"-"` // the replica here holds current data, as far as it knows
}

// Backend is what a Server asks. Its methods may be called by many goroutines, and do not wait.
type Backend interface {
	// Look returns what is known here of a resource. It reports false when there is no such resource.
	Look(resource string) (State, bool)
	// LeaseHeld reports whether this node is primary of the resource inside its lease at this moment.
	LeaseHeld(resource string) bool
}

// allowed is every method that is answered.
const allowed = "GET, HEAD, OPTIONS"

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer crash(r)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "application/json")
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodOptions:
		w.Header().Set("Allow", allowed)
	default:
		w.Header().Set("Allow", allowed)
		s.refuse(w, http.StatusMethodNotAllowed, "use one of: "+allowed)
		return
	}
	if r.URL.Path == "/healthz" {
		write(w, http.StatusOK, encode(struct {
			Node string `json:"node"`
		}{s.cfg.Node}))
		return
	}
	if name, ok := strings.CutPrefix(r.URL.Path, "/primary/"); ok {
		s.primary(w, name)
		return
	}
	if name, ok := strings.CutPrefix(r.URL.Path, "/replica/"); ok {
		s.replica(w, name)
		return
	}
	s.refuse(w, http.StatusNotFound, "there is only /primary/RESOURCE, /replica/RESOURCE and /healthz")
}

func (s *Server) primary(w http.ResponseWriter, name string) {
	st, ok := s.backend.Look(name)
	if !ok {
		s.refuse(w, http.StatusNotFound, "there is no such resource")
		return
	}
	if !st.Serves {
		write(w, http.StatusServiceUnavailable, encode(st))
		return
	}
	yes := st
	yes.Reason = ""
	if st.Reason == "" {
		st.Reason = "the lease of this primary has run out"
	}
	good, bad := encode(yes), encode(st)
	// The last thing before the answer is written (rule 4).
	if s.backend.LeaseHeld(name) {
		write(w, http.StatusOK, good)
		return
	}
	write(w, http.StatusServiceUnavailable, bad)
}

func (s *Server) replica(w http.ResponseWriter, name string) {
	st, ok := s.backend.Look(name)
	switch {
	case !ok:
		s.refuse(w, http.StatusNotFound, "there is no such resource")
	case st.UpToDate:
		st.Reason = ""
		write(w, http.StatusOK, encode(st))
	default:
		if st.Role != RoleNone {
			st.Reason = "the replica here is " + st.DiskState
		}
		write(w, http.StatusServiceUnavailable, encode(st))
	}
}

// refuse answers what is not about a resource.
func (s *Server) refuse(w http.ResponseWriter, status int, reason string) {
	write(w, status, encode(struct {
		Node   string `json:"node"`
		Reason string `json:"reason"`
	}{s.cfg.Node, reason}))
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("health: encode %T: %v", v, err))
	}
	return append(b, '\n')
}

// write answers. Who is told no is asked to come again on a new connection: whatever stands between
// would otherwise keep one to a node that has nothing to offer.
func write(w http.ResponseWriter, status int, body []byte) {
	if status != http.StatusOK {
		w.Header().Set("Connection", "close")
	}
	w.WriteHeader(status)
	_, _ = w.Write(body) // what a client that hung up does not read is lost to it alone
}

// crash ends the process after a panic. The HTTP server would swallow it, and a daemon whose
// invariants are broken must not go on.
func crash(r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	stack := debug.Stack()
	go panic(fmt.Sprintf("health: %s: %v\n%s", r.Method, p, stack))
	select {}
}
