package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/pki"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/quorum/ledger"
)

// bookFile holds the members as this node last knew them, beside the ledger. Where members come and
// go at run time, the list in the node file is only that of the day it was written; without the book
// a node that starts would ask those for the ledger who are long gone.
const bookFile = "members.json"

// roster says who is a member, and where. In a cluster that was formed with certificates the ledger
// says so, and until it does, the book; in one with a shared key the node file does, for good.
type roster struct {
	cfg   config.Node
	state func() *quorum.State // nil result: no ledger here yet
	log   *slog.Logger

	mu      sync.Mutex
	written []config.Peer // what the book holds
}

// formed reports whether the cluster has certificates.
func formed(cfg config.Node) bool { return cfg.PKIDir != "" }

// withBook returns cfg with the members of the book, if there is one.
func withBook(cfg config.Node) (config.Node, error) {
	if !formed(cfg) {
		return cfg, nil
	}
	there, err := ledger.Exists(cfg.DataDir)
	if err != nil {
		return cfg, err
	}
	if !there {
		// To go on with an empty one would be to come back as a voter that nobody knows.
		return cfg, fmt.Errorf("there is no ledger in %s. If it was lost, give this node a new place in the cluster: "+
			"lockstep node replace %s on another node, then lockstep cluster join here, with an empty data_dir", cfg.DataDir, cfg.Name)
	}
	b, err := os.ReadFile(filepath.Join(cfg.DataDir, bookFile))
	if errors.Is(err, os.ErrNotExist) {
		return cfg, nil
	}
	var nodes []config.Peer
	if err == nil {
		err = json.Unmarshal(b, &nodes)
	}
	if err != nil {
		return cfg, fmt.Errorf("list of members: %w; the file may be removed, then the node file's list counts", err)
	}
	cfg.Nodes = nodes
	return cfg, nil
}

// nodes returns the members.
func (r *roster) nodes() []config.Peer {
	st := r.state()
	if st == nil || !formed(r.cfg) {
		return r.cfg.Nodes
	}
	out := make([]config.Peer, 0, len(st.Nodes))
	for _, n := range st.Nodes {
		out = append(out, config.Peer{Name: n.Name, Addr: n.Addr, Gossip: n.Gossip, Witness: n.Witness})
	}
	return out
}

// addr returns the transport address of a member, "" if there is none of that name.
func (r *roster) addr(node string) string {
	for _, n := range r.nodes() {
		if n.Name == node {
			return n.Addr
		}
	}
	return ""
}

// admit refuses those whose certificate is good and who are no members, or not any more.
func (r *roster) admit(p pki.Peer) error {
	if p.Role != pki.RoleNode {
		return nil
	}
	st := r.state()
	if st == nil {
		if !slices.ContainsFunc(r.cfg.Nodes, func(n config.Peer) bool { return n.Name == p.Name }) {
			return fmt.Errorf("%s is not in this node's list of members", p.Name)
		}
		return nil
	}
	n := st.Node(p.Name)
	switch {
	case n == nil:
		return fmt.Errorf("%s is no member of the cluster; was it removed?", p.Name)
	case n.Identity != "" && n.Identity != p.NodeID:
		return fmt.Errorf("%s is another one than the member of that name; was it replaced?", p.Name)
	}
	return nil
}

// keep writes the book when the members are others than it says. It is told of each new state.
func (r *roster) keep(st *quorum.State) {
	if !formed(r.cfg) || st.Node(r.cfg.Name) == nil {
		return // a node that was removed is to remember whom it belonged to
	}
	nodes := r.nodes()
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.Equal(nodes, r.written) {
		return
	}
	b, err := json.MarshalIndent(nodes, "", "  ")
	if err == nil {
		err = replaceFile(filepath.Join(r.cfg.DataDir, bookFile), append(b, '\n'))
	}
	if err != nil {
		r.log.Error("list of members not written; after a restart this node may ask the wrong nodes", "err", err)
		return
	}
	r.written = nodes
}

// replaceFile makes path hold data, or leaves it as it was, whenever the host stops. Nobody else may
// read it.
func replaceFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // no longer there when all went well
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// members returns who belongs to the cluster, for operators.
func (b *backend) members() []config.Peer {
	if b.roster == nil {
		return b.cfg.Nodes
	}
	return b.roster.nodes()
}

// addrOf returns where a member is reached, "" if there is none of that name.
func (b *backend) addrOf(node string) string {
	for _, n := range b.members() {
		if n.Name == node {
			return n.Addr
		}
	}
	return ""
}

