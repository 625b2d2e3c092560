package tests

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

// diagnosis is what doctor says in JSON, as far as it is looked at here.
type diagnosis struct {
	Findings []struct {
		Code, Severity, Subject, What string
		Accepted                      bool
	}
	Losses []struct {
		Lost     []string
		Resource string
		GoesOn   bool `json:"goes_on"`
		Because  string
	}
	Worst string
}

// labCodes are what a lab cannot help: it is one machine, and perhaps a virtual one.
var labCodes = []string{"one-host", "one-disk", "in-memory", "paused-host"}

// examine runs doctor on a node, accepting what a lab cannot help.
func examine(t testing.TB, c *cluster.Cluster, node string, accept ...string) (diagnosis, int) {
	t.Helper()
	args := []string{"doctor", "--json"}
	for _, code := range append(slices.Clone(labCodes), accept...) {
		args = append(args, "--accept", code)
	}
	res := c.CLI(node, args...)
	var d diagnosis
	if err := json.Unmarshal([]byte(res.Stdout), &d); err != nil {
		t.Fatalf("%v in %v", err, res)
	}
	return d, res.Code
}

// has reports whether there is a finding that is counted, as bad as severity.
func (d *diagnosis) has(severity, code string) bool {
	for _, f := range d.Findings {
		if f.Code == code && f.Severity == severity && !f.Accepted {
			return true
		}
	}
	return false
}

// stops lists whose loss r0 would not survive.
func (d *diagnosis) stops() (out []string) {
	for _, l := range d.Losses {
		if len(l.Lost) == 1 && !l.GoesOn {
			out = append(out, l.Lost[0])
		}
	}
	return out
}

func TestDoctor_OneClusterGoodAndThenBadInFiveWays(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB})
	d, code := examine(t, c, "n1")
	if code != 0 || d.Worst != "note" || len(d.stops()) != 0 {
		t.Errorf("a good one: exit %d, worst %s, stops with %v: %+v", code, d.Worst, d.stops(), d.Findings)
	}
	if res := c.CLI("n1", "doctor"); res.Code != 6 || index(res.Stdout, "run on one host") < 0 {
		t.Errorf("one host was not found: %v", res)
	}
	expect := func(what, node, severity, code string, stops ...string) {
		t.Helper()
		d, exit := examine(t, c, node)
		if exit != 6 || !d.has(severity, code) || !slices.Equal(d.stops(), stops) {
			t.Errorf("%s: exit %d, stops with %v: %+v", what, exit, d.stops(), d.Findings)
		}
	}

	c.MustCLI("n1", "pause-failover", "r0", "--why", "a test")
	expect("failover paused", "n1", "warning", "failover-off", "n1")
	c.MustCLI("n1", "resume-failover", "r0")

	c.MustCLI("n1", "resource", "set", "r0", "--fencing", "stonith")
	expect("stonith without a fence", "n2", "danger", "no-fence", "n1")
	c.MustCLI("n1", "resource", "set", "r0", "--fencing", "lease")

	client := dial(t, c.URI("n1"))
	c.MustCLI("n1", "disconnect", "r0", "--peer", "n2")
	must(t, client.WriteAt(make([]byte, 4096), 0))
	c.WaitAlone("n1", "n2")
	expect("disconnected", "n1", "danger", "one-copy", "n1")
	c.MustCLI("n1", "connect", "r0", "--peer", "n2")
	c.WaitInSync("n1")

	c.Kill("w")
	expect("the witness is gone", "n1", "danger", "node-silent", "n1", "n2")
	c.Start("w")

	c.MustCLI("n1", "demote", "r0")
	expect("nobody is primary", "w", "danger", "no-primary", "n1", "n2", "w")
	c.MustCLI("n1", "promote", "r0", "--on", "n1")
	c.WaitInSync("n1")
	proc.Eventually(t, "a good cluster again", func() error {
		if d, code := examine(t, c, "w"); code != 0 {
			return fmt.Errorf("exit %d: %+v", code, d.Findings)
		}
		return nil
	})
}

func TestDoctor_APairWithoutAWitnessStopsWithEither(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB, NoWitness: true})
	d, code := examine(t, c, "n1")
	if code != 6 || !d.has("warning", "few-voters") || !slices.Equal(d.stops(), []string{"n1", "n2"}) {
		t.Errorf("exit %d, stops with %v: %+v", code, d.stops(), d.Findings)
	}
}

func TestDoctor_TimingsThatDifferAreFound(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB, Configure: func(n *config.Node) {
		if n.Name == "n2" {
			n.Lease *= 2
		}
	}})
	if d, code := examine(t, c, "n1"); code != 6 || !d.has("warning", "timing-differs") {
		t.Errorf("exit %d: %+v", code, d.Findings)
	}
}

// through has n1 reach n2 by way of addr.
func through(addr func(to string) string) func(*config.Node) {
	return func(n *config.Node) {
		if n.Name != "n1" {
			return
		}
		n.Nodes = slices.Clone(n.Nodes) // all files share the list
		for i := range n.Nodes {
			if n.Nodes[i].Name == "n2" {
				n.Nodes[i].Addr = addr(n.Nodes[i].Addr)
			}
		}
	}
}

// listen opens a port of the loopback interface until the test ends.
func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { ln.Close() })
	return ln
}
