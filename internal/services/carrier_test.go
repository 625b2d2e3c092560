package services

import "testing"

func TestSteps_AreCalledByTheirShortNames_UnlessTwoHaveOne(t *testing.T) {
	all := specs(t, "ocf heartbeat:IPaddr2,ip=10.0.0.1", "ocf heartbeat:IPaddr2,ip=10.0.0.2", "mount /srv,device=/dev/nbd0")
	want := []string{"ocf heartbeat:IPaddr2,ip=10.0.0.1", "ocf heartbeat:IPaddr2,ip=10.0.0.2", "mount /srv"}
	for i, s := range steps(all) {
		if s.Name != want[i] {
			t.Errorf("%s is called %q, want %q", s.ID, s.Name, want[i])
		}
	}
}

// Agents keep files under the name of their instance.
func TestInstance_TellsTwoUsesOfAnAgentApart_AndLasts(t *testing.T) {
	one, two := instance("r0", "Dummy", []string{"state=/run/a"}), instance("r0", "Dummy", []string{"state=/run/b"})
	if one == two {
		t.Errorf("both are %s", one)
	}
	for params, want := range map[string]string{"": "r0-Dummy", "state=/run/a": "r0-Dummy-c9958cba"} {
		var all []string
		if params != "" {
			all = []string{params}
		}
		if got := instance("r0", "Dummy", all); got != want {
			t.Errorf("%q is %s, want %s: an agent that runs would not be found again", params, got, want)
		}
	}
}
