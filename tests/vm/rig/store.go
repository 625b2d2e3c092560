package rig

import (
	"bytes"
	"slices"
)

// chunk is the unit in which contents are kept and shared.
const chunk = 64 << 10

// store is the content of a disk: nil chunks are zeros, and snapshots share what neither side has written since.
type store struct {
	chunks [][]byte
	shared []bool // written to only after a copy
}

func newStore(sizeBytes int64) *store {
	n := (sizeBytes + chunk - 1) / chunk
	return &store{chunks: make([][]byte, n), shared: make([]bool, n)}
}

// snapshot returns what s holds now, as a store of its own.
func (s *store) snapshot() *store {
	for i := range s.shared {
		s.shared[i] = true
	}
	return &store{chunks: slices.Clone(s.chunks), shared: slices.Clone(s.shared)}
}

func (s *store) write(off int64, p []byte) {
	for len(p) > 0 {
		i, at := off/chunk, off%chunk
		n := min(int64(len(p)), chunk-at)
		switch {
		case s.chunks[i] == nil:
			s.chunks[i] = make([]byte, chunk)
		case s.shared[i]:
			s.chunks[i] = slices.Clone(s.chunks[i])
		}
		s.shared[i] = false
		copy(s.chunks[i][at:], p[:n])
		p, off = p[n:], off+n
	}
}

func (s *store) read(off int64, p []byte) {
	for len(p) > 0 {
		i, at := off/chunk, off%chunk
		n := min(int64(len(p)), chunk-at)
		if c := s.chunks[i]; c != nil {
			copy(p[:n], c[at:])
		} else {
			clear(p[:n])
		}
		p, off = p[n:], off+n
	}
}

// contains finds a text that does not cross the end of a chunk, as no text in one block of a file does.
func (s *store) contains(text []byte) bool {
	return slices.ContainsFunc(s.chunks, func(c []byte) bool { return bytes.Contains(c, text) })
}
