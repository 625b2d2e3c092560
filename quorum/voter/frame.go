package voter

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// FrameKind tells what a frame carries; the package comment lists the kinds.
type FrameKind uint8

// Kinds of frames. Those with an envelope are for a voter; the others are between two shells.
const (
	FramePing FrameKind = iota + 1
	FramePong
	FrameRaft
	FramePropose
	FrameVerdict
	FrameAsk
	FrameAnswer
	FrameHello
	FrameNote // bytes of a layer above, from shell to shell; may be lost
	frameEnd
)

const (
	// MaxFrame bounds a frame, in bytes after its length field.
	MaxFrame = 64 << 20

	headSize     = 5 // length and kind
	envelopeSize = 25
	hopsAt       = 24                        // in the envelope
	proposeSize  = envelopeSize + 4 + 16     // before the command
	verdictSize  = envelopeSize + 4 + 16 + 9 // all of it
	maxHello     = 1 << 20

	// MaxNote bounds the body of a note, in bytes.
	MaxNote = 64 << 10
)

// ErrFrame is returned for bytes that are no frame, or not one that a sane peer sends.
var ErrFrame = errors.New("malformed frame")

// Envelope says from which voter to which, and of which incarnation.
type Envelope struct {
	From, To    uint64 // To is 0 in a hello: whoever is at the other end
	Incarnation uint64
	Hops        uint8 // 0: straight from the sender; 1: passed on once, and no further
}

// NewFrame returns the bytes of a frame without an envelope.
func NewFrame(k FrameKind, body []byte) []byte {
	return seal(append(appendHead(make([]byte, 0, headSize+len(body)), k), body...))
}

// appendHead appends the head of a frame with an empty length, to be set by seal.
func appendHead(b []byte, k FrameKind) []byte { return append(b, 0, 0, 0, 0, byte(k)) }

func appendEnvelope(b []byte, e Envelope) []byte {
	b = binary.BigEndian.AppendUint64(b, e.From)
	b = binary.BigEndian.AppendUint64(b, e.To)
	b = binary.BigEndian.AppendUint64(b, e.Incarnation)
	return append(b, e.Hops)
}

