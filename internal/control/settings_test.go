package control

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/services/service"
)

func (f *fake) Set(_ context.Context, r string, s Settings) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return f.note("set %s %s", r, b)
}
func (f *fake) PauseFailover(_ context.Context, r string, on bool, why string) error {
	return f.note("pause-failover %s %v %q", r, on, why)
}

func (f *fake) ClearServices(_ context.Context, r string) error { return f.note("clear %s", r) }

func TestGovernor_CallsReachTheBackend(t *testing.T) {
	f := &fake{}
	c := NewClient(start(t, "n1", f, nil))
	fencing, deadline, confirm := "stonith", 30*time.Second, false
	for want, call := range map[string]func() error{
		`set r0 {"fencing":"stonith","freeze_deadline_ns":30000000000,"reads_confirm":false,"priorities":{"n1":10}}`: func() error {
			return c.Set(t.Context(), "r0", Settings{Fencing: &fencing, FreezeDeadline: &deadline, ReadsConfirm: &confirm, Priorities: map[string]int{"n1": 10}})
		},
		`pause-failover r0 true "new kernel"`: func() error { return c.PauseFailover(t.Context(), "r0", true, "new kernel") },
		`set r0 {"services":[{"kind":"vip","target":"10.0.0.10/24","order":5}]}`: func() error {
			return c.Set(t.Context(), "r0", Settings{Services: &[]service.Spec{{Kind: service.KindVIP, Target: "10.0.0.10/24", Order: 5}}})
		},
		`set r0 {"services":[]}`:     func() error { return c.Set(t.Context(), "r0", Settings{Services: &[]service.Spec{}}) },
		"clear r0":                   func() error { return c.ClearServices(t.Context(), "r0") },
		`pause-failover r0 false ""`: func() error { return c.PauseFailover(t.Context(), "r0", false, "") },
	} {
		if err := call(); err != nil {
			t.Errorf("%s: %v", want, err)
		}
		if got := f.take(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestSet_NothingToChangeReachesNobody(t *testing.T) {
	f := &fake{}
	c := NewClient(start(t, "n1", f, nil))
	wrong := []service.Spec{{Kind: service.KindVIP, Target: "10.0.0.10"}}
	for _, s := range []Settings{{}, {Services: &wrong}, {Priorities: map[string]int{"n 1": 1}}} {
		if err := c.Set(t.Context(), "r0", s); !errors.Is(err, ErrUsage) || f.take() != "" {
			t.Errorf("%+v: %v", s, err)
		}
	}
}
