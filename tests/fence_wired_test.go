package tests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/lab"
	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/need"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

// shooters is a lab whose nodes turn each other off for real, so that nodes end without the test.
type shooters struct {
	t *testing.T
	*lab.Lab
}

// upShooters starts a lab. Its lease is long, so that a machine full of tests is not taken for a
// process that stood still.
func upShooters(t *testing.T, opts lab.Options) shooters {
	t.Helper()
	opts.Dir, opts.SizeBytes = cluster.ShmDir(t), 64*cluster.MiB
	opts.Command = []string{cluster.Binary(t), "node"}
	change := opts.Configure
	opts.Configure = func(n *config.Node) {
		n.Lease = 3 * time.Second
		if change != nil {
			change(n)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), proc.Limit)
	defer cancel()
	l, err := lab.Up(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	s := shooters{t, l}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), proc.Limit)
		defer cancel()
		if t.Failed() {
			s.tell(ctx)
		}
		must(t, l.Down(ctx))
	})
	return s
}

// tell shows what explains a failure.
func (s shooters) tell(ctx context.Context) {
	for _, n := range s.State().Nodes {
		on, _ := s.Running(n.Name)
		s.t.Logf("%s runs: %v", n.Name, on)
		if !on {
			continue
		}
		if st, err := s.Client(n.Name).Status(ctx, ""); err == nil {
			b, _ := json.Marshal(st)
			s.t.Logf("%s says %s", n.Name, b)
		}
		for _, ev := range s.events(n.Name) {
			s.t.Logf("%s: %s %s", n.Name, ev.Kind, ev.Text)
		}
	}
}

func (s shooters) events(node string) (out []control.Event) {
	ctx, cancel := context.WithTimeout(context.Background(), proc.Limit)
	defer cancel()
	_ = s.Client(node).Events(ctx, 0, false, func(ev control.Event) error { out = append(out, ev); return nil })
	return out
}

// cli runs the program with the control socket of node, whatever its exit code.
func (s shooters) cli(node string, args ...string) cluster.Result {
	s.t.Helper()
	n, err := s.Node(node)
	must(s.t, err)
	return cluster.CLI(s.t, append([]string{"--socket", n.ControlSocket}, args...)...)
}

func (s shooters) mustCLI(node string, args ...string) string {
	s.t.Helper()
	n, err := s.Node(node)
	must(s.t, err)
	return cluster.MustCLI(s.t, append([]string{"--socket", n.ControlSocket}, args...)...)
}

// until asks node for its status until check is satisfied.
func (s shooters) until(node, what string, check func(control.Status, control.Resource) error) {
	s.t.Helper()
	proc.Eventually(s.t, what+", as "+node+" sees it", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		st, err := s.Client(node).Status(ctx, "")
		if err != nil {
			return err
		}
		if len(st.Resources) != 1 {
			return fmt.Errorf("it knows %d resources", len(st.Resources))
		}
		return check(st, st.Resources[0])
	})
}

// serves returns when node is primary of r0 and serves.
func (s shooters) serves(node string) {
	s.t.Helper()
	s.until(node, "it serves", func(_ control.Status, r control.Resource) error {
		if r.Role != control.RolePrimary || r.IO.State != control.IORunning {
			return fmt.Errorf("role %s, io %s (%s); %q", r.Role, r.IO.State, r.IO.Reason, r.Advice)
		}
		return nil
	})
}

// inSync returns when the replicas of both data nodes are, and both vote.
func (s shooters) inSync(node string) {
	s.t.Helper()
	s.until(node, "all is in sync", func(st control.Status, r control.Resource) error {
		if !slices.Equal(r.InSync, []string{"n1", "n2"}) || slices.ContainsFunc(st.Nodes, func(n control.Node) bool { return !n.Voter }) {
			return fmt.Errorf("in sync %v, nodes %+v", r.InSync, st.Nodes)
		}
		return nil
	})
}

// off returns when the process of node has ended.
func (s shooters) off(node string) {
	s.t.Helper()
	proc.Eventually(s.t, "the end of "+node, func() error {
		if on, err := s.Running(node); err != nil || on {
			return errors.Join(err, errors.New("it runs"))
		}
		return nil
	})
}

func (s shooters) signal(node string, sig syscall.Signal) {
	s.t.Helper()
	must(s.t, s.Kill(s.t.Context(), node, sig))
}

// start starts a node, which cannot be ready before the ledger lets it back.
func (s shooters) start(node string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	if err := s.Start(ctx, node); err != nil && ctx.Err() == nil {
		s.t.Fatal(err)
	}
}

// proven returns when the ledger on node records target as off.
func (s shooters) proven(node, target string) control.FenceRecord {
	s.t.Helper()
	var got control.FenceRecord
	proc.Eventually(s.t, "the record that "+target+" is off", func() error {
		h, err := s.Client(node).FenceHistory(s.t.Context())
		if err != nil {
			return err
		}
		for _, f := range h.Recorded {
			if f.Node == target && f.Phase == control.FenceConfirmed {
				got = f
				return nil
			}
		}
		return fmt.Errorf("it records %+v", h.Recorded)
	})
	return got
}

