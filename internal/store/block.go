package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cespare/xxhash/v2"

	"github.com/lockstep-ha/lockstep/internal/planted"
)

// formatVersion is the version of everything in the metadata file; docs/format.md has its history.
const formatVersion = 1

const (
	diskBlock  = 4096 // unit of the metadata file, bytes
	headerSize = 64   // bytes before the body of each guarded block
)

type magic [8]byte

var (
	superMagic = magic([]byte("LOCKSTEP"))
	tableMagic = magic([]byte("LSTP-LOG"))
	pageMagic  = magic([]byte("LSTP-BIT"))
)

// errBlank is returned by unseal for a block of zeros: nothing was ever written there.
var errBlank = errors.New("blank")

// header guards a superblock, a log table and half a bitmap page in the same way:
//
//	 0  8  magic        which of the three
//	 8  4  version      at this place in every future version
//	12  4  body length  bytes after the header
//	16  8  checksum     xxhash64 of header and body, these 8 bytes taken as 0
//	24  8  sequence     higher is newer
//	32  8  instance     of the replica: a block of another metadata file is no block of this one
//	40 24  words        six numbers that each kind uses for itself, 0 when unused
//
// All numbers are big-endian. They are judged in this order: a newer version may compute its
// checksum otherwise, and must still be recognised as newer and not be taken for damage.
type header struct {
	seq      uint64
	instance uint64
	words    [6]uint32
}

// seal fills in the header of b, whose body stands at b[headerSize:].
func seal(b []byte, m magic, h header) {
	copy(b, m[:])
	binary.BigEndian.PutUint32(b[8:], formatVersion)
	binary.BigEndian.PutUint32(b[12:], uint32(len(b)-headerSize))
	binary.BigEndian.PutUint64(b[24:], h.seq)
	binary.BigEndian.PutUint64(b[32:], h.instance)
	for i, w := range h.words {
		binary.BigEndian.PutUint32(b[40+4*i:], w)
	}
	binary.BigEndian.PutUint64(b[16:], checksum(b))
}

// unseal checks the block at the start of b and returns its header and its body, which is part of
// b. Errors: errBlank, ErrNewerVersion, ErrDamaged.
func unseal(b []byte, m magic) (h header, body []byte, err error) {
	if len(b) < headerSize {
		return h, nil, fmt.Errorf("%w: %d bytes", ErrDamaged, len(b))
	}
	if !bytes.Equal(b[:8], m[:]) {
		if isZero(b) {
			return h, nil, errBlank
		}
		return h, nil, fmt.Errorf("%w: bad magic %q", ErrDamaged, b[:8])
	}
	switch v := binary.BigEndian.Uint32(b[8:]); {
	case v > formatVersion:
		return h, nil, fmt.Errorf("%w: format %d, this one knows %d", ErrNewerVersion, v, formatVersion)
	case v == 0:
		return h, nil, fmt.Errorf("%w: format 0", ErrDamaged)
	}
	n := binary.BigEndian.Uint32(b[12:])
	if int64(n) > int64(len(b)-headerSize) {
		return h, nil, fmt.Errorf("%w: body of %d bytes", ErrDamaged, n)
	}
	b = b[:headerSize+int(n)]
	careless := m == superMagic && planted.On(planted.TornSuperblockAccepted)
	if binary.BigEndian.Uint64(b[16:]) != checksum(b) && !careless {
		return h, nil, fmt.Errorf("%w: bad checksum", ErrDamaged)
	}
	h.seq = binary.BigEndian.Uint64(b[24:])
	h.instance = binary.BigEndian.Uint64(b[32:])
	for i := range h.words {
		h.words[i] = binary.BigEndian.Uint32(b[40+4*i:])
	}
	return h, b[headerSize:], nil
}

func checksum(b []byte) uint64 {
	var d xxhash.Digest
	var none [8]byte
	d.Reset()
	d.Write(b[:16])
	d.Write(none[:])
	d.Write(b[24:])
	return d.Sum64()
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }
