package wire

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/cespare/xxhash/v2"

	"github.com/lockstep-ha/lockstep/bitmap"
)

// HeaderSize is the length of every frame's header, in bytes.
const HeaderSize = 80

// Version is the highest protocol version spoken here, MinVersion the lowest.
const (
	Version    = 1
	MinVersion = 1
)

const magicFrame = "LSFR"

// Sizes is what a header says of the payload that follows it.
type Sizes struct {
	Wire uint32 // bytes that follow the header
	Raw  uint32 // bytes after decompression; equal to Wire when the payload is not compressed
	Sum  uint64 // xxhash64 of the Wire bytes
}

// Verify checks payload, the bytes that followed the header, against their checksum. It returns
// ErrTruncated or ErrChecksum.
func (s Sizes) Verify(payload []byte) error {
	if len(payload) != int(s.Wire) {
		return fmt.Errorf("%w: payload of %d bytes, header says %d", ErrTruncated, len(payload), s.Wire)
	}
	if got := Sum(payload); got != s.Sum {
		return fmt.Errorf("%w: payload of %d bytes: sum %016x, header says %016x",
			ErrChecksum, len(payload), got, s.Sum)
	}
	return nil
}

// Sum is the checksum of a payload as AppendHeaderSum wants it.
func Sum(payload []byte) uint64 { return xxhash.Sum64(payload) }

// AppendHeader appends the header of f to dst and returns the extended slice. payload is what
// follows the header: the data, compressed when f.Flags has FlagCompressed, or the encoded
// message. It does not allocate when dst has room.
//
// What cannot be decoded is not encoded: a frame that breaks a rule of check is a bug of the
// caller, and AppendHeader panics.
func AppendHeader(dst []byte, f *Frame, payload []byte) []byte {
	return AppendHeaderSum(dst, f, len(payload), Sum(payload))
}

// AppendHeaderSum is AppendHeader for a payload of wireLen bytes whose Sum is known already, so
// that a payload sent to several peers is hashed once, and outside the caller's lock.
func AppendHeaderSum(dst []byte, f *Frame, wireLen int, sum uint64) []byte {
	sz := Sizes{Wire: uint32(wireLen), Raw: f.Payload, Sum: sum}
	if f.Type.CarriesMessage() {
		sz.Raw = sz.Wire
	}
	if wireLen < 0 || wireLen > MaxPayload && wireLen > MaxMsg {
		panic(fmt.Sprintf("wire: %s frame with a payload of %d bytes", f.Type, wireLen))
	}
	if err := check(f, sz); err != nil {
		c := *f // so that f itself does not escape to the heap
		panic(fmt.Sprintf("wire: encode %s: %v", &c, err))
	}
	n := len(dst)
	dst = append(dst, magicFrame...)
	dst = append(dst, Version, byte(f.Type))
	dst = binary.BigEndian.AppendUint16(dst, uint16(f.Flags))
	dst = binary.BigEndian.AppendUint64(dst, f.Epoch)
	dst = binary.BigEndian.AppendUint64(dst, f.Seq)
	dst = binary.BigEndian.AppendUint64(dst, f.Watermark)
	dst = binary.BigEndian.AppendUint64(dst, f.Arg)
	dst = binary.BigEndian.AppendUint64(dst, uint64(f.Extent.Off))
	dst = binary.BigEndian.AppendUint64(dst, uint64(f.Extent.Len))
	dst = binary.BigEndian.AppendUint32(dst, sz.Wire)
	dst = binary.BigEndian.AppendUint32(dst, sz.Raw)
	dst = binary.BigEndian.AppendUint64(dst, sum)
	return binary.BigEndian.AppendUint64(dst, xxhash.Sum64(dst[n:]))
}

