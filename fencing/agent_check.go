package fencing

import (
	"context"
	"errors"
	"slices"
	"strings"
)

// Check runs everything of the agent that fires nothing: its metadata against what is configured,
// monitor, list and status.
func (a *agent) Check(ctx context.Context, t Target) []Finding {
	f := &findings{device: a.name}
	m, err := a.metadata(ctx)
	if err != nil {
		f.add(Fault, "%v", err)
		return f.list
	}
	a.checkSettings(f, m, t)
	if slices.ContainsFunc(f.list, func(f Finding) bool { return f.Severity == Fault }) {
		return f.list // asking the device would only repeat it in other words
	}
	if !m.has("monitor") {
		f.add(Warning, "%s advertises no monitor, so whether the device answers is not known", a.program)
	} else if _, err := a.Monitor(ctx, t); err != nil {
		f.add(Fault, "%v", err)
		return f.list
	} else {
		f.add(Good, "the device answers: monitor exits 0")
	}
	if name := m.plugName(); name != "" && m.has("list") {
		a.checkList(ctx, f, m, t)
	}
	switch st, err := a.Status(ctx, t); {
	case err != nil:
		f.add(Fault, "%v", err)
	case st.Power == PowerOn:
		f.add(Good, "status says that %s is on", t.Node)
	default:
		f.add(Fault, "status exits 2: %s is off, or another plug is meant, or the arguments are wrong. A node that runs must be seen to be on; check again while it runs", t.Node)
	}
	return f.list
}

// checkSettings compares what is configured with what the agent knows.
func (a *agent) checkSettings(f *findings, m *metadata, t Target) {
	for _, action := range []string{"off", "status"} {
		if !m.has(action) {
			f.add(Fault, "%s advertises no %s, so it can prove nothing: use another device", a.program, action)
		}
	}
	given := map[string]bool{"action": true, "nodename": true}
	for _, o := range a.options {
		given[o.Name] = true
		if !m.takes(o.Name) {
			f.add(Warning, "%s does not know the option %s", a.program, o.Name)
		}
	}
	if a.fixedPlug() {
		given["port"], given["plug"] = true, true
	} else if name := m.plugName(); name != "" {
		given[name] = true
	}
	secret, set, err := a.password.read()
	switch {
	case err != nil:
		f.add(Fault, "%v", err)
	case set:
		given[m.passwordName()] = true
		if err := checkOption(Option{Name: m.passwordName(), Value: secret}); err != nil {
			f.add(Fault, "%v", err)
		}
	}
	if missing := m.missing(given); len(missing) > 0 {
		f.add(Fault, "%s needs %s", a.program, strings.Join(missing, ", "))
	}
	if on, ok := m.action("on"); ok && on.automatic {
		where := "lockstep runs its on before the node comes back"
		if on.onTarget {
			where = "its on has to run on " + t.Node + " itself before it comes back"
		}
		f.add(Good, "the device cuts %s off from storage and leaves its power alone; %s", t.Node, where)
	}
}

// checkList looks for the target among what the device says that it can turn off.
func (a *agent) checkList(ctx context.Context, f *findings, m *metadata, t Target) {
	r, err := a.act(ctx, m, "list", t)
	switch {
	case errors.Is(err, ErrBroken):
		f.add(Fault, "list: %v", err)
		return
	case err != nil:
		f.add(Warning, "list: %v", err)
		return
	case r.code != 0:
		f.add(Warning, "list exited %d, so whether the plug exists is not known: %s", r.code, lastLine(r.output))
		return
	}
	names, aliases := parseList(string(r.stdout))
	if len(names) == 0 {
		f.add(Warning, "list names nothing, so whether the plug exists is not known")
		return
	}
	for plug := range strings.SplitSeq(a.plug(t.Node), ",") {
		if plug = strings.TrimSpace(plug); slices.Contains(names, plug) || slices.Contains(aliases, plug) {
			f.add(Good, "list names the plug %q", plug)
			continue
		}
		shown := names[:min(len(names), 10)]
		f.add(Fault, "list does not name the plug %q; it names %q", plug, shown)
	}
}

// plug returns what names the node to this device.
func (a *agent) plug(node string) string {
	for _, o := range a.options {
		if o.Name == "port" || o.Name == "plug" {
			return o.Value
		}
	}
	return plugOf(a.plugs, node)
}

// parseList reads lines of "name,alias" or "name".
func parseList(text string) (names, aliases []string) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line == "N/A" || strings.HasPrefix(line, "NOTICE:") {
			continue
		}
		name, alias, _ := strings.Cut(line, ",")
		names = append(names, strings.TrimSpace(name))
		if alias = strings.TrimSpace(alias); alias != "" {
			aliases = append(aliases, alias)
		}
	}
	return names, aliases
}
