package node

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/pki"
	"github.com/lockstep-ha/lockstep/nbd"
)

const (
	// certTick is how often a node looks at its certificate and its files.
	certTick = time.Minute
	// certWarn is how long before its end a certificate that nobody renewed is a problem. It is due
	// well before.
	certWarn = 30 * 24 * time.Hour
)

// keeper keeps this node's certificate from running out. Whoever holds the authority's key signs;
// without it, this node asks those who do.
type keeper struct {
	self string
	id   *pki.Identity
	sign func(ctx context.Context, csr []byte) (*x509.Certificate, error) // for this node itself
	log  *slog.Logger

	mu  sync.Mutex
	why error // of the last attempt that failed
}

// openIdentity reads who this node is to the others; nil without certificates.
func openIdentity(cfg config.Node, admit func(pki.Peer) error) (*pki.Identity, error) {
	if !formed(cfg) {
		return nil, nil
	}
	id, err := pki.Open(pki.Config{Dir: cfg.PKIDir, Clock: time.Now, Admit: admit})
	if err != nil {
		return nil, err
	}
	if s := id.Self(); s.Name != cfg.Name || string(s.Cluster) != cfg.Cluster || s.Role != pki.RoleNode {
		return nil, fmt.Errorf("the certificate in %s is of %v; the node file is of node %s of cluster %s", cfg.PKIDir, s, cfg.Name, cfg.Cluster)
	}
	return id, nil
}

// openAuthority returns the cluster's authority where its key is, nil elsewhere.
func openAuthority(cfg config.Node) (*pki.Authority, error) {
	if !formed(cfg) {
		return nil, nil
	}
	if _, err := os.Lstat(filepath.Join(cfg.PKIDir, "ca.key")); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return pki.LoadAuthority(cfg.PKIDir, time.Now, rand.Reader)
}

// run renews when it is time, and takes up files that an operator has put in place, until ctx ends.
func (k *keeper) run(ctx context.Context) {
	tick := time.NewTicker(certTick)
	defer tick.Stop()
	for {
		if err := k.id.Reload(); err != nil {
			k.log.Error("certificate files cannot be used; what was read before stays in force", "err", err)
		}
		if k.id.NeedsRenewal(time.Now()) {
			if err := k.renew(ctx); err != nil && ctx.Err() == nil {
				k.log.Warn("certificate not renewed", "ends", k.id.Self().NotAfter, "err", err)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// renew has a new key certified and installs it. Handshakes use it from then on; connections that
// stand go on.
func (k *keeper) renew(ctx context.Context) error {
	err := k.tryRenew(ctx)
	k.mu.Lock()
	k.why = err
	k.mu.Unlock()
	return err
}

func (k *keeper) tryRenew(ctx context.Context) error {
	csr, key, err := pki.NewCSR(k.self, rand.Reader)
	if err != nil {
		return err
	}
	cert, err := k.sign(ctx, csr)
	if err != nil {
		return err
	}
	if err := k.id.Install(pki.Credentials{Cert: cert, Key: key}); err != nil {
		return err
	}
	k.log.Info("certificate renewed", "ends", cert.NotAfter)
	return nil
}

// problem says what is wrong with the certificate and what to type, "" for nothing.
func (k *keeper) problem(now time.Time) string {
	left := k.id.Self().NotAfter.Sub(now)
	k.mu.Lock()
	why := k.why
	k.mu.Unlock()
	// The last third of its life is the same month for the usual lifetime, and less for a short one.
	if left > certWarn || !k.id.NeedsRenewal(now) {
		return ""
	}
	when := k.id.Self().NotAfter.Format(time.DateOnly)
	text := fmt.Sprintf("the certificate of %s ends on %s and has not been renewed", k.self, when)
	if left <= 0 {
		text = fmt.Sprintf("the certificate of %s ended on %s: the other nodes refuse it", k.self, when)
	}
	if why != nil {
		text += ": " + why.Error()
	}
	return text + "; start the node that holds the authority's key, then: lockstep cluster renew --node " + k.self
}

// facts are what doctor is told of the certificate.
func (k *keeper) facts(now time.Time, signs bool) *control.CertificateFacts {
	ends, authority := k.id.Self().NotAfter, k.id.AuthorityEnds()
	f := &control.CertificateFacts{
		Ends: ends, Left: ends.Sub(now), Due: k.id.NeedsRenewal(now),
		AuthorityEnds: authority, AuthorityLeft: authority.Sub(now), Signs: signs,
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.why != nil {
		f.Problem = k.why.Error()
	}
	return f
}

// security is what Status says of it.
func (b *backend) security() *control.Security {
	if b.keeper == nil {
		return nil
	}
	s := &control.Security{Links: "tls", CertificateEnds: b.keeper.id.Self().NotAfter, Problem: b.keeper.problem(time.Now()), Signs: b.admitter.ca != nil}
	if !b.cfg.ReplicationTLS {
		s.Links = "plain"
	}
	return s
}

// Renew renews the certificate of this node now.
func (b *backend) Renew(ctx context.Context) (control.Security, error) {
	if b.keeper == nil {
		return control.Security{}, notFormed()
	}
	// Files that were put in place just now count, too: a change of authority need not wait for the next look.
	if err := b.keeper.id.Reload(); err != nil {
		return control.Security{}, control.Errorf(control.CodeFailed, "certificate files cannot be used: %v", err).WithSafety(control.SafetyYes)
	}
	if err := b.keeper.renew(ctx); err != nil {
		var e *control.Error
		if !errors.As(err, &e) {
			err = control.Errorf(control.CodeFailed, "certificate not renewed: %v", err).WithSafety(control.SafetyYes)
		}
		return control.Security{}, err
	}
	return *b.security(), nil
}

// nbdTLSOf is what operators are told of it.
func nbdTLSOf(cfg config.Node) string {
	if m := cfg.NBDMode(); cfg.NBDListen != "" && m != config.TLSOff {
		return m
	}
	return ""
}

// nbdTLS is how clients over TCP are served.
func nbdTLS(cfg config.Node, id *pki.Identity) nbd.TLS {
	kind := pki.KindNBDOpen
	if cfg.NBDClientCerts == config.ClientCertsRequired {
		kind = pki.KindNBD
	}
	modes := map[string]nbd.TLSMode{config.TLSRequired: nbd.TLSRequired, config.TLSAllowed: nbd.TLSAllowed, config.TLSOff: nbd.TLSOff}
	t := nbd.TLS{Mode: modes[cfg.NBDMode()]}
	if t.Mode == nbd.TLSOff || id == nil {
		return nbd.TLS{}
	}
	t.Config = id.ServerConfig(kind)
	t.Verify = func(cs tls.ConnectionState) (string, error) {
		p, err := id.PeerNode(cs)
		if errors.Is(err, pki.ErrNoCertificate) && kind == pki.KindNBDOpen {
			return "", nil
		}
		return p.Name, err
	}
	return t
}