// DecodeHeader decodes the header at the start of b, which may go on beyond it. The Frame keeps
// FlagCompressed until its payload is decompressed; its Payload is the length after that, and 0
// for a type that carries a message. It does not allocate unless it fails.
//
// Errors wrap ErrTruncated, ErrMagic, ErrVersion, ErrChecksum, ErrType, ErrTooLong or ErrBounds.
func DecodeHeader(b []byte) (Frame, Sizes, error) {
	if len(b) < HeaderSize {
		return Frame{}, Sizes{}, fmt.Errorf("%w: header of %d bytes", ErrTruncated, len(b))
	}
	b = b[:HeaderSize]
	if string(b[:4]) != magicFrame {
		return Frame{}, Sizes{}, fmt.Errorf("%w: starts with %x", ErrMagic, append([]byte(nil), b[:4]...))
	}
	if v := b[4]; v != Version {
		return Frame{}, Sizes{}, fmt.Errorf("%w: frame of version %d", ErrVersion, v)
	}
	if got, want := xxhash.Sum64(b[:72]), binary.BigEndian.Uint64(b[72:]); got != want {
		return Frame{}, Sizes{}, fmt.Errorf("%w: header: sum %016x, it says %016x", ErrChecksum, got, want)
	}
	off, length := binary.BigEndian.Uint64(b[40:]), binary.BigEndian.Uint64(b[48:])
	if off > math.MaxInt64 || length > math.MaxInt64 || off+length > math.MaxInt64 {
		return Frame{}, Sizes{}, fmt.Errorf("%w: extent %d+%d", ErrBounds, off, length)
	}
	f := Frame{
		Type:      Type(b[5]),
		Flags:     Flags(binary.BigEndian.Uint16(b[6:])),
		Epoch:     binary.BigEndian.Uint64(b[8:]),
		Seq:       binary.BigEndian.Uint64(b[16:]),
		Watermark: binary.BigEndian.Uint64(b[24:]),
		Arg:       binary.BigEndian.Uint64(b[32:]),
		Extent:    bitmap.Extent{Off: int64(off), Len: int64(length)},
	}
	sz := Sizes{
		Wire: binary.BigEndian.Uint32(b[56:]),
		Raw:  binary.BigEndian.Uint32(b[60:]),
		Sum:  binary.BigEndian.Uint64(b[64:]),
	}
	if !f.Type.CarriesMessage() {
		f.Payload = sz.Raw
	}
	if err := check(&f, sz); err != nil {
		return Frame{}, Sizes{}, fmt.Errorf("%s frame: %w", f.Type, err)
	}
	return f, sz, nil
}

// check tells whether f may travel with a payload of these sizes. It is the one list of rules,
// for what is sent and for what arrives.
func check(f *Frame, sz Sizes) error {
	if !f.Type.Known() {
		return fmt.Errorf("%w: type %d", ErrType, uint8(f.Type))
	}
	if f.Flags&^knownFlags != 0 {
		return fmt.Errorf("%w: flags %s", ErrBounds, f.Flags)
	}
	if e := f.Extent; e.Off < 0 || e.Len < 0 || e.Off > math.MaxInt64-e.Len {
		return fmt.Errorf("%w: extent %s", ErrBounds, e)
	}
	if f.Flags&FlagCompressed != 0 {
		if kinds[f.Type].body != dataBody || sz.Wire == 0 || sz.Wire >= sz.Raw {
			return fmt.Errorf("%w: compressed payload of %d bytes, %d before", ErrBounds, sz.Wire, sz.Raw)
		}
	} else if sz.Wire != sz.Raw {
		return fmt.Errorf("%w: payload of %d bytes, raw %d", ErrBounds, sz.Wire, sz.Raw)
	}
	return checkBody(f, sz)
}

// checkBody checks the payload's length against what the type carries.
func checkBody(f *Frame, sz Sizes) error {
	switch kinds[f.Type].body {
	case noBody:
		if sz.Raw != 0 {
			return fmt.Errorf("%w: payload of %d bytes where none belongs", ErrBounds, sz.Raw)
		}
	case dataBody:
		if sz.Raw > MaxPayload {
			return fmt.Errorf("%w: payload of %d bytes", ErrTooLong, sz.Raw)
		}
		if int64(sz.Raw) != f.Extent.Len {
			return fmt.Errorf("%w: payload of %d bytes for extent %s", ErrBounds, sz.Raw, f.Extent)
		}
	case hashBody:
		if sz.Raw > MaxPayload {
			return fmt.Errorf("%w: payload of %d bytes", ErrTooLong, sz.Raw)
		}
		if sz.Raw%HashSize != 0 {
			return fmt.Errorf("%w: %d bytes are no whole hashes", ErrBounds, sz.Raw)
		}
	case messageBody:
		if sz.Wire > MaxMsg {
			return fmt.Errorf("%w: message of %d bytes", ErrTooLong, sz.Wire)
		}
		if sz.Wire == 0 {
			return fmt.Errorf("%w: no message", ErrBounds)
		}
	}
	return nil
}

// String describes f in one line for logs and test failures.
func (f *Frame) String() string {
	s := fmt.Sprintf("%s epoch %d seq %d watermark %d arg %d extent %s flags %s payload %d",
		f.Type, f.Epoch, f.Seq, f.Watermark, f.Arg, f.Extent, f.Flags, f.Payload)
	if f.Msg != nil {
		s += " with message"
	}
	return s
}
