package sim

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lockstep-ha/lockstep/internal/store"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/quorum/voter"
	"github.com/lockstep-ha/lockstep/replication"
)

// operatorCommands are what people do, and what they do to the ledger.
var operatorCommands = map[string]func(*scene, *command){
	"promote":    (*scene).promote,
	"switchover": (*scene).switchover,
	"flip": func(s *scene, c *command) { // the role goes to whoever has it not
		to := "n1"
		if s.w.truth.Primary.Node == to {
			to = "n2"
		}
		s.rest(nil)
		s.switchover(parseCall([]string{"switchover", to}))
	},
	"demote": func(s *scene, _ *command) {
		s.w.demote()
		s.run(500 * time.Millisecond)
	},
	"stop-serving": func(s *scene, c *command) { // the primary ends its role, without a hold
		s.host(c.word()).proc.step(&replication.Event{Kind: replication.EvStop})
	},
	"force":        (*scene).force,
	"confirm-down": (*scene).confirmDown,
	"discard": func(s *scene, c *command) {
		s.host(c.word()).proc.step(&replication.Event{Kind: replication.EvDiscard})
	},
	"invalidate": func(s *scene, c *command) {
		s.w.invalidate(s.host(c.word()))
		s.run(100 * time.Millisecond)
	},
	"hold-resync": func(s *scene, c *command) {
		s.host(c.word()).proc.step(&replication.Event{Kind: replication.EvPause})
	},
	"resume-resync": func(s *scene, c *command) {
		s.host(c.word()).proc.step(&replication.Event{Kind: replication.EvResume})
	},
	"verify":  (*scene).verify,
	"replace": (*scene).replace,
	"snapshot": func(s *scene, c *command) {
		h := s.host(c.word())
		h.snapshot, h.snapMeta = h.disk.Clone(), h.meta.Clone()
	},
	"restore":    (*scene).restoreDisk,
	"disconnect": func(s *scene, c *command) { l := s.linkOf(c); l.off = true; l.breakLink("an operator disconnects") },
	"connect":    func(s *scene, c *command) { s.linkOf(c).off = false },
	"lease":      (*scene).lease,
	"reinstall":  func(s *scene, c *command) { s.host(c.word()).ledger = &ledgerDisk{mem: voter.NewMemory()} },
	"draft":      (*scene).draft,
	"submit":     (*scene).submit,
	"lead":       (*scene).lead,
	"ledger-lag": func(s *scene, c *command) { s.w.Config.LedgerLag = c.duration(c.word()) },
	"open-incarnation": func(s *scene, c *command) {
		p := s.host(c.word()).proc
		s.w.illegal = "somebody rewrites the voters by hand"
		if err := p.voter.OpenIncarnation("somebody rewrites the voters"); err != nil {
			s.say("open an incarnation on %s: %v", p.h.name, err)
		}
		p.ready()
	},
	"ledger": (*scene).showLedger,
}

// draft is a ledger command that was made at one time and may be submitted at another.
type draft struct{ quorum.Command }

// submitted proposes a command through a host and prints what the ledger answers.
func (s *scene) submitted(what string, h *Host, cmd quorum.Command) {
	if h.proc == nil {
		s.say("%s: %s has no daemon", what, h.name)
		return
	}
	var res quorum.Result
	var err error
	ended := false
	if h.proc.command(cmd, func(r quorum.Result, e error) { res, err, ended = r, e, true }) == nil {
		s.say("%s: not proposed", what)
		return
	}
	s.await(3*time.Second, func() bool { return ended })
	switch {
	case !ended:
		s.say("%s: no answer", what)
	case err != nil:
		s.say("%s: %v", what, err)
	case res.Code == quorum.Applied:
		s.say("%s: applied", what)
	default:
		s.say("%s: refused: %s", what, s.sentinel(res.Err()))
	}
}

// sentinel returns the error that says why, without ids and versions.
func (s *scene) sentinel(err error) string {
	for e := err; e != nil; e = errors.Unwrap(e) {
		err = e
	}
	return err.Error()
}

