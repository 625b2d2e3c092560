package replication

import "time"

// Fitness is what a replica says of itself to whoever decides about promotions.
type Fitness struct {
	State      DiskState
	Unclean    bool
	Failed     bool
	Hangs      bool   // Failed until this process is gone, because the disk hung: what it holds may be whole
	Epoch      uint64 // highest stored
	Generation uint64 // last of its history; 0: none
	SelfInSet  bool
	Version    uint64 // of the newest record it knows
	Starting   bool   // promoted, not serving yet
	Serving    bool
	Stopping   bool          // it has stopped serving and its StepDown is not recorded
	Heard      time.Duration // since the primary that it follows was last heard of; below 0: it follows nobody
	Frozen     bool          // as primary: requests wait
	CannotDrop bool          // as primary: a change of the set that it needs got no answer of the ledger
}

// Fitness returns what there is to say at now. It allocates nothing.
func (r *Resource) Fitness(now time.Duration) Fitness {
	f := Fitness{State: r.meta.State, Unclean: r.meta.Unclean, Failed: r.failed, Hangs: r.hangs(), Epoch: r.meta.Epoch, SelfInSet: r.selfInSet(),
		Version: r.meta.Version, Starting: r.role == roleStarting, Serving: r.role == rolePrimary,
		Stopping: r.role == roleStopping || r.role == roleStopped, Heard: -1, Frozen: r.frozen || r.waits()}
	if n := len(r.meta.Lineage); n > 0 {
		f.Generation = r.meta.Lineage[n-1]
	}
	if r.leader >= 0 {
		f.Heard = max(0, now-r.peers[r.leader].heardAt)
	}
	f.CannotDrop = r.prop.busy && r.prop.asked.Kind == ProposeDrop && now-r.prop.askedAt > r.cfg.PeerTimeout
	return f
}

// waits reports whether a client waits for a member that is away. Nothing needs to be held for that: of one
// that sends its requests one by one, the write under way is all there is.
func (r *Resource) waits() bool {
	if r.role != rolePrimary || r.started.n == 0 && len(r.flush.running) == 0 {
		return false
	}
	stuck, _ := r.stuck()
	return stuck
}
