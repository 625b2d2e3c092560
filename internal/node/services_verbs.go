package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/services"
	"github.com/lockstep-ha/lockstep/internal/services/plan"
	"github.com/lockstep-ha/lockstep/internal/services/service"
	"github.com/lockstep-ha/lockstep/internal/services/unit"
	"github.com/lockstep-ha/lockstep/quorum"
)

// specsOf returns services in the words of those who run them.
func specsOf(all []quorum.Service) []service.Spec {
	out := make([]service.Spec, len(all))
	for i, s := range all {
		out[i] = service.Spec{
			Kind: service.Kind(s.Kind), Target: s.Target, Options: s.Options, Order: s.Order, StartTimeout: time.Duration(s.StartTimeout),
			StopTimeout: time.Duration(s.StopTimeout), MonitorTimeout: time.Duration(s.MonitorTimeout), Interval: time.Duration(s.Interval),
		}
	}
	return out
}

// recordsOf is the reverse of specsOf.
func recordsOf(all []service.Spec) []quorum.Service {
	out := make([]quorum.Service, len(all))
	for i, s := range all {
		out[i] = quorum.Service{
			Kind: string(s.Kind), Target: s.Target, Options: s.Options, Order: s.Order, StartTimeout: quorum.Duration(s.StartTimeout),
			StopTimeout: quorum.Duration(s.StopTimeout), MonitorTimeout: quorum.Duration(s.MonitorTimeout), Interval: quorum.Duration(s.Interval),
		}
	}
	return out
}

// setServices replaces the services of a resource.
func (b *backend) setServices(ctx context.Context, rec *quorum.Resource, all []service.Spec) error {
	if err := service.ValidateAll(all); err != nil {
		return control.Usagef("%v", err)
	}
	if err := b.checkServices(ctx, rec, all); err != nil {
		return err
	}
	want := recordsOf(all)
	same := func(r *quorum.Resource) bool {
		return len(want) == 0 && len(r.Services) == 0 || reflect.DeepEqual(specsOf(r.Services), all)
	}
	err := b.alter(ctx, rec, func(r *quorum.Resource) *quorum.Command {
		c := quorum.On(r)
		c.SetServices = &quorum.SetServices{Services: want}
		return &c
	}, same)
	if err != nil {
		return err
	}
	b.journal.add(rec.Name, "services_set", fmt.Sprintf("%d services follow the primary.", len(all)))
	if same(rec) {
		return nil
	}
	return b.ClearServices(ctx, rec.Name) // what failed was what there was before
}

// checkServices refuses what cannot work on this node, if it has a replica: it would fail on one node after the
// other, and what runs now be stopped for it.
func (b *backend) checkServices(ctx context.Context, rec *quorum.Resource, all []service.Spec) error {
	w := b.m.find(rec.Name)
	if b.services == nil || w == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, examineWithin)
	defer cancel()
	build := b.services.builder(w)
	var wrong []string
	for _, s := range all {
		carrier, err := build(s)
		if e, ok := carrier.(services.Examiner); ok && err == nil {
			err = e.Examine(ctx)
		}
		if err != nil && !errors.Is(err, unit.ErrAtBoot) { // that one is doctor's
			wrong = append(wrong, s.Name()+": "+err.Error())
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	return control.Errorf(control.CodeRefused, "%s cannot start this: %s", b.m.self.Node, strings.Join(wrong, "; ")).
		WithHint("it has to be there on every node with a replica; mend that, then repeat it").WithSafety(control.SafetyYes)
}

// ClearServices forgets that the services of a resource failed, on all nodes.
func (b *backend) ClearServices(ctx context.Context, resource string) error {
	rec, err := b.fresh(ctx, resource)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, verbTimeout)
	defer cancel()
	if b.services != nil {
		if t := b.services.find(rec.ID); t != nil {
			t.forget()
		}
	}
	for _, r := range rec.Replicas {
		if r.ServicesFailed == "" {
			continue
		}
		now, err := b.known(resource)
		if err == nil {
			err = markServices(ctx, b.m.ledger, now, r.Node, "")
		}
		if err != nil {
			return err
		}
	}
	b.journal.add(resource, "services_cleared", "The services are tried again wherever they failed.")
	return nil
}

