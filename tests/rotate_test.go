package tests

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/pki"
	"github.com/lockstep-ha/lockstep/tests/internal/ackload"
	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/need"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

// certificateOf returns the serial number of a node's certificate.
func certificateOf(t testing.TB, c *cluster.Cluster, node string) string {
	t.Helper()
	block, _ := pem.Decode(read(t, filepath.Join(c.Dir, node, "data", "pki", "identity.pem")))
	cert, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	return cert.SerialNumber.String()
}

func TestRotateKeys_UnderLoad_NobodyLosesSightOfAnybody(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 16 * cluster.MiB, TLS: true})
	nodes := []string{"n1", "n2", "w"}
	keyOf := func(n string) string { return string(read(t, filepath.Join(c.Dir, n, "data", "gossip.key"))) }
	silent := func(n string) (count int) {
		for _, ev := range c.Events(n) {
			if ev.Kind == "node_silent" || ev.Kind == "dropped" {
				count++
			}
		}
		return count
	}
	oldKey, oldCert, before := keyOf("n1"), map[string]string{}, map[string]int{}
	for _, n := range nodes {
		oldCert[n], before[n] = certificateOf(t, c, n), silent(n)
	}
	l := ackload.New(4 * cluster.MiB / ackload.Block)
	finish := background(t, l, c.URI("n1"), 2, 8)
	proc.Eventually(t, "writes", func() error { return more(l, 200) })
	for range 2 { // the second change begins where the first ended
		if out := c.MustCLI("n2", "cluster", "rotate-keys"); !strings.Contains(out, "3 nodes") {
			t.Errorf("it says %q", out)
		}
	}
	proc.Eventually(t, "writes", func() error { return more(l, 200) })
	finish()
	must(t, l.Check(dial(t, c.URI("n1"))))
	for _, n := range nodes {
		if k := keyOf(n); k == oldKey || k != keyOf("n1") || strings.Count(k, "\n") != 1 {
			t.Errorf("the key file of %s has %d lines, or is as before, or is not that of n1", n, strings.Count(k, "\n"))
		}
		if certificateOf(t, c, n) == oldCert[n] {
			t.Errorf("%s has its old certificate", n)
		}
		if now := silent(n); now != before[n] {
			t.Errorf("%s lost sight of somebody %d times", n, now-before[n])
		}
	}

	// A node that is away when it is done stops it before anything is lost.
	c.Kill("w")
	if r := c.CLI("n1", "cluster", "rotate-keys", "--timeout", "10s"); r.Code == 0 || !strings.Contains(r.Stderr, "on w") {
		t.Errorf("without w: %v", r)
	}
	c.Start("w")
	c.MustCLI("n1", "cluster", "rotate-keys")
	for _, n := range nodes {
		if k := keyOf(n); k != keyOf("n1") || strings.Count(k, "\n") != 1 {
			t.Errorf("after a change that was begun again: the key file of %s has %d lines", n, strings.Count(k, "\n"))
		}
	}
	// A restart reads the new key.
	c.Kill("n2")
	c.Start("n2")
	c.WaitInSync("n1")
	c.Identical("n1")
}

// The steps of docs/operations.md.
func TestChangeOfAuthority_StepByStep_NoNodeLosesAnother_AndTheOldOneIsWorthNothing(t *testing.T) {
	need.Tool(t, "nbdinfo", "libnbd-bin")
	c := cluster.Up(t, cluster.Options{SizeBytes: 16 * cluster.MiB, TLS: true})
	nodes := []string{"n1", "n2", "w"}
	dir := func(n string) string { return filepath.Join(c.Dir, n, "data", "pki") }
	ca, err := pki.NewAuthority("lab", time.Now, rand.Reader)
	must(t, err)
	fresh := filepath.Join(c.Dir, "new")
	must(t, ca.Save(fresh))
	oldOne := read(t, filepath.Join(dir("n1"), "ca.crt"))
	newOne := read(t, filepath.Join(fresh, "ca.crt"))
	renewAll := func() {
		t.Helper()
		for _, n := range nodes {
			c.MustCLI("n1", "cluster", "renew", "--node", n)
		}
		c.WaitInSync("n1")
	}

	for _, n := range nodes {
		must(t, os.WriteFile(filepath.Join(dir(n), "bundle.pem"), append(bytes.Clone(oldOne), newOne...), 0o600))
	}
	renewAll()
	// Half of the nodes know a new certificate, and half have an old one: both are believed.
	for _, f := range []string{"ca.crt", "ca.key"} {
		must(t, os.WriteFile(filepath.Join(dir("n1"), f), read(t, filepath.Join(fresh, f)), 0o600))
	}
	c.MustCLI("n1", "switchover", "r0", "--to", "n2")
	c.WaitInSync("n2")
	c.Kill("n1")
	c.Start("n1")
	c.WaitInSync("n2")
	c.MustCLI("n1", "cluster", "renew", "--node", "n2")
	c.Kill("w")
	c.Start("w")
	c.WaitInSync("n2")
	c.MustCLI("n2", "switchover", "r0", "--to", "n1")
	renewAll()
	former, err := pki.Open(pki.Config{Dir: dir("w"), Clock: time.Now})
	must(t, err)
	for _, n := range nodes {
		must(t, os.WriteFile(filepath.Join(dir(n), "bundle.pem"), newOne, 0o600))
	}
	renewAll()
	for _, n := range nodes { // each meets the others anew
		c.Kill(n)
		c.Start(n)
		c.WaitQuorum(n)
	}
	id, err := pki.Open(pki.Config{Dir: dir("n1"), Clock: time.Now})
	must(t, err)
	if keys := id.Bundle().Keys(); len(keys) != 1 || keys[0] != ca.Key() || !former.AuthorityEnds().Equal(ca.Certificate().NotAfter) {
		t.Errorf("n1 believes %d authorities", len(keys))
	}
	// A new client is served, and one of the old authority is not.
	out := filepath.Join(c.Dir, "client2")
	c.MustCLI("n1", "cluster", "client-cert", "vm1", "--out", out)
	primary := c.Status("n1").Primary // it moved when the nodes were killed
	c.WaitPrimary(primary)
	uri, _, _ := strings.Cut(c.TCP(primary), "?")
	proc.Run(t, "nbdinfo", "--size", uri+"?tls-certificates="+out)
	if text, err := proc.Try(t, "nbdinfo", "--size", c.TCP(primary)); err == nil {
		t.Errorf("a client of the old authority is served: %s", text)
	}
}
