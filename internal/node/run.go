package node

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/linkcheck"
	"github.com/lockstep-ha/lockstep/internal/pki"
	"github.com/lockstep-ha/lockstep/internal/transport"
	"github.com/lockstep-ha/lockstep/internal/writepath"
	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/quorum/ledger"
	"github.com/lockstep-ha/lockstep/quorum/membership"
	"github.com/lockstep-ha/lockstep/replication/peer"
)

// Names of the services on the transport, beside serviceNode and ledger.Service.
const (
	serviceReplication = "replication"
	serviceControl     = "control"
)

// stopTimeout bounds the giving up of roles at the end. Whatever is not recorded by then is found
// out by the others, as after a crash.
const stopTimeout = 4 * time.Second

// Run is the daemon of one node. It returns nil after ctx ended and everything was closed in
// order, or the error that keeps the node from running. ready, which may be nil, is called once
// operators and peers are answered; the ledger may still be without a quorum then.
func Run(ctx context.Context, cfg config.Node, log *slog.Logger, ready func()) error {
	return runOn(ctx, host{}, cfg, log, ready)
}

// runOn is Run on a host that need not be this machine.
func runOn(ctx context.Context, h host, cfg config.Node, log *slog.Logger, ready func()) error {
	cfg, err := withBook(cfg)
	if err != nil {
		return fmt.Errorf("node %s: %w", cfg.Name, err)
	}
	if err := cfg.Validate(); err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("node %s: %w", cfg.Name, err)
	}
	d, err := assemble(ctx, h, cfg, log)
	if err != nil {
		return fmt.Errorf("node %s: %w", cfg.Name, err)
	}
	return d.run(ctx, ready)
}

// daemon holds the parts of a node between assemble and the end of run.
type daemon struct {
	cfg     config.Node
	host    host
	log     *slog.Logger
	roster  *roster
	id      *pki.Identity // nil, like admit and keeper: a shared key
	admit   *admitter
	keeper  *keeper
	tr      *transport.Transport
	ledger  *ledger.Ledger
	members *members
	m       *manager
	reg     *registrar
	fail    *failover
	ctl     *control.Server
	nbd     *nbd.Server
	checks  *checks
	pair    *pairGuard
	kennel  *kennel
	care    *caretakers

	lnPeers, lnControl, lnNBDUnix, lnNBDTCP, lnHealth, lnDebug net.Listener // the last three may be nil
}

// assemble opens everything that can fail, and starts nothing.
func assemble(ctx context.Context, h host, cfg config.Node, log *slog.Logger) (_ *daemon, err error) {
	d := &daemon{cfg: cfg, host: h, log: log.With("node", cfg.Name)}
	defer func() {
		if err != nil {
			d.closeListeners()
		}
	}()
	self, err := identify(cfg.Name)
	if err != nil {
		return nil, err
	}
	if err := d.listen(ctx); err != nil {
		return nil, err
	}
	if err := d.openTransport(); err != nil {
		return nil, err
	}
	j := newJournal(cfg.Name, journalLen)
	// Nothing of the gossip or of the ledger calls back before run, and so before wire.
	if d.members, err = newMembers(cfg, h, self, log, func(h membership.Hint) {
		hear(j, d.log, h)
		d.fail.hint(h.Node, h.Alive)
	}); err != nil {
		return nil, err
	}
	if d.ledger, err = d.openLedger(log); err != nil {
		return nil, errors.Join(err, d.members.gossip.Close())
	}
	if err := d.wire(self, j); err != nil {
		return nil, errors.Join(err, d.ledger.Close(), d.members.gossip.Close())
	}
	return d, nil
}

// openTransport opens what links run over, and who this node is on them.
func (d *daemon) openTransport() error {
	cfg := d.cfg
	d.roster = &roster{cfg: cfg, log: d.log, state: func() *quorum.State {
		if d.ledger == nil {
			return nil // it is about to be opened
		}
		return d.ledger.State()
	}}
	tc := transport.Config{Cluster: cfg.Cluster, Node: cfg.Name, Key: cfg.Key[:], Logger: d.log, Connect: d.host.connect}
	var err error
	if d.id, err = openIdentity(cfg, d.roster.admit); err != nil {
		return err
	}
	if d.id != nil {
		tc.Identity = d.id
		tc.Join = func(ctx context.Context, conn *tls.Conn) { d.admit.serve(ctx, conn) }
		if !cfg.ReplicationTLS {
			tc.Clear = []string{serviceReplication}
		}
	}
	d.tr, err = transport.New(tc)
	return err
}

