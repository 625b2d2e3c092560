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
		if len(now.Lineage) < len(old.Lineage) || !slices.Equal(now.Lineage[:len(old.Lineage)], old.Lineage) {
			m.Fatalf("%s: lineage %v is no continuation of %v", &c, now.Lineage, old.Lineage)
		}
		if now.Epoch == old.Epoch && !old.Primary.None() && !now.Primary.None() && now.Primary != old.Primary {
			m.Fatalf("%s: two primaries in epoch %d", &c, now.Epoch)
		}
		for _, p := range now.Replicas { // the set grows only by what may grow it
			o := old.Replica(p.Node)
			if p.InSet && !o.InSet && c.JoinReplica == nil && (c.RegisterReplica == nil || old.Epoch > 0) {
				m.Fatalf("%s took %s into the set", &c, p.Node)
			}
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
	i := Incumbent{Node: n, Instance: 1, Boot: "b", Process: rapid.Uint64Range(1, 3).Draw(m.T, "process")}
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
		if rapid.Bool().Draw(m.T, "source") {
			p.Source = "A"
		}
		for _, n := range []string{"A", "B", "C"} {
			p.Replicas = append(p.Replicas, NewReplica{Node: n, DataPath: "/" + n})
		}
		return Command{Resource: name, ResourceID: m.gen, Version: m.s.Version, CreateResource: p}
	}
	c := On(r)
	yes := func(what string) bool { return rapid.IntRange(0, 3).Draw(m.T, what) == 0 }
	switch rapid.IntRange(0, 13).Draw(m.T, "kind") {
	case 0, 1, 2:
		c.RegisterReplica = &RegisterReplica{Node: m.node(), Instance: m.gen}
	case 3, 4:
		c.Promote = &Promote{Candidate: m.candidate(r), NewEpoch: r.Epoch + 1, Generation: m.gen,
			TakeOver: yes("takeover"), Operator: yes("operator")}
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
	default:
		c.ResourceGone = &ResourceGone{Nodes: []string{m.node()}}
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
