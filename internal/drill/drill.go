package drill

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/doctor"
	"github.com/lockstep-ha/lockstep/internal/pki"
)

// Config of a drill.
type Config struct {
	Client *control.Client                   // the node that is asked
	On     func(node string) *control.Client // has another one carry a call out
	// Carrier strikes nodes.
	Carrier Carrier
	// Like is the resource whose nodes, directories and policy the scratch resource gets. "": the only one.
	Like string
	// Live: Like itself is drilled, by switchovers alone, and only read.
	Live       bool
	Events     []Event       // in the order in which they are drilled
	MaxPause   time.Duration // beyond it an event has not passed
	AllowFence bool          // nodes may be turned off or reset for real
	// Say hears of the progress; nil: nobody does.
	Say func(format string, args ...any)
}

// drill is one under way.
type drill struct {
	cfg  *Config
	plan *Plan
	name string // of the resource under load
	load *load
}

func (d *drill) say(format string, args ...any) {
	if d.cfg.Say != nil {
		d.cfg.Say(format, args...)
	}
}

// Prepare looks at the cluster and says what would be done. The error lists everything that speaks against it.
func Prepare(ctx context.Context, cfg *Config) (*Plan, error) {
	c, err := doctor.Gather(ctx, cfg.Client, func(node string) doctor.Asker { return cfg.On(node) })
	if err != nil {
		return nil, err
	}
	plan, against := preflight(cfg, c)
	if plan != nil {
		plan.hosts = hosts(c)
	}
	if len(against) == 0 {
		if _, err := endpoints(ctx, cfg, plan); err != nil {
			against = append(against, err.Error())
		}
	}
	if len(against) > 0 {
		return nil, control.Errorf(control.CodeRefused, "the cluster could not take this drill; nothing was done:\n%s", strings.Join(against, "\n")).
			WithHint("lockstep doctor").WithSafety(control.SafetyYes)
	}
	return plan, nil
}

// Run carries plan out. The report tells what came of it, even of a drill that ended early. An error means that
// it did not begin.
func Run(ctx context.Context, cfg *Config, plan *Plan) (Report, error) {
	d := &drill{cfg: cfg, plan: plan, name: plan.Like}
	rep := Report{Like: plan.Like, Scratch: !plan.Live, Results: []Result{}}
	at, err := endpoints(ctx, cfg, plan)
	if err != nil {
		return rep, err
	}
	if !plan.Live {
		if err = d.makeScratch(ctx); err != nil {
			if left := d.removeScratch(context.WithoutCancel(ctx)); left != nil {
				rep.Leftover = d.leftover(left)
			}
			return rep, err
		}
	}
	rep.Resource = d.name
	d.load = &load{endpoints: at, export: d.name, run: randomRun(), readOnly: plan.Live, cells: make([]cell, scratchBytes/blockSize), meter: &meter{}}
	if err := d.events(ctx, &rep); err != nil {
		rep.Problem = err.Error()
	} else if !plan.Live {
		if rep.Differences, err = d.compare(ctx); err != nil {
			rep.Problem = err.Error()
		}
	}
	if !plan.Live {
		if err := d.removeScratch(context.WithoutCancel(ctx)); err != nil {
			rep.Leftover = d.leftover(err)
		}
	}
	rep.finish()
	return rep, nil
}

func randomRun() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.BigEndian.Uint64(b[:]) | 1
}

