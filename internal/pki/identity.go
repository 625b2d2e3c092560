package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// Config is what an Identity needs.
type Config struct {
	Dir   string // where identity.pem and bundle.pem are
	Clock Clock
	// Admit, if set, is asked about each peer that proved who it is; an error refuses it. It is
	// called from many goroutines, within handshakes, and must not wait.
	Admit func(Peer) error
}

// Identity is who this process is to others, and whom it believes. Its methods may be called from
// many goroutines.
type Identity struct {
	cfg Config
	mu  sync.Mutex // orders those who change the files
	cur atomic.Pointer[current]
}

// current is what one handshake works with. It never changes.
type current struct {
	self   Peer
	creds  Credentials
	bundle Bundle
	alone  *tls.Certificate // own certificate
	chain  *tls.Certificate // and its authority's, for those who have no bundle yet
}

// newCurrent checks that c is believed by b at now.
func newCurrent(c Credentials, b Bundle, now time.Time) (*current, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	self, err := b.verify(c.Cert, x509.ExtKeyUsageAny, now)
	if err != nil {
		return nil, err
	}
	out := &current{self: self, creds: c, bundle: b}
	out.alone = &tls.Certificate{Certificate: [][]byte{c.Cert.Raw}, PrivateKey: c.Key, Leaf: c.Cert}
	out.chain = &tls.Certificate{Certificate: [][]byte{c.Cert.Raw, b.issuer(c.Cert).Raw}, PrivateKey: c.Key, Leaf: c.Cert}
	return out, nil
}

// Create writes the files of a new identity. It refuses to replace one: that is what Install is
// for, which keeps who one is.
func Create(dir string, c Credentials, b Bundle, now time.Time) error {
	if _, err := newCurrent(c, b, now); err != nil {
		return fmt.Errorf("new identity: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("new identity: %w", err)
	}
	path := filepath.Join(dir, fileIdentity)
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("new identity: %w: %s", errors.Join(os.ErrExist, err), path)
	}
	// The bundle first: identity.pem says that both are there.
	if err := writeFile(dir, fileBundle, b.PEM()); err != nil {
		return fmt.Errorf("new identity: %w", err)
	}
	return writeIdentity(dir, c)
}

func writeIdentity(dir string, c Credentials) error {
	b, err := c.encode()
	if err == nil {
		err = writeFile(dir, fileIdentity, b)
	}
	if err != nil {
		return fmt.Errorf("identity: %w", err)
	}
	return nil
}

// Open reads the files of an identity. One that has expired is opened too, so that its node can
// start and say so; its peers refuse it.
func Open(cfg Config) (*Identity, error) {
	i := &Identity{cfg: cfg}
	if err := i.Reload(); err != nil {
		return nil, err
	}
	return i, nil
}

// Hold returns an identity that is in no file: a process's own, for as long as it runs. Reload and the
// Installs are not for it.
func Hold(c Credentials, b Bundle, clock Clock) (*Identity, error) {
	cur, err := newCurrent(c, b, clock())
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	i := &Identity{cfg: Config{Clock: clock}}
	i.cur.Store(cur)
	return i, nil
}

// Reload reads the files again. After an error everything stays as it was.
func (i *Identity) Reload() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	path := filepath.Join(i.cfg.Dir, fileIdentity)
	b, err := readSecret(path)
	if err != nil {
		return fmt.Errorf("identity: %w", err)
	}
	creds, err := decodeCredentials(b)
	if err != nil {
		return fmt.Errorf("identity %s: %w", path, err)
	}
	path = filepath.Join(i.cfg.Dir, fileBundle)
	if b, err = os.ReadFile(path); err != nil {
		return fmt.Errorf("identity: %w", err)
	}
	bundle, err := ParseBundle(b)
	if err != nil {
		return fmt.Errorf("identity %s: %w", path, err)
	}
	// Not at the present time, see Open.
	next, err := newCurrent(creds, bundle, creds.Cert.NotBefore)
	if err != nil {
		return fmt.Errorf("identity in %s: %w", i.cfg.Dir, err)
	}
	if cur := i.cur.Load(); cur != nil && !same(cur.self, next.self) {
		return fmt.Errorf("identity in %s: the files are of %v, this is %v", i.cfg.Dir, next.self, cur.self)
	}
	i.cur.Store(next)
	return nil
}

// same reports whether two certificates are of one holder.
func same(a, b Peer) bool { return a.Cluster == b.Cluster && a.Role == b.Role && a.Name == b.Name }

// Install makes c the certificate and key from now on, on disk first. It must be of the same
// holder and be believed by the present bundle.
func (i *Identity) Install(c Credentials) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	cur := i.cur.Load()
	next, err := newCurrent(c, cur.bundle, i.cfg.Clock())
	if err == nil && !same(cur.self, next.self) {
		err = fmt.Errorf("%w: it is of %v, this is %v", ErrNode, next.self, cur.self)
	}
	if err != nil {
		return fmt.Errorf("identity: new certificate: %w", err)
	}
	if err := writeIdentity(i.cfg.Dir, c); err != nil {
		return err
	}
	i.cur.Store(next)
	return nil
}

// InstallBundle makes b the authorities that are believed, on disk first. The one that signed this
// identity's certificate must be among them.
func (i *Identity) InstallBundle(b Bundle) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	cur := i.cur.Load()
	next, err := newCurrent(cur.creds, b, cur.creds.Cert.NotBefore)
	if err != nil {
		return fmt.Errorf("identity: new bundle would not believe this node itself: %w", err)
	}
	if err := writeFile(i.cfg.Dir, fileBundle, b.PEM()); err != nil {
		return fmt.Errorf("identity: %w", err)
	}
	i.cur.Store(next)
	return nil
}

// Self returns who this is.
func (i *Identity) Self() Peer { return i.cur.Load().self }

// Bundle returns the authorities that are believed.
func (i *Identity) Bundle() Bundle { return i.cur.Load().bundle }

// AuthorityEnds returns when the authority ends that signed this identity's certificate. No certificate
// that it signs is good for longer.
func (i *Identity) AuthorityEnds() time.Time {
	cur := i.cur.Load()
	return cur.bundle.issuer(cur.creds.Cert).NotAfter
}

// RenewAt returns when the certificate is due: after two thirds of its lifetime. That leaves a
// month, by default, in which renewal may fail and be mended.
func (i *Identity) RenewAt() time.Time {
	cert := i.cur.Load().creds.Cert
	return cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) / 3 * 2)
}

// NeedsRenewal reports whether the certificate is due.
func (i *Identity) NeedsRenewal(now time.Time) bool { return !now.Before(i.RenewAt()) }