// peers is members without this node.
func (b *backend) peers() []config.Peer {
	return slices.DeleteFunc(slices.Clone(b.members()), func(n config.Peer) bool { return n.Name == b.m.self.Node })
}

// catalogue has the ledger apply what build makes of each newer state, until done says of one that
// the effect is there. build returns nil when nothing can be done.
//
// Errors: *control.Error.
func catalogue(ctx context.Context, l ledgerAPI, build func(*quorum.State) *quorum.Command, done func(*quorum.State) bool) error {
	ctx, cancel := context.WithTimeout(ctx, verbTimeout)
	defer cancel()
	var pause backoff
	unknown := false
	for {
		err := l.Barrier(ctx)
		st := l.State()
		if err == nil && st != nil {
			if done(st) {
				return nil
			}
			cmd := build(st)
			if cmd == nil {
				return refusedf("the cluster has changed meanwhile; look with: lockstep status")
			}
			cmd.Version = st.Version
			var res quorum.Result
			res, err = attempt(ctx, l, *cmd)
			if err == nil && res.Code == quorum.Applied {
				return nil
			}
			if err == nil && res.Code != quorum.CodeStale {
				return refusal(res)
			}
			unknown = unknown || err != nil && outcomeUnknown(err)
		}
		if pause.wait(ctx) {
			continue
		}
		if unknown {
			return control.Errorf(control.CodeOutcomeUnknown, "the ledger did not say what became of the change: %v", err).WithHint("lockstep status")
		}
		return control.Errorf(control.CodeNoQuorum, "the ledger has no majority, so nothing was changed: %v", err).
			WithHint("start the missing nodes; lockstep status shows who is there").WithSafety(control.SafetyYes)
	}
}

// RemoveNode takes a node out of the cluster.
func (b *backend) RemoveNode(ctx context.Context, req control.RemoveNode) error {
	if !formed(b.cfg) {
		return notFormed()
	}
	gone := func(st *quorum.State) bool { return st.Node(req.Node) == nil }
	if err := b.m.ledger.Barrier(ctx); err != nil {
		return control.Errorf(control.CodeNoQuorum, "the ledger has no majority: %v", err).WithSafety(control.SafetyYes)
	}
	st := b.m.ledger.State()
	switch {
	case req.Node == b.m.self.Node:
		return refusedf("%s does not remove itself", req.Node).WithHint("ask another node: lockstep node remove %s --node OTHER", req.Node)
	case gone(st):
		return control.Errorf(control.CodeNotFound, "there is no node %s in this cluster", req.Node).WithSafety(control.SafetyYes)
	}
	if why := b.needed(st, req.Node); why != "" && !req.Force {
		return refusedf("%s", why).WithHint("lockstep node remove %s --force, if that is meant", req.Node)
	}
	err := catalogue(ctx, b.m.ledger, func(st *quorum.State) *quorum.Command {
		return &quorum.Command{RemoveNode: &quorum.RemoveNode{Name: req.Node}}
	}, gone)
	if err == nil {
		b.journal.add("", "node_removed", req.Node+" is no member any more; its certificate is refused.", "peer", req.Node)
	}
	return err
}

// needed says why the cluster would be worse off without node, "" if it would not.
func (b *backend) needed(st *quorum.State, node string) string {
	voters, alive := 0, 0
	for _, n := range st.Nodes {
		if n.Gone || n.Name == node {
			continue
		}
		voters++
		if n.Name == b.m.self.Node || b.facts.alive(n.Name) {
			alive++
		}
	}
	switch {
	case alive < voters/2+1:
		return fmt.Sprintf("without %s the cluster has %d voters, of which %d are heard of: it would have no majority", node, voters, alive)
	case voters <= 2 && voters > 0 && st.Voter(st.Node(node).VoterID) != nil && len(st.Nodes) > 2:
		return fmt.Sprintf("without %s the cluster has %d voters: when one of them fails, the other cannot take over by itself", node, voters)
	}
	return ""
}

func notFormed() error {
	return control.Errorf(control.CodeUnsupported, "this cluster has a shared key and no certificates; its members are those of the node files").
		WithHint("lockstep cluster init forms one whose members come and go").WithSafety(control.SafetyYes)
}

// hostPart returns the host of host:port, for a certificate.
func hostPart(addr string) []string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil || host == "" {
		return nil
	}
	return []string{host}
}
