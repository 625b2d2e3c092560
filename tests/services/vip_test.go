package services

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

// takes returns when node has the address.
func (r *rig) takes(node string) {
	r.t.Helper()
	proc.Eventually(r.t, node+" to take the address", func() error {
		if !r.holds(node) {
			return errors.New("it has it not")
		}
		return nil
	})
}

func TestVIP_WithoutData_MovesWhenItsNodeIsLost(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.MustCLI("n2", "vip", "add", "web", r.vip.String(), "--nodes", "n1,n2")
	r.takes("n1")
	r.answered()
	if out := r.MustCLI("n2", "vip", "list"); !strings.Contains(out, "web") || !strings.Contains(out, r.vip.String()) || !strings.Contains(out, "n1    running") {
		t.Errorf("vip list says\n%s", out)
	}

	begun := time.Now()
	r.Kill("n1")
	r.takes("n2")
	t.Logf("n2 has the address %v after n1 was killed", time.Since(begun))
	r.answered()
	r.Start("n1")
	r.drops("n1") // it was left there: nothing stops what runs while a daemon is gone
	r.answered()

	proc.Eventually(t, "the address to move back", func() error {
		if res := r.CLI("n2", "vip", "move", "web", "--to", "n1"); res.Code != 0 {
			return errors.New(res.Stderr)
		}
		return nil
	})
	r.takes("n1")
	r.drops("n2")

	for round := range 2 { // nothing is left that hinders another one of that name
		r.MustCLI("n2", "vip", "remove", "web")
		if r.holds("n1") || r.holds("n2") {
			t.Error("the address was removed, and a node has it")
		}
		for _, n := range []string{"n1", "n2"} {
			left, err := filepath.Glob(filepath.Join(filepath.Dir(r.Node(n).ControlSocket), "vip-web*"))
			if err != nil || len(left) != 0 {
				t.Errorf("%s is left with %q, %v", n, left, err)
			}
		}
		if round == 0 {
			r.MustCLI("n2", "vip", "add", "web", r.vip.String())
		}
	}
}

func TestVIP_Remove_LeavesResourcesWithDataAlone(t *testing.T) {
	t.Parallel()
	r := start(t)
	data := filepath.Join(t.TempDir(), "x.img")
	r.MustCLI("n1", "resource", "create", "vip-mine", "--size", "4MiB", "--replica", "n1="+data)
	if res := r.CLI("n1", "vip", "remove", "mine"); res.Code == 0 || !strings.Contains(res.Stderr, "was not made by lockstep vip") {
		t.Errorf("%+v", res)
	}
	if _, err := os.Stat(data); err != nil {
		t.Error(err)
	}
}
