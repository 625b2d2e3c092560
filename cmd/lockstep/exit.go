package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
)

// Exit codes. They are part of the interface; exitHelp and docs/cli.md tell users.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitRefused     = 3
	exitUnreachable = 4
	exitUnknown     = 5
	exitDifference  = 6
)

const exitHelp = `Exit codes:
  0  ok
  1  failed: it was tried and did not work
  2  usage: the command line or the node file is wrong; nothing was done
  3  refused: it would endanger data or is not possible now; nothing was done
  4  not reachable: nobody was there to do it; nothing was done
  5  outcome unknown: it may have been done or not; look at the status first
  6  difference: verify found blocks that differ, repaired or not; or doctor, link-check, drill or fence test
     found that something is not as it should be`

// usageError is a command line that is wrong.
type usageError struct {
	cmd string // "lockstep resource create"
	err error
}

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// errDifference means that verify found a difference, which was printed.
var errDifference = errors.New("replicas differ")

// exitCode classes an error.
func exitCode(err error) int {
	var u usageError
	var faults config.Faults
	var e *control.Error
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errDifference):
		return exitDifference
	case errors.As(err, &u), errors.As(err, &faults):
		return exitUsage
	case !errors.As(err, &e):
		return exitFailed
	}
	switch e.Code {
	case control.CodeUsage, control.CodeTooLarge:
		return exitUsage
	case control.CodeRefused, control.CodeNotPrimary, control.CodeNoQuorum, control.CodeFenced,
		control.CodeDiverged, control.CodeBusy, control.CodeExists:
		return exitRefused
	case control.CodeUnreachable:
		return exitUnreachable
	case control.CodeOutcomeUnknown:
		return exitUnknown
	}
	return exitFailed
}

// report prints err as an operator needs it and returns the exit code: what happened, whether the
// data is safe, what to type next.
func (a *app) report(err error) int {
	if code, ok := fenceAgentCode(err); ok {
		return code
	}
	code := exitCode(err)
	if code == exitDifference {
		return code // it was the answer, not a fault
	}
	what, data, next := a.explain(err)
	if a.json && a.started {
		e := *control.AsError(err)
		if e.Hint == "" {
			e.Hint = next
		}
		// An error that cannot be printed has nobody to be told to.
		_ = json.NewEncoder(a.err).Encode(struct {
			Error control.Error `json:"error"`
		}{e})
		return code
	}
	fmt.Fprintf(a.err, "lockstep: %s\n", strings.ReplaceAll(what, "\n", "\n  "))
	if data != "" {
		fmt.Fprintf(a.err, "  data: %s\n", data)
	}
	if next != "" {
		fmt.Fprintf(a.err, "  next: %s\n", next)
	}
	return code
}

// explain returns the three parts of a message; an empty one is not printed.
func (a *app) explain(err error) (what, data, next string) {
	var u usageError
	if errors.As(err, &u) {
		return u.Error(), "", u.cmd + " --help"
	}
	var faults config.Faults
	if errors.As(err, &faults) {
		return err.Error(), "", "correct the file and start again"
	}
	e := control.AsError(err)
	what = e.Message
	if prefix, ok := codeWords[e.Code]; ok && !strings.Contains(what, prefix) {
		what = prefix + ": " + what
	}
	return what, dataLine(e), a.nextLine(e)
}

// codeWords names the codes whose meaning a message may not make plain.
var codeWords = map[control.Code]string{
	control.CodeRefused:        "refused",
	control.CodeUnreachable:    "not reachable",
	control.CodeOutcomeUnknown: "outcome unknown",
	control.CodeNoQuorum:       "no quorum",
	control.CodeBusy:           "busy",
}

func dataLine(e *control.Error) string {
	switch e.DataSafe {
	case control.SafetyYes:
		return "safe; every acknowledged write is held by the in-sync replicas"
	case control.SafetyNo:
		return "NOT SAFE; acknowledged writes may be missing, or copies may differ"
	}
	switch e.Code {
	case control.CodeOutcomeUnknown:
		return "cannot be told from here; the command may or may not have been carried out"
	case control.CodeFailed:
		return "cannot be told from here"
	}
	return "not touched by this command"
}

func (a *app) nextLine(e *control.Error) string {
	switch {
	case e.Hint != "":
		return e.Hint
	case e.Code == control.CodeUnreachable && a.node == "":
		return "see whether the daemon runs, and give its socket with --socket PATH or LOCKSTEP_SOCKET"
	}
	return "lockstep status"
}
