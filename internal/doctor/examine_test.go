package doctor

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
)

// good is a cluster of two data nodes and a witness with nothing to find fault with.
func good() *Cluster {
	c := &Cluster{Status: control.Status{
		Node: "n1", Ledger: control.Ledger{Leader: "w", Quorum: true},
		Resources: []control.Resource{{
			Name: "r0", Epoch: 3, Primary: "n1", InSync: []string{"n1", "n2"}, IO: control.IO{State: control.IORunning},
			Policy: control.Policy{Failover: "auto", Fencing: "lease", Lease: 300 * time.Millisecond, ReadsConfirm: true},
			Replicas: []control.Replica{
				{Node: "n1", DiskState: control.DiskUpToDate, Connection: control.ConnLocal, InSync: true},
				{Node: "n2", DiskState: control.DiskUpToDate, Connection: control.ConnConnected, InSync: true},
			},
		}},
	}}
	names := []string{"n1", "n2", "w"}
	for _, n := range names {
		c.Status.Nodes = append(c.Status.Nodes, control.Node{Name: n, Alive: true, Voter: true, Witness: n == "w", Leader: n == "w"})
		f := &control.Facts{
			Node: n, Version: "v1", Host: "host-" + n, Boot: "boot-" + n, Virtual: control.VirtualNo, Supervisor: "systemd", Watchdog: "/dev/watchdog",
			Timing:  control.Timing{Preset: "lan", BeaconInterval: 100 * time.Millisecond, Lease: 300 * time.Millisecond, DriftMargin: 10},
			DataDir: control.Disk{Path: "/var/lib/lockstep", FileSystem: "ext4", Device: "sda1", Disks: []string{"sda"}, WriteCache: control.CacheNone},
		}
		f.Certificate = &control.CertificateFacts{Left: 80 * day, AuthorityLeft: 3000 * day, Signs: n == "n1"}
		for _, p := range names {
			if p != n {
				f.Fences = append(f.Fences, p)
				f.Peers = append(f.Peers, control.PeerFacts{Node: p, Addr: p + ":7780", Gossip: p + ":7781", Interface: "bond0", Members: 2, RTT: time.Millisecond, ClockError: time.Millisecond})
			}
		}
		if n != "w" {
			d := control.Disk{Path: "/srv/r0.img", FileSystem: "xfs", Device: "nvme0n1", Disks: []string{"nvme0n1"}, WriteCache: control.CacheNone, Sparse: true, MissBytes: 1 << 30, FreeBytes: 2 << 30, TotalBytes: 100 << 30}
			f.Replicas = []control.ReplicaFacts{{Resource: "r0", Open: true, DiskState: control.DiskUpToDate, Data: d, Meta: d}}
		}
		c.Nodes = append(c.Nodes, Node{Name: n, Facts: f})
	}
	return c
}

func TestExamine_AGoodClusterIsGood(t *testing.T) {
	r := Examine(good())
	if r.Worst != OK {
		t.Errorf("worst %s", r.Worst)
	}
	for _, f := range r.Findings {
		if f.Severity != OK {
			t.Errorf("found %+v", f)
		}
	}
	for _, l := range r.Losses {
		if !l.GoesOn || l.Severity != OK {
			t.Errorf("loss %+v", l)
		}
	}
	if len(r.Losses) != 3 {
		t.Errorf("%d losses", len(r.Losses))
	}
}

// pair takes the witness away.
func pair(c *Cluster) {
	c.Status.Nodes, c.Nodes, c.Status.Ledger.Leader = c.Status.Nodes[:2], c.Nodes[:2], "n2"
	for i := range c.Nodes {
		c.Nodes[i].Facts.Peers = c.Nodes[i].Facts.Peers[:1]
	}
}

// lose makes a node silent.
func lose(c *Cluster, name string) {
	n := c.node(name)
	n.Facts, n.Silent = nil, "cannot connect"
}

