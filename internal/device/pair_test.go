package device

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-ha/lockstep/nbd/nbdtest"
	"github.com/lockstep-ha/lockstep/replication"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

func TestPair_BothBackingsHoldWhatWasWritten(t *testing.T) {
	const size = 32 << 20
	p := newPair(t, t.TempDir(), size, nil)
	model := make([]byte, size)
	p.promote("n1")
	p.workload("n1", model, 300, 1)
	p.nodes["n1"].until("n2 is in sync", inSync)
	p.compare(model)
}

func TestPair_SwitchoverLosesNothing(t *testing.T) {
	const size = 16 << 20
	p := newPair(t, t.TempDir(), size, nil)
	model := make([]byte, size)
	for i, name := range []string{"n1", "n2", "n1"} {
		p.promote(name)
		p.workload(name, model, 100, uint64(i))
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		if err := p.nodes[name].device().Stop(ctx, false); err != nil {
			t.Fatalf("stop %s: %v: %+v", name, err, p.nodes[name].device().Status())
		}
		cancel()
	}
	p.compare(model)
}

func TestPair_SecondaryAwayIsDroppedResyncedAndJoins(t *testing.T) {
	const size = 32 << 20
	p := newPair(t, t.TempDir(), size, nil)
	model := make([]byte, size)
	p.promote("n1")
	p.workload("n1", model, 100, 1)
	p.nodes["n2"].kill()
	p.nodes["n1"].until("n2 is dropped", droppedOut)
	p.workload("n1", model, 100, 2)
	p.nodes["n2"].start()
	p.workload("n1", model, 100, 3)
	p.nodes["n1"].until("n2 is in sync again", inSync)
	p.workload("n1", model, 50, 4)
	p.compare(model)
}

func TestPair_CompressedLinkCarriesTheSameBytes(t *testing.T) {
	const size = 16 << 20
	p := newPair(t, t.TempDir(), size, func(c *Config) { c.Compression = wire.S2 })
	model := make([]byte, size)
	p.promote("n1")
	p.workload("n1", model, 200, 1)
	p.nodes["n1"].until("n2 is in sync", inSync)
	p.compare(model)
}

func TestPair_PrimaryKilledTheOtherHoldsEveryAcknowledgedWrite(t *testing.T) {
	const size = 16 << 20
	p := newPair(t, t.TempDir(), size, nil)
	model := make([]byte, size)
	p.promote("n1")
	p.workload("n1", model, 200, 1)
	p.nodes["n1"].kill()
	p.mu.Lock()
	p.inSet["n1"] = false
	p.lineage = append(p.lineage, rand.Uint64())
	p.publish()
	p.promote("n2")
	p.workload("n2", model, 100, 2)
	p.nodes["n1"].start()
	p.nodes["n2"].until("n1 is in sync again", inSync)
	p.workload("n2", model, 50, 3)
	p.compare(model)
}

func TestPair_LinkFlapsUnderOverlappingWrites(t *testing.T) {
	const size = 8 << 20
	p := newPair(t, t.TempDir(), size, nil)
	p.promote("n1")
	n1 := p.nodes["n1"]
	var writers sync.WaitGroup
	quit := make(chan struct{})
	for w := range 4 {
		c := nbdtest.Open(t, n1.nbd.Addr(), "r0")
		writers.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), 2))
			payload := make([]byte, 64<<10)
			for i := uint64(0); ; i++ {
				select {
				case <-quit:
					return
				default:
				}
				n := 512 * (1 + rnd.IntN(128))
				for j := range n {
					payload[j] = byte(w) ^ byte(i) ^ byte(j)
				}
				q := nbdtest.Command{Type: nbdtest.CmdWrite, Cookie: i, Off: 512 * rnd.Uint64N(512), Len: uint32(n)}
				if errno, _ := c.Do(q, payload[:n]); errno != 0 {
					t.Errorf("write: errno %d", errno)
					return
				}
			}
		})
	}
	for range 12 {
		n1.until("n2 follows", inSync)
		if err := n1.device().SetConnected("n2", false); err != nil {
			t.Fatal(err)
		}
		n1.until("n2 is away", func(st *replication.Status) bool { return st.Peers[0].Connection == "Connecting" })
		if err := n1.device().SetConnected("n2", true); err != nil {
			t.Fatal(err)
		}
	}
	n1.until("n2 follows", inSync)
	close(quit)
	writers.Wait()
	if err := n1.end(true); err != nil {
		t.Error(err)
	}
	model, err := os.ReadFile(p.data("n1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.nodes["n2"].end(true); err != nil {
		t.Error(err)
	}
	got, err := os.ReadFile(p.data("n2"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, model) {
		t.Error("the replicas differ")
	}
}

func TestPair_VerifyFindsAFlippedByteAndRepairsItOnlyWhenAsked(t *testing.T) {
	const size = 16 << 20
	p := newPair(t, t.TempDir(), size, nil)
	model := make([]byte, size)
	p.promote("n1")
	p.workload("n1", model, 100, 1)
	const at = 5<<20 + 77
	flip(t, p.data("n2"), at)
	n1 := p.nodes["n1"]
	for _, tc := range []struct {
		repair bool
		want   int64 // mismatching blocks
	}{{false, 1}, {true, 1}, {false, 0}} {
		if err := n1.device().Verify("n2", tc.repair); err != nil {
			t.Fatal(err)
		}
		var v replication.VerifyStatus
		n1.until("verify is done", func(st *replication.Status) bool {
			if st.Verify != nil {
				v = *st.Verify
			}
			return st.Verify != nil && !st.Verify.Running
		})
		if v.Err != "" || v.Mismatches != tc.want {
			t.Fatalf("verify, repair %t: %+v, want %d mismatches", tc.repair, v, tc.want)
		}
		if tc.want > 0 && (len(v.First) != 1 || v.First[0] != at&^4095) {
			t.Errorf("mismatch found at %v", v.First)
		}
		n1.until("n2 is in sync", inSync)
	}
	p.compare(model)
}

// flip changes one byte of a file behind everybody's back.
func flip(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

func TestPair_DirectIOWithRequestsOfAnyLength(t *testing.T) {
	const size = 16 << 20
	dir := t.TempDir()
	needDirect(t, dir)
	p := newPair(t, dir, size, func(c *Config) { c.Direct = true })
	model := make([]byte, size)
	p.promote("n1")
	p.workload("n1", model, 150, 1)
	p.nodes["n1"].until("n2 is in sync", inSync)
	p.compare(model)
}

// needDirect skips the test where files cannot be opened with O_DIRECT, or fails it when
// everything is required.
func needDirect(t *testing.T, dir string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "probe"), os.O_RDWR|os.O_CREATE|unix.O_DIRECT, 0o600)
	if err == nil {
		f.Close()
		return
	}
	if os.Getenv("LOCKSTEP_REQUIRE") == "all" {
		t.Fatalf("no direct I/O in %s: %v", dir, err)
	}
	t.Skipf("no direct I/O in %s: %v", dir, err)
}

func TestPair_PrimaryRestartsAndServesAgain(t *testing.T) {
	const size = 16 << 20
	p := newPair(t, t.TempDir(), size, nil)
	model := make([]byte, size)
	p.promote("n1")
	p.workload("n1", model, 100, 1)
	p.nodes["n1"].kill()
	p.nodes["n1"].start()
	p.promote("n1")
	p.workload("n1", model, 100, 2)
	p.nodes["n1"].until("n2 is in sync", inSync)
	p.compare(model)
}
