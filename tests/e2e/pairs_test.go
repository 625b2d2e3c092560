package e2e

import (
	"testing"

	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
)

// pair is a loss of two of three nodes. P is the primary, S the other data node, W the witness, as
// they are before the first loss.
type pair struct {
	first, second string // the order of loss
	back          string // who returns first
	served        bool   // between the two losses the load goes on before the second
	alone         bool   // who is left serves alone
	half          bool   // when back has returned, the two serve without the third
}

// Between the losses a majority is left, so writes go on. After both, a primary goes on only if it
// was alone in the set by then: nobody else can be promoted without force. The first to return makes
// a majority; somebody serves then if one of the two holds every acknowledged write.
var pairs = []pair{
	{first: "P", second: "S", back: "S", served: true, half: true},
	{first: "P", second: "S", back: "P", served: true}, // P lacks what S acknowledged
	{first: "P", second: "S", back: "P", half: true},   // at once: nobody has served since
	{first: "P", second: "W", back: "W", served: true, alone: true, half: true},
	{first: "P", second: "W", back: "P", half: true}, // at once: S waits for a majority
	{first: "S", second: "P", back: "P", served: true, half: true},
	{first: "S", second: "P", back: "S", served: true}, // S lacks what P acknowledged
	{first: "S", second: "W", back: "S", served: true, alone: true, half: true},
	{first: "S", second: "W", back: "W", half: true}, // at once: P cannot drop S
	{first: "W", second: "P", back: "W", served: true, half: true},
	{first: "W", second: "P", back: "P", half: true},
	{first: "W", second: "S", back: "S", served: true, half: true},
	{first: "W", second: "S", back: "W", half: true},
}

func (p pair) String() string {
	s := p.first + p.second
	if !p.served {
		s += " at once"
	}
	return s + ", " + p.back + " back first"
}

// The list is in two halves, which run side by side, each on one cluster.
func TestTwoOfThreeKilled_InEachOrderOfLossAndReturn_NothingIsLost(t *testing.T) {
	for i, half := range [][]pair{pairs[:len(pairs)/2], pairs[len(pairs)/2:]} {
		t.Run([]string{"first half", "second half"}[i], func(t *testing.T) {
			t.Parallel()
			r := start(t, cluster.Options{})
			for _, p := range half {
				r.lose(p)
				if t.Failed() {
					break
				}
			}
			r.finish()
		})
	}
}

// lose carries out one pair and ends with a whole cluster.
func (r *rig) lose(p pair) {
	r.t.Helper()
	r.t.Logf("%v, at %v", p, r.h.Now())
	primary, secondary := r.roles()
	name := map[string]string{"P": primary, "S": secondary, "W": "w"}
	r.Kill(name[p.first])
	if p.served {
		r.flows(100)
	}
	r.Kill(name[p.second])
	if p.alone {
		r.flows(100)
	}
	last := p.first
	if p.back == p.first {
		last = p.second
	}
	r.StartUnready(name[p.back])
	r.WaitQuorum(name[p.back])
	if p.half {
		r.flows(100)
	} else {
		r.refuses(name[p.back])
	}
	r.Start(name[last])
	r.whole()
}