// leave takes a replica out of the in-sync set.
func leave(c *Cluster, node string) {
	r := &c.Status.Resources[0]
	r.InSync = slices.DeleteFunc(r.InSync, func(n string) bool { return n == node })
	for i := range r.Replicas {
		if r.Replicas[i].Node == node {
			r.Replicas[i].InSync = false
		}
	}
}

// serve has a service follow the primary.
func serve(c *Cluster, s control.ServiceFacts) {
	for _, n := range []string{"n1", "n2"} {
		c.facts(n).Replicas[0].Services = []control.ServiceFacts{s}
	}
}

func TestExamine_SaysWhichUnitToDisableWhere(t *testing.T) {
	c := good()
	serve(c, control.ServiceFacts{Name: "unit db@main.service", Kind: "unit", AtBoot: true})
	var next []string
	for _, f := range Examine(c).Findings {
		if f.Code == codeServiceBoot {
			next = append(next, f.Next)
		}
	}
	if want := []string{"on n1: systemctl disable db@main.service", "on n2: systemctl disable db@main.service"}; !slices.Equal(next, want) {
		t.Errorf("%q, want %q", next, want)
	}
}

func TestExamine_FindsWhatIsWrong(t *testing.T) {
	r0 := func(c *Cluster) *control.Resource { return &c.Status.Resources[0] }
	data := func(c *Cluster, n string) *control.Disk { return &c.facts(n).Replicas[0].Data }
	for _, tc := range []struct {
		name string
		harm func(c *Cluster)
		want []string // "severity code", each has to be found
		only bool     // nothing else but ok
	}{
		{"two voters", func(c *Cluster) {
			pair(c)
			c.facts("n1").Fences, c.facts("n2").Fences = nil, nil
		}, []string{"warning few-voters", "warning loss", "note no-fence"}, true},
		{"two voters that can turn each other off", pair, []string{"note few-voters"}, true},
		{"two voters, of which one can turn the other off", func(c *Cluster) { pair(c); c.facts("n2").Fences = nil }, []string{"warning few-voters", "warning loss", "note no-fence"}, true},
		{"all on one host", func(c *Cluster) {
			for _, n := range c.Nodes {
				n.Facts.Boot = "same"
			}
		}, []string{"danger one-host", "danger one-disk"}, true},
		{"one network path", func(c *Cluster) {
			for i := range c.facts("n1").Peers {
				c.facts("n1").Peers[i].Interface, c.facts("n1").Peers[i].Members = "eth0", 0
			}
		}, []string{"warning one-network-path"}, true},
		{"two networks are two paths", func(c *Cluster) {
			p := &c.facts("n1").Peers[0]
			p.Interface, p.Members, p.Addr, p.Gossip = "eth0", 0, "10.0.0.2:7780", "10.0.1.2:7781"
		}, nil, true},
		{"a daemon that the OOM killer may choose", func(c *Cluster) {
			c.facts("n2").WritePath.Lacks = []control.WriteLack{{What: "the OOM killer may choose it", Next: "set OOMScoreAdjust=-1000 in its unit"}}
		}, []string{"warning write-path"}, true},
		{"a witness is in nobody's write path", func(c *Cluster) {
			c.facts("w").WritePath.Lacks = []control.WriteLack{{What: "its memory may be taken away"}}
		}, nil, true},
		{"protection turned off", func(c *Cluster) { c.facts("n1").WritePath.Off = []string{"lock"} }, []string{"note write-path"}, true},
		{"protection of which it cannot be told", func(c *Cluster) { c.facts("n1").WritePath.Unknown = "no /proc" }, []string{"note write-path"}, true},
		{"no fence", func(c *Cluster) {
			for _, n := range c.Nodes {
				n.Facts.Fences = nil
			}
		}, []string{"note no-fence"}, true},
		{"stonith without a fence", func(c *Cluster) {
			r0(c).Policy.Fencing, r0(c).Policy.ReadsConfirm = "stonith", false
			for _, n := range c.Nodes {
				n.Facts.Fences = nil
			}
		}, []string{"danger no-fence", "warning loss"}, true},
		{"hosts that can be paused", func(c *Cluster) {
			r0(c).Policy.ReadsConfirm = false
			c.facts("n1").Virtual = control.VirtualYes
		}, []string{"warning paused-host"}, true},
		{"hosts of which it cannot be told", func(c *Cluster) {
			r0(c).Policy.ReadsConfirm = false
			c.facts("n2").Virtual = ""
		}, []string{"note paused-host"}, true},
		{"a node is silent", func(c *Cluster) { lose(c, "n2") }, []string{"danger node-silent", "danger one-copy", "danger loss"}, false},
		{"a witness is silent", func(c *Cluster) { lose(c, "w") }, []string{"danger node-silent", "warning loss"}, true},
		{"two nodes do not reach each other", func(c *Cluster) { c.facts("n2").Peers[0].Problem = "timeout" }, []string{"warning unreachable"}, true},
		{"a replica not in sync", func(c *Cluster) { leave(c, "n2") }, []string{"warning not-in-sync", "danger one-copy", "danger loss"}, true},
		{"a resync that is paused", func(c *Cluster) {
			leave(c, "n2")
			r0(c).Replicas[1].Resync = &control.Resync{Percent: 12, Paused: true}
		}, []string{"warning not-in-sync", "danger one-copy"}, false},
		{"a disk that failed", func(c *Cluster) { leave(c, "n2"); c.facts("n2").Replicas[0].DiskState = control.DiskFailed }, []string{"danger disk-failed", "danger one-copy"}, false},
		{"a replica that is not open", func(c *Cluster) {
			c.facts("n2").Replicas[0].Open, c.facts("n2").Replicas[0].DiskState = false, control.DiskDiskless
		}, []string{"danger disk-failed", "danger one-copy"}, false},
		{"a replica that diverged", func(c *Cluster) { leave(c, "n2"); r0(c).Replicas[1].Divergence = &control.Divergence{} }, []string{"danger diverged"}, false},
		{"an unclean replica", func(c *Cluster) { c.facts("n2").Replicas[0].Unclean = true }, []string{"warning not-in-sync", "danger loss"}, false},
		{"one replica", func(c *Cluster) {
			r0(c).Replicas, r0(c).InSync = r0(c).Replicas[:1], []string{"n1"}
		}, []string{"danger one-copy", "danger loss"}, true},
		{"failover is paused", func(c *Cluster) { r0(c).Policy.Paused = true }, []string{"warning failover-off", "warning loss"}, true},
		{"failover is manual", func(c *Cluster) { r0(c).Policy.Failover = "manual" }, []string{"warning failover-off", "warning loss"}, true},
		{"fencing is manual", func(c *Cluster) { r0(c).Policy.Fencing = "manual" }, []string{"warning loss"}, true},
		{"held, without a primary", func(c *Cluster) { r0(c).Policy.Held, r0(c).Primary = true, "" }, []string{"danger no-primary", "danger loss"}, false},
		{"frozen", func(c *Cluster) { r0(c).IO = control.IO{State: control.IOFrozen, Reason: "no quorum"} }, []string{"danger not-serving"}, true},
		{"no quorum", func(c *Cluster) { c.Status.Ledger = control.Ledger{}; lose(c, "n2"); lose(c, "w") }, []string{"danger no-quorum", "danger node-silent"}, false},
		{"a ledger that met another one", func(c *Cluster) { c.Status.Ledger.Problem = "two ledgers" }, []string{"danger no-quorum"}, true},
		{"the leader is the primary", func(c *Cluster) { c.Status.Ledger.Leader = "n1" }, []string{"note leader-on-primary"}, true},
		{"no watchdog", func(c *Cluster) { c.facts("n1").Watchdog = "" }, []string{"note no-watchdog"}, true},
		{"nobody starts it again", func(c *Cluster) { c.facts("n1").Supervisor = "" }, []string{"note not-supervised"}, true},
		{"a volatile cache", func(c *Cluster) { data(c, "n1").WriteCache = control.CacheVolatile }, []string{"note volatile-cache"}, true},
		{"a cache that is not known", func(c *Cluster) { data(c, "n1").WriteCache = "" }, []string{"note volatile-cache"}, true},
		{"in memory", func(c *Cluster) { data(c, "n1").InMemory = true }, []string{"danger in-memory"}, true},
		{"a clock that is off", func(c *Cluster) { c.facts("n1").Peers[0].ClockAhead = -3 * time.Second }, []string{"warning clock-drift"}, true},
		{"a clock that is a little off", func(c *Cluster) { c.facts("n1").Peers[0].ClockAhead = 400 * time.Millisecond }, []string{"note clock-drift"}, true},
		{"a clock of which little is known", func(c *Cluster) {
			c.facts("n1").Peers[0].ClockAhead, c.facts("n1").Peers[0].ClockError = 400*time.Millisecond, 400*time.Millisecond
		}, nil, true},
		{"a long way", func(c *Cluster) { c.facts("n1").Peers[0].RTT = 90 * time.Millisecond }, []string{"warning slow-link"}, true},
		{"timings that differ", func(c *Cluster) { c.facts("n2").Timing.Lease = time.Second }, []string{"warning timing-differs"}, true},
		{"versions that differ", func(c *Cluster) { c.facts("n2").Version = "v2" }, []string{"warning version-mismatch"}, true},
		{"ledger and replica on one disk", func(c *Cluster) { c.facts("n1").DataDir.Disks = []string{"nvme0n1"} }, []string{"note data-dir-on-replica-disk"}, true},
		{"little space", func(c *Cluster) { data(c, "n1").MissBytes = 3 << 30 }, []string{"warning little-space"}, true},
		{"hardly any space", func(c *Cluster) { data(c, "n1").FreeBytes = 100 << 20 }, []string{"danger little-space"}, true},
		{"a node without a vote", func(c *Cluster) { c.Status.Nodes[2].Voter = false }, []string{"warning few-voters", "warning loss"}, true},
		{"a certificate that is due and has time", func(c *Cluster) {
			c.facts("n2").Certificate.Due, c.facts("n2").Certificate.Left = true, 20*day
		}, []string{"warning certificate-ends"}, true},
		{"a certificate that ends this week", func(c *Cluster) {
			c.facts("n2").Certificate.Due, c.facts("n2").Certificate.Left = true, 7*day
		}, []string{"danger certificate-ends"}, true},
		{"a short certificate that is not due", func(c *Cluster) { c.facts("n2").Certificate.Left = day }, nil, true},
		{"a certificate that has ended", func(c *Cluster) {
			c.facts("w").Certificate.Due, c.facts("w").Certificate.Left = true, -time.Second
		}, []string{"danger certificate-ends"}, true},
		{"an authority that ends this year", func(c *Cluster) { c.facts("n1").Certificate.AuthorityLeft = 179 * day }, []string{"warning authority-ends"}, true},
		{"an authority that ends this month, for one node", func(c *Cluster) { c.facts("w").Certificate.AuthorityLeft = 29 * day }, []string{"danger authority-ends"}, true},
		{"the authority's key is kept away", func(c *Cluster) { c.facts("n1").Certificate.Signs = false }, []string{"note nobody-signs"}, true},
		{"the node with the authority's key is silent", func(c *Cluster) { lose(c, "n1") }, []string{"danger node-silent", "note nobody-signs"}, false},
		{"a shared key", func(c *Cluster) {
			for _, n := range c.Nodes {
				n.Facts.Certificate = nil
			}
		}, nil, true},
		{"services that can start anywhere", func(c *Cluster) { serve(c, control.ServiceFacts{Name: "mount /srv", Kind: "mount"}) }, nil, true},
		{"a unit that starts at boot, too", func(c *Cluster) {
			serve(c, control.ServiceFacts{Name: "unit db.service", Kind: "unit"})
			c.facts("n2").Replicas[0].Services[0].AtBoot = true
		}, []string{"warning service-at-boot"}, true},
		{"an address of no network", func(c *Cluster) {
			serve(c, control.ServiceFacts{Name: "vip 10.0.0.10/24", Kind: "vip"})
			c.facts("n2").Replicas[0].Services[0].Problem = "no interface has an address of its network"
		}, []string{"warning service-unfit"}, true},
		{"a mount without a watchdog", func(c *Cluster) {
			serve(c, control.ServiceFacts{Name: "mount /srv", Kind: "mount"})
			c.facts("n2").Watchdog = ""
		}, []string{"note no-watchdog", "warning mount-unguarded"}, true},
		{"a mount without a watchdog, with a fence", func(c *Cluster) {
			serve(c, control.ServiceFacts{Name: "mount /srv", Kind: "mount"})
			c.facts("n2").Watchdog, r0(c).Policy.Fencing = "", "stonith"
		}, []string{"note no-watchdog"}, true},
		{"an address needs no watchdog", func(c *Cluster) {
			serve(c, control.ServiceFacts{Name: "vip 10.0.0.10/24", Kind: "vip"})
			c.facts("n1").Watchdog = ""
		}, []string{"note no-watchdog"}, true},
		{"services failed on the primary", func(c *Cluster) { r0(c).Replicas[0].ServicesFailed = "vip: no" }, []string{"danger services-failed"}, true},
		{"services failed elsewhere", func(c *Cluster) { r0(c).Replicas[1].ServicesFailed = "vip: no" }, []string{"warning services-failed"}, true},
		{"disconnected", func(c *Cluster) { r0(c).Replicas[1].Connection = control.ConnDisconnected }, []string{"warning disconnected"}, true},
	} {
		c := good()
		tc.harm(c)
		rep := Examine(c)
		var got []string
		worst := OK
		for _, f := range rep.Findings {
			if !slices.Contains(Codes(), f.Code) {
				t.Errorf("%s: code %s is not listed", tc.name, f.Code)
			}
			if f.Severity == OK {
				continue
			}
			got = append(got, string(f.Severity)+" "+f.Code)
			if f.Severity.AtLeast(worst) {
				worst = f.Severity
			}
			if f.What == "" || f.Subject == "" {
				t.Errorf("%s: says nothing: %+v", tc.name, f)
			}
		}
		for _, w := range tc.want {
			if !slices.Contains(got, w) {
				t.Errorf("%s: %s is not among %v", tc.name, w, got)
			}
		}
		for _, g := range got {
			if tc.only && !slices.Contains(tc.want, g) {
				t.Errorf("%s: also finds %s", tc.name, g)
			}
		}
		if rep.Worst != worst || worst != OK && !strings.HasPrefix(got[0], string(worst)) {
			t.Errorf("%s: worst %s, want %s, first", tc.name, rep.Worst, worst)
		}
	}
}

