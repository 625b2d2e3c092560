package replication

import (
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/bitmap"
)

// answeredByTheRecord returns how many requests a primary answers when it hears, late, of a newer epoch
// in which the last member that a write waited for is outside the set.
func answeredByTheRecord(t *testing.T) int {
	r, _ := pair(t)
	now := r.now
	id := r.NewID()
	r.Step(&Event{Kind: EvRequest, Now: now, ID: id, Op: OpWrite, Ext: bitmap.Extent{Len: 4096}}, nil)
	r.Step(&Event{Kind: EvLocalDone, Now: now, ID: id}, nil)
	if r.started.n != 1 {
		t.Fatalf("%d writes wait for the peer", r.started.n)
	}
	now += 10 * time.Second // nothing of what happened meanwhile has been read yet
	out := r.Step(&Event{Kind: EvLedger, Now: now, Record: &Record{Version: 9, Epoch: 3, Primary: "n3", SelfKnown: true,
		InSet: []bool{false}, Failed: []bool{false}, Instances: []uint64{2}, Lineage: []uint64{5, 6, 7}, Size: 1 << 30}}, nil)
	answers := 0
	for _, a := range out {
		if a.Kind == ActReply || a.Kind == ActReplyEarly {
			answers++
		}
	}
	return answers
}

func TestPrimary_HearsOfANewerEpochLate_AnswersNothingThatTheRecordLetsGo(t *testing.T) {
	if n := answeredByTheRecord(t); n != 0 {
		t.Errorf("%d writes were answered by a node that had lost the role", n)
	}
}
