package services

import (
	"context"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-ha/lockstep/internal/services/agent"
	"github.com/lockstep-ha/lockstep/internal/services/mount"
	"github.com/lockstep-ha/lockstep/internal/services/plan"
	"github.com/lockstep-ha/lockstep/internal/services/service"
	"github.com/lockstep-ha/lockstep/internal/services/unit"
	"github.com/lockstep-ha/lockstep/internal/services/vip"
)

// Carrier runs one service. Its methods are not called at the same time, end soon after ctx unless the kernel
// hangs, and bear a start of what runs and a stop of what does not.
type Carrier interface {
	Start(ctx context.Context) error   // returns when it runs
	Stop(ctx context.Context) error    // returns when it does not run
	Monitor(ctx context.Context) error // nil: it runs
}

// Resumer is a Carrier that an earlier process of the daemon may have left in need of help: until it has it, what
// runs on top of it cannot be stopped. Resume may be called beside the other methods, and ends soon after ctx.
type Resumer interface{ Resume(ctx context.Context) }

// Examiner is a Carrier that can tell without a start what would hinder one. Examine may be called beside the other
// methods.
type Examiner interface {
	Examine(ctx context.Context) error
}

// Build returns the carrier of s, which is valid, for a resource and a node. Devices are not of its making: they
// take a cluster.
func Build(s service.Spec, resource, node string) (Carrier, error) {
	switch s.Kind {
	case service.KindMount:
		return mount.New(mount.Config{
			Device: s.Option("device"), Dir: s.Target, Type: s.Option("fstype"), Options: s.All("opt"),
			Check: mount.Check(s.Option("fsck")), Spare: s.Option("users") == "spare",
		}), nil
	case service.KindVIP:
		p, err := netip.ParsePrefix(s.Target)
		if err != nil {
			return nil, err
		}
		return vip.New(vip.Config{Address: p, Interface: s.Option("dev")}), nil
	case service.KindUnit:
		return unit.New(s.Target, nil), nil
	case service.KindOCF:
		provider, kind, _ := strings.Cut(s.Target, ":")
		return &agent.OCF{
			Provider: provider, Type: kind, Instance: instance(resource, kind, s.Options), Params: s.Options, Interval: stepOf(&s).Interval,
		}, nil
	case service.KindExec:
		return &agent.Hook{Path: s.Target, Args: s.All("arg"), Resource: resource, Node: node}, nil
	}
	return nil, fmt.Errorf("%q is no kind of service", s.Kind)
}

// instance names one use of an agent, for good: agents keep what they know under it, and one resource may use an
// agent twice.
func instance(resource, kind string, params []string) string {
	name := resource + "-" + kind
	if len(params) == 0 {
		return name
	}
	h := fnv.New32a()
	for _, p := range params {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return fmt.Sprintf("%s-%08x", name, h.Sum32())
}

// stepOf returns s as the plan knows it, with every default.
func stepOf(s *service.Spec) plan.Step {
	change := 60 * time.Second
	if s.Kind == service.KindVIP {
		change = 10 * time.Second
	}
	or := func(v, def time.Duration) time.Duration {
		if v == 0 {
			return def
		}
		return v
	}
	return plan.Step{
		ID: s.ID(), Name: s.ID(), Urgent: s.Kind == service.KindVIP,
		StartTimeout: or(s.StartTimeout, change), StopTimeout: or(s.StopTimeout, change),
		MonitorTimeout: or(s.MonitorTimeout, 20*time.Second), Interval: or(s.Interval, 10*time.Second),
	}
}

func steps(all []service.Spec) []plan.Step {
	out := make([]plan.Step, len(all))
	for i := range all {
		out[i] = stepOf(&all[i])
		if name := all[i].Name(); !slices.ContainsFunc(all[:i], named(name)) && !slices.ContainsFunc(all[i+1:], named(name)) {
			out[i].Name = name
		}
	}
	return out
}

func named(name string) func(service.Spec) bool {
	return func(s service.Spec) bool { return s.Name() == name }
}
