package tests

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/tests/internal/ackload"
	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/nbdclient"
	"github.com/lockstep-ha/lockstep/tests/internal/need"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

func TestVerify_FindsAFlippedByteUnderWrites_AndRepairsItFromTheNamedSource(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB})
	client := dial(t, c.URI("n1"))
	must(t, fill(client, 0, 64*cluster.MiB))
	if res := c.CLI("n1", "verify", "r0"); res.Code != 0 {
		t.Fatalf("equal replicas: %v", res)
	}
	const at = 40*cluster.MiB + 12345
	flip(t, c.Data("n2"), at)

	// Writes elsewhere go on meanwhile; none of them may be reported.
	l := ackload.New(16 * cluster.MiB / ackload.Block)
	must(t, client.ZeroAt(0, 16*cluster.MiB))
	finish := background(t, l, c.URI("n1"), 2, 8)
	res := c.CLI("n1", "verify", "r0", "--json")
	if res.Code != 6 {
		t.Fatalf("verify with a flipped byte: %v", res)
	}
	var found control.VerifyResult
	if err := json.Unmarshal([]byte(res.Stdout), &found); err != nil {
		t.Fatalf("%v in %v", err, res)
	}
	if len(found.Differences) != 1 || found.Differences[0].Node != "n2" || found.Differences[0].OffBytes != at&^4095 {
		t.Errorf("verify found %v, not the block at %d on n2", found.Differences, at&^4095)
	}
	if res := c.CLI("n1", "verify", "r0", "--repair", "--source", "n1"); res.Code != 0 && res.Code != 6 {
		t.Fatalf("%v", res)
	}
	finish()
	if res := c.CLI("n1", "verify", "r0"); res.Code != 0 {
		t.Fatalf("after the repair: %v", res)
	}
	must(t, l.Check(client))
	c.Identical("n1")
}

func TestInvalidate_CopiesTheReplicaAnew_AndTheLastOneIsRefused(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB})
	client := dial(t, c.URI("n1"))
	must(t, fill(client, 0, 8*cluster.MiB))
	flip(t, c.Data("n2"), cluster.MiB)
	known := lastSeq(c.Events("n1"))
	c.MustCLI("n1", "invalidate", "r0", "--on", "n2")
	proc.Eventually(t, "a resync into n2", func() error {
		for _, ev := range c.Events("n1") {
			if ev.Seq > known && ev.Kind == "joined" {
				return nil
			}
		}
		return errors.New("n2 has not joined")
	})
	c.Identical("n1")

	c.Kill("n2")
	must(t, client.WriteAt(make([]byte, 4096), 0))
	c.WaitAlone("n1", "n2")
	if res := c.CLI("n1", "invalidate", "r0", "--on", "n1"); res.Code != 3 {
		t.Errorf("invalidating the last copy: %v", res)
	}
	c.Start("n2")
	c.Identical("n1")
}

func TestDisconnectAndConnect_TracksAndCopiesWhatWasMissed(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB})
	client := dial(t, c.URI("n1"))
	c.MustCLI("n1", "disconnect", "r0", "--peer", "n2")
	must(t, fill(client, 0, 4*cluster.MiB))
	r := c.WaitAlone("n1", "n2")
	if p, _ := cluster.Replica(r, "n2"); p.DirtyBytes != 4*cluster.MiB || p.Connection == control.ConnConnected {
		t.Errorf("after 4 MiB without a peer: %+v", p)
	}
	c.MustCLI("n1", "connect", "r0", "--peer", "n2")
	c.Identical("n1")
}

