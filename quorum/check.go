package quorum

import (
	"slices"
	"strings"
)

// ValidName reports whether s may name a node, a cluster or a resource: 1 to MaxName of the
// bytes a-z A-Z 0-9 . _ -, the first one a letter or a digit.
func ValidName(s string) bool {
	if s == "" || len(s) > MaxName {
		return false
	}
	for i := range len(s) {
		b := s[i]
		letter := b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9'
		if !letter && (i == 0 || b != '.' && b != '_' && b != '-') {
			return false
		}
	}
	return true
}

// check verifies what c shows by itself, without a State.
func (c *Command) check() error {
	k := c.Kind()
	var f faults
	switch {
	case k == KindNone:
		f.addf("a command has exactly one kind")
	case k.aboutNodes():
		if c.Resource != "" || c.ResourceID != 0 || c.Epoch != 0 {
			f.addf("%s is about no resource", k)
		}
	default:
		if !ValidName(c.Resource) {
			f.addf("%q is no valid resource name", clip(c.Resource))
		}
		if c.ResourceID == 0 {
			f.addf("resource id 0")
		}
	}
	if k.aboutNodes() {
		c.checkNodes(k, &f)
	} else {
		c.checkBody(k, &f)
	}
	return f.err()
}

func (c *Command) checkBody(k Kind, f *faults) {
	switch k {
	case KindCreateResource:
		if c.Epoch != 0 {
			f.addf("a new resource has epoch 0")
		}
		c.CreateResource.check(f)
	case KindRegisterReplica:
		f.name("node", c.RegisterReplica.Node)
		f.nonZero("instance", c.RegisterReplica.Instance)
	case KindReplicaError:
		f.name("node", c.ReplicaError.Node)
		f.text("error text", c.ReplicaError.Text, MaxText)
	case KindResourceGone:
		f.nodes(c.ResourceGone.Nodes)
	case KindPromote:
		f.incumbent(c.Promote.Candidate)
		f.nonZero("generation", c.Promote.Generation)
		f.text("statement", c.Promote.Statement, MaxText)
		if c.Promote.Statement != "" && !c.Promote.Operator {
			f.addf("only an operator states that a primary is down")
		}
	case KindForcePromote:
		f.incumbent(c.ForcePromote.Candidate)
		f.nonZero("generation", c.ForcePromote.Generation)
		f.own(c.ForcePromote)
		f.down(c.ForcePromote.Down)
	case KindSetPriority:
		f.name("node", c.SetPriority.Node)
		f.priority(c.SetPriority.Priority)
	case KindSetServices:
		f.services(c.SetServices.Services)
	case KindServicesFailed:
		f.name("node", c.ServicesFailed.Node)
		f.text("text", c.ServicesFailed.Text, MaxText)
	case KindPauseFailover:
		f.text("text", c.PauseFailover.Text, MaxText)
	case KindAttach:
		n := c.Attach
		f.incumbent(n.Incumbent)
		f.attachment(n.Key, n.Holder, n.Device, n.Boot)
	case KindDetach:
		f.nonZero("attachment number", c.Detach.Number)
		if c.Detach.Force && c.Detach.Key != "" {
			f.addf("an operator needs no key")
		} else if !c.Detach.Force {
			f.hex("attachment key", c.Detach.Key, keySize)
		}
	case KindStepDown:
		f.incumbent(c.StepDown.Incumbent)
	case KindDropReplica:
		f.incumbent(c.DropReplica.Incumbent)
		f.nodes(c.DropReplica.Nodes)
		f.nonZero("generation", c.DropReplica.Generation)
	case KindJoinReplica:
		f.incumbent(c.JoinReplica.Incumbent)
		f.name("node", c.JoinReplica.Node)
		f.nonZero("instance", c.JoinReplica.Instance)
	case KindResize:
		f.incumbent(c.Resize.Incumbent)
		f.size(c.Resize.SizeBytes)
	case KindSetPolicy:
		f.policy(c.SetPolicy.Policy)
	}
}

func (c *Command) checkNodes(k Kind, f *faults) {
	switch k {
	case KindAddNode:
		n := c.AddNode.Node
		f.node(n)
		if n.Gone || n.Boot != "" || n.Process != 0 {
			f.addf("a node is added by name, voter id, address and kind alone")
		}
	case KindRemoveNode:
		f.name("node", c.RemoveNode.Name)
	case KindNodeStarted:
		f.name("node", c.NodeStarted.Node)
		f.boot(c.NodeStarted.Boot)
		f.nonZero("process", c.NodeStarted.Process)
	case KindFenceRequested:
		q := c.FenceRequested
		f.fence(q.Target, q.Boot, q.ID)
		f.name("node", q.Executor)
		if q.Executor == q.Target {
			f.addf("node %q does not turn itself off", clip(q.Target))
		}
	case KindFenceConfirmed:
		q := c.FenceConfirmed
		f.fence(q.Target, q.Boot, q.ID)
		f.text("proof", q.Proof, MaxText)
		if q.Proof == "" {
			f.addf("a confirmation says what proves it")
		}
	case KindFenceFailed:
		q := c.FenceFailed
		f.fence(q.Target, q.Boot, q.ID)
		f.text("text", q.Text, MaxText)
	case KindUnfence:
		f.name("node", c.Unfence.Target)
	case KindAddToken:
		f.token(c.AddToken.Token)
		if c.AddToken.Token.UsedBy != "" || c.AddToken.Token.UsedName != "" {
			f.addf("a token is not used when it is made")
		}
	case KindUseToken:
		u := c.UseToken
		f.hex("token id", u.ID, 8)
		f.hex("key", u.Key, 32)
		f.name("node", u.Name)
	}
}

