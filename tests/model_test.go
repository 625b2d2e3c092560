package tests

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"

	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/nbdclient"
)

// modelStep does one random operation on a range and on its model, and compares what is read.
func modelStep(rng *rand.Rand, c *nbdclient.Client, base int64, model []byte) error {
	off := rng.IntN(len(model) - 1)
	length := 1 + rng.IntN(min(256<<10, len(model)-off))
	if rng.IntN(2) == 0 { // most clients write whole sectors
		off &^= 511
		length = min((length+511)&^511, len(model)-off)
	}
	part, at := model[off:off+length], base+int64(off)
	switch rng.IntN(8) {
	case 0, 1, 2:
		for i := range part {
			part[i] = byte(rng.Uint32())
		}
		if rng.IntN(8) == 0 {
			return c.WriteFUA(part, at)
		}
		return c.WriteAt(part, at)
	case 3:
		clear(part)
		return c.TrimAt(at, uint32(length))
	case 4:
		clear(part)
		return c.ZeroAt(at, uint32(length))
	case 5:
		return c.Sync()
	default:
		got := make([]byte, length)
		if err := c.ReadAt(got, at); err != nil {
			return err
		}
		if !bytes.Equal(got, part) {
			i := 0
			for got[i] == part[i] {
				i++
			}
			return fmt.Errorf("read [%d+%d]: byte %d is %#x, not %#x", at, length, at+int64(i), got[i], part[i])
		}
		return nil
	}
}

func TestReads_SeeEveryWriteTrimAndZero_OfAnySizeAndAlignment(t *testing.T) {
	const workers, span, steps = 8, 2 * cluster.MiB, 600
	c := cluster.Up(t, cluster.Options{SizeBytes: workers * span})
	models := make([][]byte, workers)
	var wg sync.WaitGroup
	for w := range workers {
		models[w] = make([]byte, span)
		conn := dial(t, c.URI("n1"))
		wg.Add(1)
		go func() {
			defer wg.Done()
			rng := rand.New(rand.NewPCG(uint64(w), 7))
			for i := range steps {
				if err := modelStep(rng, conn, int64(w)*span, models[w]); err != nil {
					t.Errorf("worker %d, step %d: %v", w, i, err)
					return
				}
			}
		}()
	}
	wg.Wait()
	c.Identical("n1")
	for _, node := range []string{"n1", "n2"} {
		data, err := os.ReadFile(c.Data(node))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(data, bytes.Join(models, nil)) {
			t.Errorf("the backing file of %s does not hold what was written", node)
		}
	}
}

func TestOverlappingWrites_SixteenConnections_ReplicasStayIdentical(t *testing.T) {
	const connections, depth, region, each = 16, 32, 64 << 10, 400
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB})
	var wg sync.WaitGroup
	for n := range connections {
		conn := dial(t, c.URI("n1"))
		wg.Add(1)
		go func() {
			defer wg.Done()
			overlap(t, conn, rand.New(rand.NewPCG(uint64(n), 16)), region, depth, each)
		}()
	}
	wg.Wait()
	c.Identical("n1")
}

// overlap keeps depth random writes, trims and zeroes of one region in flight until count are done.
func overlap(t testing.TB, c *nbdclient.Client, rng *rand.Rand, region, depth, count int) {
	free := make(chan error, depth)
	for range depth {
		free <- nil
	}
	done := func(err error) { free <- err }
	buf := make([]byte, region)
	for i := range count + depth {
		if err := <-free; err != nil {
			t.Errorf("overlapping I/O: %v", err)
			return
		}
		if i >= count {
			continue
		}
		off := rng.IntN(region)
		length := 1 + rng.IntN(region-off)
		if rng.IntN(4) != 0 { // mostly sectors, as file systems write
			off &^= 511
			length = min((length+511)&^511, region-off)
		}
		switch rng.IntN(10) {
		case 0:
			c.Trim(int64(off), uint32(length), false, done)
		case 1:
			c.WriteZeroes(int64(off), uint32(length), false, false, done)
		default:
			x := rng.Uint64()
			for j := range buf[:length] {
				buf[j] = byte(x >> (j % 8 * 8))
			}
			c.Write(buf[:length], int64(off), rng.IntN(20) == 0, done)
		}
	}
}
