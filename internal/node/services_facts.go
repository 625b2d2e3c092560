package node

import (
	"context"
	"errors"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/services"
	"github.com/lockstep-ha/lockstep/internal/services/unit"
)

// examineWithin is for all that is looked at for the services of one resource: systemd may be slow.
const examineWithin = 2 * time.Second

// serviceFacts tells what would hinder the services of a resource on this node. It makes carriers of its own, so
// that it waits for nothing that is under way.
func (b *backend) serviceFacts(ctx context.Context, resource string) []control.ServiceFacts {
	w := b.m.find(resource)
	if b.services == nil || w == nil || w.record() == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, examineWithin)
	defer cancel()
	build, t := b.services.builder(w), b.services.find(w.id)
	var out []control.ServiceFacts
	for _, s := range specsOf(w.record().Services) {
		f := control.ServiceFacts{Name: s.ID(), Kind: s.Kind}
		carrier, err := build(s)
		if t != nil && t.problem != nil {
			err = t.problem
		} else if e, ok := carrier.(services.Examiner); ok && err == nil {
			err = e.Examine(ctx)
		}
		switch {
		case errors.Is(err, unit.ErrAtBoot):
			f.AtBoot = true
		case err != nil:
			f.Problem = err.Error()
		}
		out = append(out, f)
	}
	return out
}
