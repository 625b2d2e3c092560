package wire

import (
	"fmt"
	"slices"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// Compression is a way to shorten payloads on a link.
type Compression uint8

const (
	NoCompression Compression = iota
	S2                        // a few GB/s, for links slower than the disks
	Zstd                      // smaller and some ten times slower, for lines that cost money
)

// minCompress is the smallest payload worth the attempt, in bytes.
const minCompress = 1 << 10

func (c Compression) String() string {
	switch c {
	case NoCompression:
		return "none"
	case S2:
		return "s2"
	case Zstd:
		return "zstd"
	}
	return fmt.Sprintf("compression-%d", uint8(c))
}

// ParseCompression is the inverse of String, for configuration; "" is NoCompression.
func ParseCompression(s string) (Compression, error) {
	switch s {
	case "", "none":
		return NoCompression, nil
	case "s2":
		return S2, nil
	case "zstd":
		return Zstd, nil
	}
	return 0, fmt.Errorf("compression %q: must be none, s2 or zstd", s)
}

// Features returns the Hello.Features of a node configured for c: what it will use, best first.
// A node configured for zstd also takes s2, so that two that differ still compress.
func (c Compression) Features() []string {
	switch c {
	case S2:
		return []string{"s2"}
	case Zstd:
		return []string{"zstd", "s2"}
	}
	return nil
}

// CommonCompression returns what two nodes with these features use, in both directions: zstd if
// both name it, else s2 if both do, else none.
func CommonCompression(a, b []string) Compression {
	for _, c := range []Compression{Zstd, S2} {
		if slices.Contains(a, c.String()) && slices.Contains(b, c.String()) {
			return c
		}
	}
	return NoCompression
}

// CompressBound returns the length that dst of Compress must have for a payload of n bytes.
func CompressBound(n int) int { return max(s2.MaxEncodedLen(n), n+n>>7+128) }

// Compress writes src, compressed, into dst, which is at least CompressBound(len(src)) long, and
// returns the length used. It reports false, and dst holds nothing of use, when c is
// NoCompression, or when src is short or does not shrink by an eighth: then it is sent as it is.
// Safe for use by many goroutines.
func (c Compression) Compress(dst, src []byte) (int, bool) {
	if len(src) < minCompress || len(src) > MaxPayload || len(dst) < CompressBound(len(src)) {
		return 0, false
	}
	var out []byte
	switch c {
	case S2:
		out = s2.Encode(dst, src)
	case Zstd:
		out = zstdEncoder().EncodeAll(src, dst[:0])
	default:
		return 0, false
	}
	if len(out) > len(src)-len(src)/8 || &out[0] != &dst[0] {
		return 0, false
	}
	return len(out), true
}

// Decompress fills dst, which has the length that the header declared, from src. It writes
// nothing beyond dst and takes no memory in proportion to what src claims. The error wraps
// ErrMalformed. Safe for use by many goroutines.
func (c Compression) Decompress(dst, src []byte) error {
	var n int
	switch c {
	case S2:
		size, err := s2.DecodedLen(src)
		if err == nil && size == len(dst) {
			_, err = s2.Decode(dst, src)
		}
		if err != nil {
			return fmt.Errorf("%w: s2 payload: %w", ErrMalformed, err)
		}
		n = size
	case Zstd:
		out, err := zstdDecoder().DecodeAll(src, dst[:0:len(dst)])
		if err != nil {
			return fmt.Errorf("%w: zstd payload: %w", ErrMalformed, err)
		}
		n = len(out)
	default:
		return fmt.Errorf("%w: compressed payload, but no compression was agreed on", ErrMalformed)
	}
	if n != len(dst) {
		return fmt.Errorf("%w: payload has %d bytes, header says %d", ErrMalformed, n, len(dst))
	}
	return nil
}

// The zstd coders hold no state between payloads and start no goroutine in this use.
var (
	zstdEncoder = sync.OnceValue(func() *zstd.Encoder {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest),
			zstd.WithEncoderCRC(false), zstd.WithWindowSize(MaxPayload))
		if err != nil {
			panic(fmt.Sprintf("wire: zstd encoder: %v", err)) // the options are constants
		}
		return e
	})
	zstdDecoder = sync.OnceValue(func() *zstd.Decoder {
		d, err := zstd.NewReader(nil, zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderConcurrency(0),
			zstd.WithDecoderMaxMemory(MaxPayload), zstd.WithDecoderMaxWindow(MaxPayload))
		if err != nil {
			panic(fmt.Sprintf("wire: zstd decoder: %v", err)) // the options are constants
		}
		return d
	})
)
