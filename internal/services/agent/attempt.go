package agent

import (
	"errors"

	"github.com/lockstep-ha/lockstep/internal/services/program"
)

// attempt remembers whether the last start came about at all.
type attempt struct{ notRun bool }

func (a *attempt) started(err error) error {
	a.notRun = errors.Is(err, program.ErrNotRun)
	return err
}

// stopped returns nil although nobody could be asked to stop where nobody was asked to start either: a start is only
// asked for when nothing runs.
func (a *attempt) stopped(err error) error {
	if a.notRun && errors.Is(err, program.ErrNotRun) {
		return nil
	}
	return err
}
