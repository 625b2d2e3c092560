package replication

import (
	"fmt"

	"github.com/lockstep-ha/lockstep/internal/planted"
)

// holds reports whether this replica is, at this moment, held equal by the session with p: it leads
// p as a member, or follows it as one, and is up to date itself.
func (r *Resource) holds(p *peer) bool {
	if r.failed || r.meta.State != UpToDate || r.meta.Unclean || !r.selfInSet() {
		return false
	}
	leads := r.isPrimary() && p.phase == phaseFollowing && p.inSet
	return leads || r.leader == p.idx
}

// MayGoAlone reports why this process may not go on without peer p in a pair without a witness,
// nil if it may (DESIGN section 4). That p is down for certain is for the caller to know. What is
// judged here is that this is the very process that held the session with p when it broke, with
// no pause since: only then can p not have gone on alone before.
func (r *Resource) MayGoAlone(idx Peer) error {
	p := r.peers[idx]
	switch {
	case planted.On(planted.AloneAfterRestart):
		return nil
	case p.phase != phaseNone:
		return fmt.Errorf("%s is connected", p.node)
	case !p.heldThrough:
		return fmt.Errorf("this process did not hold the connection to %s in sync when it broke: %s may have gone on alone since", p.node, p.node)
	case r.gapAt > p.brokeAt:
		return fmt.Errorf("this process stood still since the connection to %s broke: %s may have gone on alone meanwhile", p.node, p.node)
	case r.failed || r.meta.State != UpToDate || !r.selfInSet():
		return fmt.Errorf("the replica here is %s", r.meta.State)
	}
	return nil
}