// rec is the record as a host knows it.
func (s *scene) rec(h *Host) *quorum.Resource {
	if h.proc != nil {
		if r := h.proc.ledgerRecord(); r != nil {
			return r
		}
	}
	return s.w.truth
}

// promote asks the ledger to make a host primary. Unless in haste, what the daemon asks is asked first.
func (s *scene) promote(c *command) {
	haste := c.flag("haste")
	h := s.host(c.word())
	what := "promote " + h.name
	p := h.proc
	if p == nil || p.core == nil {
		s.say("%s: %s", what, s.describeHost(h))
		return
	}
	if !haste && !s.w.fit(h) {
		s.say("%s: not fit: %s", what, s.describeHost(h))
		return
	}
	s.submitted(what, h, s.promotion(h))
}

func (s *scene) promotion(h *Host) quorum.Command {
	rec := s.rec(h)
	cmd := quorum.On(rec)
	epoch := rec.Epoch
	for _, o := range s.w.hosts {
		if o.proc != nil && o.proc.core != nil {
			epoch = max(epoch, o.proc.core.Status(o.clock()).Epoch)
		}
	}
	cmd.Promote = &quorum.Promote{Candidate: h.proc.self(), NewEpoch: epoch + 1, Generation: s.w.net.Uint64() | 1,
		TakeOver: !rec.Primary.None(), Operator: true}
	return cmd
}

func (s *scene) switchover(c *command) {
	h := s.host(c.word())
	if !s.w.fit(h) {
		s.say("switchover to %s: not fit: %s", h.name, s.describeHost(h))
		return
	}
	if p := s.server(); p != nil {
		p.step(&replication.Event{Kind: replication.EvStop})
	}
	asked := time.Duration(0)
	ok := s.await(5*time.Second, func() bool {
		if s.w.truth.Primary.None() && s.w.now > asked { // before the coordinator takes somebody else
			asked = s.w.now + 200*time.Millisecond
			s.w.promote(h, false)
		}
		return h.proc != nil && h.proc.core.Serving()
	})
	if !ok {
		s.say("switchover to %s: it does not serve", h.name)
	}
}

// force turns the other data nodes off and promotes a host whatever it holds.
func (s *scene) force(c *command) {
	h := s.host(c.word())
	s.w.force(h)
	ok := s.await(3*time.Second, func() bool { return h.proc != nil && h.proc.core.Serving() })
	if ok {
		s.say("force %s: it serves", h.name)
	} else {
		s.say("force %s: it does not serve", h.name)
	}
}

// confirmDown is the operator's word in a pair without a witness.
func (s *scene) confirmDown(c *command) {
	h := s.host(c.word())
	peer := s.host(c.key("peer", ""))
	s.run(2 * time.Second) // the quorum is lost first
	s.looked = s.w.log.added
	s.w.confirmPeerDown(h, peer)
	s.run(2 * time.Second)
	s.showLog(parseCall([]string{"log", h.name, "match=alone"}))
}

func (s *scene) verify(c *command) {
	p := s.w.serving()
	peer := s.host(c.word())
	ev := &replication.Event{Kind: replication.EvVerify, Peer: p.peer(peer), Repair: c.flag("repair")}
	p.step(ev)
	s.await(30*time.Second, func() bool {
		v := p.core.Status(p.h.clock()).Verify
		return v != nil && !v.Running
	})
	v := p.core.Status(p.h.clock()).Verify
	text := fmt.Sprintf("verify %s: %d blocks differ", peer.name, v.Mismatches)
	if v.Repaired {
		text += ", repaired"
		clear(s.w.rots) // what is left of it the comparison at the end finds
	}
	if v.Err != "" {
		text += ": " + v.Err
	}
	s.say("%s", text)
}

// replace gives a host a new, empty disk; its daemon is down meanwhile.
func (s *scene) replace(c *command) {
	state := store.Inconsistent
	if c.flag("UpToDate") { // made as for a new resource
		state = store.UpToDate
	}
	h := s.host(c.word())
	h.kill()
	h.crash()
	h.newReplica(state, s.w.peersOf(h))
	s.w.hurt[h.index] = false
}

