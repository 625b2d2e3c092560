package quorum

import (
	"errors"
	"testing"
)

// script applies commands one after the other and knows the record they are bound to.
type script struct {
	testing.TB
	s       *State
	nextGen uint64
}

var gib = int64(1 << 30)

func newScript(t testing.TB, nodes ...string) *script {
	return &script{TB: t, s: mustGenesis(nodes...), nextGen: 1000}
}

// mustGenesis is a cluster without resources; the node named W is a witness.
func mustGenesis(nodes ...string) *State {
	var all []Node
	for i, n := range nodes {
		all = append(all, Node{Name: n, VoterID: uint64(100 + i), Addr: n + ":7700", Witness: n == "W"})
	}
	s, err := Genesis("c", Incarnation{Counter: 1, ID: 7}, all)
	if err != nil {
		panic(err)
	}
	return s
}

func (x *script) gen() uint64 { x.nextGen++; return x.nextGen }

func (x *script) apply(c Command) Result {
	x.Helper()
	next, res := Apply(x.s, c)
	if err := next.Check(); err != nil {
		x.Fatalf("%s left an invalid state: %v", &c, err)
	}
	x.s = next
	return res
}

func (x *script) must(c Command) *Resource {
	x.Helper()
	res := x.apply(c)
	if err := res.Err(); err != nil {
		x.Fatalf("%s: %v", &c, err)
	}
	return res.Resource
}

func (x *script) refused(c Command, want error) {
	x.Helper()
	before := x.s
	res := x.apply(c)
	if !errors.Is(res.Err(), want) {
		x.Fatalf("%s: %v, want %v", &c, res.Err(), want)
	}
	if x.s != before {
		x.Fatalf("%s: refused, but it changed the state", &c)
	}
	if res.Reason == "" {
		x.Fatalf("%s: refused without a sentence", &c)
	}
}

func (x *script) r0() *Resource {
	x.Helper()
	r := x.s.Find("r0")
	if r == nil {
		x.Fatal("r0 is not there")
	}
	return r
}

// on binds a command to r0 as it stands.
func (x *script) on(set func(c *Command)) Command {
	x.Helper()
	c := On(x.r0())
	set(&c)
	return c
}

func (x *script) createCmd(source string, nodes ...string) Command {
	p := &CreateResource{SizeBytes: gib, Source: source}
	for _, n := range nodes {
		p.Replicas = append(p.Replicas, NewReplica{Node: n, DataPath: "/data/" + n})
	}
	return Command{Resource: "r0", ResourceID: 55, Version: x.s.Version, CreateResource: p}
}

// instanceOf is the replica instance that a test gives to a node.
func instanceOf(node string) uint64 { return uint64(node[0]) }

func inc(node string, process uint64) Incumbent {
	return Incumbent{Node: node, Instance: instanceOf(node), Boot: "boot-" + node, Process: process}
}

func (x *script) register(node string, instance uint64) Command {
	return x.on(func(c *Command) { c.RegisterReplica = &RegisterReplica{Node: node, Instance: instance} })
}

func (x *script) promote(who Incumbent) Command {
	return x.on(func(c *Command) {
		c.Promote = &Promote{Candidate: who, NewEpoch: c.Epoch + 1, Generation: x.gen(), TakeOver: !x.r0().Primary.None()}
	})
}

func (x *script) drop(nodes ...string) Command {
	return x.on(func(c *Command) {
		c.DropReplica = &DropReplica{Incumbent: x.r0().Primary, Nodes: nodes, Generation: x.gen()}
	})
}

func (x *script) join(node string) Command {
	return x.on(func(c *Command) {
		c.JoinReplica = &JoinReplica{Incumbent: x.r0().Primary, Node: node, Instance: instanceOf(node)}
	})
}

func (x *script) stepDown(d StepDown) Command {
	return x.on(func(c *Command) { d.Incumbent = x.r0().Primary; c.StepDown = &d })
}

func (x *script) noOp() Command { return x.on(func(c *Command) { c.NoOp = &NoOp{} }) }

// started is a cluster whose r0 has the given data nodes, all in the set, the first one primary
// of epoch 1.
func started(t testing.TB, dataNodes ...string) *script {
	t.Helper()
	x := newScript(t, append([]string{"W"}, dataNodes...)...)
	x.must(x.createCmd("", dataNodes...))
	for _, n := range dataNodes {
		x.must(x.register(n, instanceOf(n)))
	}
	x.must(x.promote(inc(dataNodes[0], 1)))
	return x
}

// force proposes who as the only member, with a replica that holds the history up to fork.
func (x *script) force(who Incumbent, fork uint64, down ...DownProof) Command {
	return x.on(func(c *Command) {
		c.ForcePromote = &ForcePromote{Candidate: who, NewEpoch: c.Epoch + 1, Generation: x.gen(), Fork: fork, Down: down}
	})
}

// word is an operator's statement that node is down.
func word(node string) DownProof {
	return DownProof{Node: node, Operator: true, Text: "I unplugged " + node}
}

// shot is a reference to the fence of node in the boot that tests give it.
func shot(node string) DownProof { return DownProof{Node: node, Boot: "boot-" + node} }

func (x *script) request(target, executor string, id uint64) Command {
	return Command{Version: x.s.Version, FenceRequested: &FenceRequested{Target: target, Boot: "boot-" + target, Executor: executor, ID: id}}
}

func (x *script) confirm(target string, id uint64) Command {
	return Command{Version: x.s.Version, FenceConfirmed: &FenceConfirmed{Target: target, Boot: "boot-" + target, ID: id, Proof: "status: off"}}
}

func (x *script) miss(target string, id uint64) Command {
	return Command{Version: x.s.Version, FenceFailed: &FenceFailed{Target: target, Boot: "boot-" + target, ID: id, Text: "timed out"}}
}

func (x *script) startedCmd(node, boot string, process uint64) Command {
	return Command{Version: x.s.Version, NodeStarted: &NodeStarted{Node: node, Boot: boot, Process: process}}
}

// fence turns target off for good.
func (x *script) fence(target string, id uint64) {
	x.Helper()
	x.must(x.request(target, "W", id))
	x.must(x.confirm(target, id))
}

func (x *script) setPolicy(p Policy) {
	x.Helper()
	x.must(x.on(func(c *Command) { c.SetPolicy = &SetPolicy{Policy: p} }))
}
