package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/cespare/xxhash/v2"
)

// GreetingSize is the length of a greeting's header in bytes, MaxGreeting that of the longest body.
const (
	GreetingSize = 32
	MaxGreeting  = 1 << 20
)

const magicGreeting = "LSHI"

// maxReason is the longest reason of a refusal that is sent, in bytes; the rest is cut off.
const maxReason = 1000

// GreetingKind tells the three greetings apart.
type GreetingKind uint8

const (
	GreetHello  GreetingKind = iota + 1 // Hello: what the sender is
	GreetAccept                         // the sender takes the other's Hello; frames follow
	GreetRefuse                         // Reason: the sender will not talk, and closes
)

func (k GreetingKind) String() string {
	switch k {
	case GreetHello:
		return "hello"
	case GreetAccept:
		return "accept"
	case GreetRefuse:
		return "refuse"
	}
	return fmt.Sprintf("greeting-%d", uint8(k))
}

// Greeting is one message of the handshake.
type Greeting struct {
	Kind   GreetingKind
	Max    uint16 // highest protocol version the sender speaks
	Min    uint16 // lowest protocol version the sender speaks
	Hello  Hello  // of a GreetHello
	Reason string // of a GreetRefuse: a sentence for the operator
}

// refusal is the body of a GreetRefuse.
type refusal struct {
	Reason string `json:"reason"`
}

// AppendHello appends the greeting that carries h to dst; the versions are those spoken here,
// and h.Protocol is set to the highest. It returns ErrTooLong when h exceeds MaxGreeting.
func AppendHello(dst []byte, h Hello) ([]byte, error) {
	h.Protocol = Version
	body, err := json.Marshal(&h)
	if err != nil {
		return nil, fmt.Errorf("%w: hello: %w", ErrMalformed, err)
	}
	if len(body) > MaxGreeting {
		return nil, fmt.Errorf("%w: hello of %d bytes", ErrTooLong, len(body))
	}
	return appendGreeting(dst, GreetHello, body), nil
}

// AppendAccept appends the greeting that takes the other side's Hello.
func AppendAccept(dst []byte) []byte { return appendGreeting(dst, GreetAccept, nil) }

// AppendRefuse appends the greeting that ends the handshake; of reason, at most 1000 bytes go.
func AppendRefuse(dst []byte, reason string) []byte {
	if len(reason) > maxReason {
		reason = reason[:maxReason]
	}
	body, err := json.Marshal(refusal{reason})
	if err != nil {
		panic(fmt.Sprintf("wire: encode a refusal: %v", err)) // a string always encodes
	}
	return appendGreeting(dst, GreetRefuse, body)
}

func appendGreeting(dst []byte, kind GreetingKind, body []byte) []byte {
	n := len(dst)
	dst = append(dst, magicGreeting...)
	dst = append(dst, byte(kind), 0)
	dst = binary.BigEndian.AppendUint16(dst, Version)
	dst = binary.BigEndian.AppendUint16(dst, MinVersion)
	dst = append(dst, 0, 0)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(body)))
	dst = binary.BigEndian.AppendUint64(dst, xxhash.Sum64(body))
	dst = binary.BigEndian.AppendUint64(dst, xxhash.Sum64(dst[n:]))
	return append(dst, body...)
}

// ReadGreeting reads one greeting from r and nothing beyond it. The caller bounds the time. An
// error of r is returned wrapped, together with ErrTruncated where r ended inside the greeting;
// the others wrap ErrMagic, ErrChecksum, ErrType, ErrTooLong, ErrBounds or ErrMalformed. Which
// versions match is for Negotiate: a greeting of any version decodes.
func ReadGreeting(r io.Reader) (Greeting, error) {
	var head [GreetingSize]byte
	if err := readFull(r, head[:]); err != nil {
		return Greeting{}, fmt.Errorf("greeting: %w", err)
	}
	g, size, sum, err := decodeGreetingHead(head[:])
	if err != nil {
		return Greeting{}, fmt.Errorf("greeting: %w", err)
	}
	body := make([]byte, size)
	if err := readFull(r, body); err != nil {
		return Greeting{}, fmt.Errorf("%s: %w", g.Kind, err)
	}
	if got := xxhash.Sum64(body); got != sum {
		return Greeting{}, fmt.Errorf("%s: %w: body: sum %016x, header says %016x", g.Kind, ErrChecksum, got, sum)
	}
	if err := g.decodeBody(body); err != nil {
		return Greeting{}, fmt.Errorf("%s: %w", g.Kind, err)
	}
	return g, nil
}

// readFull fills b from r. An end inside b is ErrTruncated; an end before its first byte is, too.
func readFull(r io.Reader, b []byte) error {
	n, err := io.ReadFull(r, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %d of %d bytes: %w", ErrTruncated, n, len(b), err)
	}
	return err
}

// decodeGreetingHead decodes a greeting's header and returns its body's length and checksum.
func decodeGreetingHead(b []byte) (g Greeting, size uint32, sum uint64, err error) {
	if string(b[:4]) != magicGreeting {
		return g, 0, 0, fmt.Errorf("%w: starts with %x", ErrMagic, b[:4])
	}
	if got, want := xxhash.Sum64(b[:24]), binary.BigEndian.Uint64(b[24:]); got != want {
		return g, 0, 0, fmt.Errorf("%w: header: sum %016x, it says %016x", ErrChecksum, got, want)
	}
	g.Kind = GreetingKind(b[4])
	g.Max = binary.BigEndian.Uint16(b[6:])
	g.Min = binary.BigEndian.Uint16(b[8:])
	if g.Kind < GreetHello || g.Kind > GreetRefuse {
		return g, 0, 0, fmt.Errorf("%w: %s", ErrType, g.Kind)
	}
	if b[5] != 0 || b[10] != 0 || b[11] != 0 || g.Min == 0 || g.Min > g.Max {
		return g, 0, 0, fmt.Errorf("%w: header %x", ErrBounds, b[4:12])
	}
	if size = binary.BigEndian.Uint32(b[12:]); size > MaxGreeting {
		return g, 0, 0, fmt.Errorf("%w: body of %d bytes", ErrTooLong, size)
	}
	return g, size, binary.BigEndian.Uint64(b[16:]), nil
}

// decodeBody fills g from its body. A field that is not known is a fault, unless the sender
// speaks a newer protocol than we do: it then may say more than we understand, and a newer
// version that must be understood raises its lowest version instead.
func (g *Greeting) decodeBody(body []byte) error {
	strict := g.Max <= Version
	switch g.Kind {
	case GreetHello:
		if err := decodeObject(body, &g.Hello, strict); err != nil {
			return err
		}
		if g.Hello.Protocol != g.Max || g.Hello.Size < 0 {
			return fmt.Errorf("%w: protocol %d, size %d", ErrBounds, g.Hello.Protocol, g.Hello.Size)
		}
	case GreetAccept:
		if len(body) != 0 {
			return fmt.Errorf("%w: body of %d bytes", ErrBounds, len(body))
		}
	case GreetRefuse:
		var r refusal
		if err := decodeObject(body, &r, strict); err != nil {
			return err
		}
		g.Reason = r.Reason
	}
	return nil
}

// Negotiate returns the highest protocol version that both this node and the sender of g speak,
// or an error that wraps ErrVersion and names both ranges.
func Negotiate(g Greeting) (uint16, error) {
	v := min(g.Max, Version)
	if v < g.Min || v < MinVersion {
		return 0, fmt.Errorf("%w: this node speaks %d to %d, the peer %d to %d: update the older one",
			ErrVersion, MinVersion, Version, g.Min, g.Max)
	}
	return v, nil
}
