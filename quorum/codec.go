package quorum

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// FormatVersion is the version of encoded commands and states.
//
// # Changes
//
//   - 1: first. Nothing was released with it yet, so fields are still added to it.
const FormatVersion = 1

// MaxCommand is the largest encoded command, in bytes.
const MaxCommand = 1 << 20

// ErrFormat is returned for bytes that are no command or state of a known version. Whoever
// reads a committed command so has to stop: to skip it would be to diverge from the voters that
// can read it.
var ErrFormat = errors.New("not a readable ledger record")

type encodedCommand struct {
	Format int `json:"v"`
	Command
}

type encodedState struct {
	Format int `json:"v"`
	State
}

// EncodeCommand returns c as JSON, at most MaxCommand bytes.
//
// Errors: ErrInvalid if c could never apply to any State; so what does not make sense is
// refused before it costs a log entry.
func EncodeCommand(c Command) ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	b, err := json.Marshal(encodedCommand{Format: FormatVersion, Command: c})
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", c.Kind(), err)
	}
	if len(b) > MaxCommand {
		return nil, fmt.Errorf("%w: %s has %d bytes encoded, more than %d", ErrInvalid, c.Kind(), len(b), MaxCommand)
	}
	return b, nil
}

// DecodeCommand reads what EncodeCommand wrote. Unknown fields, another version, or anything
// after the record are ErrFormat. A record that decodes may still be refused by Apply.
func DecodeCommand(b []byte) (Command, error) {
	if len(b) > MaxCommand {
		return Command{}, fmt.Errorf("%w: command of %d bytes", ErrFormat, len(b))
	}
	var e encodedCommand
	if err := decode(b, &e.Format, &e); err != nil {
		return Command{}, fmt.Errorf("command: %w", err)
	}
	return e.Command, nil
}

// EncodeState returns s as JSON.
func EncodeState(s *State) ([]byte, error) {
	b, err := json.Marshal(encodedState{Format: FormatVersion, State: *s})
	if err != nil {
		return nil, fmt.Errorf("encode state: %w", err)
	}
	return b, nil
}

// DecodeState reads what EncodeState wrote and checks its invariants.
//
// Errors: ErrFormat as for DecodeCommand; ErrInvalid when an invariant does not hold.
func DecodeState(b []byte) (*State, error) {
	var e encodedState
	if err := decode(b, &e.Format, &e); err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	if err := e.Check(); err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	return &e.State, nil
}

// decode reads one JSON value and nothing else. The version is looked at first, alone, so that a
// newer record is called newer and not malformed.
func decode(b []byte, format *int, into any) error {
	var v struct {
		Format int `json:"v"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if v.Format != FormatVersion {
		return fmt.Errorf("%w: version %d, this program reads version %d; upgrade it", ErrFormat, v.Format, FormatVersion)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("%w: something follows the record", ErrFormat)
	}
	if *format != FormatVersion {
		return fmt.Errorf("%w: version is given twice", ErrFormat)
	}
	return nil
}
