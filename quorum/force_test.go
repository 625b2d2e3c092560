package quorum

import (
	"slices"
	"strings"
	"testing"
)

// alone is {A} after A dropped B, wrote on, and died: B stands where the lineage had one generation.
func alone(t testing.TB) (x *script, fork uint64) {
	t.Helper()
	x = started(t, "A", "B")
	fork = x.r0().Lineage[0]
	x.must(x.drop("B"))
	return x, fork
}

func TestHistory21_ForcedReplicaCutsTheLineageWhereItStood(t *testing.T) {
	x, fork := alone(t)
	held := slices.Clone(x.r0().Lineage) // what A's metadata holds
	r := x.must(x.force(inc("B", 1), fork, word("A")))
	if !slices.Equal(r.Lineage, []uint64{fork, x.nextGen}) {
		t.Fatalf("lineage %v, A held %v", r.Lineage, held)
	}
	if slices.Contains(r.Lineage, held[1]) {
		t.Fatal("A's newest generation is still history: A would be taken for a laggard")
	}
	if !slices.Equal(r.Set(), []string{"B"}) || r.Primary != inc("B", 1) || r.Epoch != 2 || !r.ChosenUnclean {
		t.Fatalf("record %+v", r)
	}
	f := r.CutBy(held[1])
	if f == nil || f.Epoch != 2 || f.Node != "B" || f.Fork != fork || f.CutCount != 1 || f.Down[0].Text != word("A").Text {
		t.Fatalf("both timelines cannot be shown: %+v", r.Forced)
	}
	if r.CutBy(fork) != nil {
		t.Fatal("the fork itself is history still")
	}
}

// The other timeline is chosen after all: what B opened is cut, and what A held becomes history again.
func TestForcePromote_OwnGenerationsBecomeHistoryAgain(t *testing.T) {
	x, fork := alone(t)
	held := slices.Clone(x.r0().Lineage)
	opened := x.must(x.force(inc("B", 1), fork, word("A"))).Lineage[1]
	back := x.force(inc("A", 1), fork, word("B"))
	back.ForcePromote.Own = held[1:]
	r := x.must(back)
	if want := append(slices.Clone(held), x.nextGen); !slices.Equal(r.Lineage, want) {
		t.Fatalf("lineage %v, want %v", r.Lineage, want)
	}
	if f := r.CutBy(opened); f == nil || f.Node != "A" || f.Fork != fork {
		t.Fatalf("what B opened is not recorded as cut: %+v", r.Forced)
	}
	if r.CutBy(held[1]) != nil {
		t.Fatal("what A holds is history, and yet recorded as cut")
	}
	if !slices.Equal(r.Set(), []string{"A"}) {
		t.Fatalf("set %v", r.Set())
	}
}

func TestForcePromote_ManyOwnGenerationsCutTheOldestOnes(t *testing.T) {
	x, fork := alone(t)
	c := x.force(inc("B", 1), fork, word("A"))
	for i := range MaxLineage {
		c.ForcePromote.Own = append(c.ForcePromote.Own, uint64(1_000_000+i))
	}
	r := x.must(c)
	if len(r.Lineage) != MaxLineage || r.LineageCut != 2 || r.Lineage[MaxLineage-1] != x.nextGen {
		t.Fatalf("%d generations, %d cut", len(r.Lineage), r.LineageCut)
	}
}

