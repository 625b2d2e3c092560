package quorum

import (
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestApply_AnyCommandsKeepTheInvariants proposes commands that are mostly sensible, some of
// them decided on an older record, some proposed twice, and compares each State with the one
// before it.
func TestApply_AnyCommandsKeepTheInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{T: t, s: mustGenesis("A", "B", "C", "W"), gen: 1}
		for range rapid.IntRange(1, 120).Draw(t, "commands") {
			c := m.draw()
			m.queue = append(m.queue, c)
			m.step(c)
			if rapid.IntRange(0, 3).Draw(t, "late") == 0 { // an older proposal arrives again
				m.step(rapid.SampledFrom(m.queue).Draw(t, "which"))
			}
		}
	})
}

type model struct {
	*rapid.T
	s       *State
	queue   []Command
	gen     uint64
	applied []Command
}

func (m *model) step(c Command) {
	before := m.s
	next, res := Apply(before, c)
	if err := next.Check(); err != nil {
		m.Fatalf("%s: %v", &c, err)
	}
	m.s = next
	if res.Code != Applied {
		if next != before {
			m.Fatalf("%s refused, and the state changed", &c)
		}
		return
	}
	m.applied = append(m.applied, c)
	if again, res := Apply(next, c); res.Code == Applied || again != next {
		m.Fatalf("%s applied twice", &c)
	}
	m.compare(c, before, next)
}

func (m *model) compare(c Command, before, next *State) {
	if next.Version < before.Version {
		m.Fatalf("%s: catalogue version went back", &c)
	}
	if c.Kind().aboutNodes() && (next.Version != before.Version+1 || &next.Resources[0] != &before.Resources[0]) {
		m.Fatalf("%s: version %d after %d, or it changed a resource", &c, next.Version, before.Version)
	}
	m.compareFences(c, before, next)
	for i := range before.Resources {
		old := &before.Resources[i]
		now := next.Find(old.Name)
		if now == nil {
			if !old.Deleted {
				m.Fatalf("%s removed a record that was not deleted", &c)
			}
			continue
		}
		if c.Resource == old.Name && now.Version != old.Version+1 {
			m.Fatalf("%s: version %d after %d", &c, now.Version, old.Version)
		}
		if now.Epoch < old.Epoch || old.Deleted && !now.Deleted {
			m.Fatalf("%s: epoch %d after %d, deleted %t", &c, now.Epoch, old.Epoch, now.Deleted)
		}
		if len(old.Set()) > 0 && len(now.Set()) == 0 && !now.Deleted {
			m.Fatalf("%s emptied the set", &c)
		}
		m.compareAttachments(c, old, now)
		if c.ForcePromote != nil {
			m.compareForced(c, before, old, now)
			continue
		}
		if len(now.Lineage) < len(old.Lineage) || !slices.Equal(now.Lineage[:len(old.Lineage)], old.Lineage) {
			m.Fatalf("%s: lineage %v is no continuation of %v", &c, now.Lineage, old.Lineage)
		}
		if now.Epoch == old.Epoch && !old.Primary.None() && !now.Primary.None() && now.Primary != old.Primary {
			m.Fatalf("%s: two primaries in epoch %d", &c, now.Epoch)
		}
		if p := c.Promote; p != nil && now.Version != old.Version {
			other := !old.Primary.None() && old.Primary.Node != p.Candidate.Node
			if other && old.Policy.needsProof() && !before.PrimaryOver(old) && p.Statement == "" {
				m.Fatalf("%s replaced %s without a proof", &c, old.Primary)
			}
			if (old.Hold || old.Paused || old.Policy.Failover == FailoverManual) && !p.Operator {
				m.Fatalf("%s was not an operator's", &c)
			}
			if other && next.Released(now, old.Epoch) && !before.ProvenDown(old.Primary.Node, old.Primary.Boot) {
				m.Fatalf("%s released the promise to %s", &c, old.Primary)
			}
		}
		for _, p := range now.Replicas { // the set grows only by what may grow it
			o := old.Replica(p.Node)
			if p.InSet && !o.InSet && c.JoinReplica == nil && (c.RegisterReplica == nil || old.Epoch > 0) {
				m.Fatalf("%s took %s into the set", &c, p.Node)
			}
		}
	}
}

