package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

type frameKind uint8

const (
	framePing frameKind = iota + 1
	framePong
	frameRaft
	framePropose
	frameVerdict
	frameAsk
	frameAnswer
	frameEnd
)

const (
	maxFrame     = 64 << 20 // bytes after the length field
	envelopeSize = 25
	proposeSize  = envelopeSize + 4 + 16     // before the command
	verdictSize  = envelopeSize + 4 + 16 + 9 // all of it
)

var errFrame = errors.New("malformed frame")

// envelope says from which voter to which, and of which incarnation.
type envelope struct {
	from, to, incarnation uint64
	hops                  uint8 // 0: straight from the sender; 1: passed on once, and no further
}

// appendFrame appends a whole frame with an empty length, to be set by seal.
func appendFrame(b []byte, k frameKind) []byte { return append(b, 0, 0, 0, 0, byte(k)) }

func appendEnvelope(b []byte, e envelope) []byte {
	b = binary.BigEndian.AppendUint64(b, e.from)
	b = binary.BigEndian.AppendUint64(b, e.to)
	b = binary.BigEndian.AppendUint64(b, e.incarnation)
	return append(b, e.hops)
}

// seal sets the length of the frame that b is.
func seal(b []byte) []byte {
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

func pingFrame(k frameKind, body []byte) []byte { return seal(append(appendFrame(nil, k), body...)) }

func raftFrame(e envelope, msg []byte) []byte {
	b := make([]byte, 0, 5+envelopeSize+len(msg))
	return seal(append(appendEnvelope(appendFrame(b, frameRaft), e), msg...))
}

// proposeMsg is the body of a propose frame.
type proposeMsg struct {
	attempt uint32
	id      proposalID
	command []byte
}

func proposeFrame(e envelope, p proposeMsg) []byte {
	b := make([]byte, 0, 5+proposeSize+len(p.command))
	b = appendEnvelope(appendFrame(b, framePropose), e)
	b = binary.BigEndian.AppendUint32(b, p.attempt)
	return seal(append(append(b, p.id[:]...), p.command...))
}

// verdictMsg answers a proposeMsg: is it in the leader's log now?
type verdictMsg struct {
	attempt uint32
	id      proposalID
	in      bool
	term    uint64 // of the leader that took it
}

func verdictFrame(e envelope, v verdictMsg) []byte {
	b := appendEnvelope(appendFrame(make([]byte, 0, 5+verdictSize), frameVerdict), e)
	b = binary.BigEndian.AppendUint32(b, v.attempt)
	b = append(b, v.id[:]...)
	if v.in {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	return seal(binary.BigEndian.AppendUint64(b, v.term))
}

// frame is what arrived: its kind and its body, which it owns.
type frame struct {
	kind frameKind
	body []byte
}

// readFrame reads one frame. A length from the wire is not trusted with memory before that many
// bytes have come.
//
// Errors: errFrame, or that of r; io.EOF only between frames.
func readFrame(r io.Reader) (frame, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return frame{}, err
	}
	n := int(binary.BigEndian.Uint32(head[:]))
	k := frameKind(head[4])
	if n < 1 || n > maxFrame || k == 0 || k >= frameEnd {
		return frame{}, fmt.Errorf("%w: kind %d, %d bytes", errFrame, k, n)
	}
	body, err := readBody(r, n-1)
	if err != nil {
		return frame{}, err
	}
	f := frame{kind: k, body: body}
	return f, f.check()
}

const bodyStep = 64 << 10

func readBody(r io.Reader, n int) ([]byte, error) {
	body := make([]byte, min(n, bodyStep))
	for at := 0; ; {
		if _, err := io.ReadFull(r, body[at:]); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if at = len(body); at == n {
			return body, nil
		}
		body = append(body, make([]byte, min(n-at, at))...)
	}
}

// check verifies the size that the kind asks for.
func (f frame) check() error {
	ok := true
	switch n := len(f.body); f.kind {
	case framePing, framePong:
		ok = n == 8
	case frameRaft:
		ok = n >= envelopeSize
	case framePropose:
		ok = n >= proposeSize
	case frameVerdict:
		ok = n == verdictSize
	}
	if !ok {
		return fmt.Errorf("%w: kind %d, %d bytes", errFrame, f.kind, len(f.body))
	}
	return nil
}

// addressed reports whether the frame has an envelope.
func (f frame) addressed() bool {
	return f.kind == frameRaft || f.kind == framePropose || f.kind == frameVerdict
}

func (f frame) envelope() envelope {
	b := f.body
	return envelope{from: binary.BigEndian.Uint64(b), to: binary.BigEndian.Uint64(b[8:]),
		incarnation: binary.BigEndian.Uint64(b[16:]), hops: b[24]}
}

func (f frame) raft() []byte { return f.body[envelopeSize:] }

func (f frame) propose() proposeMsg {
	p := proposeMsg{attempt: binary.BigEndian.Uint32(f.body[envelopeSize:]), command: f.body[proposeSize:]}
	copy(p.id[:], f.body[envelopeSize+4:])
	return p
}

func (f frame) verdict() verdictMsg {
	b := f.body[envelopeSize:]
	v := verdictMsg{attempt: binary.BigEndian.Uint32(b), in: b[20] == 1, term: binary.BigEndian.Uint64(b[21:])}
	copy(v.id[:], b[4:])
	return v
}

// passedOn returns the bytes of an addressed frame with one more hop.
func (f frame) passedOn() []byte {
	b := seal(append(appendFrame(make([]byte, 0, 5+len(f.body)), f.kind), f.body...))
	b[5+24]++
	return b
}
