package tests

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

// Blocks that only one of two timelines holds.
const (
	offOld = 4 * cluster.MiB // n1 wrote it alone, before it died
	offNew = 8 * cluster.MiB // n2 wrote it after it was forced
)

func pattern(b byte) []byte { return bytes.Repeat([]byte{b}, 64<<10) }

// holds fails the test unless the backing file of r0 at path holds pattern b at off.
func holds(t testing.TB, path string, off int64, b byte) {
	t.Helper()
	if got := read(t, path)[off : off+64<<10]; !bytes.Equal(got, pattern(b)) {
		t.Errorf("%s at %d begins with %d, not %d", path, off, got[0], b)
	}
}

// apart makes r0 of c diverge: n1 goes on alone and dies, n2 is forced and goes on, n1 returns. It
// returns the data of n1 as it was then.
func apart(t *testing.T, c *cluster.Cluster) (old []byte) {
	t.Helper()
	client := dial(t, c.URI("n1"))
	must(t, client.WriteAt(pattern(1), 0))
	c.Kill("n2")
	must(t, client.WriteAt(pattern(2), offOld))
	c.WaitAlone("n1", "n2")
	c.Kill("n1")
	c.Start("n2")

	before := c.CLI("n2", "promote", "r0", "--on", "n2")
	if before.Code != 3 || !strings.Contains(before.Stderr, "--force") {
		t.Fatalf("a stale replica was promoted, or nothing says how: %v", before)
	}
	// The ledger may still have to notice that its leader is gone.
	c.WaitQuorum("n2")
	unsure := c.CLI("n2", "promote", "r0", "--on", "n2", "--force")
	if unsure.Code != 3 || !strings.Contains(unsure.Stderr, "1 generation") || !strings.Contains(unsure.Stderr, "--force --confirm-down n1") {
		t.Fatalf("forced without a word on n1, or without saying what is lost: %v", unsure)
	}
	c.MustCLI("n2", "promote", "r0", "--on", "n2", "--force", "--confirm-down", "n1")
	c.WaitPrimary("n2")
	must(t, dial(t, c.URI("n2")).WriteAt(pattern(3), offNew))
	old = read(t, c.Data("n1"))
	c.Start("n1")
	for _, node := range []string{"n1", "n2"} {
		c.Eventually(node, "n1 to have diverged", func(r control.Resource) error {
			p, _ := cluster.Replica(r, "n1")
			if p.DiskState != control.DiskDiverged || p.Divergence == nil || p.InSync {
				return fmt.Errorf("replica on n1: %+v", p)
			}
			return nil
		})
	}
	return old
}

// theTimelines fails the test unless a node shows both, in text and in JSON.
func theTimelines(t *testing.T, c *cluster.Cluster, node string) {
	t.Helper()
	var st control.Status
	must(t, json.Unmarshal([]byte(c.MustCLI(node, "status", "r0", "--json")), &st))
	p, _ := cluster.Replica(st.Resources[0], "n1")
	d := p.Divergence
	if d == nil || len(d.Recorded) != 1 || len(d.Own) != 1 {
		t.Fatalf("%s shows of n1: %+v", node, d)
	}
	if d.Recorded[0].Node != "n2" || d.Own[0].Node != "n1" || d.Own[0].Epoch >= d.Recorded[0].Epoch || d.Fork == "" {
		t.Errorf("%s shows of n1: %+v", node, d)
	}
	text := c.MustCLI(node, "status", "r0")
	for _, want := range []string{
		"since generation " + d.Fork, "recorded: " + d.Recorded[0].ID + " (primary n2", "on n1: " + d.Own[0].ID + " (primary n1",
		"nothing is merged", "lockstep resolve r0 --keep n2", "lockstep demote r0, then: lockstep resolve r0 --keep n1",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s does not say %q:\n%s", node, want, text)
		}
	}
}

