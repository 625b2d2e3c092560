package node

import (
	"errors"
	"strings"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/replication"
)

func fitCandidate() candidate {
	self := quorum.Incumbent{Node: "n2", Instance: 22, Boot: "b", Process: 9}
	return candidate{
		rec: &quorum.Resource{
			Name: "r0", ID: 1, Version: 7, Epoch: 3,
			Replicas: []quorum.Replica{{Node: "n1", Instance: 11, InSet: true}, {Node: "n2", Instance: 22, InSet: true}},
		},
		self:   self,
		status: replication.Status{State: replication.UpToDate, Epoch: 3},
		others: map[string]view{},
	}
}

func TestJudge(t *testing.T) {
	n1 := quorum.Incumbent{Node: "n1", Instance: 11, Boot: "b", Process: 4}
	serving := view{Node: "n1", Process: 4, Open: true, Role: rolePrimary, State: "UpToDate"}
	cases := []struct {
		name   string
		change func(c *candidate)
		want   error
		says   string // in the text or the hint
	}{
		{"fit, nobody primary", func(*candidate) {}, nil, ""},
		{"no replica here", func(c *candidate) { c.self.Node = "n3" }, control.ErrNotFound, "n1, n2"},
		{"being deleted", func(c *candidate) { c.rec.Deleted = true }, control.ErrRefused, "deleted"},
		{"not open", func(c *candidate) { c.fault = &fault{replication.Diskless, "backing is missing"} }, control.ErrRefused, "backing is missing"},
		{"not all registered", func(c *candidate) { c.rec.Replicas[0].Instance = 0 }, control.ErrRefused, "missing nodes"},
		{"not all registered, but with a source", func(c *candidate) { c.rec.Replicas[0].Instance, c.rec.Source = 0, "n2" }, nil, ""},
		{"another instance", func(c *candidate) { c.self.Instance = 5 }, control.ErrRefused, "another one"},
		{"recorded as failed", func(c *candidate) { c.rec.Replicas[1].Failed = true }, control.ErrRefused, "failed"},
		{"failed here", func(c *candidate) { c.status.State = replication.Failed }, control.ErrRefused, "failed"},
		{"diverged", func(c *candidate) { c.status.State = replication.Diverged }, control.ErrDiverged, "resolve r0 --keep NODE"},
		{"not in the set", func(c *candidate) { c.rec.Replicas[1].InSet = false }, control.ErrRefused, "those of n1"},
		{"outdated", func(c *candidate) { c.status.State = replication.Outdated }, control.ErrRefused, "Outdated"},
		{"inconsistent", func(c *candidate) { c.status.State = replication.Inconsistent }, control.ErrRefused, "Inconsistent"},
		{"unclean while the other is silent", func(c *candidate) { c.status.Unclean = true }, control.ErrRefused, "promote n1"},
		{"unclean while the other is clean", func(c *candidate) {
			c.status.Unclean = true
			c.others["n1"] = view{Open: true, State: "UpToDate"}
		}, control.ErrRefused, "promote n1"},
		{"unclean like the other", func(c *candidate) {
			c.status.Unclean = true
			c.others["n1"] = view{Open: true, State: "UpToDate", Unclean: true}
		}, nil, ""},
		{"unclean, the disk of the other failed", func(c *candidate) {
			c.status.Unclean = true
			c.others["n1"] = view{Open: true, State: "Failed"}
		}, nil, ""},
		{"unclean, the disk of the other hangs", func(c *candidate) {
			c.status.Unclean = true
			c.others["n1"] = view{Open: true, State: "Failed", Hangs: true}
		}, control.ErrRefused, "restart the daemon"},
		{"unclean, the other has no open replica and so has not said anything", func(c *candidate) {
			c.status.Unclean = true
			c.others["n1"] = view{Open: false, State: "Failed", Unclean: true}
		}, control.ErrRefused, ""},
		{"unclean and alone in the set", func(c *candidate) {
			c.status.Unclean = true
			c.rec.Replicas[0].InSet = false
		}, nil, ""},
		{"another primary", func(c *candidate) { c.rec.Primary = n1 }, control.ErrRefused, "switchover r0 --to n2"},
		{"another primary, silent", func(c *candidate) { c.rec.Primary = n1 }, control.ErrRefused, "does not answer"},
		{"another primary, silent, on the operator's word", func(c *candidate) {
			c.rec.Primary, c.opts.TakeOver = n1, true
		}, nil, ""},
		{"another primary that answers, on the operator's word", func(c *candidate) {
			c.rec.Primary, c.opts.TakeOver = n1, true
			c.others["n1"] = serving
		}, control.ErrRefused, "not down"},
		{"another primary that was restarted, on the operator's word", func(c *candidate) {
			c.rec.Primary, c.opts.TakeOver = n1, true
			v := serving
			v.Process, v.Role = 5, "Secondary"
			c.others["n1"] = v
		}, nil, ""},
		{"an earlier process of this node", func(c *candidate) {
			c.rec.Primary = c.self
			c.rec.Primary.Process = 8
		}, nil, ""},
		{"this process after it stopped", func(c *candidate) { c.rec.Primary = c.self }, nil, ""},
		{"held by an operator, who now asks", func(c *candidate) { c.rec.Hold = true }, nil, ""},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			c := fitCandidate()
			tc.change(&c)
			err := judge(c)
			if !errors.Is(err, tc.want) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
			if err == nil {
				return
			}
			e := control.AsError(err)
			if !strings.Contains(e.Message+" "+e.Hint, tc.says) {
				t.Errorf("%q with the hint %q does not say %q", e.Message, e.Hint, tc.says)
			}
			if e.DataSafe != control.SafetyYes {
				t.Errorf("a refusal says that data safety is %q", e.DataSafe)
			}
		})
	}
}

