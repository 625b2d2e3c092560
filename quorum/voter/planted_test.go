//go:build plantedbugs

package voter

import (
	"testing"

	"github.com/lockstep-ha/lockstep/internal/planted"
)

// plant switches a bug on for the rest of the test.
func plant(t *testing.T, b planted.Bug) {
	planted.Plant(b)
	t.Cleanup(func() { planted.Plant(planted.None) })
}

// Each planted bug does what its sentence says, where a test of the healthy code says it must
// not: so those tests would find it.

func TestPlanted_VoterByName(t *testing.T) {
	plant(t, planted.VoterByName)
	c := amnesia(t)
	c.until("B is elected with an empty ledger's vote", func() bool { return c.hosts["B"].Leads() })
	if c.hosts["B"].State().Find("r0") != nil {
		t.Fatal("nothing was lost")
	}
}

func TestPlanted_RelayDirectOnly(t *testing.T) {
	plant(t, planted.RelayDirectOnly)
	c := newCluster(t, 3, "A", "B", "W")
	c.toLeader("B")
	c.split("A", "B")
	_, a := c.begin("A", createCmd(c.hosts["A"].State(), "r0", 1))
	for range 100 {
		c.step()
		if c.hosts["A"].Leader() == "B" && a.done {
			t.Fatal("the proposal found a way")
		}
	}
}

func TestPlanted_TailDropped(t *testing.T) {
	plant(t, planted.TailDropped)
	c := seenCommitted(t)
	c.alone("B")
	if c.text("B") != "" {
		t.Fatalf("B has kept %q", c.text("B"))
	}
}

func TestPlanted_ChildAlwaysAdopted(t *testing.T) {
	plant(t, planted.ChildAlwaysAdopted)
	c := apart(t)
	c.heal()
	c.until("B has given up what it committed", func() bool { return c.text("B") == "tail0" && len(c.hosts["B"].mem.Aside()) == 1 })
}

func TestPlanted_IncarnationCrossed(t *testing.T) {
	plant(t, planted.IncarnationCrossed)
	c := crossing(t)
	c.sent = func(p packet) bool { return FrameKind(p.frame[4]) != FrameHello }
	c.heal()
	defer func() {
		if recover() == nil {
			t.Fatal("A took nothing of the parent's messages")
		}
	}()
	for range 100 {
		if c.step(); !c.hosts["A"].Leads() {
			panic("A follows a leader of the parent")
		}
	}
}
