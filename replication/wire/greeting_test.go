package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"
)

func fullHello() Hello {
	return Hello{
		Protocol: Version, Cluster: "c", Resource: "r0", ResourceID: 1<<63 + 1, Node: "a", Instance: 2, Boot: "b",
		Process: 3, Epoch: 4, Lineage: []uint64{5, 6}, Size: 1 << 40, State: "UpToDate", LastID: 7,
		Unclean: true, Features: []string{"s2"}, Attempt: 8,
	}
}

func encodedHello(t testing.TB) []byte {
	t.Helper()
	b, err := AppendHello(nil, fullHello())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// greetingOf makes a greeting from its parts, with checksums that match.
func greetingOf(kind GreetingKind, lo, hi uint16, body string) []byte {
	b := appendGreeting(nil, kind, []byte(body))
	binary.BigEndian.PutUint16(b[6:], hi)
	binary.BigEndian.PutUint16(b[8:], lo)
	return resealGreeting(b)
}

func resealGreeting(b []byte) []byte {
	binary.BigEndian.PutUint64(b[24:], xxhash.Sum64(b[:24]))
	return b
}

func TestGreeting_RoundTripAndNothingBeyondItIsRead(t *testing.T) {
	stream := AppendRefuse(AppendAccept(encodedHello(t)), "no room")
	r := bytes.NewReader(append(stream, "rest"...))
	want := []Greeting{
		{Kind: GreetHello, Max: Version, Min: MinVersion, Hello: fullHello()},
		{Kind: GreetAccept, Max: Version, Min: MinVersion},
		{Kind: GreetRefuse, Max: Version, Min: MinVersion, Reason: "no room"},
	}
	for _, w := range want {
		got, err := ReadGreeting(r)
		if err != nil || !reflect.DeepEqual(got, w) {
			t.Errorf("read %+v, %v\nwant %+v", got, err, w)
		}
	}
	if rest, _ := io.ReadAll(r); string(rest) != "rest" {
		t.Errorf("left %q", rest)
	}
}

func TestReadGreeting_TruncatedAtEveryByteIsAnError(t *testing.T) {
	b := encodedHello(t)
	for n := range b {
		if _, err := ReadGreeting(bytes.NewReader(b[:n])); !errors.Is(err, ErrTruncated) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestReadGreeting_EveryFlippedBitIsAnError(t *testing.T) {
	b := encodedHello(t)
	for bit := range len(b) * 8 {
		c := bytes.Clone(b)
		c[bit/8] ^= 1 << (bit % 8)
		if g, err := ReadGreeting(bytes.NewReader(c)); err == nil {
			t.Errorf("bit %d of byte %d flipped: %+v", bit%8, bit/8, g)
		}
	}
}

func TestReadGreeting_RefusesWhatIsSealedButWrong(t *testing.T) {
	long := AppendAccept(nil)
	binary.BigEndian.PutUint32(long[12:], MaxGreeting+1)
	reserved := AppendAccept(nil)
	reserved[11] = 1
	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"kind 0":            {greetingOf(0, 1, 1, ""), ErrType},
		"kind 4":            {greetingOf(4, 1, 1, ""), ErrType},
		"accept with body":  {greetingOf(GreetAccept, 1, 1, "{}"), ErrBounds},
		"hello without one": {greetingOf(GreetHello, 1, 1, ""), ErrMalformed},
		"lowest version 0":  {greetingOf(GreetAccept, 0, 1, ""), ErrBounds},
		"versions reversed": {greetingOf(GreetAccept, 3, 2, ""), ErrBounds},
		"too long":          {resealGreeting(long), ErrTooLong},
		"reserved bytes":    {resealGreeting(reserved), ErrBounds},
		"unknown field":     {greetingOf(GreetHello, 1, 1, `{"protocol":1,"colour":"red"}`), ErrMalformed},
		"other protocol":    {greetingOf(GreetHello, 1, 1, `{"protocol":2}`), ErrBounds},
		"negative size":     {greetingOf(GreetHello, 1, 1, `{"protocol":1,"size":-4096}`), ErrBounds},
		"not ours":          {[]byte("GET / HTTP/1.1\r\nHost: example\r\n\r\n"), ErrMagic},
	} {
		if g, err := ReadGreeting(bytes.NewReader(c.b)); !errors.Is(err, c.want) {
			t.Errorf("%s: %+v, %v", name, g, err)
		}
	}
}

func TestNegotiate_HighestCommonVersionOrAnError(t *testing.T) {
	for _, c := range []struct {
		lo, hi uint16
		want   uint16 // 0: none
	}{{1, 1, 1}, {1, 9, 1}, {2, 9, 0}} {
		g, err := ReadGreeting(bytes.NewReader(greetingOf(GreetAccept, c.lo, c.hi, "")))
		if err != nil {
			t.Fatal(err)
		}
		v, err := Negotiate(g)
		if v != c.want || (err == nil) != (c.want != 0) || err != nil && !errors.Is(err, ErrVersion) {
			t.Errorf("peer speaks %d to %d: %d, %v", c.lo, c.hi, v, err)
		}
	}
}

func TestReadGreeting_ANewerPeerMaySayMore(t *testing.T) {
	b := greetingOf(GreetHello, 1, Version+1, `{"protocol":2,"node":"a","colour":"red"}`)
	if g, err := ReadGreeting(bytes.NewReader(b)); err != nil || g.Hello.Node != "a" {
		t.Errorf("%+v, %v", g, err)
	}
}

func TestAppendHello_RefusesWhatIsTooLong(t *testing.T) {
	h := fullHello()
	h.State = strings.Repeat("x", MaxGreeting)
	if _, err := AppendHello(nil, h); !errors.Is(err, ErrTooLong) {
		t.Errorf("%v, want %v", err, ErrTooLong)
	}
	if g, err := ReadGreeting(bytes.NewReader(AppendRefuse(nil, h.State))); err != nil || len(g.Reason) != maxReason {
		t.Errorf("a long refusal: %d bytes, %v", len(g.Reason), err)
	}
}

func FuzzReadGreeting(f *testing.F) {
	f.Add(encodedHello(f), true)
	f.Add(AppendRefuse(nil, "no"), false)
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		b = bytes.Clone(b) // the fuzzer's own bytes must stay
		if seal && len(b) >= GreetingSize {
			binary.BigEndian.PutUint64(b[16:], xxhash.Sum64(b[GreetingSize:]))
			resealGreeting(b)
		}
		g, err := ReadGreeting(bytes.NewReader(b))
		if err != nil {
			if Reason(err) == "" {
				t.Fatalf("an error without a reason: %v", err)
			}
			return
		}
		if _, err := Negotiate(g); err != nil && !errors.Is(err, ErrVersion) {
			t.Fatal(err)
		}
	})
}