// compareForced: the history was cut at the fork, what was cut is recorded, the candidate is alone,
// and there was a reason for each other member and for the primary.
func (m *model) compareForced(c Command, before *State, old, now *Resource) {
	if now.Version == old.Version {
		return // about another resource
	}
	f := c.ForcePromote
	keep := slices.Index(old.Lineage, f.Fork) + 1
	if want := slices.Concat(old.Lineage[:keep], f.Own, []uint64{f.Generation}); !slices.Equal(now.Lineage, want) {
		m.Fatalf("%s: lineage %v, want %v", &c, now.Lineage, want)
	}
	if last := now.Forced[len(now.Forced)-1]; !slices.Equal(last.Cut, old.Lineage[keep:]) {
		m.Fatalf("%s: recorded as cut %v, lineage was %v", &c, last.Cut, old.Lineage)
	}
	if got := now.Set(); !slices.Equal(got, []string{f.Candidate.Node}) {
		m.Fatalf("%s: set %v", &c, got)
	}
	for _, p := range old.Replicas {
		if p.Node == f.Candidate.Node || !p.InSet && p.Node != old.Primary.Node {
			continue
		}
		i := slices.IndexFunc(f.Down, func(d DownProof) bool { return d.Node == p.Node })
		if i < 0 || !f.Down[i].Operator && !before.ProvenDown(p.Node, f.Down[i].Boot) {
			m.Fatalf("%s: nothing says that %s is down", &c, p.Node)
		}
	}
}

// compareFences: a proof appears by a confirmation of the request that was open, and by nothing else.
func (m *model) compareFences(c Command, before, next *State) {
	for _, f := range next.Fences {
		old := before.Fence(f.Target)
		if f.Phase != FenceProven || old != nil && *old == f {
			continue
		}
		q := c.FenceConfirmed
		if q == nil || old == nil || old.Phase != FenceAsked || old.ID != q.ID || old.Boot != q.Boot || f.Executor != old.Executor {
			m.Fatalf("%s: fence %+v after %+v", &c, f, old)
		}
	}
}

func (m *model) node() string {
	return rapid.SampledFrom([]string{"A", "B", "C"}).Draw(m.T, "node")
}

func (m *model) incumbent(r *Resource) Incumbent {
	if !r.Primary.None() && rapid.IntRange(0, 4).Draw(m.T, "right") > 0 {
		return r.Primary
	}
	return m.candidate(r)
}

func (m *model) candidate(r *Resource) Incumbent {
	n := m.node()
	i := Incumbent{Node: n, Instance: 1, Boot: m.boot(), Process: rapid.Uint64Range(1, 3).Draw(m.T, "process")}
	if k := m.s.Node(n); k.Process != 0 && rapid.IntRange(0, 4).Draw(m.T, "registered") > 0 {
		i.Boot, i.Process = k.Boot, k.Process
	}
	if p := r.Replica(n); p != nil && p.Instance != 0 {
		i.Instance = p.Instance
	}
	return i
}

