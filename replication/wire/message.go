package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
)

// MaxRuns is the largest Message.Runs, in bytes, that fits a message whatever its other fields
// hold within reason; the rest of MaxMsg is room for base64 and for the lineage.
const MaxRuns = MaxMsg / 2

// hashKeySize is the length of Message.HashKey where it is given, in bytes.
const hashKeySize = 32

// EncodeMessage returns the bytes of m, which are new memory. It returns ErrTooLong when they
// would exceed MaxMsg.
func EncodeMessage(m *Message) ([]byte, error) {
	b, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("%w: message: %w", ErrMalformed, err)
	}
	if len(b) > MaxMsg {
		return nil, fmt.Errorf("%w: message of %d bytes", ErrTooLong, len(b))
	}
	return b, nil
}

// DecodeMessage returns the message that b holds and keeps no reference to b. It refuses fields
// it does not know: a message is sent in a version that both sides agreed on, so such a field
// is a fault, and to act on half an instruction could cost data. Errors wrap ErrTooLong or
// ErrMalformed.
func DecodeMessage(b []byte) (*Message, error) {
	if len(b) > MaxMsg {
		return nil, fmt.Errorf("%w: message of %d bytes", ErrTooLong, len(b))
	}
	m := new(Message)
	if err := decodeObject(b, m, true); err != nil {
		return nil, fmt.Errorf("message: %w", err)
	}
	if n := len(m.HashKey); n != 0 && n != hashKeySize {
		return nil, fmt.Errorf("message: %w: hash key of %d bytes", ErrMalformed, n)
	}
	return m, nil
}

// decodeObject decodes the one JSON object that b consists of into v.
func decodeObject(b []byte, v any, strict bool) error {
	if t := bytes.TrimLeft(b, " \t\r\n"); len(t) == 0 || t[0] != '{' {
		return fmt.Errorf("%w: not an object", ErrMalformed)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if strict {
		d.DisallowUnknownFields()
	}
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("%w: data after the object", ErrMalformed)
	}
	return nil
}
