package pki

import (
	"encoding/binary"
	"fmt"
)

// Both messages are big endian. A text or byte field is its length, 4 bytes, and as many bytes. One
// message has one encoding: what is decoded and encoded again is the same.
//
//	request, at most 16 KiB             reply, at most 2 MiB
//	offset  size  field                 offset  size  field
//	0       4     magic, "LSJQ"         0       4     magic, "LSJR"
//	4       1     version, 1            4       1     version, 1
//	5       1     number of addresses   5       1     0
//	6       2     0                     6       2     0
//	8       8     token id              8             refusal
//	16      32    proof                               certificate
//	48            name                                bundle
//	              node id                             cluster
//	              certificate request
//	              addresses
const (
	MaxJoinRequest = 16 << 10 // bytes
	MaxJoinReply   = 2 << 20  // bytes

	requestMagic = "LSJQ"
	replyMagic   = "LSJR"
	joinVersion  = 1
)

// Encode returns q as bytes.
func (q *JoinRequest) Encode() []byte {
	b := append([]byte(requestMagic), joinVersion, byte(len(q.Addresses)), 0, 0)
	b = append(b, q.Token[:]...)
	b = append(b, q.Proof[:]...)
	b = appendField(b, q.Name)
	b = appendField(b, q.NodeID)
	b = appendField(b, q.CSR)
	for _, a := range q.Addresses {
		b = appendField(b, a)
	}
	return b
}

// DecodeJoinRequest is the reverse of Encode. It checks the form alone; errors wrap ErrJoin.
func DecodeJoinRequest(b []byte) (*JoinRequest, error) {
	d := decoder{rest: b}
	addresses := d.head(requestMagic, MaxJoinRequest)
	if addresses > maxAddresses {
		d.fail("%d addresses", addresses)
	}
	q := &JoinRequest{}
	copy(q.Token[:], d.bytes(len(q.Token)))
	copy(q.Proof[:], d.bytes(len(q.Proof)))
	q.Name = string(d.field())
	q.NodeID = string(d.field())
	q.CSR = d.field()
	for range addresses {
		q.Addresses = append(q.Addresses, string(d.field()))
	}
	if err := d.end(); err != nil {
		return nil, fmt.Errorf("%w: request: %w", ErrJoin, err)
	}
	return q, nil
}

// Encode returns r as bytes. It fails when r is longer than the other side reads.
func (r *JoinReply) Encode() ([]byte, error) {
	b := append([]byte(replyMagic), joinVersion, 0, 0, 0)
	b = appendField(b, r.Refusal)
	b = appendField(b, r.Cert)
	b = appendField(b, r.Bundle)
	b = appendField(b, r.Cluster)
	if len(b) > MaxJoinReply {
		return nil, fmt.Errorf("%w: reply of %d bytes, at most %d are read", ErrJoin, len(b), MaxJoinReply)
	}
	return b, nil
}

// DecodeJoinReply is the reverse of Encode. It checks the form alone; errors wrap ErrJoin.
func DecodeJoinReply(b []byte) (*JoinReply, error) {
	d := decoder{rest: b}
	if n := d.head(replyMagic, MaxJoinReply); n != 0 {
		d.fail("byte 5 is %d", n)
	}
	r := &JoinReply{Refusal: string(d.field()), Cert: d.field(), Bundle: d.field(), Cluster: d.field()}
	if err := d.end(); err != nil {
		return nil, fmt.Errorf("%w: reply: %w", ErrJoin, err)
	}
	return r, nil
}

func appendField[T string | []byte](b []byte, field T) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(field)))
	return append(b, field...)
}

// decoder takes a message apart. After the first fault everything it returns is empty.
type decoder struct {
	rest []byte
	err  error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf(format, args...)
	}
	d.rest = nil
}

// head takes the first eight bytes and returns the one at offset 5.
func (d *decoder) head(magic string, limit int) byte {
	if len(d.rest) > limit {
		d.fail("%d bytes, at most %d are read", len(d.rest), limit)
	}
	h := d.bytes(8)
	switch {
	case h == nil:
		return 0
	case string(h[:4]) != magic:
		d.fail("magic %q, want %q", h[:4], magic)
	case h[4] != joinVersion:
		d.fail("version %d, known is %d", h[4], joinVersion)
	case h[6] != 0 || h[7] != 0:
		d.fail("bytes 6 and 7 are %x", h[6:8])
	}
	if d.err != nil {
		return 0
	}
	return h[5]
}

// bytes takes n bytes, or returns nil.
func (d *decoder) bytes(n int) []byte {
	if d.err != nil {
		return nil
	}
	if n > len(d.rest) {
		d.fail("it ends %d bytes early", n-len(d.rest))
		return nil
	}
	out := d.rest[:n:n]
	d.rest = d.rest[n:]
	return out
}

// field takes a length and as many bytes; nil if there are none.
func (d *decoder) field() []byte {
	h := d.bytes(4)
	if h == nil {
		return nil
	}
	n := binary.BigEndian.Uint32(h)
	if uint64(n) > uint64(len(d.rest)) {
		d.fail("field of %d bytes where %d are left", n, len(d.rest))
		return nil
	}
	if n == 0 {
		return nil
	}
	return d.bytes(int(n))
}

// end returns the first fault; bytes behind the last field are one.
func (d *decoder) end() error {
	if d.err == nil && len(d.rest) > 0 {
		d.fail("%d bytes behind the end", len(d.rest))
	}
	return d.err
}