func (m *model) draw() Command {
	m.gen++
	names := []string{"r0", "r1"}
	name := rapid.SampledFrom(names).Draw(m.T, "resource")
	r := m.s.Find(name)
	if r == nil {
		p := &CreateResource{SizeBytes: gib}
		p.Policy.Fencing = rapid.SampledFrom([]FencingMode{"", FencingStonith}).Draw(m.T, "fencing")
		if rapid.Bool().Draw(m.T, "source") {
			p.Source = "A"
		}
		for _, n := range []string{"A", "B", "C"} {
			p.Replicas = append(p.Replicas, NewReplica{Node: n, DataPath: "/" + n})
		}
		return Command{Resource: name, ResourceID: m.gen, Version: m.s.Version, CreateResource: p}
	}
	if rapid.IntRange(0, 3).Draw(m.T, "about nodes") == 0 {
		return m.drawNodes()
	}
	c := On(r)
	yes := func(what string) bool { return rapid.IntRange(0, 3).Draw(m.T, what) == 0 }
	switch rapid.IntRange(0, 20).Draw(m.T, "kind") {
	case 0, 1, 2:
		c.RegisterReplica = &RegisterReplica{Node: m.node(), Instance: m.gen}
	case 3, 4:
		c.Promote = &Promote{Candidate: m.candidate(r), NewEpoch: r.Epoch + 1, Generation: m.gen,
			TakeOver: yes("takeover"), Operator: yes("operator")}
		if c.Promote.Operator && yes("word") {
			c.Promote.Statement = "it is off"
		}
	case 5:
		c.StepDown = &StepDown{Incumbent: m.incumbent(r), Failed: yes("failed"), Hold: yes("hold")}
	case 6, 7:
		d := &DropReplica{Incumbent: m.incumbent(r), Nodes: []string{m.node()}, Failed: yes("failed"), Generation: m.gen}
		if n := m.node(); n != d.Nodes[0] {
			d.Nodes = append(d.Nodes, n)
		}
		c.DropReplica = d
	case 8, 9:
		i := m.candidate(r)
		c.JoinReplica = &JoinReplica{Incumbent: m.incumbent(r), Node: i.Node, Instance: i.Instance}
	case 10:
		c.NoOp = &NoOp{}
	case 11:
		c.Hold = &Hold{On: yes("on")}
	case 12:
		if yes("delete") {
			c.DeleteResource = &DeleteResource{}
		} else {
			c.Resize = &Resize{Incumbent: m.incumbent(r), SizeBytes: r.SizeBytes + SizeUnit}
		}
	case 13, 14:
		f := &ForcePromote{Candidate: m.candidate(r), NewEpoch: r.Epoch + 1, Generation: m.gen}
		if len(r.Lineage) > 0 && !yes("from nothing") {
			f.Fork = rapid.SampledFrom(r.Lineage).Draw(m.T, "fork")
		}
		if yes("own") {
			f.Own = []uint64{m.gen | 1<<40}
		}
		for _, n := range []string{"A", "B", "C"} {
			if d := (DownProof{Node: n, Operator: true, Text: "it is off"}); !yes("forgotten") && n != f.Candidate.Node {
				if yes("fenced") {
					d = DownProof{Node: n, Boot: m.boot()}
				}
				f.Down = append(f.Down, d)
			}
		}
		c.ForcePromote = f
	case 15:
		p := Policy{}
		p.Fencing = rapid.SampledFrom([]FencingMode{"", FencingLease, FencingStonith, FencingManual}).Draw(m.T, "fencing")
		p.Failover = rapid.SampledFrom([]FailoverMode{"", FailoverAuto, FailoverAuto, FailoverManual}).Draw(m.T, "failover")
		c.SetPolicy = &SetPolicy{Policy: p}
	case 16:
		if yes("pause") {
			c.PauseFailover = &PauseFailover{On: yes("on"), Text: "x"}
		} else {
			c.SetPriority = &SetPriority{Node: m.node(), Priority: int(m.gen % 5)}
		}
	case 17, 18, 19:
		m.drawAttachment(r, &c)
	default:
		c.ResourceGone = &ResourceGone{Nodes: []string{m.node()}}
	}
	return c
}

// drawAttachment draws a command about the attachments of r.
func (m *model) drawAttachment(r *Resource, c *Command) {
	if len(r.Attachments) > 0 && rapid.Bool().Draw(m.T, "detach") {
		a := rapid.SampledFrom(r.Attachments).Draw(m.T, "attachment")
		c.Detach = &Detach{Number: a.Number, Key: a.Key}
		return
	}
	few := func(what string) string { return rapid.SampledFrom([]string{"1", "2", "3"}).Draw(m.T, what) }
	c.Attach = &Attach{Incumbent: m.incumbent(r), Key: key(rapid.IntRange(1, 4).Draw(m.T, "key")), Holder: few("holder"),
		Device: few("device"), Boot: m.boot(), Shared: rapid.IntRange(0, 3).Draw(m.T, "shared") > 0}
}

