package sim

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// Shape is what a cluster consists of.
type Shape uint8

// Shapes.
const (
	PairAndWitness Shape = iota // n1, n2 hold data; w votes
	Pair                        // n1, n2 alone: either lacks a majority
	Three                       // n1, n2, n3 hold data
	shapes
)

var shapeNames = [...]string{"two data nodes and a witness", "two data nodes alone", "three data nodes"}

func (s Shape) String() string { return shapeNames[s] }

// names returns the hosts of a cluster, data nodes first.
func (s Shape) names() (names []string, data int) {
	switch s {
	case PairAndWitness:
		return []string{"n1", "n2", "w"}, 2
	case Pair:
		return []string{"n1", "n2"}, 2
	}
	return []string{"n1", "n2", "n3"}, 3
}

// Config is the mix of one run. Every seed draws its own, so that each run is full of a few kinds
// of trouble instead of thin on all (swarm testing, Groce et al., 2012).
type Config struct {
	Shape    Shape
	Length   time.Duration // of the faulty phase
	Clients  int
	Depth    int  // requests that one client has out
	Kernel   bool // clients resend after a reconnect, in numbered sessions
	Blocks   int  // that clients touch
	SubBlock bool // clients write single sectors on a backing with blocks of 4 KiB
	Trims    int  // percent of the writes that are trims or zeroes
	Flushes  int  // percent of all requests
	FUA      int  // percent of the writes

	Confirm    bool // reads=confirm
	Stonith    bool
	SlowDisk   time.Duration // longest local I/O
	SlowNet    time.Duration // longest latency
	Drift      bool          // clocks run apart, up to the margin
	ImpatientP bool          // proposers give up early: outcomes are unknown
	LedgerLag  time.Duration // longest delay until a core hears of a new record
	OldFrames  bool          // frames of ended sessions come late
	LoseAll    bool          // crashes may take every member at once
	Faults     []faultKind
	FaultCount int

	// What a primary does that reaches neither its peers nor a quorum.
	IOError  bool          // it answers with errors
	Deadline time.Duration // it closes connections after that; 0: never
}

// drawConfig draws the mix of a seed.
func drawConfig(rng *rand.Rand) Config {
	pick := func(of ...int) int { return of[rng.IntN(len(of))] }
	c := Config{
		Shape:      Shape(pick(int(PairAndWitness), int(PairAndWitness), int(PairAndWitness), int(Three), int(Three), int(Pair))),
		Length:     time.Duration(pick(4, 6, 8, 12)) * time.Second,
		Clients:    pick(1, 2, 3),
		Depth:      pick(1, 2, 4, 8),
		Kernel:     rng.IntN(3) == 0,
		Blocks:     pick(3, 8, 24, 48),
		SubBlock:   rng.IntN(6) == 0,
		Trims:      pick(0, 0, 5, 20),
		Flushes:    pick(0, 2, 10, 25),
		FUA:        pick(0, 0, 10, 50),
		Confirm:    rng.IntN(8) == 0,
		Stonith:    rng.IntN(8) == 0,
		SlowDisk:   time.Duration(pick(200, 1000, 5000, 40000)) * time.Microsecond,
		SlowNet:    time.Duration(pick(200, 500, 5000, 30000)) * time.Microsecond,
		Drift:      rng.IntN(3) == 0,
		ImpatientP: rng.IntN(4) == 0,
		LedgerLag:  time.Duration(pick(1, 10, 100, 800)) * time.Millisecond,
		OldFrames:  rng.IntN(3) == 0,
		LoseAll:    rng.IntN(12) == 0,
		FaultCount: pick(3, 6, 10, 16, 24),
	}
	for k := range faultKindEnd {
		if rng.IntN(3) == 0 {
			c.Faults = append(c.Faults, k)
		}
	}
	if len(c.Faults) == 0 {
		c.Faults = []faultKind{faultKill, faultCut}
	}
	return c
}

// drawPolicy draws what a primary without a quorum does. Mostly it freezes, for as long as it takes.
func (c *Config) drawPolicy(rng *rand.Rand) {
	deadline := func(of ...int) time.Duration { return time.Duration(of[rng.IntN(len(of))]) * time.Millisecond }
	switch rng.IntN(8) {
	case 0:
		c.IOError = true
		if rng.IntN(4) == 0 {
			c.Deadline = deadline(1500, 2500) // some time after errors began
		}
	case 1:
		c.Deadline = deadline(150, 400, 1500)
	}
}

func (c Config) String() string {
	text := fmt.Sprintf("%s, %v, %d clients of depth %d on %d blocks, kernel-like %v, sub-block %v, faults %v",
		c.Shape, c.Length, c.Clients, c.Depth, c.Blocks, c.Kernel, c.SubBlock, c.Faults)
	if c.IOError || c.Deadline > 0 {
		text += fmt.Sprintf(", errors without a quorum %v, freeze deadline %v", c.IOError, c.Deadline)
	}
	return text
}
