package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math"
	"reflect"
	"testing"

	"github.com/cespare/xxhash/v2"
	"pgregory.net/rapid"

	"github.com/lockstep-ha/lockstep/bitmap"
)

// types lists every frame type of this version.
func types() []Type {
	var ts []Type
	for t := range 256 {
		if Type(t).Known() {
			ts = append(ts, Type(t))
		}
	}
	return ts
}

// reseal makes the header checksum of b match again after a change.
func reseal(b []byte) []byte {
	binary.BigEndian.PutUint64(b[72:], xxhash.Sum64(b[:72]))
	return b
}

func TestAppendHeader_BytesNeverChange(t *testing.T) {
	f := Frame{
		Type: Write, Flags: FlagFUA, Arg: 4, Epoch: 1, Seq: 2, Watermark: 3,
		Extent: bitmap.Extent{Off: 4096, Len: 5}, Payload: 5,
	}
	const want = "4c534652" + "01" + "02" + "0001" +
		"0000000000000001" + "0000000000000002" + "0000000000000003" + "0000000000000004" +
		"0000000000001000" + "0000000000000005" + "00000005" + "00000005" +
		"26c7827d889f6da3" + "f4ccfcfba6accee3"
	if got := hex.EncodeToString(AppendHeader(nil, &f, []byte("hello"))); got != want {
		t.Errorf("header of version 1 changed:\n got %s\nwant %s", got, want)
	}
}

func TestTypeNumbers_NeverChange(t *testing.T) {
	for typ, n := range map[Type]uint8{
		Lead: 1, Write: 2, WriteZeroes: 3, Trim: 4, Flush: 5, Beacon: 6, ResyncBegin: 7, Copy: 8,
		CopyZeroes: 9, HashRequest: 10, JoinPrepare: 11,
		Follow: 64, Bits: 65, Ack: 66, FlushAck: 67, BeaconAck: 68, ResyncReady: 69, HashReply: 70,
		JoinReady: 71, Failed: 72, Refuse: 73,
	} {
		if uint8(typ) != n {
			t.Errorf("%s is %d on the wire, was %d", typ, uint8(typ), n)
		}
	}
}

func TestTypes_EachHasANameAndOneSide(t *testing.T) {
	seen := map[string]bool{}
	for _, typ := range types() {
		if seen[typ.String()] {
			t.Errorf("two types are called %s", typ)
		}
		seen[typ.String()] = true
		if typ.FromPrimary() == typ.FromSecondary() {
			t.Errorf("%s: from primary %v, from secondary %v", typ, typ.FromPrimary(), typ.FromSecondary())
		}
		if !typ.From(AnySide) {
			t.Errorf("%s may come from nobody", typ)
		}
	}
	if want := int(typePrimaryEnd-Lead) + int(typeSecondaryEnd-Follow); len(seen) != want {
		t.Errorf("%d types have a name, %d are declared", len(seen), want)
	}
	for _, typ := range []Type{0, typePrimaryEnd, Follow - 1, typeSecondaryEnd, 255} {
		if typ.Known() || typ.From(AnySide) || typ.From(PrimarySide) || typ.From(SecondarySide) {
			t.Errorf("%s is accepted", typ)
		}
	}
	if Write.From(SecondarySide) || Ack.From(PrimarySide) || !Lead.From(SecondarySide) || !Refuse.From(PrimarySide) {
		t.Error("a type is accepted from the wrong side, or refused from the right one")
	}
	if got := (FlagFUA | FlagKept | 1<<15).String(); got != "fua|kept|0x8000" {
		t.Errorf("flags: %s", got)
	}
}

// drawFrame makes a valid frame and its payload, encoded messages included.
func drawFrame(t *rapid.T) (Frame, []byte) {
	f := Frame{
		Type:      rapid.SampledFrom(types()).Draw(t, "type"),
		Flags:     rapid.SampledFrom([]Flags{0, FlagFUA, FlagPunch, FlagKept}).Draw(t, "flags"),
		Arg:       rapid.Uint64().Draw(t, "arg"),
		Epoch:     rapid.Uint64().Draw(t, "epoch"),
		Seq:       rapid.Uint64().Draw(t, "seq"),
		Watermark: rapid.Uint64().Draw(t, "watermark"),
	}
	f.Extent.Off = rapid.Int64Range(0, math.MaxInt64).Draw(t, "off")
	f.Extent.Len = rapid.Int64Range(0, math.MaxInt64-f.Extent.Off).Draw(t, "len")
	var payload []byte
	switch kinds[f.Type].body {
	case dataBody:
		f.Extent.Off = rapid.Int64Range(0, 1<<60).Draw(t, "data off")
		payload = rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "data")
		f.Extent.Len = int64(len(payload))
		f.Payload = uint32(len(payload))
	case hashBody:
		payload = make([]byte, HashSize*rapid.IntRange(0, 9).Draw(t, "hashes"))
		f.Payload = uint32(len(payload))
	case messageBody:
		payload = []byte("{}")
	}
	return f, payload
}