// compareAttachments: each number is new, nobody is pushed out but by a Detach or by an Attach of
// another boot of the same host, and the end of a resource.
func (m *model) compareAttachments(c Command, old, now *Resource) {
	if now.LastAttachment < old.LastAttachment {
		m.Fatalf("%s: last attachment %d after %d", &c, now.LastAttachment, old.LastAttachment)
	}
	for _, a := range now.Attachments {
		if old.Attachment(a.Number) == nil && (c.Attach == nil || a.Number <= old.LastAttachment || a.Key != c.Attach.Key) {
			m.Fatalf("%s: attachment %+v is new", &c, a)
		}
	}
	for _, a := range old.Attachments {
		n := c.Attach
		switch {
		case now.Attachment(a.Number) != nil:
		case c.Detach != nil && c.Detach.Number == a.Number:
		case n != nil && n.Holder == a.Holder && n.Device == a.Device && n.Boot != a.Boot:
		default:
			m.Fatalf("%s ended attachment %+v", &c, a)
		}
	}
}

func (m *model) boot() string { return rapid.SampledFrom([]string{"b1", "b2"}).Draw(m.T, "boot") }

// drawNodes draws a command about the nodes and their fences.
func (m *model) drawNodes() Command {
	c := Command{Version: m.s.Version}
	target := m.node()
	f := Fence{Boot: m.boot(), ID: m.gen}
	if old := m.s.Fence(target); old != nil && rapid.IntRange(0, 4).Draw(m.T, "the open one") > 0 {
		f = *old
	} else if n := m.s.Node(target); n.Boot != "" && rapid.IntRange(0, 2).Draw(m.T, "its boot") > 0 {
		f.Boot = n.Boot
	}
	switch rapid.IntRange(0, 6).Draw(m.T, "kind about nodes") {
	case 0:
		c.NodeStarted = &NodeStarted{Node: target, Boot: m.boot(), Process: rapid.Uint64Range(1, 3).Draw(m.T, "process")}
	case 1, 2:
		executor := rapid.SampledFrom([]string{"A", "B", "C", "W"}).Draw(m.T, "executor")
		c.FenceRequested = &FenceRequested{Target: target, Boot: f.Boot, Executor: executor, ID: m.gen}
	case 3, 4:
		c.FenceConfirmed = &FenceConfirmed{Target: target, Boot: f.Boot, ID: f.ID, Proof: "off"}
	case 5:
		c.FenceFailed = &FenceFailed{Target: target, Boot: f.Boot, ID: f.ID}
	default:
		c.Unfence = &Unfence{Target: target}
	}
	return c
}

func TestApply_SameCommandsSameBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := mustGenesis("A", "B", "C", "W")
		m := &model{T: t, s: start, gen: 1}
		for range rapid.IntRange(1, 60).Draw(t, "commands") {
			c := m.draw()
			m.queue = append(m.queue, c)
			m.step(c)
		}
		// Another voter reads the commands from its log, and was restored from a snapshot midway.
		other := start
		for i, c := range m.queue {
			b, err := EncodeCommand(c)
			if errors.Is(err, ErrInvalid) {
				continue
			}
			d, err := DecodeCommand(b)
			if err != nil {
				t.Fatal(err)
			}
			other, _ = Apply(other, d)
			if i == len(m.queue)/2 {
				b, err := EncodeState(other)
				if err != nil {
					t.Fatal(err)
				}
				if other, err = DecodeState(b); err != nil {
					t.Fatal(err)
				}
			}
		}
		a, _ := EncodeState(m.s)
		b, _ := EncodeState(other)
		if string(a) != string(b) {
			t.Fatalf("voters diverge:\n%s\n%s", a, b)
		}
	})
}