// comesBack starts a node that was shot, which counts as booted anew, and ends the record of its fence.
func (s shooters) comesBack(node, primary string) {
	s.t.Helper()
	s.start(node)
	s.inSync(primary)
	h, err := s.Client(primary).FenceHistory(s.t.Context())
	must(s.t, err)
	for _, f := range h.Recorded {
		if f.Node == node {
			s.t.Errorf("it is back, and recorded as %+v", f)
		}
	}
}

// write writes to r0 on a node and reads it back.
func (s shooters) write(node string, at byte) {
	s.t.Helper()
	n, err := s.Node(node)
	must(s.t, err)
	c := dial(s.t, n.NBDUnixURI)
	data := make([]byte, 64<<10)
	for i := range data {
		data[i] = at
	}
	must(s.t, c.WriteFUA(data, int64(at)<<20))
	back := make([]byte, len(data))
	must(s.t, c.ReadAt(back, int64(at)<<20))
	if !slices.Equal(data, back) {
		s.t.Error("other bytes come back")
	}
}

func TestStonith_NobodyServesBeforeThePrimaryIsProvenOff(t *testing.T) {
	for name, lose := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "standing still": syscall.SIGSTOP} {
		t.Run(name, func(t *testing.T) {
			s := upShooters(t, lab.Options{Witness: true, Fence: true})
			s.mustCLI("n1", "resource", "set", "r0", "--fencing", "stonith")
			s.write("n1", 1)
			s.signal("n1", lose)
			s.serves("n2")
			s.off("n1")
			// The witness fires, since it has no part in it.
			if f := s.proven("n2", "n1"); f.By != "w" || !strings.Contains(f.Text, "status says that it is off") {
				t.Errorf("recorded: %+v", f)
			}
			s.write("n2", 2)
			if out := s.mustCLI("n2", "fence", "history"); !strings.Contains(out, "fired by w") || !strings.Contains(out, "off n1") {
				t.Errorf("history says:\n%s", out)
			}
			s.comesBack("n1", "n2")
		})
	}
}

// The device says off, and the node stands still and goes on: what it was told in its lease it does not
// forget, and it is kept out until somebody has seen to the device.
func TestStonith_FenceThatLies_NodeThatGoesOnServesNothingAndIsKeptOut(t *testing.T) {
	need.Tool(t, "fence_dummy", "fence-agents")
	s := upShooters(t, lab.Options{Witness: true, Configure: withDummy(time.Minute, config.FenceOption{Name: "status_file", Value: cluster.ShmDir(t) + "/power"})})
	s.mustCLI("n1", "resource", "set", "r0", "--fencing", "stonith")
	s.write("n1", 1)
	s.signal("n1", syscall.SIGSTOP)
	s.serves("n2")
	s.proven("n2", "n1")
	s.write("n2", 2)
	s.signal("n1", syscall.SIGCONT)
	s.until("n1", "it has given up the role", func(_ control.Status, r control.Resource) error {
		if r.Role != control.RoleSecondary || r.Primary != "n2" {
			return fmt.Errorf("role %s, primary %s", r.Role, r.Primary)
		}
		return nil
	})
	s.until("n2", "n1 is copied to and kept out", func(_ control.Status, r control.Resource) error {
		p, _ := cluster.Replica(r, "n1")
		if slices.Contains(r.InSync, "n1") {
			t.Error("n1 is in the set although it is recorded as off")
		}
		if p.Connection != control.ConnConnected || p.DirtyBytes != 0 {
			return fmt.Errorf("replica %+v", p)
		}
		return nil
	})
	s.mustCLI("n2", "unfence", "n1")
	s.inSync("n2")
}

func TestFenceVerbs_OnRealNodes(t *testing.T) {
	s := upShooters(t, lab.Options{Witness: true, Fence: true})
	out := s.mustCLI("n1", "fence", "test")
	for _, want := range []string{"n1 can turn n2 off", "n1 can turn w off", "status says that n2 is on"} {
		if !strings.Contains(out, want) {
			t.Errorf("fence test says:\n%s", out)
		}
	}
	if r := s.cli("n1", "fence", "n1", "--yes"); r.Code != 3 || !strings.Contains(r.Stderr, "does not turn itself off") {
		t.Errorf("itself: %+v", r)
	}
	if r := s.cli("n1", "fence", "n2"); r.Code != 3 || !strings.Contains(r.Stderr, "not confirmed") {
		t.Errorf("unconfirmed: %+v", r)
	}
	if on, err := s.Running("n2"); err != nil || !on {
		t.Fatalf("n2 was hit: %v", err)
	}
	if out := s.mustCLI("n1", "fence", "n2", "--yes", "--by", "w"); !strings.Contains(out, "n2 is off, as w proved") {
		t.Errorf("fence says %q", out)
	}
	s.off("n2")
	if r := s.cli("n1", "fence", "test", "n2"); r.Code != 6 || !strings.Contains(r.Stdout, "n1 can NOT turn n2 off") {
		t.Errorf("test of a node that is off: %+v", r)
	}
	s.serves("n1")
	s.write("n1", 1)
	s.comesBack("n2", "n1")
	// By way of another node, the primary: the other one takes over at once.
	s.mustCLI("n2", "fence", "n1", "--yes")
	s.off("n1")
	s.serves("n2")
}

