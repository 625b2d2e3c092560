package node

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/replication"
)

// situation is what advice is given on.
type situation struct {
	rec     *quorum.Resource
	self    string
	local   *replication.Status // nil: no open replica here
	fault   *fault
	remote  *view // of the primary, where that is another node; nil: it did not answer
	quorate bool
	pair    string // the other voter where there are two; "": there are more, or one
	alone   string // what this node does by itself about the loss of that one, a sentence; "": nothing
	res     *control.Resource
}

// advise returns a few sentences for each thing that is not as it should be: the cause, whether
// data is safe, and the next safe command. Nothing is wrong: nil.
func advise(s situation) []string {
	var out []string
	for _, about := range []func(situation) []string{adviseLedger, adviseHere, advisePrimary, adviseReplicas, adviseDiverged, adviseServices} {
		out = append(out, about(s)...)
	}
	return out
}

func adviseLedger(s situation) []string {
	if s.quorate {
		return nil
	}
	text := fmt.Sprintf("This node (%s) sees no majority of the ledger's voters. Data is safe, and a primary that has all its in-sync peers goes on serving; "+
		"nothing can be promoted, dropped or joined until more nodes are back. Start the missing nodes: lockstep status lists them.", s.self)
	if s.alone != "" {
		text += " " + s.alone
	}
	if s.pair != "" {
		text += fmt.Sprintf(" If %s is down for certain: lockstep confirm-down %s.", s.pair, s.pair)
	}
	return []string{text}
}

// adviseHere is about the replica of the answering node.
func adviseHere(s situation) []string {
	name := s.rec.Name
	mine := s.rec.Replica(s.self)
	switch {
	case mine == nil:
		return nil
	case s.rec.Deleted:
		return []string{fmt.Sprintf("%s is being deleted; its files stay. The name is free when every node with a replica has let it go.", name)}
	case s.fault != nil && mine.InSet && len(s.rec.Set()) == 1:
		return []string{fmt.Sprintf("The replica on %s is not open: %s. It alone holds every acknowledged write, so do not delete or replace its files; put them back, then it opens by itself.", s.self, s.fault.reason)}
	case s.fault != nil && !mine.InSet && mine.Instance != 0 && s.rec.Epoch > 0:
		return []string{fmt.Sprintf("The replica on %s is not open: %s. Acknowledged data is on the in-sync replicas (%s). Once the cause is gone it opens by itself; if its disk or its files are lost: lockstep replica replace %s --on %s.", s.self, s.fault.reason, set(s.rec), name, s.self)}
	case s.fault != nil:
		return []string{fmt.Sprintf("The replica on %s is not open: %s. Acknowledged data is on the other in-sync replicas (%s). Once the cause is gone it opens by itself.", s.self, s.fault.reason, set(s.rec))}
	case s.local == nil:
		return nil
	case s.local.Hangs:
		return []string{fmt.Sprintf("The disk of %s hung, and this process does not use it any more. Once it works again, restart the daemon: what the disk took is still there. Until then serve from another in-sync node (%s): lockstep promote %s --on NODE.", s.self, others(s), name)}
	case s.local.State == replication.Failed && !mine.InSet && s.rec.Primary.Node != s.self:
		return []string{fmt.Sprintf("The disk of %s failed and is not used again by this replica. Acknowledged data is on: %s. Put a new disk in its place, then: lockstep replica replace %s --on %s.", s.self, others(s), name, s.self)}
	case s.local.State == replication.Failed:
		return []string{fmt.Sprintf("The disk of %s failed and is not used again by this replica. Acknowledged data is on: %s. Serve from another node: lockstep promote %s --on NODE.", s.self, others(s), name)}
	case s.local.State == replication.Diverged && divergence(s.rec, s.local.Lineage, 0) == nil:
		return []string{fmt.Sprintf("The replica on %s had another history when it was refused, and holds nothing now that the record lacks. To have it copied anew: lockstep invalidate %s --on %s.", s.self, name, s.self)}
	case s.local.State == replication.Diverged: // see adviseDiverged
	case s.local.Unclean:
		return []string{fmt.Sprintf("The host of %s went down without a clean stop, so its replica may lack writes that were not flushed. It is copied from the primary by itself; prefer another node for the promotion.", s.self)}
	}
	return nil
}

// advisePrimary is about who serves.
func advisePrimary(s situation) []string {
	name, p := s.rec.Name, s.rec.Primary
	switch {
	case s.rec.Deleted:
		return nil
	case p.None() && s.rec.Source == "" && !s.rec.Registered():
		return []string{fmt.Sprintf("%s is not complete: not every node has made its replica. There is no data yet. Start the missing nodes, or: lockstep resource delete %s.", name, name)}
	case p.None():
		why := ""
		if s.rec.Hold {
			why = " because an operator demoted it"
		}
		return []string{fmt.Sprintf("Nobody is primary of %s%s, so nobody can use it. Data is safe on: %s. Next: lockstep promote %s --on %s.", name, why, set(s.rec), name, best(s))}
	case p.Node == s.self && s.local != nil && s.local.Role != rolePrimary:
		return []string{fmt.Sprintf("%s is recorded as primary of %s, but by a process that is gone, so nobody serves. Data is safe on: %s. Next: lockstep promote %s --on %s.", s.self, name, set(s.rec), name, s.self)}
	case p.Node == s.self && s.local != nil && s.local.IO == control.IOFailed && s.local.State != replication.Failed:
		return []string{fmt.Sprintf("Requests to %s are answered with errors: %s. Acknowledged data is safe.", name, reason(*s.local))}
	case p.Node == s.self && s.local != nil && s.local.IO != control.IORunning:
		return []string{fmt.Sprintf("Requests to %s wait: %s. Acknowledged data is safe; the requests go on by themselves when the cause is gone.", name, reason(*s.local))}
	case p.Node == s.self:
		return nil
	case s.remote == nil:
		return adviseSilent(s)
	case s.remote.Process != p.Process:
		return []string{fmt.Sprintf("%s, the recorded primary of %s, was started again and does not serve yet. Data is safe on: %s. Next: lockstep promote %s --on %s.", p.Node, name, set(s.rec), name, p.Node)}
	case s.remote.Resource.IO.State == control.IOFailed && s.remote.State != replication.Failed.String():
		return []string{fmt.Sprintf("Requests to %s are answered with errors by %s: %s. Acknowledged data is safe.", name, p.Node, s.remote.Resource.IO.Reason)}
	case s.remote.Resource.IO.State == control.IOFrozen:
		return []string{fmt.Sprintf("Requests to %s wait on %s: %s. Acknowledged data is safe.", name, p.Node, s.remote.Resource.IO.Reason)}
	}
	return nil
}