func TestHeader_RoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f, payload := drawFrame(t)
		b := AppendHeader([]byte("x"), &f, payload)
		if len(b) != 1+HeaderSize {
			t.Fatalf("header of %d bytes", len(b)-1)
		}
		got, sz, err := DecodeHeader(append(b[1:], payload...))
		if err != nil || !reflect.DeepEqual(got, f) {
			t.Fatalf("decoded %s, %v\nencoded %s", &got, err, &f)
		}
		if err := sz.Verify(payload); err != nil {
			t.Fatal(err)
		}
	})
}

func TestDecodeHeader_TruncatedAtEveryByteIsAnError(t *testing.T) {
	b := AppendHeader(nil, &Frame{Type: Ack, Seq: 7}, nil)
	for n := range b {
		if _, _, err := DecodeHeader(b[:n:n]); !errors.Is(err, ErrTruncated) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestDecodeHeader_EveryFlippedBitIsAnError(t *testing.T) {
	b := AppendHeader(nil, &Frame{Type: Write, Extent: bitmap.Extent{Len: 3}, Payload: 3}, []byte("abc"))
	for bit := range len(b) * 8 {
		c := bytes.Clone(b)
		c[bit/8] ^= 1 << (bit % 8)
		if _, _, err := DecodeHeader(c); err == nil {
			t.Errorf("bit %d of byte %d flipped: accepted", bit%8, bit/8)
		}
	}
}

func TestVerify_EveryFlippedBitIsAnError(t *testing.T) {
	data := []byte("some payload")
	sz := Sizes{Wire: uint32(len(data)), Sum: Sum(data)}
	for bit := range len(data) * 8 {
		c := bytes.Clone(data)
		c[bit/8] ^= 1 << (bit % 8)
		if err := sz.Verify(c); !errors.Is(err, ErrChecksum) {
			t.Errorf("bit %d flipped: %v", bit, err)
		}
	}
	if err := sz.Verify(data[1:]); !errors.Is(err, ErrTruncated) {
		t.Errorf("short payload: %v", err)
	}
}

func TestDecodeHeader_RefusesWhatIsSealedButWrong(t *testing.T) {
	write := Frame{Type: Write, Extent: bitmap.Extent{Off: 8, Len: 3}, Payload: 3}
	put64 := func(at int, v uint64) func([]byte) {
		return func(b []byte) { binary.BigEndian.PutUint64(b[at:], v) }
	}
	sizes := func(wire, raw uint32, length uint64) func([]byte) {
		return func(b []byte) {
			binary.BigEndian.PutUint32(b[56:], wire)
			binary.BigEndian.PutUint32(b[60:], raw)
			binary.BigEndian.PutUint64(b[48:], length)
		}
	}
	typ := func(v Type, then func([]byte)) func([]byte) {
		return func(b []byte) { b[5] = byte(v); then(b) }
	}
	flags := func(v Flags, then func([]byte)) func([]byte) {
		return func(b []byte) { binary.BigEndian.PutUint16(b[6:], uint16(v)); then(b) }
	}
	for _, c := range []struct {
		name   string
		change func([]byte)
		want   error
	}{
		{"magic", func(b []byte) { b[0] = 'X' }, ErrMagic},
		{"version 0", func(b []byte) { b[4] = 0 }, ErrVersion},
		{"next version", func(b []byte) { b[4] = Version + 1 }, ErrVersion},
		{"type 0", func(b []byte) { b[5] = 0 }, ErrType},
		{"type beyond", func(b []byte) { b[5] = byte(typeSecondaryEnd) }, ErrType},
		{"unknown flag", flags(1<<15, func([]byte) {}), ErrBounds},
		{"negative offset", put64(40, 1<<63), ErrBounds},
		{"negative length", put64(48, 1<<63|3), ErrBounds},
		{"offset and length overflow", put64(40, math.MaxInt64), ErrBounds},
		{"payload above max", sizes(MaxPayload+1, MaxPayload+1, MaxPayload+1), ErrTooLong},
		{"payload above 2^31", sizes(1<<31+1, 1<<31+1, 1<<31+1), ErrTooLong},
		{"payload of 2^32-1", sizes(math.MaxUint32, math.MaxUint32, math.MaxUint32), ErrTooLong},
		{"payload and extent differ", sizes(3, 3, 4), ErrBounds},
		{"sizes differ uncompressed", sizes(3, 4, 4), ErrBounds},
		{"payload without any", sizes(0, 0, 3), ErrBounds},
		{"compressed to nothing", flags(FlagCompressed, sizes(0, 3, 3)), ErrBounds},
		{"compressed and not shorter", flags(FlagCompressed, sizes(3, 3, 3)), ErrBounds},
		{"compressed above max", flags(FlagCompressed, sizes(3, MaxPayload+1, MaxPayload+1)), ErrTooLong},
		{"payload of an ack", typ(Ack, sizes(3, 3, 0)), ErrBounds},
		{"compressed message", typ(Lead, flags(FlagCompressed, sizes(3, 30, 0))), ErrBounds},
		{"message of none", typ(Lead, sizes(0, 0, 0)), ErrBounds},
		{"message above max", typ(Lead, sizes(MaxMsg+1, MaxMsg+1, 0)), ErrTooLong},
		{"part of a hash", typ(HashReply, sizes(17, 17, 4096)), ErrBounds},
		{"hashes above max", typ(HashReply, sizes(MaxPayload+16, MaxPayload+16, 4096)), ErrTooLong},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := AppendHeader(nil, &write, []byte("abc"))
			c.change(b)
			f, _, err := DecodeHeader(reseal(b))
			if !errors.Is(err, c.want) {
				t.Errorf("%v, want %v (frame %s)", err, c.want, &f)
			}
			if Reason(err) == "" {
				t.Errorf("no reason for %v", err)
			}
		})
	}
}

