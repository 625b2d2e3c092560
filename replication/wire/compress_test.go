package wire

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

var both = []Compression{S2, Zstd}

func TestCompress_RoundTrip(t *testing.T) {
	for _, c := range both {
		t.Run(c.String(), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				unit := rapid.SliceOfN(rapid.Byte(), 1, 50).Draw(t, "unit")
				n := rapid.IntRange(minCompress, MaxPayload/16).Draw(t, "length")
				src := bytes.Repeat(unit, n/len(unit)+1)[:n]
				dst := make([]byte, CompressBound(n))
				m, ok := c.Compress(dst, src)
				if !ok {
					return
				}
				if m > n-n/8 {
					t.Fatalf("%d bytes became %d", n, m)
				}
				back := make([]byte, n)
				if err := c.Decompress(back, dst[:m]); err != nil || !bytes.Equal(back, src) {
					t.Fatalf("came back different, %v", err)
				}
			})
		})
	}
}

func TestCompress_LargestPayload(t *testing.T) {
	src := bytes.Repeat([]byte("lockstep"), MaxPayload/8)
	for _, c := range both {
		dst := make([]byte, CompressBound(len(src)))
		n, ok := c.Compress(dst, src)
		if !ok {
			t.Fatalf("%s: not compressed", c)
		}
		back := make([]byte, len(src))
		if err := c.Decompress(back, dst[:n]); err != nil || !bytes.Equal(back, src) {
			t.Errorf("%s: came back different, %v", c, err)
		}
	}
}

func TestCompress_LeavesAloneWhatDoesNotPay(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 64<<10)
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	for _, c := range append(both, NoCompression) {
		dst := make([]byte, CompressBound(len(noise)))
		if n, ok := c.Compress(dst, noise); ok {
			t.Errorf("%s: noise became %d bytes", c, n)
		}
		if _, ok := c.Compress(dst, make([]byte, minCompress-1)); ok {
			t.Errorf("%s: a short payload was compressed", c)
		}
	}
}

func TestDecompress_NeverExceedsWhatTheHeaderDeclared(t *testing.T) {
	src := make([]byte, 64<<10)
	for _, c := range both {
		dst := make([]byte, CompressBound(len(src)))
		n, _ := c.Compress(dst, src)
		for _, declared := range []int{0, 1, len(src) - 1, len(src) + 1} {
			mem := bytes.Repeat([]byte{0xee}, declared+16)
			err := c.Decompress(mem[:declared], dst[:n])
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("%s, %d declared: %v", c, declared, err)
			}
			if !bytes.Equal(mem[declared:], bytes.Repeat([]byte{0xee}, 16)) {
				t.Errorf("%s, %d declared: wrote beyond", c, declared)
			}
		}
		for cut := range n {
			if err := c.Decompress(make([]byte, len(src)), dst[:cut]); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s cut at %d: %v", c, cut, err)
			}
		}
	}
	if err := NoCompression.Decompress(make([]byte, 9), src); !errors.Is(err, ErrMalformed) {
		t.Errorf("without compression: %v", err)
	}
}

func TestCommonCompression_IsWhatBothNodesAskFor(t *testing.T) {
	want := map[[2]Compression]Compression{
		{S2, S2}: S2, {S2, Zstd}: S2, {Zstd, S2}: S2, {Zstd, Zstd}: Zstd,
	}
	all := append(both, NoCompression)
	for _, a := range all {
		for _, b := range all {
			if got := CommonCompression(a.Features(), b.Features()); got != want[[2]Compression{a, b}] {
				t.Errorf("%s and %s: %s", a, b, got)
			}
		}
		if p, err := ParseCompression(a.String()); err != nil || p != a {
			t.Errorf("parse %q: %s, %v", a, p, err)
		}
	}
	if _, err := ParseCompression("lzma"); err == nil {
		t.Error("lzma was accepted")
	}
}

func FuzzDecompress(f *testing.F) {
	src := bytes.Repeat([]byte("abcd"), 1000)
	for _, c := range both {
		dst := make([]byte, CompressBound(len(src)))
		n, _ := c.Compress(dst, src)
		f.Add(dst[:n], uint32(len(src)), c == Zstd)
	}
	f.Fuzz(func(t *testing.T, b []byte, declared uint32, z bool) {
		c := S2
		if z {
			c = Zstd
		}
		err := c.Decompress(make([]byte, declared%MaxPayload+1), b)
		if err != nil && !errors.Is(err, ErrMalformed) {
			t.Fatal(err)
		}
	})
}

func BenchmarkCompress(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	src := make([]byte, 1<<20)
	for i := range src {
		src[i] = "abcdefgh"[rng.IntN(8)]
	}
	for _, c := range both {
		for _, size := range []int{4 << 10, 1 << 20} {
			b.Run(fmt.Sprintf("%s/%d", c, size), func(b *testing.B) {
				dst := make([]byte, CompressBound(size))
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					c.Compress(dst, src[:size])
				}
			})
		}
	}
}
