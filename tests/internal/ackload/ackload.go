// Package ackload writes payloads that cannot be mistaken for each other, remembers which of them
// were acknowledged, and later judges what a device holds.
//
// # Model
//
// Every write fills one block of 4 KiB with {magic, block, counter, checksum, filler}; a counter is
// used once. For each block the load knows when a write was submitted and when it was answered, on
// one logical clock. A device may hold, in a block:
//
//   - a write that was answered, if no other answered write of the block was submitted after that
//     answer (two writes in flight at once have no order);
//   - a write that was submitted and never answered: it may land at any time until the device is
//     read;
//   - zeros, if no write of the block was ever answered.
//
// Everything else is a lost write, a torn one, or bytes of another block.
package ackload

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/cespare/xxhash/v2"

	"github.com/lockstep-ha/lockstep/tests/internal/nbdclient"
)

// Block is the size of every write, in bytes.
const Block = 4096

const magic = 0x4c53414b4c4f4144

// Payload fills p, of Block bytes, with the write numbered counter of a block.
func Payload(p []byte, block int64, counter uint64) {
	binary.BigEndian.PutUint64(p[0:], magic)
	binary.BigEndian.PutUint64(p[8:], uint64(block))
	binary.BigEndian.PutUint64(p[16:], counter)
	x := counter*0x9e3779b97f4a7c15 ^ uint64(block)
	for i := 32; i < Block; i += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(p[i:], x)
	}
	binary.BigEndian.PutUint64(p[24:], sum(p))
}

// sum is the checksum of a payload over all but its own field.
func sum(p []byte) uint64 {
	d := xxhash.New()
	d.Write(p[:24])
	d.Write(p[32:Block])
	return d.Sum64()
}

// Parse returns which write p holds; counter 0 means that p is all zeros.
func Parse(p []byte) (block int64, counter uint64, err error) {
	if binary.BigEndian.Uint64(p) != magic {
		for _, b := range p[:Block] {
			if b != 0 {
				return 0, 0, errors.New("neither zeros nor a payload")
			}
		}
		return 0, 0, nil
	}
	block, counter = int64(binary.BigEndian.Uint64(p[8:])), binary.BigEndian.Uint64(p[16:])
	if binary.BigEndian.Uint64(p[24:]) != sum(p) {
		return 0, 0, fmt.Errorf("torn payload of block %d, write %d", block, counter)
	}
	return block, counter, nil
}

// write is one write of a block. answered is 0 while there is no answer.
type write struct {
	counter, submitted, answered uint64
}

// Load is the memory of what was written and answered.
type Load struct {
	blocks int64

	mu      sync.Mutex
	clock   uint64
	counter uint64
	history map[int64][]write
	acked   int64
	failed  []error // answers that were errors of the server
}

// New returns the memory of a device of blocks blocks that holds zeros.
func New(blocks int64) *Load {
	return &Load{blocks: blocks, history: map[int64][]write{}}
}

// Acked returns how many writes were acknowledged.
func (l *Load) Acked() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked
}

// Failed returns the writes that the server answered with an error. Such a write may or may not
// have happened.
func (l *Load) Failed() []error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]error(nil), l.failed...)
}

// begin notes that a write of a block is submitted, and returns its counter.
func (l *Load) begin(block int64) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clock++
	l.counter++
	l.history[block] = append(l.history[block], write{counter: l.counter, submitted: l.clock})
	return l.counter
}

// end notes the answer to a write.
func (l *Load) end(block int64, counter uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		if !errors.Is(err, nbdclient.ErrLost) {
			l.failed = append(l.failed, fmt.Errorf("write %d of block %d: %w", counter, block, err))
		}
		return
	}
	l.clock++
	l.acked++
	h := l.history[block]
	for i := range h {
		if h[i].counter == counter {
			h[i].answered = l.clock
		}
	}
}

// Run writes random blocks on c, depth at a time, until stop is closed or the connection ends. It
// returns when no write is in flight. A tenth of the writes ask for FUA, and now and then a flush
// goes out. Several Runs may share a Load.
func (l *Load) Run(c *nbdclient.Client, depth int, seed uint64, stop <-chan struct{}) {
	rng := rand.New(rand.NewPCG(seed, 0))
	slots := make(chan error, depth)
	for range depth {
		slots <- nil
	}
	inFlight := depth
	buf := make([]byte, Block)
	for inFlight > 0 {
		err := <-slots
		select {
		case <-stop:
			err = nbdclient.ErrLost
		default:
		}
		if errors.Is(err, nbdclient.ErrLost) {
			inFlight--
			continue
		}
		if rng.IntN(64) == 0 {
			c.Flush(func(err error) { slots <- err })
			continue
		}
		block := rng.Int64N(l.blocks)
		counter := l.begin(block)
		Payload(buf, block, counter)
		c.Write(buf, block*Block, rng.IntN(10) == 0, func(err error) {
			l.end(block, counter, err)
			slots <- err
		})
	}
}

// Check reads the whole device and returns what it must not hold.
func (l *Load) Check(c *nbdclient.Client) error {
	const chunk = 256
	buf := make([]byte, chunk*Block)
	var bad []error
	for first := int64(0); first < l.blocks; first += chunk {
		n := min(chunk, l.blocks-first)
		if err := c.ReadAt(buf[:n*Block], first*Block); err != nil {
			return fmt.Errorf("read block %d: %w", first, err)
		}
		for i := range n {
			if err := l.judge(first+i, buf[i*Block:][:Block]); err != nil {
				bad = append(bad, err)
			}
		}
	}
	if len(bad) > 10 {
		bad = append(bad[:10], fmt.Errorf("and %d more", len(bad)-10))
	}
	return errors.Join(bad...)
}

// judge says whether a block may hold p.
func (l *Load) judge(block int64, p []byte) error {
	got, counter, err := Parse(p)
	if err != nil {
		return fmt.Errorf("block %d: %w", block, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.history[block]
	held := write{answered: 1} // zeros: as if answered before everything
	if counter != 0 {
		if got != block {
			return fmt.Errorf("block %d holds write %d of block %d", block, counter, got)
		}
		i := 0
		for i < len(h) && h[i].counter != counter {
			i++
		}
		if i == len(h) {
			return fmt.Errorf("block %d holds write %d, which was never submitted", block, counter)
		}
		held = h[i]
	}
	if held.answered == 0 {
		return nil
	}
	for _, w := range h {
		if w.answered != 0 && w.counter != held.counter && (counter == 0 || w.submitted > held.answered) {
			return fmt.Errorf("block %d holds write %d, but write %d was submitted after it was answered, and acknowledged", block, held.counter, w.counter)
		}
	}
	return nil
}