func TestDivergence_ForcedApart_NothingIsMerged_AndTheRecordedHistoryIsKept(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 16 * cluster.MiB})
	old := apart(t, c)
	theTimelines(t, c, "n1")
	theTimelines(t, c, "n2")
	if !bytes.Equal(read(t, c.Data("n1")), old) {
		t.Fatal("the diverged replica was written to")
	}
	holds(t, c.Data("n2"), offOld, 0)

	// A node that is down is shown as it was seen last.
	c.Kill("n1")
	if p, _ := cluster.Replica(c.Status("n2"), "n1"); p.DiskState != control.DiskDiverged || p.Divergence == nil {
		t.Errorf("after n1 went down, n2 shows of it: %+v", p)
	}
	if res := c.CLI("n2", "resolve", "r0", "--keep", "n2", "--yes", "--copy"); res.Code != 3 || !strings.Contains(res.Stderr, "silent: n1") {
		t.Errorf("n1 was given up although it is down: %v", res)
	}
	c.Start("n1")
	c.Eventually("n1", "n1 to know that it has diverged", func(r control.Resource) error {
		if r.DiskState != control.DiskDiverged {
			return errors.New(r.DiskState)
		}
		return nil
	})

	if res := c.CLI("n1", "resolve", "r0", "--keep", "n2"); res.Code != 3 || !strings.Contains(res.Stderr, "Given up on n1") {
		t.Errorf("nobody said yes: %v", res)
	}
	noReflink := c.CLI("n1", "resolve", "r0", "--keep", "n2", "--yes")
	if noReflink.Code != 3 || !strings.Contains(noReflink.Stderr, "--copy") || !strings.Contains(noReflink.Stderr, "--no-undo") {
		t.Skipf("this file system shares blocks, or it is not said what else to type: %v", noReflink)
	}
	if !bytes.Equal(read(t, c.Data("n1")), old) {
		t.Fatal("a resolve that was refused changed the data")
	}
	said := c.MustCLI("n1", "resolve", "r0", "--keep", "n2", "--yes", "--copy")
	undo, err := filepath.Glob(c.Data("n1") + ".undo-*")
	must(t, err)
	if len(undo) != 1 || !strings.Contains(said, undo[0]) || !bytes.Equal(read(t, undo[0]), old) {
		t.Fatalf("undo copies %v; it said:\n%s", undo, said)
	}
	c.Identical("n2")
	holds(t, c.Data("n1"), offOld, 0)
	holds(t, c.Data("n1"), offNew, 3)
	if p, _ := cluster.Replica(c.Status("n2"), "n1"); p.Divergence != nil {
		t.Errorf("the divergence is settled, and yet shown: %+v", p.Divergence)
	}
}

func TestDivergence_ForcedApart_TheOtherHistoryIsKept_AfterADemote(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 16 * cluster.MiB})
	apart(t, c)
	busy := c.CLI("n2", "resolve", "r0", "--keep", "n1", "--yes", "--copy")
	if busy.Code != 3 || !strings.Contains(busy.Stderr, "lockstep demote r0") {
		t.Fatalf("the recorded history was given up while it is served: %v", busy)
	}
	c.MustCLI("n1", "demote", "r0")
	current := read(t, c.Data("n2"))
	dir := cluster.ShmDir(t)
	epoch := c.Status("n2").Epoch
	said := c.MustCLI("n2", "resolve", "r0", "--keep", "n1", "--yes", "--copy", "--undo-dir", dir)
	if r := c.WaitPrimary("n1"); r.Epoch <= epoch {
		t.Errorf("epoch %d after %d", r.Epoch, epoch)
	}
	undo, err := filepath.Glob(filepath.Join(dir, "r0.img.undo-*"))
	must(t, err)
	if len(undo) != 1 || !strings.Contains(said, undo[0]) || !bytes.Equal(read(t, undo[0]), current) {
		t.Fatalf("undo copies %v; it said:\n%s", undo, said)
	}
	c.Identical("n1")
	for _, n := range []string{"n1", "n2"} {
		holds(t, c.Data(n), 0, 1)
		holds(t, c.Data(n), offOld, 2)
		holds(t, c.Data(n), offNew, 0)
	}
	got := make([]byte, 64<<10)
	must(t, dial(t, c.URI("n1")).ReadAt(got, offOld))
	if !bytes.Equal(got, pattern(2)) {
		t.Error("a client does not read what was kept")
	}
}