// openLedger gives the ledger the plain logger: it names the node in its lines itself.
func (d *daemon) openLedger(log *slog.Logger) (*ledger.Ledger, error) {
	cfg := d.cfg
	lc := ledger.Config{
		Dir: cfg.DataDir, Cluster: cfg.Cluster, Node: cfg.Name, Transport: d.tr, Logger: log,
		OnNote: func(from string, body []byte) { d.fail.note(from, body) },
		OnLost: func(node string) { d.fail.hint(node, false) },
		// An election must not begin for a delay that beacons survive.
		TickInterval: max(50*time.Millisecond, cfg.BeaconInterval/2),
	}
	for _, n := range cfg.Nodes {
		lc.Members = append(lc.Members, ledger.Member{Name: n.Name, Addr: n.Addr, Witness: n.Witness})
	}
	return ledger.Open(lc)
}

// hear records a hint of the gossip.
func hear(j *journal, log *slog.Logger, h membership.Hint) {
	if h.Node == j.node {
		return
	}
	kind, text := "node_alive", h.Node+" is heard of."
	if !h.Alive {
		kind, text = "node_silent", h.Node+" is not heard of any more."
	}
	log.Info("membership hint", "peer", h.Node, "alive", h.Alive)
	j.add("", kind, text, "peer", h.Node)
}

// wire makes the parts of this package and connects them with the others.
//
// Errors: those of newFailover.
func (d *daemon) wire(self quorum.Incumbent, j *journal) (err error) {
	dial := func(ctx context.Context, node, service string) (net.Conn, error) {
		addr := d.roster.addr(node)
		if addr == "" {
			return nil, control.Errorf(control.CodeNotFound, "%s knows of no node %s", d.cfg.Name, node)
		}
		return d.tr.Dial(ctx, addr, node, service)
	}
	httpTo := func(node string) (*http.Client, error) {
		if d.roster.addr(node) == "" {
			return nil, control.Errorf(control.CodeNotFound, "there is no node %s in this cluster", node).WithSafety(control.SafetyYes)
		}
		return &http.Client{Transport: &http.Transport{
			DisableKeepAlives: true, DisableCompression: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, node, serviceControl) },
		}}, nil
	}
	acceptor := peer.NewAcceptor(peer.AcceptorConfig{Self: d.cfg.Name, Logger: d.log})
	opener := &deviceOpener{cfg: d.cfg, self: self, log: d.log, acceptor: acceptor, dial: dial, fresh: randomID, clock: d.host.clock}
	d.m = newManager(self, d.ledger, opener, j, d.log, randomID)
	ask := dialAsker{dial: dial}
	d.checks = newChecks(d.m, ask, d.roster.addr, func() control.NBD { return control.NBD{TCP: d.nbdTCP(), TLS: nbdTLSOf(d.cfg)} })
	ex := &exports{m: d.m, asker: ask, addr: d.roster.addr}
	d.nbd = nbd.NewServer(nbd.Config{Logger: d.log}, ex)
	ex.srv, d.m.closeClient, d.m.onAttachments = d.nbd, ex.closeSessions, ex.enforce
	d.m.closeClients = func(resource string) {
		d.nbd.CloseExport(resource, d.cfg.Name+" does not serve "+resource+" any more")
	}
	group := writepath.GroupLimit()
	d.m.onCount = func(n int) { limitMemory(d.cfg, n, group, d.log) }
	d.reg = newRegistrar(self, d.ledger, j, d.log)
	arms, err := d.host.armed(d.cfg, d.log)
	if err != nil {
		return err
	}
	if d.fail, err = newFailover(failoverTimes(d.cfg), self, d.ledger, d.m, arms, d.host.bootTime(), d.log); err != nil {
		return err
	}
	d.kennel = newKennel(d.cfg.Watchdog, d.m, self, j, d.log)
	d.m.onNotice = d.fail.kick
	b := &backend{
		cfg: d.cfg, m: d.m, journal: j, asker: ask,
		client: func(node string) control.Backend {
			hc, err := httpTo(node)
			if err != nil {
				hc = &http.Client{Transport: failing{err}}
			}
			return control.NewClientHTTP(hc, "node "+node)
		},
		facts: facts{
			ledger: d.ledger.Status, alive: d.alive, clients: d.clients, nbdTCP: d.nbdTCP, attached: ex.connected,
		},
		registered: d.reg.await, fate: d.ledger, arms: arms,
		exam: examiner{dial: dial, canFence: func(node string) bool { return d.fail.fencer != nil && d.fail.fencer.Can(node) }},
	}
	if d.pair, err = d.newPairGuard(self, b); err != nil {
		return err
	}
	b.alone = d.pair.reason
	d.care = newCaretakers(d.m, d.cfg.DataDir, d.cfg.ControlSocket, d.host.bootTime(), func() bool { return d.ledger.Status().HasQuorum }, b.handOver)
	b.services, d.kennel.services = d.care, d.care.stuck
	if err := d.wireCertificates(b, ask); err != nil {
		return err
	}
	d.ctl = control.NewServer(control.Options{Node: d.cfg.Name, Backend: b, Forward: httpTo, Logger: d.log})
	d.ledger.Subscribe(d.m.apply)
	d.ledger.Subscribe(ex.applied) // after the manager: who looks a record up now finds the new one
	d.ledger.Subscribe(d.reg.apply)
	d.ledger.Subscribe(d.fail.apply)
	d.tr.Handle(serviceReplication, func(ctx context.Context, conn net.Conn, from string) {
		acceptor.Serve(ctx, conn, from) // it logs why not
	})
	d.tr.Handle(serviceNode, func(ctx context.Context, conn net.Conn, from string) {
		reply := b.reply
		if d.admit != nil {
			reply = d.admit.reply(from, b.reply)
		}
		if err := serveNode(ctx, conn, reply); err != nil {
			d.log.Debug("question not answered", "peer", from, "err", err)
		}
	})
	d.tr.Handle(linkcheck.Service, func(ctx context.Context, conn net.Conn, from string) {
		if err := linkcheck.Serve(ctx, conn); err != nil {
			d.log.Debug("echo ended", "peer", from, "err", err)
		}
	})
	return nil
}