func TestDecodeHeader_BelievesNoLengthBeforeTheChecksum(t *testing.T) {
	b := AppendHeader(nil, &Frame{Type: Ack}, nil)
	binary.BigEndian.PutUint32(b[56:], math.MaxUint32)
	if _, _, err := DecodeHeader(b); !errors.Is(err, ErrChecksum) {
		t.Errorf("%v, want %v", err, ErrChecksum)
	}
}

func TestAppendHeader_PanicsOnWhatCannotBeDecoded(t *testing.T) {
	for name, f := range map[string]Frame{
		"unknown type":    {Type: 200},
		"negative extent": {Type: Trim, Extent: bitmap.Extent{Off: -1, Len: 4}},
		"overflow":        {Type: Trim, Extent: bitmap.Extent{Off: math.MaxInt64, Len: 1}},
		"payload length":  {Type: Write, Extent: bitmap.Extent{Len: 3}, Payload: 3},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Errorf("%s was encoded", &f)
				}
			}()
			AppendHeader(nil, &f, nil)
		})
	}
}

func TestHeader_DoesNotAllocate(t *testing.T) {
	f := Frame{Type: Write, Extent: bitmap.Extent{Len: 4096}, Payload: 4096}
	payload := make([]byte, 4096)
	dst := make([]byte, 0, HeaderSize)
	var err error
	if n := testing.AllocsPerRun(100, func() {
		var sz Sizes
		dst = AppendHeader(dst[:0], &f, payload)
		f, sz, err = DecodeHeader(dst)
		if err == nil {
			err = sz.Verify(payload)
		}
	}); n != 0 || err != nil {
		t.Errorf("%.1f allocations, %v", n, err)
	}
}

func FuzzDecodeHeader(f *testing.F) {
	f.Add(AppendHeader(nil, &Frame{Type: Write, Extent: bitmap.Extent{Len: 3}, Payload: 3}, []byte("abc")), true)
	f.Add(AppendHeader(nil, &Frame{Type: Lead}, []byte("{}")), false)
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		b = bytes.Clone(b) // the fuzzer's own bytes must stay
		if seal && len(b) >= HeaderSize {
			reseal(b) // so that the fuzzer gets beyond the checksum
		}
		fr, sz, err := DecodeHeader(b)
		if err != nil {
			if Reason(err) == "" {
				t.Fatalf("an error without a reason: %v", err)
			}
			return
		}
		if again := AppendHeaderSum(nil, &fr, int(sz.Wire), sz.Sum); !bytes.Equal(again, b[:HeaderSize]) {
			t.Fatalf("%s encodes as\n%x, came as\n%x", &fr, again, b[:HeaderSize])
		}
	})
}

func BenchmarkHeader(b *testing.B) {
	f := Frame{Type: Write, Extent: bitmap.Extent{Len: 4096}, Payload: 4096}
	dst := make([]byte, 0, HeaderSize)
	b.Run("append", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			dst = AppendHeaderSum(dst[:0], &f, 4096, 1)
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, _, err := DecodeHeader(dst); err != nil {
				b.Fatal(err)
			}
		}
	})
}