func TestNewEpoch_IsAboveEverythingKnown(t *testing.T) {
	c := fitCandidate()
	if got := newEpoch(c); got != 4 {
		t.Errorf("%d", got)
	}
	c.status.Epoch = 8
	if got := newEpoch(c); got != 9 {
		t.Errorf("%d", got)
	}
	c.others["n1"] = view{Epoch: 12}
	if got := newEpoch(c); got != 13 {
		t.Errorf("%d", got)
	}
}

func TestJudgeTarget(t *testing.T) {
	peerIs := func(conn string, s replication.DiskState, dirty int64) replication.Status {
		return replication.Status{Peers: []replication.PeerStatus{{Node: "n1", Connection: conn, State: s, Dirty: dirty}}}
	}
	cases := []struct {
		name string
		to   string
		st   replication.Status
		out  bool // of the set
		want error
	}{
		{"fit", "n1", peerIs("Connected", replication.UpToDate, 0), false, nil},
		{"itself", "n2", replication.Status{}, false, nil},
		{"no replica", "n3", replication.Status{}, false, control.ErrNotFound},
		{"not connected", "n1", peerIs("Connecting", replication.UpToDate, 0), false, control.ErrRefused},
		{"not known", "n1", replication.Status{}, false, control.ErrRefused},
		{"dirty", "n1", peerIs("Connected", replication.UpToDate, 4096), false, control.ErrRefused},
		{"inconsistent", "n1", peerIs("Connected", replication.Inconsistent, 0), false, control.ErrRefused},
		{"outside the set", "n1", peerIs("Connected", replication.UpToDate, 0), true, control.ErrRefused},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			rec := fitCandidate().rec
			rec.Replicas[0].InSet = !c.out
			if err := judgeTarget(rec, "n2", c.to, c.st); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestAdvise(t *testing.T) {
	n1 := quorum.Incumbent{Node: "n1", Instance: 11, Boot: "b", Process: 4}
	cases := []struct {
		name   string
		change func(s *situation)
		says   []string // one for each piece of advice, in order
	}{
		{"nothing wrong", func(*situation) {}, nil},
		{"no quorum", func(s *situation) { s.quorate = false }, []string{"no majority"}},
		{"no quorum in a pair", func(s *situation) { s.quorate, s.pair = false, "n1" }, []string{"lockstep confirm-down n1"}},
		{"nobody primary", func(s *situation) { s.rec.Primary = quorum.Incumbent{} }, []string{"promote r0 --on n2"}},
		{"held", func(s *situation) { s.rec.Primary, s.rec.Hold = quorum.Incumbent{}, true }, []string{"an operator demoted it"}},
		{"primary silent", func(s *situation) { s.remote = nil }, []string{"promote r0 --on n2 --confirm-peer-down"}},
		{"primary silent and alone", func(s *situation) {
			s.remote = nil
			s.rec.Replicas[1].InSet = false
			s.res.Replicas[1].Connection = control.ConnConnecting
		}, []string{"Do not give its files up", "not connected", "n1 alone"}},
		{"primary restarted", func(s *situation) { s.remote.Process = 5 }, []string{"promote r0 --on n1"}},
		{"primary frozen", func(s *situation) { s.remote.Resource.IO = control.IO{State: control.IOFrozen, Reason: "no quorum"} }, []string{"no quorum"}},
		{"primary answers with errors", func(s *situation) { s.remote.Resource.IO = control.IO{State: control.IOFailed, Reason: "no quorum"} }, []string{"answered with errors by n1: no quorum"}},
		{"not open here", func(s *situation) { s.fault, s.local = &fault{replication.Diskless, "backing is missing"}, nil }, []string{"backing is missing"}},
		{"not open here, and the only copy", func(s *situation) {
			s.fault, s.local = &fault{replication.Diskless, "backing is missing"}, nil
			s.rec.Replicas[0].InSet, s.rec.Primary = false, quorum.Incumbent{}
		}, []string{"do not delete", "promote r0 --on n2", "copied once there is a primary", "n2 alone"}},
		{"resync", func(s *situation) {
			s.rec.Replicas[1].InSet = false
			s.res.Replicas[1].Resync = &control.Resync{}
		}, []string{"being copied", "n1 alone"}},
		{"paused resync", func(s *situation) {
			s.rec.Replicas[1].InSet = false
			s.res.Replicas[1].Resync = &control.Resync{Paused: true}
		}, []string{"resync resume r0", "n1 alone"}},
		{"failed disk", func(s *situation) {
			s.local.State = replication.Failed
			s.rec.Replicas[1].InSet, s.rec.Replicas[1].Failed = false, true
		}, []string{"Acknowledged data is on: n1", "its disk failed", "n1 alone"}},
		{"diverged", func(s *situation) { s.local.State = replication.Diverged }, []string{"invalidate r0 --on n2"}},
		{"unclean", func(s *situation) { s.local.Unclean = true }, []string{"without a clean stop"}},
		{"deleted", func(s *situation) { s.rec.Deleted = true }, []string{"its files stay"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			rec := fitCandidate().rec
			rec.Primary = n1
			s := situation{
				rec: rec, self: "n2", quorate: true,
				local:  &replication.Status{Role: "Secondary", State: replication.UpToDate},
				remote: &view{Node: "n1", Process: 4, Open: true},
				res:    &control.Resource{Replicas: []control.Replica{{Node: "n1"}, {Node: "n2", Connection: control.ConnLocal}}},
			}
			c.change(&s)
			got := advise(s)
			if len(got) != len(c.says) {
				t.Fatalf("%d pieces of advice, want %d:\n%s", len(got), len(c.says), strings.Join(got, "\n"))
			}
			for i := range got {
				if !strings.Contains(got[i], c.says[i]) {
					t.Errorf("%q does not say %q", got[i], c.says[i])
				}
			}
		})
	}
}