func TestPair_OneIsLost_TheOtherOneShootsItAndGoesOnAlone(t *testing.T) {
	for name, tc := range map[string]struct {
		lost, alone string
		how         syscall.Signal
	}{
		"the secondary dies":         {"n2", "n1", syscall.SIGKILL},
		"the primary dies":           {"n1", "n2", syscall.SIGKILL},
		"the primary stands still":   {"n1", "n2", syscall.SIGSTOP},
		"the secondary stands still": {"n2", "n1", syscall.SIGSTOP},
	} {
		t.Run(name, func(t *testing.T) {
			s := upShooters(t, lab.Options{Fence: true})
			s.write("n1", 1)
			s.signal(tc.lost, tc.how)
			s.serves(tc.alone)
			s.off(tc.lost)
			if f := s.proven(tc.alone, tc.lost); f.By != tc.alone {
				t.Errorf("recorded: %+v", f)
			}
			s.write(tc.alone, 2)
			s.comesBack(tc.lost, tc.alone)
			// The pair is whole: it survives the loss of the one that went on, too.
			s.signal(tc.alone, syscall.SIGKILL)
			s.serves(tc.lost)
			s.write(tc.lost, 3)
		})
	}
}

func TestPair_LinkIsCut_ExactlyOneSurvives(t *testing.T) {
	need.Root(t, "to make network namespaces")
	s := upShooters(t, lab.Options{Fence: true, Netns: true})
	s.write("n1", 1)
	must(t, s.Cut("n1", "n2", false))
	s.serves("n1") // the one that is primary is favoured
	s.off("n2")
	s.proven("n1", "n2")
	s.write("n1", 2)
	must(t, s.Heal())
	s.comesBack("n2", "n1")
}

// withDummy gives a node a real fence_dummy for the other one.
func withDummy(timeout time.Duration, options ...config.FenceOption) func(*config.Node) {
	return func(n *config.Node) {
		n.Fences = []config.Fence{{Name: "dummy", Agent: "fence_dummy", Timeout: timeout, Options: options}}
		n.Fencing.Nodes = []config.FenceNode{{Node: "n1", Levels: [][]string{{"dummy"}}}, {Node: "n2", Levels: [][]string{{"dummy"}}}}
	}
}

func TestPair_WithARealAgent_OnlyItsProofLeadsOn(t *testing.T) {
	need.Tool(t, "fence_dummy", "fence-agents")
	t.Run("it succeeds", func(t *testing.T) {
		s := upShooters(t, lab.Options{Configure: withDummy(time.Minute, config.FenceOption{Name: "status_file", Value: cluster.ShmDir(t) + "/power"})})
		s.signal("n1", syscall.SIGKILL)
		s.serves("n2")
		if f := s.proven("n2", "n1"); !strings.Contains(f.Text, "fence_dummy turned it off") {
			t.Errorf("recorded: %+v", f)
		}
		s.write("n2", 1)
	})
	for name, tc := range map[string]struct {
		configure func(*config.Node)
		says      string
	}{
		"it fails": {withDummy(time.Minute, config.FenceOption{Name: "type", Value: "fail"}, config.FenceOption{Name: "power_timeout", Value: "1"}), "off exited 1"},
		"it hangs": {withDummy(5*time.Second, config.FenceOption{Name: "delay", Value: "3600"}), "no answer in time"},
	} {
		t.Run(name, func(t *testing.T) {
			s := upShooters(t, lab.Options{Configure: tc.configure})
			s.signal("n1", syscall.SIGKILL)
			s.until("n2", "the failure is told", func(st control.Status, r control.Resource) error {
				if !slices.ContainsFunc(r.Advice, func(a string) bool { return strings.Contains(a, tc.says) && strings.Contains(a, "confirm-down n1") }) {
					return fmt.Errorf("advice: %q", r.Advice)
				}
				if st.Ledger.Quorum || r.Role == control.RolePrimary {
					t.Errorf("it went on without a proof: %+v", r)
				}
				return nil
			})
			// The operator's word does what no device could.
			s.mustCLI("n2", "confirm-down", "n1")
			s.until("n2", "it decides alone", func(st control.Status, _ control.Resource) error {
				if !st.Ledger.Quorum {
					return errors.New("no quorum")
				}
				return nil
			})
		})
	}
}
