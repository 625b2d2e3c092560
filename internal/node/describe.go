package node

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/quorum/ledger"
	"github.com/lockstep-ha/lockstep/replication"
)

func itoa(n uint64) string { return strconv.FormatUint(n, 10) }

// Status reports this node's view. Where this node is secondary it asks the primary, for at most
// 500 ms, for what only a primary knows: how far a resync is and what is dirty.
func (b *backend) Status(ctx context.Context, resource string) (control.Status, error) {
	out := control.Status{Node: b.m.self.Node, Version: control.Version()}
	lst := b.facts.ledger()
	out.Security = b.security()
	out.Ledger = control.Ledger{Leader: lst.Leader, Quorum: lst.HasQuorum, Term: lst.Term, Applied: lst.Applied, Problem: lst.Problem}
	for _, n := range b.members() {
		out.Nodes = append(out.Nodes, control.Node{
			Name: n.Name, Witness: n.Witness, Leader: n.Name == lst.Leader,
			Alive: n.Name == b.m.self.Node || b.facts.alive(n.Name), Voter: votes(lst, n.Name),
		})
	}
	st := b.m.ledger.State()
	if st == nil {
		if resource != "" {
			return out, noResource(resource)
		}
		return out, nil
	}
	found := resource == ""
	for i := range st.Resources {
		rec := &st.Resources[i]
		if resource == "" || rec.Name == resource {
			found = true
			out.Resources = append(out.Resources, b.resource(ctx, rec, lst.HasQuorum))
		}
	}
	if !found {
		return out, noResource(resource)
	}
	return out, nil
}

// votes reports whether node has a vote, as far as this node's ledger knows.
func votes(st ledger.Status, node string) bool {
	return slices.ContainsFunc(st.Voters, func(v ledger.Voter) bool { return v.Node == node && !v.Learner })
}

// resource describes one resource with what the primary adds, and what to do about it.
func (b *backend) resource(ctx context.Context, rec *quorum.Resource, quorate bool) control.Resource {
	self := b.m.self.Node
	var res control.Resource
	var f *fault
	var st *replication.Status
	if w := b.m.find(rec.Name); w != nil && w.id == rec.ID {
		var rep replica
		if rep, f = w.open(); rep != nil {
			s := rep.Status()
			st = &s
		}
		res = b.describe(rec, w, rep, st, f)
	} else {
		res = b.describe(rec, nil, nil, nil, nil)
	}
	var remote *view
	if p := rec.Primary.Node; p != "" && p != self {
		ctx, cancel := context.WithTimeout(ctx, viewTime)
		a, err := b.asker.ask(ctx, p, question{Op: "view", Resource: rec.Name, ID: rec.ID})
		cancel()
		if err == nil && a.View != nil {
			remote = a.View
			adopt(&res, remote, self)
		}
	}
	b.askDiverged(ctx, rec, &res)
	res.Advice = advise(situation{rec: rec, self: self, local: st, fault: f, remote: remote, quorate: quorate, pair: b.otherOfPair(), alone: b.goesAlone(), res: &res})
	return res
}

// askDiverged asks each diverged replica what it holds: it knows best, and alone what it wrote. One
// that does not answer is shown as others saw it last.
func (b *backend) askDiverged(ctx context.Context, rec *quorum.Resource, res *control.Resource) {
	for i := range res.Replicas {
		r := &res.Replicas[i]
		if r.Divergence == nil || r.Node == b.m.self.Node {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, viewTime)
		a, err := b.asker.ask(ctx, r.Node, question{Op: "view", Resource: rec.Name, ID: rec.ID})
		cancel()
		if err != nil || a.View == nil {
			continue
		}
		for _, theirs := range a.View.Resource.Replicas {
			if theirs.Node == r.Node && theirs.Divergence != nil {
				r.Divergence = theirs.Divergence
			}
		}
	}
}

// otherOfPair returns the other voter where there are two, "" otherwise.
func (b *backend) otherOfPair() string {
	st := b.m.ledger.State()
	if st == nil || len(st.Nodes) != 2 {
		return ""
	}
	for _, n := range st.Nodes {
		if n.Name != b.m.self.Node && !n.Gone && !n.Witness {
			return n.Name
		}
	}
	return ""
}

// goesAlone says what this node does by itself about the loss of the other one of a pair.
func (b *backend) goesAlone() string {
	if b.alone == nil {
		return ""
	}
	return b.alone()
}

