package services

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

// finds returns when doctor, asked on node, finds each of want, "severity code subject", and nothing else with a
// code in codes.
func (r *rig) finds(node string, codes []string, want ...string) {
	r.t.Helper()
	proc.Eventually(r.t, "doctor's findings", func() error {
		res := r.CLI(node, "doctor", "--json")
		var d struct {
			Findings []struct{ Code, Severity, Subject, What string }
		}
		if err := json.Unmarshal([]byte(res.Stdout), &d); err != nil {
			return err
		}
		missing, extra := map[string]bool{}, []string{}
		for _, w := range want {
			missing[w] = true
		}
		for _, f := range d.Findings {
			for _, code := range codes {
				if text := f.Severity + " " + f.Code + " " + f.Subject; f.Code == code {
					if !missing[text] {
						extra = append(extra, text+": "+f.What)
					}
					delete(missing, text)
				}
			}
		}
		if len(missing)+len(extra) > 0 {
			return fmt.Errorf("it does not find %v, and finds %q", missing, extra)
		}
		return nil
	})
}

func TestDoctor_FindsServicesThatCannotRun(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.up("n1")
	codes := []string{"service-unfit", "services-failed", "mount-unguarded", "service-at-boot"}
	r.finds("w", codes, "ok service-unfit r0")

	// A network that no interface has: nobody can start it, and the role stays with the last one to try. A node with a
	// replica would have refused it.
	r.MustCLI("w", "resource", "set", "r0", "--vip", "192.0.2.10/24", "--mount", "/srv/none,device=/dev/none,start-order=30")
	st := r.Eventually("w", "both nodes to have failed", func(s control.Resource) error {
		for _, p := range s.Replicas {
			if p.ServicesFailed == "" {
				return fmt.Errorf("not on %s", p.Node)
			}
		}
		return nil
	})
	other := map[string]string{"n1": "n2", "n2": "n1"}[st.Primary]
	r.finds("w", codes, "danger services-failed r0 on "+st.Primary, "warning services-failed r0 on "+other,
		"warning service-unfit r0 on n1", "warning service-unfit r0 on n2", "warning mount-unguarded r0")

	r.MustCLI("n1", "resource", "set", "r0", "--no-services")
	r.MustCLI("n1", "resource", "clear", "r0")
	r.finds("w", codes)
}
