package voter

import "go.etcd.io/raft/v3"

// Leads reports whether this node leads the ledger.
func (v *Voter) Leads() bool { return v.leads() }

// Leader returns the node that leads, as far as this one knows; "" if none.
func (v *Voter) Leader() string {
	if v.idle() {
		return ""
	}
	return v.nodeOf(v.rn.BasicStatus().Lead)
}

// Quorate is Status.HasQuorum.
func (v *Voter) Quorate() bool { return !v.idle() && v.rn.BasicStatus().Lead != raft.None }
