//go:build plantedbugs

package device

import (
	"testing"

	"github.com/lockstep-ha/lockstep/internal/planted"
	"github.com/lockstep-ha/lockstep/replication"
)

// With the bug, a request that comes through a door of an earlier time as primary is taken and
// answered as if nothing had been in between; TestDoor_RequestOfAnEarlierTimeAsPrimaryIsDropped
// would find it.
func TestPlanted_ConnectionOutlivesEpoch(t *testing.T) {
	planted.Plant(planted.ConnectionOutlivesEpoch)
	t.Cleanup(func() { planted.Plant(planted.None) })
	r := newRig(t, Config{}, Deps{})
	r.core.hook = func(ev *replication.Event, emit func(replication.Action)) bool {
		if ev.Kind == replication.EvStop {
			emit(replication.Action{Kind: replication.ActCloseClients})
		}
		return true
	}
	old := r.d.doors
	if err := r.d.post(replication.EvStop, nil); err != nil {
		t.Fatal(err)
	}
	c, q := r.ask(replication.OpWrite, 0, 512)
	tn := r.d.begin(true)
	r.d.submit(tn, &door{n: old}, []*call{c})
	tn.finish()
	if len(q.answers) != 1 || q.answers[0] != nil {
		t.Errorf("not found: the late request is answered %v", q.answers)
	}
	r.checkBuffers()
}

// With the bug, the core takes what an old session brings for the write of a client that does not say
// who it is; TestPair_LateWriteOfAnOldSessionIsNeverApplied would find it.
func TestPlanted_SessionUnnamed(t *testing.T) {
	planted.Plant(planted.SessionUnnamed)
	t.Cleanup(func() { planted.Plant(planted.None) })
	if got, late := lateWrite(t); late != nil || got[0] != 3 {
		t.Errorf("not found: the late write is answered %v, the device begins with %d", late, got[0])
	}
}