// describe is what this node alone can say of a resource. w, rep and st are nil where there is no
// replica here, or it is not open for the reason f.
func (b *backend) describe(rec *quorum.Resource, w *worker, rep replica, st *replication.Status, f *fault) control.Resource {
	self := b.m.self.Node
	res := control.Resource{
		Name: rec.Name, Epoch: rec.Epoch, Primary: rec.Primary.Node, InSync: rec.Set(),
		Role: control.RoleSecondary, SizeBytes: rec.SizeBytes,
		Policy: policyOf(rec), Services: b.servicesStatus(rec), IO: control.IO{State: control.IONone}, DiskState: control.DiskDiskless,
		NBD: control.NBD{Unix: b.cfg.NBDUnix, TCP: b.facts.nbdTCP(), Reach: tcpAddr(b.facts.nbdTCP(), addrOf(b.cfg, self)), TLS: nbdTLSOf(b.cfg), Clients: b.facts.clients(rec.Name)},
	}
	res.Attachments = attachmentsOf(rec, b.facts.attached(rec.Name))
	switch {
	case st != nil:
		res.Role, res.IO, res.DiskState = roleOf(st), control.IO{State: st.IO, Reason: st.Reason}, st.State.String()
		res.Verify = verifyOf(st.Verify)
	case f != nil:
		res.DiskState = f.state.String()
		res.IO.Reason = f.reason
	}
	for i := range rec.Replicas {
		r := &rec.Replicas[i]
		c := control.Replica{Node: r.Node, DiskState: control.DiskUnknown, Connection: control.ConnNotApplicable, InSync: r.InSet, Priority: r.Priority, ServicesFailed: r.ServicesFailed}
		switch {
		case r.Node == self:
			c.DiskState, c.Connection = res.DiskState, control.ConnLocal
			if st != nil {
				c.Divergence = ownDivergence(rec, st)
			}
		case st != nil:
			peerStatus(&c, st, rep)
			c.Divergence = divergenceOf(rec, r.Node, st)
		}
		if c.DiskState == control.DiskUnknown && r.Failed {
			c.DiskState = control.DiskFailed
		}
		res.Replicas = append(res.Replicas, c)
	}
	return res
}

// roleOf shows a process that gave its role up, or has not taken it up yet, as what it is for
// clients: only a primary may serve.
func roleOf(st *replication.Status) string {
	if st.Role == rolePrimary {
		return control.RolePrimary
	}
	return control.RoleSecondary
}

// peerStatus fills in what the core knows of a peer.
func peerStatus(c *control.Replica, st *replication.Status, rep replica) {
	for _, p := range st.Peers {
		if p.Node != c.Node {
			continue
		}
		c.DiskState, c.Connection = p.State.String(), p.Connection
		c.DirtyBytes, c.UnstableBytes = p.Dirty, p.Unstable
		if p.Connection == "Handshaking" {
			c.Connection = control.ConnConnecting
		}
		if !rep.Connected(p.Node) {
			c.Connection = control.ConnDisconnected
		}
		if r := p.Resync; r != nil {
			c.Resync = &control.Resync{BytesPerSec: r.Rate, ETASeconds: seconds(r.ETA), Paused: r.Paused, Percent: percent(r.Done, r.Total)}
			if r.Paused {
				c.Resync.ETASeconds = -1
			}
		}
	}
}

func percent(done, total int64) float64 {
	if total <= 0 {
		return 100
	}
	return min(100, float64(done)*100/float64(total))
}

// seconds rounds up; 0 or less is a time that cannot be told.
func seconds(d time.Duration) int64 {
	if d <= 0 {
		return -1
	}
	return int64((d + time.Second - 1) / time.Second)
}

func verifyOf(v *replication.VerifyStatus) *control.Verify {
	if v == nil {
		return nil
	}
	out := &control.Verify{Running: v.Running, Percent: percent(v.Done, v.Total), ETASeconds: -1, Differences: int(v.Mismatches)}
	if v.Repaired {
		out.Repaired = out.Differences
	}
	return out
}

// adopt takes from the primary's view what only a primary knows, about every replica but the
// local one's own disk state and the local end of a session.
func adopt(res *control.Resource, v *view, self string) {
	if v.Resource.Name == "" {
		return
	}
	for i := range res.Replicas {
		mine := &res.Replicas[i]
		for _, theirs := range v.Resource.Replicas {
			if theirs.Node != mine.Node {
				continue
			}
			switch mine.Node {
			case self:
			case v.Node:
				mine.DiskState = theirs.DiskState
			default:
				mine.DiskState, mine.Connection = theirs.DiskState, theirs.Connection
			}
			if mine.Node != v.Node {
				mine.DirtyBytes, mine.UnstableBytes, mine.Resync = theirs.DirtyBytes, theirs.UnstableBytes, theirs.Resync
			}
			if mine.Node != self && theirs.Divergence != nil {
				mine.Divergence = theirs.Divergence
			}
		}
	}
	if res.Verify == nil {
		res.Verify = v.Resource.Verify
	}
	for i := range res.Attachments {
		mine := &res.Attachments[i]
		mine.Connected = slices.ContainsFunc(v.Resource.Attachments, func(a control.Attachment) bool {
			return a.Number == mine.Number && a.Connected
		})
	}
}