// seal sets the length of the frame that b is.
func seal(b []byte) []byte {
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

// wire encodes the same message to the same bytes each time.
var wire = proto.MarshalOptions{Deterministic: true}

func raftFrame(e Envelope, m *pb.Message) []byte {
	b := make([]byte, 0, headSize+envelopeSize+proto.Size(m))
	b, err := wire.MarshalAppend(appendEnvelope(appendHead(b, FrameRaft), e), m)
	if err != nil {
		panic(fmt.Sprintf("voter: raft message does not encode: %v", err))
	}
	return seal(b)
}

// proposeMsg is the body of a propose frame.
type proposeMsg struct {
	attempt uint32
	id      proposalID
	command []byte
}

func proposeFrame(e Envelope, p proposeMsg) []byte {
	b := make([]byte, 0, headSize+proposeSize+len(p.command))
	b = appendEnvelope(appendHead(b, FramePropose), e)
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

func verdictFrame(e Envelope, v verdictMsg) []byte {
	b := appendEnvelope(appendHead(make([]byte, 0, headSize+verdictSize), FrameVerdict), e)
	b = binary.BigEndian.AppendUint32(b, v.attempt)
	b = append(b, v.id[:]...)
	if v.in {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	return seal(binary.BigEndian.AppendUint64(b, v.term))
}

func helloFrame(e Envelope, h hello) []byte {
	j, err := json.Marshal(h)
	if err != nil {
		panic(fmt.Sprintf("voter: hello does not encode: %v", err))
	}
	b := appendEnvelope(appendHead(make([]byte, 0, headSize+envelopeSize+len(j)), FrameHello), e)
	return seal(append(b, j...))
}

// Frame is what arrived: its kind and its body, which it owns.
type Frame struct {
	Kind FrameKind
	Body []byte
}

// ReadFrame reads one frame. A length from the wire is not trusted with memory before that many
// bytes have come.
//
// Errors: ErrFrame, or that of r; io.EOF only between frames.
func ReadFrame(r io.Reader) (Frame, error) {
	var head [headSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return Frame{}, err
	}
	f, n, err := parseHead(head[:])
	if err != nil {
		return Frame{}, err
	}
	if f.Body, err = readBody(r, n); err != nil {
		return Frame{}, err
	}
	return f, f.check()
}

// ParseFrame returns the frame that b is, whole and alone. The frame's body is part of b.
//
// Errors: ErrFrame.
func ParseFrame(b []byte) (Frame, error) {
	if len(b) < headSize {
		return Frame{}, fmt.Errorf("%w: %d bytes", ErrFrame, len(b))
	}
	f, n, err := parseHead(b)
	if err != nil {
		return Frame{}, err
	}
	if f.Body = b[headSize:]; len(f.Body) != n {
		return Frame{}, fmt.Errorf("%w: %d bytes instead of %d", ErrFrame, len(f.Body), n)
	}
	return f, f.check()
}

// parseHead returns a frame without its body, and the size of that.
func parseHead(head []byte) (Frame, int, error) {
	n := int(binary.BigEndian.Uint32(head))
	k := FrameKind(head[4])
	if n < 1 || n > MaxFrame || k == 0 || k >= frameEnd {
		return Frame{}, 0, fmt.Errorf("%w: kind %d, %d bytes", ErrFrame, k, n)
	}
	return Frame{Kind: k}, n - 1, nil
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
func (f Frame) check() error {
	ok := true
	switch n := len(f.Body); f.Kind {
	case FramePing, FramePong:
		ok = n == 8
	case FrameRaft:
		ok = n >= envelopeSize
	case FramePropose:
		ok = n >= proposeSize
	case FrameVerdict:
		ok = n == verdictSize
	case FrameHello:
		ok = n >= envelopeSize && n <= maxHello
	case FrameNote:
		ok = n <= MaxNote
	}
	if !ok {
		return fmt.Errorf("%w: kind %d, %d bytes", ErrFrame, f.Kind, len(f.Body))
	}
	return nil
}

// Addressed reports whether the frame has an envelope, and so is for a voter.
func (f Frame) Addressed() bool {
	switch f.Kind {
	case FrameRaft, FramePropose, FrameVerdict, FrameHello:
		return true
	}
	return false
}

// Envelope returns the envelope of an addressed frame.
func (f Frame) Envelope() Envelope {
	b := f.Body
	return Envelope{From: binary.BigEndian.Uint64(b), To: binary.BigEndian.Uint64(b[8:]),
		Incarnation: binary.BigEndian.Uint64(b[16:]), Hops: b[hopsAt]}
}

func (f Frame) raft() []byte { return f.Body[envelopeSize:] }

func (f Frame) propose() proposeMsg {
	p := proposeMsg{attempt: binary.BigEndian.Uint32(f.Body[envelopeSize:]), command: f.Body[proposeSize:]}
	copy(p.id[:], f.Body[envelopeSize+4:])
	return p
}

func (f Frame) verdict() verdictMsg {
	b := f.Body[envelopeSize:]
	v := verdictMsg{attempt: binary.BigEndian.Uint32(b), in: b[20] == 1, term: binary.BigEndian.Uint64(b[21:])}
	copy(v.id[:], b[4:])
	return v
}

// hello decodes a hello, and checks what can be seen in it alone.
func (f Frame) hello() (hello, error) {
	var h hello
	if err := DecodeStrict(f.Body[envelopeSize:], &h); err != nil {
		return hello{}, fmt.Errorf("%w: %w", ErrFrame, err)
	}
	return h, h.check(f.Envelope())
}

// passedOn returns the bytes of an addressed frame with one more hop.
func (f Frame) passedOn() []byte {
	b := NewFrame(f.Kind, f.Body)
	b[headSize+hopsAt]++
	return b
}
