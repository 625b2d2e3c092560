package node

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/replication"
)

// parting returns where a history that a replica holds parts from the recorded one: the newest
// generation that both have, 0 for none, and what each has beyond it.
func parting(recorded, held []uint64) (fork uint64, beyond, own []uint64) {
	for i := len(held) - 1; i >= 0; i-- {
		if at := slices.Index(recorded, held[i]); at >= 0 {
			return held[i], recorded[at+1:], held[i+1:]
		}
	}
	return 0, recorded, held
}

// generationID shows a generation to people and programs; 0 is none.
func generationID(g uint64) string {
	if g == 0 {
		return ""
	}
	return strconv.FormatUint(g, 16)
}

// newest is the last generation of a history, as generationID shows it.
func newest(lineage []uint64) string {
	if len(lineage) == 0 {
		return ""
	}
	return generationID(lineage[len(lineage)-1])
}

// generations shows a stretch of history with what the record still knows of it. The ledger does not
// keep the epoch and the primary of each generation; what follows from the record is enough for the
// two timelines of the newest forced promotion.
func generations(rec *quorum.Resource, gens []uint64) []control.Generation {
	out := make([]control.Generation, 0, len(gens))
	for _, g := range gens {
		c := control.Generation{ID: generationID(g)}
		c.Node, c.Epoch = openerOf(rec, g)
		out = append(out, c)
	}
	return out
}

// openerOf returns who was primary when generation g was opened, and the epoch; "" and 0 if that is
// not known any more.
func openerOf(rec *quorum.Resource, g uint64) (node string, epoch uint64) {
	for i := range rec.Forced {
		if rec.Forced[i].Generation == g {
			return rec.Forced[i].Node, rec.Forced[i].Epoch
		}
	}
	if n := len(rec.Lineage); n > 0 && rec.Lineage[n-1] == g {
		switch { // the newest one is of the present epoch: each opens one
		case !rec.Primary.None():
			return rec.Primary.Node, rec.Epoch
		case rec.LastEpoch == rec.Epoch:
			return rec.LastPrimary.Node, rec.Epoch
		}
	}
	if len(rec.Forced) == 0 {
		return "", 0
	}
	f := &rec.Forced[len(rec.Forced)-1]
	if f.Epoch != rec.Epoch {
		return "", 0 // others were promoted since
	}
	at := slices.Index(rec.Lineage, f.Generation)
	switch {
	case at >= 0 && slices.Contains(rec.Lineage[at:], g):
		return f.Node, f.Epoch // a Drop of the same primary
	case rec.LastEpoch < f.Epoch && len(f.Cut) > 0 && f.Cut[len(f.Cut)-1] == g:
		// Each epoch opens a generation, so the newest one that was cut is of the epoch before.
		return rec.LastPrimary.Node, rec.LastEpoch
	}
	return "", 0
}

// divergence compares what a replica holds with the record; nil if it holds nothing of its own.
// bytes is what it tracked as written without the others, -1 if that is not known.
func divergence(rec *quorum.Resource, held []uint64, bytes int64) *control.Divergence {
	fork, beyond, own := parting(rec.Lineage, held)
	if len(own) == 0 {
		return nil
	}
	if bytes <= 0 || bytes >= rec.SizeBytes {
		bytes = -1 // nothing was tracked, or everything was marked because nothing is known
	}
	return &control.Divergence{Fork: generationID(fork), Recorded: generations(rec, beyond), Own: generations(rec, own), Bytes: bytes}
}

// ownDivergence is that of the replica here, whose status is st.
func ownDivergence(rec *quorum.Resource, st *replication.Status) *control.Divergence {
	if st.State != replication.Diverged {
		return nil
	}
	return divergence(rec, st.Lineage, mostDirty(st))
}

// divergenceOf is that of a peer which was refused for its history, as the status here shows it.
func divergenceOf(rec *quorum.Resource, node string, st *replication.Status) *control.Divergence {
	for i := range st.Peers {
		p := &st.Peers[i]
		if p.Node != node || p.Timeline == nil || p.InSet {
			continue
		}
		held := p.Timeline.Theirs
		if p.Timeline.Fork != 0 {
			held = append([]uint64{p.Timeline.Fork}, held...)
		}
		return divergence(rec, held, -1)
	}
	return nil
}

// mostDirty is the most that the replica of st tracked for one peer, bytes: what it wrote without it.
func mostDirty(st *replication.Status) int64 {
	var most int64
	for i := range st.Peers {
		most = max(most, st.Peers[i].Dirty)
	}
	return most
}

// lossText says what is given up, for people.
func lossText(l control.Loss) string {
	if len(l.Generations) == 0 {
		return "no generation of the recorded history"
	}
	last := l.Generations[len(l.Generations)-1]
	text := "1 generation"
	if n := len(l.Generations); n > 1 {
		text = fmt.Sprintf("%d generations", n)
	}
	var about []string
	if last.Node != "" {
		about = append(about, fmt.Sprintf("the newest with %s as primary, epoch %d", last.Node, last.Epoch))
	}
	if l.Fork != "" {
		about = append(about, "since generation "+l.Fork)
	}
	if l.Bytes >= 0 {
		about = append(about, fmt.Sprintf("at most %d bytes", l.Bytes))
	}
	if len(about) > 0 {
		text += " (" + strings.Join(about, "; ") + ")"
	}
	return text
}