// restoreDisk puts a disk back to its snapshot, metadata and all.
func (s *scene) restoreDisk(c *command) {
	h := s.host(c.word())
	h.kill()
	h.disk.Restore(h.snapshot)
	if !c.flag("data-only") {
		h.meta = h.snapMeta.Clone()
	}
	h.epoch = 0
}

// lease changes the policy's lease, by way of any host.
func (s *scene) lease(c *command) {
	d := c.duration(c.word())
	h := s.host(c.key("through", "w"))
	rec := s.rec(h)
	cmd := quorum.On(rec)
	policy := rec.Policy
	policy.Lease = quorum.Duration(d)
	cmd.SetPolicy = &quorum.SetPolicy{Policy: policy}
	s.submitted("lease "+d.String(), h, cmd)
}

// draft makes a command on the record as it is now: what a proposer sent, and what then got stuck.
func (s *scene) draft(c *command) {
	kind, name := c.word(), c.key("as", "")
	rec := s.w.truth
	cmd := quorum.On(rec)
	switch kind {
	case "join":
		h := s.host(c.word())
		cmd.JoinReplica = &quorum.JoinReplica{Incumbent: rec.Primary, Node: h.name, Instance: h.instance}
	case "drop":
		cmd.DropReplica = &quorum.DropReplica{Incumbent: rec.Primary, Nodes: strings.Split(c.word(), ","), Generation: s.w.net.Uint64() | 1}
	case "stepdown":
		cmd.StepDown = &quorum.StepDown{Incumbent: rec.Primary}
	case "promote":
		cmd = s.promotion(s.host(c.word()))
	case "fence": // a confirmation for the fence of a boot that may be over by then
		h := s.host(c.word())
		cmd = quorum.Command{Version: s.w.state.Version, FenceRequested: &quorum.FenceRequested{Target: h.name, Boot: h.bootID(),
			Executor: c.key("by", "w"), ID: 99}}
	case "fenced":
		h := s.host(c.word())
		cmd = quorum.Command{Version: s.w.state.Version, FenceConfirmed: &quorum.FenceConfirmed{Target: h.name, Boot: h.bootID(), ID: 99, Proof: "off"}}
	default:
		panic(badCall("no such draft: " + kind))
	}
	if now := c.key("incumbent", ""); now != "" { // who claims to be primary
		who := s.host(now).proc.self()
		if cmd.JoinReplica != nil {
			cmd.JoinReplica.Incumbent = who
		} else {
			cmd.DropReplica.Incumbent = who
		}
	}
	s.drafts[name] = draft{cmd}
}

func (s *scene) submit(c *command) {
	name := c.word()
	cmd := s.drafts[name].Command
	if c.flag("refreshed") { // made again for the version of today
		cmd.Version = s.w.truth.Version
		if cmd.Resource == "" {
			cmd.Version = s.w.state.Version
		}
	}
	s.submitted(name, s.host(c.key("through", "w")), cmd)
}

// lead hands the lead of the ledger to a host.
func (s *scene) lead(c *command) {
	if to := s.host(c.word()); !s.leads(to) {
		s.say("%s does not lead the ledger", to.name)
	}
}

// leads has a host lead the ledger.
func (s *scene) leads(to *Host) bool {
	for range 20 {
		for _, h := range s.w.hosts {
			if p := h.proc; p != nil && p.voter.Leads() && h != to {
				p.voter.Transfer(s.w.state.Node(to.name).VoterID)
				p.ready()
			}
		}
		s.run(100 * time.Millisecond)
		if to.proc.voter.Leads() {
			return true
		}
	}
	return false
}

// showLedger prints how a host's voter stands.
func (s *scene) showLedger(c *command) {
	h := s.host(c.word())
	if h.proc == nil {
		s.say("ledger of %s: %s", h.name, s.describeHost(h))
		return
	}
	st := h.proc.voter.Status()
	text := "no quorum"
	if h.proc.voter.Quorate() {
		text = "quorum"
	}
	if st.Problem != "" {
		why, _, _ := strings.Cut(st.Problem, ":") // what follows holds ids
		text += ", " + why
	}
	s.say("ledger of %s: %s", h.name, text)
}
