package replication

import (
	"errors"
	"fmt"
	"slices"

	"github.com/lockstep-ha/lockstep/internal/mark"
	"github.com/lockstep-ha/lockstep/internal/planted"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

// CheckHello judges the other side's Hello. The error is a sentence for both operators.
func (r *Resource) CheckHello(p Peer, h *wire.Hello) error {
	switch {
	case h.Resource != r.cfg.Resource || h.ResourceID != r.cfg.ResourceID:
		return fmt.Errorf("resource %s (id %x) is not %s (id %x): a namesake", h.Resource, h.ResourceID, r.cfg.Resource, r.cfg.ResourceID)
	case h.Node != r.cfg.Peers[p]:
		return fmt.Errorf("node %s answers in place of %s", h.Node, r.cfg.Peers[p])
	case r.rec != nil && r.rec.Instances[p] != 0 && r.rec.Instances[p] != h.Instance && !planted.On(planted.InstanceIgnored):
		return fmt.Errorf("replica on %s has instance %x, the ledger records %x: its disk was replaced", h.Node, h.Instance, r.rec.Instances[p])
	}
	return nil
}

// checkRestored compares the session ids that both sides stored last (rule 14). A replica that
// remembers an older session than we do was restored from a copy: nothing is known of its blocks.
func (r *Resource) checkRestored(p *peer) {
	mine := [2]uint64{r.meta.PeerSession[p.idx], r.meta.PeerPending[p.idx]}
	theirs := [2]uint64{p.hello.LastID, p.hello.PendingID}
	if planted.On(planted.RestoredIgnored) {
		return
	}
	known := mine[0] == theirs[0] || slices.ContainsFunc(mine[:], func(id uint64) bool { return id != 0 && slices.Contains(theirs[:], id) })
	if known && !p.wentBack() {
		return
	}
	mark.Hit("restored-recognised")
	if p.inSet || p.joinAsked { // whose Join may yet apply
		p.mustDrop, p.why = true, "its metadata is older than our last session with it"
	}
	p.markAll(r.meta.Size)
	p.stamp, p.older = 0, false
	r.notice(NoticeError, p.node, "%s does not remember our last session: its data was replaced or restored, all of it is compared", p.node)
}

// wentBack reports whether p's replica was put back to an earlier copy since this process saw it.
// Between two sessions their ids show that; within one, the stamp does: whatever was written since
// the copy was made either raised it, or lies in a region that the copy's activity log names.
func (p *peer) wentBack() bool {
	return p.older && !planted.On(planted.RestoredIgnored)
}

// restored is Message.State of a refusal to be led by a replica that was put back to an earlier copy.
const restored = "Restored"

func reason(m *wire.Message) string {
	if m == nil {
		return "no reason given"
	}
	return m.Reason
}

// refuse ends a session and tells the other side why.
func (r *Resource) refuse(p *peer, why string) {
	r.refuseWith(p, &wire.Message{Reason: why})
}

// refuseDiverged ends a session between two histories. The other side gets ours, so that it finds
// out, too.
func (r *Resource) refuseDiverged(p *peer, why string) {
	r.refuseWith(p, &wire.Message{Reason: why, State: Diverged.String(), Lineage: r.meta.Lineage})
}

func (r *Resource) refuseWith(p *peer, m *wire.Message) {
	why := m.Reason
	f := wire.Frame{Type: wire.Refuse, Epoch: r.meta.Epoch, Msg: m}
	r.emit(Action{Kind: ActSend, Peer: p.idx, Session: p.session, Frame: f})
	r.notice(NoticeRefused, p.node, "%s", why)
	r.closeSession(p, why)
}

// refusedBy judges a refusal that says that the histories differ. A secondary whose history is no
// prefix of the other's is diverged, and remembers it; a primary goes by its own ledger.
func (r *Resource) refusedBy(p *peer, m *wire.Message) {
	if m != nil && m.State == restored && r.isPrimary() && p.inSet {
		r.diskError(errors.New(reason(m)))
		r.stop(true)
		return
	}
	if m == nil || m.State != Diverged.String() || len(m.Lineage) == 0 || isPrefix(r.meta.Lineage, m.Lineage) {
		return
	}
	p.theirs = m.Lineage
	if r.role == roleSecondary && !r.selfInSet() && r.meta.State != Inconsistent {
		r.setState(Diverged)
		r.saveMeta(nil)
	}
}

// isPrefix reports whether a history a leads into history b. Both may have been cut at the
// front, where the oldest generations are.
func isPrefix(a, b []uint64) bool {
	if len(a) == 0 || planted.On(planted.LineageIgnored) {
		return true
	}
	end := slices.Index(b, a[len(a)-1])
	if end < 0 {
		return false
	}
	n := min(len(a), end+1)
	return slices.Equal(a[len(a)-n:], b[end+1-n:end+1])
}
