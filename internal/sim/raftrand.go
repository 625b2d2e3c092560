package sim

import (
	crand "crypto/rand"
	"encoding/binary"
	"math/rand/v2"
)

// seededReader is a source of bytes that a seed determines.
type seededReader struct{ rng *rand.Rand }

func (r seededReader) Read(p []byte) (int, error) {
	for i := 0; i < len(p); i += 8 {
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], r.rng.Uint64())
		copy(p[i:], b[:])
	}
	return len(p), nil
}

// seedRaft makes raft's election timeouts those of the seed: raft draws them from crypto/rand's
// Reader and has no other way in. The result puts the real source back. So two runs must not go on
// at the same time in one process.
func (w *World) seedRaft() (restore func()) {
	real := crand.Reader
	crand.Reader = seededReader{rand.New(rand.NewPCG(w.Seed, 4))}
	return func() { crand.Reader = real }
}
