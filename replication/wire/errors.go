package wire

import "errors"

// Errors of the decoders. Each means that the session cannot go on: a frame that does not decode
// is never skipped, because what follows it can no longer be trusted to be a frame.
var (
	ErrMagic     = errors.New("wire: not the start of a frame")
	ErrVersion   = errors.New("wire: protocol version not spoken here")
	ErrChecksum  = errors.New("wire: checksum does not match")
	ErrTooLong   = errors.New("wire: longer than allowed")
	ErrTruncated = errors.New("wire: ends too early")
	ErrType      = errors.New("wire: frame type unknown or from the wrong side")
	ErrBounds    = errors.New("wire: field out of range")
	ErrMalformed = errors.New("wire: body does not decode")
)

// reasons names each decode error by one word, for counters and metrics.
var reasons = []struct {
	err  error
	name string
}{
	{ErrMagic, "magic"},
	{ErrVersion, "version"},
	{ErrChecksum, "checksum"},
	{ErrTooLong, "too_long"},
	{ErrTruncated, "truncated"},
	{ErrType, "type"},
	{ErrBounds, "bounds"},
	{ErrMalformed, "malformed"},
}

// Reasons lists the words that Reason can return, in a fixed order.
func Reasons() []string {
	names := make([]string, len(reasons))
	for i, r := range reasons {
		names[i] = r.name
	}
	return names
}

// Reason returns the word for the decode error that err wraps, or "" when it wraps none: then
// the connection broke, and nobody sent anything wrong.
func Reason(err error) string {
	for _, r := range reasons {
		if errors.Is(err, r.err) {
			return r.name
		}
	}
	return ""
}
