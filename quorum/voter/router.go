package voter

import (
	"github.com/lockstep-ha/lockstep/internal/mark"
	"github.com/lockstep-ha/lockstep/internal/planted"
)

// maxRelays is how many other nodes get a copy of a frame that cannot go directly.
const maxRelays = 2

// maxHeard bounds what connections alone can make a Router remember.
const maxHeard = 1024

// Links are a node's connections to the others, one to each.
type Links interface {
	// Names returns the nodes that there is a link to, sorted. The caller does not change it.
	Names() []string
	// Up reports whether what is sent to node now is likely to arrive.
	Up(node string) bool
	// Send hands a whole frame to the link, false if it is certainly not sent.
	Send(node string, frame []byte) bool
}

// Net is how a Voter reaches the others. Its methods are called in the Voter's own methods, and
// must not call back into it. A Router is one.
type Net interface {
	// Send sends a frame to a voter, and returns how many copies were handed to links: 0 means
	// that certainly nothing was sent. With everyWay it goes through others even if the direct
	// link seems to work.
	Send(to uint64, frame []byte, everyWay bool) int
	// SendNode sends a frame to a node, directly; false if it is certainly not sent.
	SendNode(node string, frame []byte) bool
	// Up reports whether the direct link to node works.
	Up(node string) bool
	// Learn notes that the state, or this node itself, says that voter is on node.
	Learn(voter uint64, node string)
}

// Router carries frames between voters: directly where it can, through one other node where it
// must. It holds no lock: its methods are called one at a time.
type Router struct {
	self  string // node name
	links Links
	nodes map[uint64]string // voter id -> node name; looked up, never ranged over
}

// NewRouter returns the Router of node self.
func NewRouter(self string, links Links) *Router {
	return &Router{self: self, links: links, nodes: map[uint64]string{}}
}

// Learn notes where a voter is, whatever was heard of it.
func (r *Router) Learn(voter uint64, node string) { r.nodes[voter] = node }

// Up reports whether the direct link to node works.
func (r *Router) Up(node string) bool { return r.links.Up(node) }

// SendNode sends a frame to a node, directly.
func (r *Router) SendNode(node string, frame []byte) bool { return r.links.Send(node, frame) }

// Send sends a frame of this node to a voter; see Net.
func (r *Router) Send(to uint64, frame []byte, everyWay bool) int {
	node, known := r.nodes[to]
	if !known {
		return 0
	}
	copies := 0
	healthy := r.links.Up(node)
	if r.links.Send(node, frame) {
		copies++
		if healthy && !everyWay {
			return copies
		}
	}
	// History 22: who cannot reach the leader directly reaches it through another node.
	if FrameKind(frame[headSize-1]) == FramePropose && planted.On(planted.RelayDirectOnly) {
		return copies
	}
	relays := 0
	for _, name := range r.links.Names() {
		if name != node && relays < maxRelays && r.links.Up(name) && r.links.Send(name, frame) {
			relays++
		}
	}
	return copies + relays
}

// Arrived takes an addressed frame that came over the connection of node peer. It reports
// whether the frame is for this node's Voter; if it is for another one, it is passed on, one hop
// only.
func (r *Router) Arrived(peer string, f Frame) bool {
	e := f.Envelope()
	if _, known := r.nodes[e.From]; e.Hops == 0 && !known && len(r.nodes) < maxHeard {
		r.nodes[e.From] = peer // a leader that the state here does not name yet must get answers
	}
	to, known := r.nodes[e.To]
	switch {
	case e.To == 0 || known && to == r.self:
		return true
	case known && e.Hops == 0 && r.links.Up(to):
		mark.Hit("ledger-frame-passed-on")
		r.links.Send(to, f.passedOn())
	}
	return false
}