func TestResyncPaused_WritesGoOn_AndResumeCompletes(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB})
	client := dial(t, c.URI("n1"))
	c.Kill("n2")
	must(t, fill(client, 0, 32*cluster.MiB))
	c.WaitAlone("n1", "n2")
	c.MustCLI("n1", "resync", "pause", "r0")
	c.Start("n2")
	c.Eventually("n1", "a paused resync", func(r control.Resource) error {
		p, _ := cluster.Replica(r, "n2")
		if p.Resync == nil || !p.Resync.Paused {
			return fmt.Errorf("replica %+v", p)
		}
		return nil
	})
	must(t, fill(client, 24*cluster.MiB, 40*cluster.MiB))
	if p, _ := cluster.Replica(c.Status("n1"), "n2"); p.InSync {
		t.Error("a replica joined although its resync is paused")
	}
	if res := c.CLI("n1", "switchover", "r0", "--to", "n2"); res.Code == 0 {
		t.Errorf("the target of a resync became primary: %v", res)
	}
	c.MustCLI("n1", "resync", "resume", "r0")
	c.Identical("n1")
}

func TestResize_GrowsOnline_AndTheNewSpaceReadsAsZerosOnBothNodes(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB})
	must(t, fill(dial(t, c.URI("n1")), 0, 8*cluster.MiB))
	c.MustCLI("n1", "resource", "resize", "r0", "--size", "96MiB")
	var client *nbdclient.Client
	proc.Eventually(t, "the new size", func() error {
		client = dial(t, c.URI("n1"))
		if client.Size() != 96*cluster.MiB {
			return fmt.Errorf("the export has %d bytes", client.Size())
		}
		return nil
	})
	got := make([]byte, cluster.MiB)
	must(t, client.ReadAt(got, 64*cluster.MiB))
	if !bytes.Equal(got, make([]byte, cluster.MiB)) {
		t.Error("new space does not read as zeros")
	}
	must(t, fill(client, 60*cluster.MiB, 96*cluster.MiB))
	c.Identical("n1")
	if res := c.CLI("n1", "resource", "resize", "r0", "--size", "64MiB"); res.Code == 0 {
		t.Errorf("a device was made smaller: %v", res)
	}
}

func TestCreateWithSource_TakesInAnExistingDevice_AndCopiesIt(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB})
	dir := cluster.ShmDir(t)
	image := randomFile(t, dir, "existing.img", 64*cluster.MiB)
	kept := read(t, image)
	c.MustCLI("n1", "resource", "create", "r1", "--size", "64MiB", "--source", "n1",
		"--replica", "n1="+image, "--replica", "n2="+filepath.Join(c.Dir, "n2", "r1.img"))
	c.MustCLI("n1", "promote", "r1", "--on", "n1")
	c.WaitInSyncOf("n1", "r1", "n1", "n2")
	if !bytes.Equal(read(t, image), kept) {
		t.Error("the existing device was changed")
	}
	cluster.RequireSame(t, image, filepath.Join(c.Dir, "n2", "r1.img"))

	// A file that is there and was not named as the source is not touched.
	precious := filepath.Join(dir, "precious.img")
	must(t, os.WriteFile(precious, bytes.Repeat([]byte{1}, 4096), 0o600))
	res := c.CLI("n1", "resource", "create", "r2", "--size", "64MiB",
		"--replica", "n1="+precious, "--replica", "n2="+filepath.Join(c.Dir, "n2", "r2.img"))
	if res.Code == 0 || !bytes.Equal(read(t, precious), bytes.Repeat([]byte{1}, 4096)) {
		t.Errorf("a file that existed was taken for a new one: %v", res)
	}
}

func TestThreeDataNodes_WithoutWitness_SurviveEachOther(t *testing.T) {
	need.Tool(t, "nbdcopy", "libnbd-bin")
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB, DataNodes: 3, NoWitness: true})
	l := ackload.New(64 * cluster.MiB / ackload.Block)
	finish := background(t, l, c.URI("n1"), 2, 16)
	proc.Eventually(t, "writes", func() error { return more(l, 500) })
	c.Kill("n3")
	proc.Eventually(t, "writes without n3", func() error { return more(l, l.Acked()/2+500) })
	c.Start("n3")
	c.WaitInSync("n1")
	c.Kill("n1")
	finish()
	c.MustCLI("n2", "promote", "r0", "--on", "n2", "--confirm-peer-down")
	c.WaitPrimary("n2")
	must(t, l.Check(dial(t, c.URI("n2"))))
	c.Start("n1")
	c.Identical("n2")
}