func TestConfirmDown_SurvivorOfAPairGoesOn_AndTheOtherRejoins(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 16 * cluster.MiB, NoWitness: true})
	client := dial(t, c.URI("n1"))
	must(t, client.WriteAt(pattern(1), 0))
	if res := c.CLI("n1", "confirm-down", "n2"); res.Code != 3 {
		t.Fatalf("a node that is up was declared down: %v", res)
	}
	c.Kill("n2")
	confirmDown(t, c, "n1", "n2")
	must(t, client.WriteAt(pattern(2), offOld))
	c.WaitAlone("n1", "n2")
	c.Start("n2")
	c.Identical("n1")
	aside, err := filepath.Glob(filepath.Join(filepath.Dir(c.Data("n2")), "data", "ledger.db.*"))
	must(t, err)
	if len(aside) != 1 {
		t.Errorf("ledgers that n2 gave up: %v", aside)
	}
	holds(t, c.Data("n2"), offOld, 2)
	waitVotes(t, c, "n2")
}

func TestConfirmDown_SecondaryOfAPairTakesOver_AndTheOldPrimaryRejoins(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 16 * cluster.MiB, NoWitness: true})
	must(t, dial(t, c.URI("n1")).WriteAt(pattern(1), 0))
	c.Kill("n1")
	confirmDown(t, c, "n2", "n1")
	c.MustCLI("n2", "promote", "r0", "--on", "n2", "--confirm-peer-down")
	c.WaitPrimary("n2")
	must(t, dial(t, c.URI("n2")).WriteAt(pattern(3), offNew))
	c.Start("n1")
	c.Identical("n2")
	holds(t, c.Data("n1"), 0, 1)
	holds(t, c.Data("n1"), offNew, 3)
	waitVotes(t, c, "n1")
}

// confirmDown tells node that peer is down, as soon as its ledger has noticed that.
func confirmDown(t *testing.T, c *cluster.Cluster, node, peer string) {
	t.Helper()
	proc.Eventually(t, node+" to go on without "+peer, func() error {
		if res := c.CLI(node, "confirm-down", peer); res.Code != 0 {
			return errors.New(res.String())
		}
		return nil
	})
}

// waitVotes returns when a node that has rejoined has a vote again: that comes after its data.
func waitVotes(t *testing.T, c *cluster.Cluster, node string) {
	t.Helper()
	proc.Eventually(t, node+" to vote", func() error {
		var st control.Status
		if err := json.Unmarshal([]byte(c.MustCLI(node, "status", "--json")), &st); err != nil {
			return err
		}
		for _, n := range st.Nodes {
			if n.Name == node && n.Voter {
				return nil
			}
		}
		return fmt.Errorf("nodes %+v", st.Nodes)
	})
}

func TestConfirmDown_AfterARestart_IsRefused(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 16 * cluster.MiB, NoWitness: true})
	c.Kill("n2")
	c.Kill("n1")
	c.StartUnready("n1")
	var last cluster.Result
	proc.Eventually(t, "n1 to judge", func() error {
		last = c.CLI("n1", "confirm-down", "n2")
		if !strings.Contains(last.Stderr, "may have gone on alone") {
			return errors.New(last.String())
		}
		return nil
	})
	if last.Code != 3 || !strings.Contains(last.Stderr, "start n2") {
		t.Errorf("%v", last)
	}
	if res := c.CLI("n1", "ledger", "keep"); res.Code != 3 {
		t.Errorf("a ledger without a conflict: %v", res)
	}
	c.StartUnready("n2")
	c.WaitQuorum("n1")
	if _, err := os.Stat(c.Data("n1")); err != nil {
		t.Error(err)
	}
}
