package control

import (
	"context"
	"errors"
	"fmt"
)

// Code classes an error for programs. The strings are part of the API.
type Code string

// The codes, grouped by what a caller can conclude.
const (
	// Nothing was done, and the same request will fail again.
	CodeUsage       Code = "usage"       // the request itself is wrong
	CodeNotFound    Code = "not_found"   // no such resource, node or peer
	CodeExists      Code = "exists"      // the name is taken
	CodeUnsupported Code = "unsupported" // this version cannot do it
	CodeTooLarge    Code = "too_large"   // a body or header beyond the limits

	// Nothing was done, because it would not be safe or possible now.
	CodeRefused    Code = "refused"     // would endanger data
	CodeNotPrimary Code = "not_primary" // only the primary can do it; the message names it
	CodeNoQuorum   Code = "no_quorum"   // the ledger has no majority
	CodeFenced     Code = "fenced"      // this node is fenced
	CodeDiverged   Code = "diverged"    // the histories of two replicas differ
	CodeBusy       Code = "busy"        // another operation runs; try again

	// Nothing was done, because nobody was there.
	CodeUnreachable Code = "unreachable"

	// It may have been done or not.
	CodeOutcomeUnknown Code = "outcome_unknown"

	// It was tried and failed.
	CodeFailed Code = "failed"
)

// Safety says whether acknowledged data is safe after an error.
type Safety string

// The values of Safety; empty is the same as SafetyUnknown.
const (
	SafetyYes     Safety = "yes"     // every acknowledged write is held by the in-sync replicas
	SafetyNo      Safety = "no"      // acknowledged writes may be lost, or copies differ
	SafetyUnknown Safety = "unknown" // cannot be told from here
)

// Error is an error as it travels. Message says what happened, Hint what to type next.
type Error struct {
	Code     Code   `json:"code"`
	Message  string `json:"message"`
	Hint     string `json:"hint,omitempty"`
	DataSafe Safety `json:"data_safe,omitempty"`
	// Absent is set with CodeUnreachable when nobody listens where the request was to go, so that no daemon
	// runs there. A daemon that runs and does not answer is unreachable, too, and may be anything.
	Absent bool `json:"absent,omitempty"`
}

// Sentinels for errors.Is: an Error matches the one with its code.
var (
	ErrUsage          = &Error{Code: CodeUsage}
	ErrNotFound       = &Error{Code: CodeNotFound}
	ErrExists         = &Error{Code: CodeExists}
	ErrUnsupported    = &Error{Code: CodeUnsupported}
	ErrTooLarge       = &Error{Code: CodeTooLarge}
	ErrRefused        = &Error{Code: CodeRefused}
	ErrNotPrimary     = &Error{Code: CodeNotPrimary}
	ErrNoQuorum       = &Error{Code: CodeNoQuorum}
	ErrFenced         = &Error{Code: CodeFenced}
	ErrDiverged       = &Error{Code: CodeDiverged}
	ErrBusy           = &Error{Code: CodeBusy}
	ErrUnreachable    = &Error{Code: CodeUnreachable}
	ErrOutcomeUnknown = &Error{Code: CodeOutcomeUnknown}
	ErrFailed         = &Error{Code: CodeFailed}
)

func (e *Error) Error() string {
	if e.Message == "" {
		return string(e.Code)
	}
	return e.Message
}

// Is reports whether target is the sentinel of e's code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && t.Message == ""
}

// Errorf makes an error of code. Hint and DataSafe are set with WithHint and WithSafety.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Usagef makes an ErrUsage: the request is wrong and nothing was touched.
func Usagef(format string, args ...any) *Error {
	return Errorf(CodeUsage, format, args...)
}

// WithHint returns a copy of e that says what to type next.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// WithSafety returns a copy of e that says whether data is safe.
func (e *Error) WithSafety(s Safety) *Error {
	c := *e
	c.DataSafe = s
	return &c
}

// AsError returns err as it would travel: the *Error in its chain, with the text of the whole
// chain as its message, else an error of CodeFailed. It returns nil for nil. A context that ended
// becomes CodeOutcomeUnknown, because an operation that was cut short may have had its effect;
// callers for which that is not so (reads) never show it.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	switch {
	case errors.As(err, &e):
		c := *e
		if err != error(e) || c.Message == "" {
			c.Message = err.Error()
		}
		return &c
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return Errorf(CodeOutcomeUnknown, "no outcome in time: %v", err)
	}
	return Errorf(CodeFailed, "%v", err)
}