// wireCertificates connects what keeps and gives certificates, where there are any.
func (d *daemon) wireCertificates(b *backend, ask asker) error {
	b.roster = d.roster
	if d.id == nil {
		return nil
	}
	b.gossipKey = func(step string, key config.Key) error { return d.members.step(d.cfg.KeyFile, step, key, d.log) }
	ca, err := openAuthority(d.cfg)
	if err != nil {
		return err
	}
	d.admit = &admitter{cfg: d.cfg, id: d.id, ca: ca, ledger: d.ledger, asker: ask, log: d.log}
	d.keeper = &keeper{self: d.cfg.Name, id: d.id, sign: d.admit.signSelf, log: d.log}
	b.admitter, b.keeper = d.admit, d.keeper
	d.ledger.Subscribe(d.roster.keep)
	d.ledger.Subscribe(func(*quorum.State) { d.tr.Recheck(d.roster.admit) })
	return nil
}

// failing is the transport to a node that is not known.
type failing struct{ err error }

func (f failing) RoundTrip(*http.Request) (*http.Response, error) { return nil, f.err }

// run starts the parts, waits for ctx or for the first of them that fails, and stops them in the
// order that the package comment gives.
func (d *daemon) run(ctx context.Context, ready func()) error {
	base := context.WithoutCancel(ctx)
	var mu sync.Mutex
	var faults []error // under mu
	broken := make(chan error, 16)
	start := func(parts map[string]func(context.Context) error) (stop func()) {
		layer, cancel := context.WithCancel(base)
		var g errgroup.Group
		for name, part := range parts {
			g.Go(func() error {
				err := part(layer)
				if err != nil && layer.Err() == nil {
					err = fmt.Errorf("%s: %w", name, err)
					broken <- err
					return err
				}
				return nil
			})
		}
		return func() {
			cancel()
			if err := g.Wait(); err != nil {
				mu.Lock()
				defer mu.Unlock()
				faults = append(faults, err)
			}
		}
	}
	stopTransport := start(map[string]func(context.Context) error{
		"transport": func(ctx context.Context) error { return d.tr.Serve(ctx, d.lnPeers) },
	})
	stopLedger := start(map[string]func(context.Context) error{"ledger": d.ledger.Run})
	stopFailover := start(map[string]func(context.Context) error{
		"failover": func(ctx context.Context) error { d.fail.run(ctx); return nil },
		"pair":     func(ctx context.Context) error { d.pair.run(ctx); return nil },
	})
	stopManager := start(map[string]func(context.Context) error{
		"replicas":     func(ctx context.Context) error { d.m.run(ctx); return nil },
		"registration": func(ctx context.Context) error { d.reg.run(ctx); return nil },
		"services":     func(ctx context.Context) error { d.care.run(ctx); return nil },
	})
	stopDogs := start(map[string]func(context.Context) error{"watchdog": d.kennel.run})
	stopFront := start(d.front())
	d.log.Info("node started", "process", d.m.self.Process, "listen", d.lnPeers.Addr().String(), "nbd", d.cfg.NBDUnix, "control", d.cfg.ControlSocket)
	if ready != nil {
		ready()
	}
	d.notify(sd.SdNotifyReady)

	select {
	case <-ctx.Done():
	case err := <-broken:
		d.log.Error("node cannot go on", "err", err)
	}
	d.notify(sd.SdNotifyStopping)
	d.m.closing.Store(true)
	d.fail.kick()                // whoever decides need not wait for our silence
	kept := d.care.stopAll(base) // each has its deadline
	limit, cancel := context.WithTimeout(base, stopTimeout)
	d.m.stopServing(limit, kept)
	cancel()
	// Side by side: a connection ends when its last request does, and requests that a frozen
	// replica holds end with the replica.
	var both sync.WaitGroup
	both.Go(stopFront)
	both.Go(stopManager)
	both.Wait()
	d.linger(base)
	stopFailover()
	stopLedger()
	stopTransport()
	stopDogs() // last: what cannot stop must not be spared
	d.log.Info("node stopped")
	return errors.Join(faults...)
}

