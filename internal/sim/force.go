package sim

import (
	"fmt"
	"slices"

	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/replication"
)

// force has an operator promote h although it is not in the set, or nobody can be asked whether it
// should be. He turns every other data node off first, as he states.
func (w *World) force(h *Host) {
	p := h.proc
	if p == nil || p.core == nil || p.paused || p.newest == nil || w.truth == nil || !p.voter.Quorate() {
		return
	}
	rec := p.ledgerRecord()
	f := p.core.Fitness(h.clock())
	if rec == nil || rec.Epoch == 0 || f.Serving || f.Failed || f.State != replication.Outdated && f.State != replication.UpToDate && f.State != replication.Diverged {
		return
	}
	fork, own, ok := w.forkOf(p, rec)
	if !ok {
		return
	}
	for _, o := range w.hosts {
		if o.data && o != h {
			o.crash()
		}
	}
	c := quorum.On(rec)
	c.ForcePromote = &quorum.ForcePromote{Candidate: p.self(), NewEpoch: max(rec.Epoch, f.Epoch) + 1, Generation: w.net.Uint64() | 1,
		Fork: fork, Own: own}
	for i := range rec.Replicas {
		if n := rec.Replicas[i].Node; n != h.name && (rec.Replicas[i].InSet || rec.Primary.Node == n) {
			c.ForcePromote.Down = append(c.ForcePromote.Down, quorum.DownProof{Node: n, Operator: true, Text: "I pulled its plug"})
		}
	}
	p.command(c, func(res quorum.Result, err error) {
		if err == nil && res.Code != quorum.Applied {
			w.note(h, kindLedger, "force is refused: %s", res.Reason)
		}
	})
}

// forkOf returns the newest generation that the replica holds and the record lists, and those that it
// holds beyond.
func (w *World) forkOf(p *Proc, rec *quorum.Resource) (fork uint64, own []uint64, ok bool) {
	held := p.core.Hello(0).Lineage
	for i := len(held) - 1; i >= 0; i-- {
		if slices.Contains(rec.Lineage, held[i]) {
			return held[i], slices.Clone(held[i+1:]), true
		}
	}
	return 0, nil, false
}

// forcedBy takes a forced promotion that was applied.
func (w *World) forcedBy(rec *quorum.Resource) {
	h := w.hostNamed(rec.Primary.Node)
	w.stats.Forces++
	w.forced = append(w.forced, forcedEpoch{rec.Epoch, h.lossy})
	w.note(h, kindFault, "is forced to be primary of epoch %d", rec.Epoch)
}

// forcedEpoch is an epoch that was begun by force and in which nobody has served yet.
type forcedEpoch struct {
	epoch uint64
	lossy bool // the replica may lack unflushed writes
}

// serves looks whether p is the first to serve after a forced promotion. From now on the device holds
// what that replica holds, which must be a state that the device once had. What its disk still had
// under way at the promotion has ended by now.
func (w *World) serves(p *Proc) {
	if len(w.forced) == 0 || !p.core.Serving() || p.core.Fitness(0).Epoch < w.forced[0].epoch {
		return
	}
	lossy := false
	for len(w.forced) > 0 && w.forced[0].epoch <= p.core.Fitness(0).Epoch {
		lossy = lossy || w.forced[0].lossy
		w.forced = w.forced[1:]
	}
	if !lossy {
		w.report(w.history.ConsistentCut(p.h.name, p.h.disk.Sector))
	}
	w.history.Forced(w.now, p.h.disk.Sector)
}

// confirmPeerDown is the operator's word in a pair without a witness: the peer of h is down, which
// he makes sure of. The daemon judges by itself whether it may go on alone.
func (w *World) confirmPeerDown(h, peer *Host) {
	p := h.proc
	if w.Config.Shape != Pair || p == nil || p.core == nil || p.paused || p.voter.Quorate() {
		return
	}
	peer.crash()
	if err := p.core.MayGoAlone(p.peer(peer)); err != nil {
		w.note(h, kindLedger, "does not go on alone: %v", err)
		return
	}
	if err := p.voter.OpenIncarnation(fmt.Sprintf("operator: %s is down", peer.name)); err != nil {
		w.note(h, kindLedger, "cannot open an incarnation: %v", err)
		return
	}
	w.note(h, kindLedger, "goes on alone in a new incarnation of the ledger")
	p.ready()
}
