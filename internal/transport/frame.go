package transport

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// Version is the protocol version that this program speaks.
const Version = 1

const (
	magic        = "lockstep"
	maxService   = 16
	maxName      = 64
	nonceSize    = 32
	macSize      = sha256.Size
	helloSize    = 272
	challengeLen = 160
	challengeMAC = 108 // offset of the MAC; what stands before is under it
)

// Labels keep a MAC of one step from being taken for one of another.
const (
	labelListener = "lockstep/1 listener"
	labelDialer   = "lockstep/1 dialer"
	labelAccept   = "lockstep/1 accept"
)

// hello is the first frame.
type hello struct {
	version  uint16
	service  string
	cluster  string
	dialer   string
	listener string
	nonce    [nonceSize]byte
	clear    bool // within TLS: what follows the handshake is not to be encrypted
}

func (h *hello) encode() []byte {
	b := make([]byte, helloSize)
	copy(b, magic)
	binary.BigEndian.PutUint16(b[8:], h.version)
	copy(b[12:28], h.service)
	copy(b[28:92], h.cluster)
	copy(b[92:156], h.dialer)
	copy(b[156:220], h.listener)
	copy(b[220:252], h.nonce[:])
	if h.clear {
		b[252] = 1
	}
	return b
}

// decodeHello reads b, which has helloSize bytes. A hello of another version is returned with
// only its version set, and no error: the fields of that version are not known here.
func decodeHello(b []byte) (*hello, error) {
	if len(b) != helloSize {
		return nil, fmt.Errorf("%w: hello of %d bytes", ErrProtocol, len(b))
	}
	if string(b[:8]) != magic {
		return nil, fmt.Errorf("%w: does not begin with %q", ErrProtocol, magic)
	}
	h := &hello{version: binary.BigEndian.Uint16(b[8:])}
	if h.version != Version {
		return h, nil
	}
	if b[10] != 0 || b[11] != 0 || b[252] > 1 || !zero(b[253:]) {
		return nil, fmt.Errorf("%w: reserved bytes are not zero", ErrProtocol)
	}
	for _, f := range []struct {
		into *string
		from []byte
		what string
	}{
		{&h.service, b[12:28], "service"}, {&h.cluster, b[28:92], "cluster"},
		{&h.dialer, b[92:156], "name of the dialer"}, {&h.listener, b[156:220], "name of the listener"},
	} {
		s, err := text(f.from)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrProtocol, f.what, err)
		}
		*f.into = s
	}
	copy(h.nonce[:], b[220:252])
	h.clear = b[252] == 1
	return h, nil
}

// challenge is the second frame.
type challenge struct {
	version  uint16
	verdict  verdict
	listener string
	nonce    [nonceSize]byte
	mac      [macSize]byte // set by sign
}

func (c *challenge) encode() []byte {
	b := make([]byte, challengeLen)
	copy(b, magic)
	binary.BigEndian.PutUint16(b[8:], c.version)
	binary.BigEndian.PutUint16(b[10:], uint16(c.verdict))
	copy(b[12:76], c.listener)
	copy(b[76:108], c.nonce[:])
	copy(b[challengeMAC:], c.mac[:])
	return b
}

// decodeChallenge reads b, which has challengeLen bytes.
func decodeChallenge(b []byte) (*challenge, error) {
	if len(b) != challengeLen {
		return nil, fmt.Errorf("%w: challenge of %d bytes", ErrProtocol, len(b))
	}
	if string(b[:8]) != magic {
		return nil, fmt.Errorf("%w: does not begin with %q", ErrProtocol, magic)
	}
	c := &challenge{version: binary.BigEndian.Uint16(b[8:]), verdict: verdict(binary.BigEndian.Uint16(b[10:]))}
	if c.version != Version || c.verdict != goOn {
		return c, nil // the rest explains nothing
	}
	name, err := text(b[12:76])
	if err != nil {
		return nil, fmt.Errorf("%w: name of the listener: %w", ErrProtocol, err)
	}
	if !zero(b[140:]) {
		return nil, fmt.Errorf("%w: reserved bytes are not zero", ErrProtocol)
	}
	c.listener = name
	copy(c.nonce[:], b[76:108])
	copy(c.mac[:], b[challengeMAC:140])
	return c, nil
}

// verdict is why a listener ends a handshake early. It travels unauthenticated.
type verdict uint16

const (
	goOn verdict = iota
	otherVersion
	otherCluster
	otherNode
	noService
	otherProtection
)

// mac returns the HMAC of label and parts. Each part has a fixed size, and so has each label
// within one version, so no two different inputs join to the same bytes.
func mac(key []byte, label string, parts ...[]byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(label))
	for _, p := range parts {
		m.Write(p)
	}
	return m.Sum(nil)
}

// text returns the zero-padded text in b: printable ASCII, not empty, nothing after the padding
// begins.
func text(b []byte) (string, error) {
	s := bytes.TrimRight(b, "\x00")
	if len(s) == 0 {
		return "", fmt.Errorf("empty")
	}
	for _, c := range s {
		if c <= ' ' || c > '~' {
			return "", fmt.Errorf("byte 0x%02x in a name", c)
		}
	}
	return string(s), nil
}

// fits reports whether s can travel as text of at most n bytes.
func fits(s string, n int) bool {
	if len(s) > n {
		return false
	}
	_, err := text([]byte(s))
	return err == nil
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