// front returns what answers clients and operators.
func (d *daemon) front() map[string]func(context.Context) error {
	parts := map[string]func(context.Context) error{
		"control":           func(ctx context.Context) error { return d.ctl.Serve(ctx, d.lnControl) },
		"control for nodes": func(ctx context.Context) error { return d.ctl.ServePeers(ctx, d.tr.Listener(serviceControl)) },
		"nbd":               func(ctx context.Context) error { return d.nbd.Serve(ctx, d.lnNBDUnix) },
		"membership":        d.members.run,
	}
	if d.lnNBDTCP != nil {
		parts["nbd over tcp"] = func(ctx context.Context) error { return d.nbd.ServeTLS(ctx, d.lnNBDTCP, nbdTLS(d.cfg, d.id)) }
	}
	if d.keeper != nil {
		parts["certificates"] = func(ctx context.Context) error { d.keeper.run(ctx); return nil }
		parts["gossip keys"] = func(ctx context.Context) error { d.members.keepKeys(ctx, d.cfg.KeyFile, d.log); return nil }
	}
	if d.lnHealth != nil {
		parts["health"] = func(ctx context.Context) error { return d.serveHealth(ctx, d.lnHealth) }
	}
	if d.lnDebug != nil {
		parts["profiles"] = func(ctx context.Context) error { return serveProfiles(ctx, d.lnDebug) }
	}
	return parts
}

// notify tells systemd; without it, that is nothing.
func (d *daemon) notify(state string) {
	if _, err := sd.SdNotify(false, state); err != nil {
		d.log.Warn("systemd was not told", "state", state, "err", err)
	}
}

// alive is a hint: the ledger's link to the node is up, or membership hears of it.
func (d *daemon) alive(node string) bool {
	for _, v := range d.ledger.Status().Voters {
		if v.Node == node && v.LinkUp {
			return true
		}
	}
	return d.members.alive(node)
}

func (d *daemon) clients(resource string) int {
	n := 0
	for _, c := range d.nbd.Conns() {
		if c.Export == resource {
			n++
		}
	}
	return n
}

func (d *daemon) nbdTCP() string {
	if d.lnNBDTCP == nil {
		return ""
	}
	return d.lnNBDTCP.Addr().String()
}

// identify returns what this process is recorded as when it is primary, but for the replica.
func identify(node string) (quorum.Incumbent, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return quorum.Incumbent{}, fmt.Errorf("boot id: %w", err)
	}
	boot := strings.TrimSpace(string(b))
	if n := os.Getenv(config.LabBootEnv); n != "" {
		boot += "." + n
	}
	return quorum.Incumbent{Node: node, Boot: boot, Process: randomID()}, nil
}

// randomID returns an unpredictable id, never 0.
func randomID() uint64 {
	var b [8]byte
	for {
		rand.Read(b[:]) // never fails
		if id := binary.BigEndian.Uint64(b[:]); id != 0 {
			return id
		}
	}
}