// endpoints finds out where each node serves NBD, and that it can be reached from here.
func endpoints(ctx context.Context, cfg *Config, plan *Plan) ([]endpoint, error) {
	var all []control.NBD
	for _, node := range plan.Nodes {
		st, err := cfg.On(node).Status(ctx, plan.Like)
		if err != nil {
			return nil, err
		}
		n := st.Resources[0].NBD
		n.TCP = dialable(n.TCP, plan.hosts[node])
		all = append(all, n)
	}
	id := sync.OnceValues(func() (*pki.Identity, error) { return certified(ctx, cfg.Client) })
	var out []endpoint
	for i, node := range plan.Nodes {
		// Nodes on hosts of their own may have sockets of the same path, and only that of the asked one is here.
		same := func(n control.NBD) bool { return n.Unix == all[i].Unix }
		here := node == plan.asked || slices.IndexFunc(all, same) == i && !slices.ContainsFunc(all[i+1:], same)
		e, err := reach(ctx, node, all[i], here, id)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// hosts returns where nodes are reached, as the others know it.
func hosts(c *doctor.Cluster) map[string]string {
	out := map[string]string{}
	for _, n := range c.Nodes {
		if n.Facts == nil {
			continue
		}
		for _, p := range n.Facts.Peers {
			if h, _, err := net.SplitHostPort(p.Addr); err == nil {
				out[p.Node] = h
			}
		}
	}
	return out
}

// dialable returns addr, where a node listens, as others dial it: a listener on every address of its host is
// reached at host.
func dialable(addr, host string) string {
	h, port, err := net.SplitHostPort(addr)
	if ip := net.ParseIP(h); err == nil && host != "" && ip != nil && ip.IsUnspecified() {
		return net.JoinHostPort(host, port)
	}
	return addr
}

// certifier is what certified needs of a *control.Client.
type certifier interface {
	ClientCert(ctx context.Context, req control.CertRequest) (control.CertGrant, error)
}

// certified has a client of NBD over TLS certified. Its key is in this process alone.
func certified(ctx context.Context, c certifier) (*pki.Identity, error) {
	const name = "drill"
	csr, key, err := pki.NewCSR(name, rand.Reader)
	if err != nil {
		return nil, err
	}
	g, err := c.ClientCert(ctx, control.CertRequest{Name: name, CSR: csr})
	if err != nil {
		return nil, fmt.Errorf("NBD over TCP has TLS, and the drill has no certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(g.Certificate)
	if err != nil {
		return nil, err
	}
	bundle, err := pki.ParseBundle(g.Bundle)
	if err != nil {
		return nil, err
	}
	return pki.Hold(pki.Credentials{Cert: cert, Key: key}, bundle, time.Now)
}

// reach returns the first way to the NBD server of a node that works: its unix socket, if it may be here, or TCP.
func reach(ctx context.Context, node string, n control.NBD, here bool, id func() (*pki.Identity, error)) (endpoint, error) {
	var errs []error
	for _, e := range []endpoint{{node: node, network: "unix", addr: n.Unix}, {node: node, network: "tcp", addr: n.TCP}} {
		if e.addr == "" || e.network == "unix" && !here {
			continue
		}
		if e.network == "tcp" && n.TLS != "" {
			i, err := id()
			if err != nil {
				errs = append(errs, err)
				continue
			}
			e.tls = i.ClientConfig(pki.KindNBD, node)
		}
		c, err := connect(ctx, e, "")
		if err == nil {
			c.close()
			return e, nil
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		errs = append(errs, errors.New("it has no TCP address"))
	}
	return endpoint{}, fmt.Errorf("the NBD server of %s is not reached from here (%w): set nbd_listen in its node file", node, errors.Join(errs...))
}

// events drills one event after the other.
func (d *drill) events(ctx context.Context, rep *Report) error {
	primary, err := d.settle(ctx)
	if err != nil {
		return fmt.Errorf("the cluster is not ready: %w", err)
	}
	for _, e := range d.cfg.Events {
		rounds := 1
		if e == Switchover {
			rounds = 2 // there and back
		}
		for range rounds {
			res, err := d.event(ctx, e, primary)
			if err != nil {
				return err
			}
			rep.Results = append(rep.Results, res)
			if !res.Passed && (res.Problem != "" || res.Mismatches > 0) {
				return nil // what is broken is left for people to look at
			}
			primary = res.Primary
		}
	}
	return nil
}

// warm is how many requests have to be answered before an event, and after it.
const (
	warm       = 50
	warmWithin = 30 * time.Second
)

// event drills one event on a cluster that is whole, and whose primary is primary. An error means that the drill
// itself cannot go on.
func (d *drill) event(ctx context.Context, e Event, primary string) (Result, error) {
	d.load.start(ctx)
	res, err := d.underLoad(ctx, e, primary)
	d.load.end()
	if err != nil {
		return res, err
	}
	if !d.plan.Live && res.Problem == "" {
		checking, cancel := context.WithTimeout(ctx, settleWithin)
		n, wrong, err := d.load.check(checking)
		cancel()
		res.BlocksChecked, res.Mismatches = n, len(wrong)
		for _, w := range wrong[:min(len(wrong), maxFaults)] {
			res.Details = append(res.Details, w.Error())
		}
		if err != nil {
			res.Problem = err.Error()
		}
	}
	texts, n := d.load.meter.takeFaults()
	res.WrongAnswers, res.Details = n, append(res.Details, texts...)
	res.judge(d.cfg.MaxPause, d.plan.Live)
	return res, nil
}

// underLoad strikes and waits until everything is as before.
func (d *drill) underLoad(ctx context.Context, e Event, primary string) (Result, error) {
	m := d.load.meter
	res := Result{Event: e, Node: primary, Details: []string{}}
	other := d.plan.Nodes[0]
	if other == primary {
		other = d.plan.Nodes[1]
	}
	if e == Secondary {
		res.Node = other
	}
	if err := d.more(ctx, warm); err != nil {
		return res, err
	}
	before, begin := m.answered(), time.Now()
	m.begin(begin)
	err := d.strike(ctx, e, &res, primary, other)
	if ctx.Err() != nil {
		return res, context.Cause(ctx)
	}
	if err != nil {
		res.Problem = err.Error()
		return res, nil
	}
	if res.Primary, err = d.settle(ctx); err == nil {
		err = d.more(ctx, warm)
	}
	if ctx.Err() != nil {
		return res, context.Cause(ctx)
	}
	if err != nil {
		res.Problem = err.Error()
	}
	now := time.Now()
	res.Pause, res.Whole, res.Answered = m.pause(now), now.Sub(begin), m.answered()-before
	return res, nil
}

// strike does what an event is about, and what makes the node come back.
func (d *drill) strike(ctx context.Context, e Event, res *Result, primary, other string) error {
	switch e {
	case Switchover:
		res.Done = fmt.Sprintf("the role is moved from %s to %s", primary, other)
		d.say("switchover: %s", res.Done)
		return d.cfg.On(primary).Switchover(ctx, d.name, other)
	case Isolation:
		res.Done = fmt.Sprintf("%s is isolated for %v: %s", primary, d.plan.still, d.cfg.Carrier.How())
		d.say("isolation: %s", res.Done)
		if err := d.cfg.Carrier.Isolate(ctx, primary, d.plan.still); err != nil {
			return err
		}
		return wait(ctx, notice) // what it believed before is settled
	}
	res.Done = fmt.Sprintf("the daemon of %s is killed", res.Node)
	d.say("%s: %s", e, res.Done)
	if err := d.cfg.Carrier.Kill(ctx, res.Node); err != nil {
		return err
	}
	// Only when the others go on without it does the node come back.
	if err := wait(ctx, notice); err != nil {
		return err
	}
	gone := d.more(ctx, warm)
	return errors.Join(d.cfg.Carrier.Return(ctx, res.Node), gone)
}

// notice is how long the others take at least to notice that a node is gone.
const notice = 500 * time.Millisecond

// more waits until n more requests are answered.
func (d *drill) more(ctx context.Context, n int64) error {
	want := d.load.meter.answered() + n
	limit := max(warmWithin, 2*d.cfg.MaxPause)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for d.load.meter.answered() < want {
		if wait(ctx, 5*time.Millisecond) != nil {
			return fmt.Errorf("no request was answered for %v", d.load.meter.pause(time.Now()).Round(time.Millisecond))
		}
	}
	return nil
}

const (
	settleWithin = 2 * time.Minute
	settleEvery  = 100 * time.Millisecond
)

// settle waits until every node answers and every resource is served, with all replicas in sync, and returns the
// primary of the one under load.
func (d *drill) settle(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	for {
		primary, err := d.whole(ctx)
		if err == nil {
			return primary, nil
		}
		if wait(ctx, settleEvery) != nil {
			return "", fmt.Errorf("after %v it is not as before: %w", settleWithin, err)
		}
	}
}

// whole says what is missing yet.
func (d *drill) whole(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	st, err := d.cfg.Client.Status(ctx, "")
	if err != nil {
		return "", err
	}
	if !st.Ledger.Quorum {
		return "", errors.New("the ledger has no majority")
	}
	primary := ""
	for _, r := range st.Resources {
		if r.Name != d.name && r.Name != d.plan.Like && !slices.Contains(d.plan.Affected, r.Name) {
			continue // not ours to judge
		}
		if r.Name == d.name {
			primary = r.Primary
		}
		if r.Primary == "" {
			return "", fmt.Errorf("nobody is primary of %s", r.Name)
		}
		if err := d.served(ctx, r.Name, r.Primary); err != nil {
			return "", err
		}
	}
	if primary == "" {
		return "", fmt.Errorf("%s is not there", d.name)
	}
	return primary, nil
}

// served asks the primary itself whether it serves, with all replicas in sync.
func (d *drill) served(ctx context.Context, name, primary string) error {
	st, err := d.cfg.On(primary).Status(ctx, name)
	if err != nil {
		return err
	}
	r := &st.Resources[0]
	if r.Role != control.RolePrimary || r.IO.State != control.IORunning {
		return fmt.Errorf("%s does not serve %s: %s %s", primary, name, r.IO.State, r.IO.Reason)
	}
	for _, p := range r.Replicas {
		if !p.InSync || p.DirtyBytes != 0 || p.Resync != nil || p.Node != primary && p.Connection != control.ConnConnected {
			return fmt.Errorf("the replica of %s on %s is not in sync: %s", name, p.Node, p.Connection)
		}
	}
	return nil
}

// compare has the replicas compared, and returns how many blocks differ.
func (d *drill) compare(ctx context.Context) (int, error) {
	primary, err := d.settle(ctx)
	if err != nil {
		return 0, err
	}
	d.say("comparing the replicas of %s", d.name)
	res, err := d.cfg.On(primary).Verify(ctx, d.name, control.VerifyOptions{})
	if err != nil {
		return 0, fmt.Errorf("compare the replicas: %w", err)
	}
	return len(res.Differences), nil
}
