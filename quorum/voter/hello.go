package voter

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/lockstep-ha/lockstep/internal/planted"
	"github.com/lockstep-ha/lockstep/quorum"
)

// helloTicks is the shortest time between two hellos to one node.
const helloTicks = 10

const helloFormat = 1

// hello tells a node directly who this one is: raft's own messages say nothing across
// incarnations, and an empty ledger is named by no configuration. The incarnation itself is in
// the envelope.
type hello struct {
	Format int    `json:"v"`
	Node   string `json:"node"`
	// Empty: the sender gave the ledger Aside up for the incarnation of the envelope, and asks
	// that one's leader to be admitted.
	Empty bool   `json:"empty,omitempty"`
	Aside uint64 `json:"aside,omitempty"`
	// Conflict is the incarnation that stopped the sender; 0: none.
	Conflict uint64 `json:"conflict,omitempty"`
	Forks    []fork `json:"forks,omitempty"`
}

func (h *hello) check(e Envelope) error {
	switch {
	case h.Format != helloFormat || !quorum.ValidName(h.Node) || e.From == 0 || e.Incarnation == 0 || e.Hops != 0:
		return fmt.Errorf("%w: hello of version %d, node %.80q, voter %x, incarnation %x", ErrFrame, h.Format, h.Node, e.From, e.Incarnation)
	case h.Empty && h.Aside == 0, len(h.Forks) > maxForks, len(h.Forks) > 0 && h.Forks[len(h.Forks)-1].ID != e.Incarnation:
		return fmt.Errorf("%w: hello with %d forks, empty %t", ErrFrame, len(h.Forks), h.Empty)
	}
	return nil
}

// DecodeStrict decodes the one JSON value that b is; unknown fields are refused.
func DecodeStrict(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if d.More() {
		return errors.New("something follows")
	}
	return nil
}

// greet sends a hello to node, unless that was done a moment ago: two nodes would answer each
// other without end.
func (v *Voter) greet(node string) {
	if at, ok := v.greeted[node]; ok && v.ticks-at < helloTicks {
		return
	}
	v.greeted[node] = v.ticks
	h := hello{Format: helloFormat, Node: v.cfg.Node, Conflict: v.book.id.Conflict}
	if v.mach != nil {
		h.Forks = v.mach.forks
	} else {
		h.Empty, h.Aside = true, v.book.id.Aside
	}
	v.net.SendNode(node, helloFrame(v.envelope(0), h))
}

// greetAll looks for those who do not know of this ledger: nobody else would tell the nodes that
// it left behind, nor its leader that an empty ledger wants to join.
func (v *Voter) greetAll() {
	switch {
	case v.ticks%helloTicks != 0:
	case v.asks():
		for _, m := range v.cfg.Members {
			if m.Name != v.cfg.Node {
				v.greet(m.Name)
			}
		}
	case v.leads():
		for i := range v.mach.state.Nodes {
			if n := &v.mach.state.Nodes[i]; v.mach.state.Voter(n.VoterID) == nil {
				v.greet(n.Name)
			}
		}
	}
}

// asks reports whether this node gave its ledger up and has no other one yet.
func (v *Voter) asks() bool { return v.mach == nil && v.book.id.Aside != 0 }

// hear takes a hello. It is believed only about the node at the other end of the connection.
func (v *Voter) hear(peer string, f Frame) {
	e := f.Envelope()
	h, err := f.hello()
	if err == nil && h.Node != peer {
		err = fmt.Errorf("%w: hello of node %.80q", ErrFrame, h.Node)
	}
	switch {
	case err != nil:
		v.log.Warn("hello refused", "peer", peer, "error", err)
	case h.Empty:
		v.readmit(e, &h)
	case v.asks():
		v.follow(e, &h)
	case v.mach != nil && e.Incarnation != v.book.id.Incarnation:
		v.meet(peer, e, &h)
	}
}

// readmit has a node that gave its ledger up for this one become a voter again, under the id of
// its new ledger.
func (v *Voter) readmit(e Envelope, h *hello) {
	if !v.leads() || e.Incarnation != v.book.id.Incarnation || v.admitted != nil && !v.admitted.ended {
		return
	}
	n := v.mach.state.Node(h.Node)
	if n == nil || n.VoterID == e.From && v.mach.state.Voter(e.From) != nil {
		return
	}
	now := quorum.Node{Name: n.Name, VoterID: e.From, Addr: n.Addr, Witness: n.Witness}
	p, err := v.Propose(quorum.Command{Version: v.mach.state.Version, AddNode: &quorum.AddNode{Node: now, Replaces: n.VoterID}},
		func(res quorum.Result, err error) {
			if err == nil {
				err = res.Err()
			}
			v.log.Info("node asked to join the ledger again", "peer", h.Node, "voter", now.VoterID, "error", err)
		})
	if err != nil {
		v.log.Warn("node cannot join the ledger again", "peer", h.Node, "error", err)
		return
	}
	v.admitted = p
}

// follow lets an empty ledger wait for a child of the incarnation that it waited for.
func (v *Voter) follow(e Envelope, h *hello) {
	id := v.book.id
	if forkOf(h.Forks, id.Incarnation) == nil {
		return
	}
	id.Incarnation = e.Incarnation
	if v.err = v.book.setIdentity(id); v.err == nil {
		v.setProblem(v.ownProblem())
	}
}

// meet compares this ledger with that of another incarnation. Which of them goes on is decided
// by two rules alone: who committed nothing after the fork follows the child, and whatever else
// there is stops both.
func (v *Voter) meet(peer string, e Envelope, h *hello) {
	id := v.book.id
	if slices.ContainsFunc(id.Refused, func(r uint64) bool { return descends(e.Incarnation, h.Forks, r) }) {
		return
	}
	child := forkOf(h.Forks, id.Incarnation)
	switch {
	case id.Conflict != 0: // stopped; the other one must know
	case child != nil:
		if v.Ready() != nil || v.mach == nil { // what is not written yet counts, too
			return
		}
		if v.mayGiveUp(child) || planted.On(planted.ChildAlwaysAdopted) {
			v.giveUp(e.Incarnation)
		} else {
			v.stop(e.Incarnation)
		}
	case h.Conflict == id.Incarnation:
		v.stop(e.Incarnation)
	case forkOf(v.mach.forks, e.Incarnation) != nil: // an ancestor, which decides for itself
	case related(e.Incarnation, h.Forks, id.Incarnation, v.mach.forks):
		v.stop(e.Incarnation)
	default:
		return // another ledger, which a message of it would not have reached
	}
	v.greet(peer)
}