func TestExamine_WhatIsAcceptedIsShownAndNotCounted(t *testing.T) {
	c := good()
	c.Status.Resources[0].Policy.Failover = "manual"
	r := Examine(c, codeFailover, codeLoss)
	if r.Worst != OK {
		t.Errorf("worst %s", r.Worst)
	}
	n := 0
	for _, f := range r.Findings {
		if f.Accepted {
			n++
		}
	}
	if n != 2 {
		t.Errorf("%d findings are accepted", n)
	}
}

func TestLose_SaysWhoGoesOnAndWhyNot(t *testing.T) {
	third := func(c *Cluster) {
		r := &c.Status.Resources[0]
		r.Replicas = append(r.Replicas, control.Replica{Node: "w", InSync: true, Priority: 5})
		r.InSync = append(r.InSync, "w")
		c.facts("w").Replicas = []control.ReplicaFacts{{Resource: "r0", Open: true, DiskState: control.DiskUpToDate}}
	}
	for _, tc := range []struct {
		name    string
		harm    func(c *Cluster)
		lost    []string
		goesOn  bool
		sev     Severity
		primary string
		copies  int
		says    string
	}{
		{"the primary", func(*Cluster) {}, []string{"n1"}, true, OK, "n2", 1, "after the lease of n1, 300ms"},
		{"the secondary", func(*Cluster) {}, []string{"n2"}, true, OK, "n1", 1, "n1 alone holds the data then"},
		{"the witness", func(*Cluster) {}, []string{"w"}, true, OK, "n1", 2, "as it is"},
		{"both", func(*Cluster) {}, []string{"n1", "n2"}, false, Danger, "", 0, "gone at once: n1 and n2"},
		{"the primary and the witness", func(*Cluster) {}, []string{"n1", "w"}, false, Warning, "", 1, "1 of 3 voters"},
		{"the primary, with a fence", func(c *Cluster) { c.Status.Resources[0].Policy.Fencing = "stonith" }, []string{"n1"}, true, OK, "n2", 1, "n2 has turned n1 off"},
		{"the primary, whose only fence is lost, too", func(c *Cluster) {
			c.Status.Resources[0].Policy.Fencing = "stonith"
			c.facts("n2").Fences = nil
		}, []string{"n1", "w"}, false, Warning, "", 1, "no majority"},
		{"the primary of a pair that can turn each other off", pair, []string{"n1"}, true, OK, "n2", 1, "after it has turned n1 off, and goes on alone"},
		{"the secondary of a pair that can turn each other off", pair, []string{"n2"}, true, OK, "n1", 1, "n1 goes on alone after it has turned n2 off"},
		{"the primary of a pair with a fence, failover paused", func(c *Cluster) { pair(c); c.Status.Resources[0].Policy.Paused = true }, []string{"n1"}, false, Warning, "", 1, "no majority"},
		{"both of a pair", pair, []string{"n1", "n2"}, false, Danger, "", 0, "gone at once"},
		{"the primary of three, priorities decide", third, []string{"n1"}, true, OK, "w", 2, "w is promoted"},
		{"the primary, the other one is unclean and the third silent", func(c *Cluster) {
			third(c)
			c.facts("n2").Replicas[0].Unclean = true
			lose(c, "w")
		}, []string{"n1"}, false, Danger, "", 0, "no other replica that answers"},
		{"the witness of a cluster that has lost the secondary", func(c *Cluster) { leave(c, "n2"); lose(c, "n2") }, []string{"w"}, true, Note, "n1", 1, "another loss would stop it"},
	} {
		c := good()
		tc.harm(c)
		l := c.Lose(&c.Status.Resources[0], tc.lost...)
		if l.GoesOn != tc.goesOn || l.Severity != tc.sev || l.Primary != tc.primary || l.Copies != tc.copies || !strings.Contains(l.Because, tc.says) {
			t.Errorf("%s: %+v", tc.name, l)
		}
	}
}

// asks is a cluster of which n2 does not answer.
type asks struct {
	node   string
	status error
}

func (a asks) Status(context.Context, string) (control.Status, error) {
	return good().Status, a.status
}

func (a asks) Facts(context.Context) (control.Facts, error) {
	if a.node == "n2" {
		return control.Facts{}, errors.New("refused")
	}
	return control.Facts{Node: a.node}, nil
}

func TestGather_ASilentNodeIsPartOfTheResult(t *testing.T) {
	c, err := Gather(t.Context(), asks{}, func(node string) Asker { return asks{node: node} })
	if err != nil {
		t.Fatal(err)
	}
	if c.facts("n1") == nil || c.facts("w").Node != "w" || c.facts("n2") != nil || c.node("n2").Silent != "refused" {
		t.Errorf("%+v", c.Nodes)
	}
	down := errors.New("down")
	if _, err := Gather(t.Context(), asks{status: down}, nil); !errors.Is(err, down) {
		t.Errorf("%v", err)
	}
}
