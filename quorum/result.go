package quorum

import (
	"errors"
	"fmt"
)

// Why Apply refuses. Result.Err wraps the one that fits; decide with errors.Is.
var (
	ErrInvalid       = errors.New("the command is not valid")
	ErrUnknown       = errors.New("no such resource, replica or node")
	ErrExists        = errors.New("it exists already")
	ErrStale         = errors.New("the record has changed since")
	ErrDeleted       = errors.New("the resource is deleted")
	ErrNotPrimary    = errors.New("not the recorded primary")
	ErrPrimary       = errors.New("a primary is recorded")
	ErrNotInSet      = errors.New("not in the in-sync set")
	ErrInSet         = errors.New("still in the in-sync set")
	ErrLastMember    = errors.New("last member of the in-sync set")
	ErrInstance      = errors.New("another replica instance than recorded")
	ErrFailed        = errors.New("the replica's disk failed")
	ErrHold          = errors.New("held by an operator")
	ErrNotRegistered = errors.New("not all replicas have registered")
	ErrInUse         = errors.New("still in use")
	ErrFenced        = errors.New("the node is being fenced, or is recorded as down")
	ErrNotFenced     = errors.New("not proven to be down")
)

// Code is the outcome of a command, in a form that travels.
type Code uint8

// Codes. Applied is the only one that changed the State.
const (
	Applied Code = iota
	CodeInvalid
	CodeUnknown
	CodeExists
	CodeStale
	CodeDeleted
	CodeNotPrimary
	CodePrimary
	CodeNotInSet
	CodeInSet
	CodeLastMember
	CodeInstance
	CodeFailed
	CodeHold
	CodeNotRegistered
	CodeInUse
	CodeFenced
	CodeNotFenced
	codeEnd
)

var codeErrs = [codeEnd]error{nil, ErrInvalid, ErrUnknown, ErrExists, ErrStale, ErrDeleted,
	ErrNotPrimary, ErrPrimary, ErrNotInSet, ErrInSet, ErrLastMember, ErrInstance, ErrFailed,
	ErrHold, ErrNotRegistered, ErrInUse, ErrFenced, ErrNotFenced}

func (c Code) String() string {
	switch {
	case c == Applied:
		return "applied"
	case c < codeEnd:
		return codeErrs[c].Error()
	}
	return fmt.Sprintf("code(%d)", uint8(c))
}

// codeOf returns the code of the sentinel that err wraps. Anything else is a bug here.
func codeOf(err error) Code {
	for c := Code(1); c < codeEnd; c++ {
		if errors.Is(err, codeErrs[c]) {
			return c
		}
	}
	panic(fmt.Sprintf("quorum: refusal without a code: %v", err))
}

// Result is what became of a command.
type Result struct {
	Code   Code   `json:"code"`
	Reason string `json:"reason,omitempty"` // a sentence for the operator; "" when applied
	// Resource is the record after the command, applied or refused; nil when the command is
	// about none, or there is none of that name. It is immutable.
	Resource *Resource `json:"resource,omitempty"`
	// Index is the log position of the command. Apply leaves it 0; the ledger sets it.
	Index uint64 `json:"index,omitempty"`
}

// Err returns nil if the command was applied, else an error that wraps the sentinel of Code and
// says why.
func (r Result) Err() error {
	switch {
	case r.Code == Applied:
		return nil
	case r.Code < codeEnd:
		return &refusal{code: r.Code, reason: r.Reason}
	}
	return fmt.Errorf("refused with unknown code %d: %s", uint8(r.Code), r.Reason)
}

// refusal is the error of a refused command. Its text is the sentence alone: the sentinel's
// words are already in it.
type refusal struct {
	code   Code
	reason string
}

func (e *refusal) Error() string { return "refused: " + e.reason }
func (e *refusal) Unwrap() error { return codeErrs[e.code] }