// release stops the services of w, so that its role can be given up.
func (b *backend) release(ctx context.Context, w *worker) error {
	if b.services == nil {
		return nil
	}
	if err := b.services.stop(ctx, w); err != nil {
		return control.Errorf(control.CodeFailed, "%s keeps the role of the primary of %s: %v", b.m.self.Node, w.name, err).
			WithHint("lockstep status %s shows which service; stop it by hand, then try again", w.name).WithSafety(control.SafetyYes)
	}
	return nil
}

// handOver gives the role to the best node on which the services did not fail.
func (b *backend) handOver(ctx context.Context, w *worker) error {
	rec, err := b.fresh(ctx, w.name)
	if err != nil {
		return err
	}
	var fit []quorum.Replica
	for _, r := range rec.Replicas {
		if r.InSet && r.Node != b.m.self.Node && r.ServicesFailed == "" {
			fit = append(fit, r)
		}
	}
	slices.SortStableFunc(fit, func(x, y quorum.Replica) int { return cmp.Compare(y.Priority, x.Priority) })
	all := []error{errors.New("no other node can take the role, so the services stay stopped")}
	for _, r := range fit {
		if err := b.Switchover(ctx, w.name, r.Node); err != nil {
			all = append(all, err)
			continue
		}
		b.journal.add(w.name, "services_moved", fmt.Sprintf("%s is primary now, since the services failed on %s.", r.Node, b.m.self.Node))
		return nil
	}
	return errors.Join(all...)
}

// servicesStatus shows the services of rec as they are here, nil if there are none.
func (b *backend) servicesStatus(rec *quorum.Resource) *control.Services {
	if b.services == nil {
		return nil
	}
	t := b.services.find(rec.ID)
	switch {
	case t == nil:
		return nil
	case t.problem != nil && len(rec.Services) == 0:
		return nil
	case t.problem != nil:
		return &control.Services{Problem: t.problem.Error()}
	}
	st := t.keeper.Status()
	if len(rec.Services) == 0 && len(st.Services) == 0 {
		return nil
	}
	out := &control.Services{Stuck: st.Stuck, List: []control.Service{}}
	if rec.Primary.Node == b.m.self.Node {
		out.Halted = st.Halted
	}
	now := b.services.clock()
	for _, v := range st.Services {
		out.List = append(out.List, control.Service{Name: v.Name, State: v.State.String(), Fault: v.Fault, For: now - v.Since})
	}
	// What the ledger has and the keeper was not told of yet: who waits for the services after setting them must not
	// find the old ones, all of them running.
	for _, s := range service.Sorted(specsOf(rec.Services)) {
		if id := s.ID(); !slices.ContainsFunc(st.Services, func(v plan.View) bool { return v.ID == id }) {
			out.List = append(out.List, control.Service{Name: s.Name(), State: plan.Stopped.String()})
		}
	}
	return out
}

// adviseServices is about what follows the primary.
func adviseServices(s situation) []string {
	var out []string
	name := s.rec.Name
	if v := s.res.Services; v != nil {
		switch {
		case v.Problem != "":
			out = append(out, fmt.Sprintf("No service of %s is run on %s: %s", name, s.self, v.Problem))
		case v.Stuck != "":
			out = append(out, fmt.Sprintf("On %s, %s. The role of the primary is not given up while that is so, and a watchdog is not petted. "+
				"Stop it by hand, or turn %s off.", s.self, v.Stuck, s.self))
		case v.Halted != "":
			out = append(out, fmt.Sprintf("The services of %s are stopped on %s, which is primary: %s. Data is safe and is served. "+
				"Mend what is wrong, then: lockstep resource clear %s.", name, s.self, v.Halted, name))
		}
	}
	var failed []string
	for _, r := range s.rec.Replicas {
		if r.ServicesFailed != "" && (r.Node != s.self || s.res.Services == nil || s.res.Services.Halted == "") {
			failed = append(failed, r.Node+" ("+r.ServicesFailed+")")
		}
	}
	if len(failed) > 0 && len(s.rec.Services) > 0 {
		out = append(out, fmt.Sprintf("The services of %s failed on %s and are not tried there for a while. Mend what is wrong, then: lockstep resource clear %s.",
			name, strings.Join(failed, ", "), name))
	}
	return out
}
