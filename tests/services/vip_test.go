package services

import (
	"errors"
	"fmt"
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
	if files, err := filepath.Glob(r.vipFiles("n1")); err != nil || len(files) != 2 {
		t.Errorf("files %q, %v", files, err)
	}
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

	r.MustCLI("n2", "vip", "remove", "web")
	r.vipLeavesNothing("n1", "n2")
	r.MustCLI("n2", "vip", "add", "web", r.vip.String())
	r.takes("n1")

	// A node that is away lets go of it when it is back; then the name can be used again.
	r.Kill("n2")
	if out := r.MustCLI("n1", "vip", "remove", "web"); !strings.Contains(out, "when every node has let go of it") {
		t.Errorf("vip remove says %q", out)
	}
	r.drops("n1")
	if res := r.CLI("n1", "vip", "add", "web", r.vip.String()); res.Code == 0 {
		t.Errorf("a name that is not free: %+v", res)
	}
	r.Start("n2")
	r.vipLeavesNothing("n1", "n2")
	proc.Eventually(t, "the name to be free", func() error {
		if res := r.CLI("n1", "vip", "add", "web", r.vip.String()); res.Code != 0 {
			return errors.New(res.Stderr)
		}
		return nil
	})
	r.takes("n1")
}

// vipFiles matches what an address is kept in on a node.
func (r *rig) vipFiles(node string) string {
	return filepath.Join(filepath.Dir(r.Node(node).ControlSocket), "data", "vip-web*")
}

// vipLeavesNothing returns when nodes have neither the address nor files of it.
func (r *rig) vipLeavesNothing(nodes ...string) {
	r.t.Helper()
	for _, n := range nodes {
		proc.Eventually(r.t, n+" to let go of the address", func() error {
			left, err := filepath.Glob(r.vipFiles(n))
			if err != nil || len(left) != 0 || r.holds(n) {
				return fmt.Errorf("files %q, %v; address %t", left, err, r.holds(n))
			}
			return nil
		})
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
