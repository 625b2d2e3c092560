package tests

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/need"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

func TestLabTLS_IsFormedLikeACluster_AndFailsOver(t *testing.T) {
	need.Tool(t, "nbdinfo", "libnbd-bin")
	c := cluster.Up(t, cluster.Options{SizeBytes: 16 * cluster.MiB, TLS: true})
	for _, n := range []string{"n1", "n2", "w"} {
		var st control.Status
		must(t, json.Unmarshal([]byte(c.MustCLI(n, "status", "--json")), &st))
		if s := st.Security; s == nil || s.Links != "tls" || s.Problem != "" || s.Signs != (n == "n1") {
			t.Errorf("%s says %+v", n, s)
		}
	}
	d, _ := examine(t, c, "n1", "no-fence")
	for _, f := range d.Findings {
		if (f.Code == "certificate-ends" || f.Code == "authority-ends" || f.Code == "nobody-signs") && f.Severity != "ok" {
			t.Errorf("doctor finds %+v", f)
		}
	}
	if !strings.HasPrefix(c.TCP("n1"), "nbds://") {
		t.Errorf("the lab names %s", c.TCP("n1"))
	}
	if info := proc.Run(t, "nbdinfo", "--size", c.TCP("n1")); strings.TrimSpace(info) != "16777216" {
		t.Errorf("nbdinfo says %q", info)
	}
	c.Kill("n1")
	c.WaitPrimary("n2")
	if info := proc.Run(t, "nbdinfo", "--size", c.TCP("n2")); strings.TrimSpace(info) != "16777216" {
		t.Errorf("nbdinfo says %q of n2", info)
	}
	// The one node that can sign is away, and doctor knows it.
	if d, _ = examine(t, c, "n2"); !d.has("note", "nobody-signs") {
		t.Errorf("doctor does not miss the authority's key: %+v", d.Findings)
	}
	c.Start("n1")
	c.WaitInSync("n2")
	c.Identical("n2")
	if key := filepath.Join(c.Dir, "n1", "data", "pki", "ca.key"); len(read(t, key)) == 0 {
		t.Error("the authority has no key")
	}
}