func TestForcePromote_Refusals(t *testing.T) {
	x, fork := alone(t)
	edit := func(f func(p *ForcePromote)) Command {
		c := x.force(inc("B", 1), fork, word("A"))
		f(c.ForcePromote)
		return c
	}
	for name, tc := range map[string]struct {
		f    func(p *ForcePromote)
		want error
	}{
		"unknown node":        {func(p *ForcePromote) { p.Candidate.Node = "Z" }, ErrUnknown},
		"another instance":    {func(p *ForcePromote) { p.Candidate.Instance++ }, ErrInstance},
		"old epoch":           {func(p *ForcePromote) { p.NewEpoch = 1 }, ErrInvalid},
		"no generation":       {func(p *ForcePromote) { p.Generation = 0 }, ErrInvalid},
		"generation twice":    {func(p *ForcePromote) { p.Generation = x.r0().Lineage[1] }, ErrExists},
		"fork not in history": {func(p *ForcePromote) { p.Fork = 4711 }, ErrUnknown},
		"nothing about A":     {func(p *ForcePromote) { p.Down = nil }, ErrNotFenced},
		"own is listed":       {func(p *ForcePromote) { p.Own = []uint64{77, x.r0().Lineage[1]} }, ErrExists},
		"own holds the fork":  {func(p *ForcePromote) { p.Own = []uint64{p.Fork} }, ErrInvalid},
		"own twice":           {func(p *ForcePromote) { p.Own = []uint64{77, 77} }, ErrInvalid},
		"own holds a 0":       {func(p *ForcePromote) { p.Own = []uint64{0} }, ErrInvalid},
		"own is the new one":  {func(p *ForcePromote) { p.Own = []uint64{p.Generation} }, ErrInvalid},
		"own without end":     {func(p *ForcePromote) { p.Own = make([]uint64, MaxLineage+1) }, ErrInvalid},
		"A was not fenced":    {func(p *ForcePromote) { p.Down[0] = shot("A") }, ErrNotFenced},
		"a word without text": {func(p *ForcePromote) { p.Down[0].Text = "" }, ErrInvalid},
		"a word with a boot":  {func(p *ForcePromote) { p.Down[0].Boot = "b" }, ErrInvalid},
		"no boot":             {func(p *ForcePromote) { p.Down[0] = DownProof{Node: "A"} }, ErrInvalid},
		"node twice":          {func(p *ForcePromote) { p.Down = append(p.Down, p.Down[0]) }, ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			x.TB = t
			x.refused(edit(tc.f), tc.want)
		})
	}
	x.TB = t
	x.must(edit(func(*ForcePromote) {}))
	x.refused(x.force(inc("A", 1), x.r0().Lineage[1]+1, word("B")), ErrUnknown) // what A holds is history no longer
}

func TestForcePromote_NeedsEveryMemberAndThePrimaryDown(t *testing.T) {
	x := started(t, "A", "B", "C")
	fork := x.r0().Lineage[0]
	x.must(x.drop("C"))
	x.refused(x.force(inc("C", 1), fork, word("A")), ErrNotFenced)
	x.refused(x.force(inc("C", 1), fork, word("B")), ErrNotFenced)
	x.fence("A", 1)
	x.refused(x.force(inc("C", 1), fork, shot("A"), DownProof{Node: "B", Boot: "boot-B"}), ErrNotFenced)
	r := x.must(x.force(inc("C", 1), fork, shot("A"), word("B")))
	if r.LastEnd != EndFenced || !slices.Equal(r.Set(), []string{"C"}) {
		t.Fatalf("record %+v", r)
	}
	// B has what C lacks. It is outside now, and comes back only as a target.
	x.refused(x.promote(inc("B", 1)), ErrNotInSet)
}

func TestForcePromote_FailedOrFencedCandidateIsRefused(t *testing.T) {
	x := started(t, "A", "B")
	c := x.drop("B")
	c.DropReplica.Failed = true
	x.must(c)
	x.refused(x.force(inc("B", 1), 0, word("A")), ErrFailed)
	x.must(x.register("B", 99))
	again := inc("B", 1)
	again.Instance = 99
	x.fence("B", 3)
	x.refused(x.force(again, 0, word("A")), ErrFenced)
	x.must(Command{Version: x.s.Version, Unfence: &Unfence{Target: "B"}})
	r := x.must(x.force(again, 0, word("A")))
	if !slices.Equal(r.Lineage, []uint64{x.nextGen}) || r.LineageCut != 0 || r.Forced[0].CutCount != 2 {
		t.Fatalf("a replica without a history begins it anew: %+v", r)
	}
}