// adviseSilent is about a primary on another node that does not answer.
func adviseSilent(s situation) []string {
	name, p := s.rec.Name, s.rec.Primary.Node
	rest := slices.DeleteFunc(s.rec.Set(), func(n string) bool { return n == p })
	if len(rest) == 0 {
		text := fmt.Sprintf("%s, the primary of %s, does not answer, and it alone holds every acknowledged write. Do not give its files up: start %s again.", p, name, p)
		if s.local != nil {
			text += fmt.Sprintf(" If it is lost for good, this tells what would be lost with it: lockstep promote %s --on %s --force.", name, s.self)
		}
		return []string{text}
	}
	to := rest[0]
	if slices.Contains(rest, s.self) {
		to = s.self
	}
	return []string{fmt.Sprintf("%s, the primary of %s, does not answer this node. Acknowledged data is safe on: %s. Start %s again; or, if it is down for certain: lockstep promote %s --on %s --confirm-peer-down.",
		p, name, strings.Join(rest, ", "), p, name, to)}
}

// adviseReplicas is about the other replicas.
func adviseReplicas(s situation) []string {
	if s.rec.Deleted || s.rec.Epoch == 0 {
		return nil
	}
	var out []string
	alone := len(s.rec.Set()) == 1 && len(s.rec.Replicas) > 1
	for i := range s.rec.Replicas {
		r := &s.rec.Replicas[i]
		c := s.res.Replicas[i]
		state := ""
		switch {
		case r.Node == s.self && s.fault != nil: // said already
		case c.Divergence != nil: // see adviseDiverged
		case r.Failed:
			state = fmt.Sprintf("its disk failed; put a new one in its place, then: lockstep replica replace %s --on %s", s.rec.Name, r.Node)
		case r.InSet:
		case c.Resync != nil && c.Resync.Paused:
			state = fmt.Sprintf("its resync is paused; go on with: lockstep resync resume %s", s.rec.Name)
		case c.Resync != nil:
			state = "it is being copied; wait"
		case c.Connection == control.ConnDisconnected:
			state = fmt.Sprintf("an operator disconnected it; go on with: lockstep connect %s --peer %s --node %s", s.rec.Name, r.Node, s.rec.Primary.Node)
		case c.Connection == control.ConnConnecting:
			state = "it is not connected; start it or mend the network, and what it missed is copied by itself"
		case s.rec.Primary.None():
			state = "it is copied once there is a primary"
		default:
			state = "it is not in sync yet"
		}
		if state != "" {
			out = append(out, fmt.Sprintf("The replica on %s lacks writes: %s.", r.Node, state))
		}
	}
	if alone && len(out) > 0 {
		out = append(out, fmt.Sprintf("Until then %s alone holds every acknowledged write; if its disk is lost, data is lost.", set(s.rec)))
	}
	return out
}

// adviseDiverged is about replicas that hold another history than the ledger records.
func adviseDiverged(s situation) []string {
	var out []string
	name := s.rec.Name
	for _, r := range s.res.Replicas {
		if r.Divergence == nil {
			continue
		}
		first := ""
		if !s.rec.Primary.None() {
			first = fmt.Sprintf("lockstep demote %s, then: ", name)
		}
		keep, promote := s.rec.Primary.Node, ""
		if keep == "" {
			keep = best(s)
			promote = fmt.Sprintf("lockstep promote %s --on %s, then: ", name, keep)
		}
		out = append(out, fmt.Sprintf("%s holds writes that the recorded history of %s lacks. Both timelines are kept and nothing is merged; every write that was acknowledged on the recorded one is on: %s. "+
			"To keep the recorded one: %slockstep resolve %s --keep %s. To keep that of %s: %slockstep resolve %s --keep %s.",
			r.Node, name, set(s.rec), promote, name, keep, r.Node, first, name, r.Node))
	}
	return out
}

// best is the member to promote: the answering node if it is one.
func best(s situation) string {
	members := s.rec.Set()
	if len(members) == 0 || slices.Contains(members, s.self) {
		return s.self
	}
	return members[0]
}

// others names the members but the answering node.
func others(s situation) string {
	rest := slices.DeleteFunc(s.rec.Set(), func(n string) bool { return n == s.self })
	if len(rest) == 0 {
		return "no other node"
	}
	return strings.Join(rest, ", ")
}