func (p *CreateResource) check(f *faults) {
	f.size(p.SizeBytes)
	f.policy(p.Policy)
	if len(p.Replicas) == 0 || len(p.Replicas) > MaxReplicas {
		f.addf("%d replicas, want 1 to %d", len(p.Replicas), MaxReplicas)
	}
	names := make([]string, 0, len(p.Replicas))
	for _, r := range p.Replicas {
		f.name("node", r.Node)
		f.text("data path", r.DataPath, MaxPath)
		f.text("metadata path", r.MetaPath, MaxPath)
		f.priority(r.Priority)
		if r.DataPath == "" {
			f.addf("no data path on node %q", clip(r.Node))
		}
		names = append(names, r.Node)
	}
	f.distinct(names)
	if p.Source != "" && !slices.Contains(names, p.Source) {
		f.addf("source %q has no replica", clip(p.Source))
	}
}

func (f *faults) name(what, s string) {
	if !ValidName(s) {
		f.addf("%q is no valid %s name", clip(s), what)
	}
}

func (f *faults) nonZero(what string, v uint64) {
	if v == 0 {
		f.addf("%s is 0", what)
	}
}

// text refuses what would not survive JSON unchanged, or not print on one line.
func (f *faults) text(what, s string, most int) {
	if len(s) > most {
		f.addf("%s has %d bytes, more than %d", what, len(s), most)
	}
	if s != strings.ToValidUTF8(s, "") || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		f.addf("%s is not printable text", what)
	}
}

func (f *faults) size(n int64) {
	if n <= 0 || n > MaxSizeBytes || n%SizeUnit != 0 {
		f.addf("size of %d bytes is not a positive multiple of %d", n, SizeUnit)
	}
}

func (f *faults) policy(p Policy) {
	if err := p.Validate(); err != nil {
		f.addf("%s", strings.TrimPrefix(err.Error(), ErrInvalid.Error()+": "))
	}
}

func (f *faults) incumbent(i Incumbent) {
	f.name("node", i.Node)
	f.nonZero("instance", i.Instance)
	f.nonZero("process", i.Process)
	f.boot(i.Boot)
}

func (f *faults) boot(id string) {
	f.text("boot id", id, MaxName)
	if id == "" {
		f.addf("boot id is empty")
	}
}

func (f *faults) fence(target, boot string, id uint64) {
	f.name("node", target)
	f.boot(boot)
	f.nonZero("fence id", id)
}

func (f *faults) priority(p int) {
	if p < -MaxPriority || p > MaxPriority {
		f.addf("priority %d is not between -%d and %d", p, MaxPriority, MaxPriority)
	}
}

// own refuses a history that no replica can have.
func (f *faults) own(p *ForcePromote) {
	switch {
	case len(p.Own) == 0:
		return
	case len(p.Own) > MaxLineage:
		f.addf("%d generations of the candidate's own, more than %d", len(p.Own), MaxLineage)
		return
	}
	all := append([]uint64{p.Fork, p.Generation}, p.Own...)
	slices.Sort(all)
	if slices.Contains(p.Own, 0) || len(slices.Compact(all)) != len(p.Own)+2 {
		f.addf("the candidate's own generations hold a 0, or one twice, or the fork")
	}
}

func (f *faults) down(proofs []DownProof) {
	if len(proofs) > MaxReplicas {
		f.addf("%d nodes taken for down, more than %d", len(proofs), MaxReplicas)
	}
	names := make([]string, 0, len(proofs))
	for _, d := range proofs {
		f.name("node", d.Node)
		f.text("statement", d.Text, MaxText)
		switch {
		case !d.Operator:
			f.boot(d.Boot)
		case d.Text == "" || d.Boot != "":
			f.addf("an operator's word on %q is a statement, without a boot id", clip(d.Node))
		}
		names = append(names, d.Node)
	}
	f.distinct(names)
}

func (f *faults) nodes(names []string) {
	if len(names) == 0 || len(names) > MaxReplicas {
		f.addf("%d nodes, want 1 to %d", len(names), MaxReplicas)
	}
	for _, n := range names {
		f.name("node", n)
	}
	f.distinct(names)
}

func (f *faults) distinct(names []string) {
	sorted := slices.Clone(names)
	slices.Sort(sorted)
	if len(slices.Compact(sorted)) != len(names) {
		f.addf("a node is named twice")
	}
}

func (f *faults) node(n Node) {
	f.name("node", n.Name)
	f.nonZero("voter id", n.VoterID)
	f.text("address", n.Addr, MaxText)
	f.text("gossip address", n.Gossip, MaxText)
	f.text("identity", n.Identity, MaxName)
	if n.Addr == "" {
		f.addf("node %q has no address", clip(n.Name))
	}
}

// clip keeps a hostile name from filling the log.
func clip(s string) string {
	if len(s) > MaxName {
		return s[:MaxName] + "..."
	}
	return s
}