func TestForcePromote_LiftsAHoldAndKeepsTheNewestRecords(t *testing.T) {
	x := started(t, "A", "B")
	x.must(x.stepDown(StepDown{Hold: true}))
	for i := range MaxForced + 3 {
		who, other := "A", "B"
		if i%2 == 0 {
			who, other = other, who
		}
		last := x.r0().Lineage
		if r := x.must(x.force(inc(who, 1), last[len(last)-1], word(other))); r.Hold {
			t.Fatal("still held")
		}
	}
	f := x.r0().Forced
	if len(f) != MaxForced || f[0].Epoch != 5 || f[MaxForced-1].Epoch != uint64(MaxForced+4) {
		t.Fatalf("%d records, from epoch %d", len(f), f[0].Epoch)
	}
}

func TestForcePromote_LongCutIsCountedAndItsNewestIdsKept(t *testing.T) {
	x, fork := alone(t)
	for range MaxForcedCut + 9 {
		x.s, _ = Apply(x.s, x.promote(inc("A", 1)))
	}
	newest := x.r0().Lineage
	r := x.must(x.force(inc("B", 1), fork, word("A")))
	f := r.Forced[0]
	if f.CutCount != MaxForcedCut+10 || len(f.Cut) != MaxForcedCut || f.Cut[MaxForcedCut-1] != newest[len(newest)-1] {
		t.Fatalf("%d cut, %d kept", f.CutCount, len(f.Cut))
	}
}

func TestReincarnate_OthersStayAndVoteNoLonger(t *testing.T) {
	x := started(t, "A", "B")
	x.must(x.startedCmd("B", "boot-B", 1))
	before := x.s
	inc2 := Incarnation{Counter: 2, ID: 8, Parent: 7, ParentIndex: 41}
	x.s = Reincarnate(before, inc2, 900, "A", "n2 was shot\nby hand"+strings.Repeat("ü", MaxText))
	if err := x.s.Check(); err != nil {
		t.Fatal(err)
	}
	b := x.s.Node("B")
	if x.s.Incarnation != inc2 || x.s.Voter(900).Name != "A" || !b.Gone || x.s.Voter(b.VoterID) != nil || x.s.Voter(100) != nil {
		t.Fatalf("nodes %+v", x.s.Nodes)
	}
	if !strings.HasPrefix(x.s.Statement, "n2 was shot by hand") || len(x.s.Statement) > MaxText {
		t.Fatalf("statement %q", x.s.Statement)
	}
	if !slices.Equal(x.r0().Set(), []string{"A", "B"}) || x.r0().Primary != inc("A", 1) || x.r0().Version != before.Find("r0").Version {
		t.Fatalf("the record of the resource changed: %+v", x.r0())
	}
	if before.Node("B").Gone || before.Incarnation.Counter != 1 {
		t.Fatal("the State of the parent changed")
	}
	x.refused(x.promote(inc("B", 1)), ErrUnknown)
	x.refused(x.startedCmd("B", "boot-B2", 2), ErrUnknown)
	x.must(x.drop("B"))
	x.refused(x.join("B"), ErrUnknown)
	rejoin := func(id uint64) Command {
		return Command{Version: x.s.Version, AddNode: &AddNode{Node: Node{Name: "B", VoterID: id, Addr: "B:1"}, Replaces: b.VoterID}}
	}
	x.refused(rejoin(b.VoterID), ErrExists)
	x.must(rejoin(901))
	if n := x.s.Node("B"); n.Gone || n.Boot != "boot-B" || x.s.Voter(901) == nil {
		t.Fatalf("node %+v", n)
	}
	x.must(x.join("B"))
}

func TestReincarnate_TheLastVoterStays(t *testing.T) {
	x := newScript(t, "A", "B")
	x.s = Reincarnate(x.s, Incarnation{Counter: 2, ID: 8, Parent: 7}, 900, "A", "x")
	rm := func(n string) Command { return Command{Version: x.s.Version, RemoveNode: &RemoveNode{Name: n}} }
	x.refused(rm("A"), ErrInUse)
	x.refused(x.createCmd("", "A", "B"), ErrUnknown)
	x.must(rm("B"))
	defer func() {
		if recover() == nil {
			t.Error("an incarnation was opened by a node that the ledger does not know")
		}
	}()
	Reincarnate(x.s, Incarnation{}, 1, "Z", "")
}
