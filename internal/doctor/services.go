package doctor

import (
	"fmt"
	"slices"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/services/service"
)

// services judges whether what follows the primary of r could do so.
func services(f *findings, c *Cluster, r *control.Resource) {
	before, some := len(f.all), false
	var unguarded []string
	mount := ""
	for i := range r.Replicas {
		p := &r.Replicas[i]
		if p.ServicesFailed != "" {
			failedServices(f, r, p)
		}
		rep := c.replica(p.Node, r.Name)
		if rep == nil {
			continue // node-silent says so
		}
		for j := range rep.Services {
			some = true
			serviceOn(f, r, p.Node, &rep.Services[j])
		}
		at := slices.IndexFunc(rep.Services, func(s control.ServiceFacts) bool { return s.Kind == service.KindMount })
		if at >= 0 && c.facts(p.Node).Watchdog == "" {
			mount, unguarded = rep.Services[at].Name, append(unguarded, p.Node)
		}
	}
	if len(unguarded) > 0 && r.Policy.Fencing != "stonith" {
		f.add(codeMount, Warning, r.Name, "A file system that cannot be unmounted keeps the role where it is, until somebody looks. With a watchdog the node is reset, and another one goes on.",
			fmt.Sprintf("set a watchdog in the node file, or: lockstep resource set %s --fencing stonith, with a fence", r.Name),
			"%s has %s, and nothing resets %s when that cannot be stopped", r.Name, mount, list(unguarded))
	}
	if some && len(f.all) == before {
		f.fine(codeServiceUnfit, r.Name, "nothing is known that would hinder the services of %s on any of its nodes", r.Name)
	}
}

// failedServices tells that the services of r are not tried on a node.
func failedServices(f *findings, r *control.Resource, p *control.Replica) {
	next := fmt.Sprintf("mend the cause; then: lockstep resource clear %s", r.Name)
	if p.Node == r.Primary {
		f.add(codeServiceFailed, Danger, r.Name+" on "+p.Node, "The data is served, and what follows the primary does not run.", next,
			"the services of %s failed on its primary, %s: %s", r.Name, p.Node, p.ServicesFailed)
		return
	}
	f.add(codeServiceFailed, Warning, r.Name+" on "+p.Node, "The role goes elsewhere as long as there is another node; if there is none, what follows the primary does not run.", next,
		"the services of %s failed on %s: %s", r.Name, p.Node, p.ServicesFailed)
}

// serviceOn tells what would go wrong with a service of r on a node.
func serviceOn(f *findings, r *control.Resource, node string, s *control.ServiceFacts) {
	if s.AtBoot {
		f.add(codeServiceBoot, Warning, r.Name+" on "+node, "It runs then where the resource may not be, and beside the one that follows the primary.",
			fmt.Sprintf("on %s: systemctl disable %s", node, unitOf(s)), "systemd of %s starts %s at boot", node, s.Name)
	}
	if s.Problem != "" {
		f.add(codeServiceUnfit, Warning, r.Name+" on "+node, "When that node becomes primary, the services fail there, and the role goes on to another one if it can.",
			"mend it on "+node, "%s cannot be started on %s: %s", s.Name, node, s.Problem)
	}
}

// unitOf returns the target of a unit, whose name has no options.
func unitOf(s *control.ServiceFacts) string { return s.Name[len(s.Kind)+1:] }
