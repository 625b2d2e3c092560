package node

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/quorum"
)

// Set changes settings of a resource, all of them in one command of the ledger but the priorities,
// which have one each, and the services.
func (b *backend) Set(ctx context.Context, resource string, s control.Settings) error {
	rec, err := b.fresh(ctx, resource)
	if err != nil {
		return err
	}
	for _, node := range slices.Sorted(maps.Keys(s.Priorities)) {
		want := s.Priorities[node]
		if rec.Replica(node) == nil {
			return control.Errorf(control.CodeNotFound, "%s holds no replica of %s; these do: %s", node, resource, holders(rec)).WithSafety(control.SafetyYes)
		}
		err := b.alter(ctx, rec, func(r *quorum.Resource) *quorum.Command {
			c := quorum.On(r)
			c.SetPriority = &quorum.SetPriority{Node: node, Priority: want}
			return &c
		}, func(r *quorum.Resource) bool { p := r.Replica(node); return p == nil || p.Priority == want })
		if err != nil {
			return err
		}
	}
	if s.Services != nil {
		if err := b.setServices(ctx, rec, *s.Services); err != nil {
			return err
		}
	}
	return b.alter(ctx, rec, func(r *quorum.Resource) *quorum.Command {
		c := quorum.On(r)
		c.SetPolicy = &quorum.SetPolicy{Policy: withSettings(r.Policy, s)}
		return &c
	}, func(r *quorum.Resource) bool { return r.Policy == withSettings(r.Policy, s) })
}

// alter has the ledger apply what build makes of each newer record, unless done says that nothing is
// left to do.
func (b *backend) alter(ctx context.Context, rec *quorum.Resource, build func(*quorum.Resource) *quorum.Command, done func(*quorum.Resource) bool) error {
	ctx, cancel := context.WithTimeout(ctx, verbTimeout)
	defer cancel()
	id := rec.ID
	over := func(r *quorum.Resource) bool { return r.ID != id || r.Deleted || done(r) }
	if now := b.m.ledger.State().Find(rec.Name); now != nil {
		rec = now
	}
	res, err := decide(ctx, b.m.ledger, rec, func(r *quorum.Resource) *quorum.Command {
		if over(r) {
			return nil
		}
		return build(r)
	}, over)
	if err == nil {
		err = refusal(res)
	}
	return err
}

// withSettings returns p with what s changes.
func withSettings(p quorum.Policy, s control.Settings) quorum.Policy {
	choose(&p.Failover, s.Failover)
	choose(&p.Fencing, s.Fencing)
	choose(&p.OnNoQuorum, s.OnNoQuorum)
	span(&p.FreezeDeadline, s.FreezeDeadline)
	span(&p.Lease, s.Lease)
	if s.ReadsConfirm != nil {
		p.ReadsConfirm = *s.ReadsConfirm
	}
	if s.ResyncImpact != nil {
		p.ResyncImpact = *s.ResyncImpact
	}
	return p
}

func choose[T ~string](field *T, v *string) {
	if v != nil {
		*field = T(*v)
	}
}

func span(field *quorum.Duration, v *time.Duration) {
	if v != nil {
		*field = quorum.Duration(*v)
	}
}

// PauseFailover sets or lifts an operator's pause.
func (b *backend) PauseFailover(ctx context.Context, resource string, on bool, why string) error {
	rec, err := b.fresh(ctx, resource)
	if err != nil {
		return err
	}
	err = b.alter(ctx, rec, func(r *quorum.Resource) *quorum.Command {
		c := quorum.On(r)
		c.PauseFailover = &quorum.PauseFailover{On: on, Text: why}
		return &c
	}, func(r *quorum.Resource) bool { return r.Paused == on && r.PausedText == why })
	if err != nil {
		return err
	}
	text := "Failover goes on: the cluster promotes by itself again."
	if on {
		text = "Failover is paused: only an operator promotes."
	}
	b.journal.add(resource, "failover_pause", text, "why", why)
	return nil
}

// policyOf shows the settings of rec.
func policyOf(rec *quorum.Resource) control.Policy {
	p := rec.Policy.WithDefaults()
	return control.Policy{
		Failover: string(p.Failover), Fencing: string(p.Fencing), OnNoQuorum: string(p.OnNoQuorum),
		FreezeDeadline: time.Duration(p.FreezeDeadline), Lease: time.Duration(p.Lease), ReadsConfirm: p.ReadsConfirm,
		ResyncImpact: p.ResyncImpact, Paused: rec.Paused, PausedWhy: rec.PausedText, Held: rec.Hold,
	}
}
