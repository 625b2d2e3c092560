package quorum

import (
	"strings"
	"testing"
)

func TestServices_AreReplacedAsAWhole_AndForgetWhereTheyFailed(t *testing.T) {
	x := started(t, "A", "B")
	set := func(s ...Service) Command {
		return x.on(func(c *Command) { c.SetServices = &SetServices{Services: s} })
	}
	failed := func(node, text string) Command {
		return x.on(func(c *Command) { c.ServicesFailed = &ServicesFailed{Node: node, Text: text} })
	}
	given := []Service{{Kind: "unit", Target: "db.service", Options: []string{"a=b"}}, {Kind: "vip", Target: "10.0.0.10/24"}}
	r := x.must(set(given...))
	given[0].Options[0] = "changed later"
	if len(r.Services) != 2 || r.Services[0].Options[0] != "a=b" {
		t.Errorf("services %+v", r.Services)
	}
	x.must(failed("B", "exit 1"))
	x.must(failed("A", "exit 2"))
	if r := x.must(failed("A", "")); r.Replica("A").ServicesFailed != "" || r.Replica("B").ServicesFailed != "exit 1" {
		t.Errorf("marks %+v", r.Replicas)
	}
	x.refused(failed("C", "exit 1"), ErrUnknown)
	if r := x.must(set()); len(r.Services) != 0 || r.Replica("B").ServicesFailed != "" {
		t.Errorf("after all were cleared: %+v", r)
	}
}

func TestServices_BoundsAreChecked(t *testing.T) {
	x := started(t, "A", "B")
	many := make([]Service, MaxServices+1)
	for i := range many {
		many[i] = Service{Kind: "unit", Target: "x.service"}
	}
	for what, list := range map[string][]Service{
		"too many":     many,
		"no kind":      {{Target: "x"}},
		"no target":    {{Kind: "unit"}},
		"long option":  {{Kind: "ocf", Target: "x", Options: []string{strings.Repeat("x", MaxServiceText+1)}}},
		"many options": {{Kind: "ocf", Target: "x", Options: make([]string, MaxServiceOptions+1)}},
		"timeout":      {{Kind: "unit", Target: "x", StopTimeout: -1}},
		"order":        {{Kind: "unit", Target: "x", Order: MaxPriority + 1}},
	} {
		t.Run(what, func(t *testing.T) {
			x.refused(x.on(func(c *Command) { c.SetServices = &SetServices{Services: list} }), ErrInvalid)
		})
	}
}
