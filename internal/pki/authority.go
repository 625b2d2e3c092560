package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lockstep-ha/lockstep/internal/config"
)

const (
	// DefaultLifetime is that of a certificate. It bounds for how long a stolen one is good against
	// those who do not ask Admit.
	DefaultLifetime = 90 * 24 * time.Hour
	// ClockSkew is by how much the clocks of two nodes may differ. Certificates begin that much
	// before they are made, and are accepted that much outside their time.
	ClockSkew = 5 * time.Minute

	authorityLifetime = 10 * 365 * 24 * time.Hour
	// authorityBackdate is larger than ClockSkew: what the authority signs is checked at the
	// moment it begins, and may be signed by another node than made the authority.
	authorityBackdate = 24 * time.Hour

	maxAddresses = 16
	maxNodeID    = 64 // bytes; X.520 ub-serial-number
)

// Authority signs the certificates of a cluster. Whoever has its key is everybody.
type Authority struct {
	cluster ClusterID
	creds   Credentials
	clock   Clock
	rand    io.Reader
}

// NewAuthority makes a new authority, in memory. A cluster may have several: see the package
// comment on changing one for another.
func NewAuthority(cluster ClusterID, clock Clock, rand io.Reader) (*Authority, error) {
	if err := cluster.check(); err != nil {
		return nil, err
	}
	serial, err := newSerial(rand)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand)
	if err != nil {
		return nil, err
	}
	now := clock()
	t := &x509.Certificate{
		SerialNumber: serial,
		// The serial number in the name tells two authorities of one cluster apart, by which
		// programs choose the one that signed.
		Subject: pkix.Name{
			Organization: []string{string(cluster)},
			CommonName:   "lockstep authority",
			SerialNumber: serial.Text(16),
		},
		NotBefore:             now.Add(-authorityBackdate),
		NotAfter:              now.Add(authorityLifetime),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true, // it signs no other authority
	}
	cert, err := sign(rand, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	return &Authority{cluster: cluster, creds: Credentials{cert, key}, clock: clock, rand: rand}, nil
}

// LoadAuthority reads what Save wrote.
func LoadAuthority(dir string, clock Clock, rand io.Reader) (*Authority, error) {
	key, err := readSecret(filepath.Join(dir, fileCAKey))
	if err != nil {
		return nil, fmt.Errorf("authority: %w", err)
	}
	cert, err := os.ReadFile(filepath.Join(dir, fileCACert))
	if err != nil {
		return nil, fmt.Errorf("authority: %w", err)
	}
	creds, err := decodeCredentials(append(cert, key...))
	if err != nil {
		return nil, fmt.Errorf("authority in %s: %w", dir, err)
	}
	cluster, err := checkAuthority(creds.Cert)
	if err != nil {
		return nil, fmt.Errorf("authority in %s: %w", dir, err)
	}
	return &Authority{cluster: cluster, creds: creds, clock: clock, rand: rand}, nil
}

// Save writes the authority's two files. It never replaces a key: the one that would be lost may
// have signed every certificate of a cluster.
func (a *Authority) Save(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("authority: %w", err)
	}
	path := filepath.Join(dir, fileCAKey)
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("authority: %w: %s", errors.Join(fs.ErrExist, err), path)
	}
	key, err := encodeKey(a.creds.Key)
	if err != nil {
		return err
	}
	// The key last: with it the pair is complete, and never replaced.
	if err := writeFile(dir, fileCACert, encodeCert(a.creds.Cert)); err != nil {
		return fmt.Errorf("authority: %w", err)
	}
	if err := writeFile(dir, fileCAKey, key); err != nil {
		return fmt.Errorf("authority: %w", err)
	}
	return nil
}

// Cluster returns whose authority this is.
func (a *Authority) Cluster() ClusterID { return a.cluster }

// Certificate returns the authority's own certificate; read-only.
func (a *Authority) Certificate() *x509.Certificate { return a.creds.Cert }

// Key returns the hash of the authority's public key, which tokens carry.
func (a *Authority) Key() KeyHash { return keyHash(a.creds.Cert) }

// Bundle returns the bundle of this authority alone.
func (a *Authority) Bundle() Bundle { return Bundle{certs: []*x509.Certificate{a.creds.Cert}} }

// Subject is for whom a certificate is.
type Subject struct {
	Role   Role
	Name   string
	NodeID string // of a node: its id beyond its name, if it has one; at most 64 printable characters
	// Addresses are the host names and IP addresses under which a node is reached, for clients
	// that are not ours.
	Addresses []string
}

func (s Subject) check() error {
	if s.Role < RoleNode || s.Role > RoleOperator {
		return fmt.Errorf("role %d", s.Role)
	}
	if err := config.CheckName(s.Role.String(), s.Name); err != nil {
		return err
	}
	if len(s.NodeID) > maxNodeID || strings.ContainsFunc(s.NodeID, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("node id %.80q: want at most %d printable characters", s.NodeID, maxNodeID)
	}
	if len(s.Addresses) > maxAddresses {
		return fmt.Errorf("%d addresses, want at most %d", len(s.Addresses), maxAddresses)
	}
	for _, a := range s.Addresses {
		if err := checkAddress(a); err != nil {
			return err
		}
	}
	return nil
}

// checkAddress takes an IP address or a host name as certificates carry them.
func checkAddress(a string) error {
	if net.ParseIP(a) != nil {
		return nil
	}
	ok := len(a) <= 253 && a != ""
	for part := range strings.SplitSeq(a, ".") {
		ok = ok && part != "" && len(part) <= 63 && part[0] != '-' && part[len(part)-1] != '-' &&
			!strings.ContainsFunc(part, func(r rune) bool {
				return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-')
			})
	}
	if !ok {
		return fmt.Errorf("%.80q is neither an IP address nor a host name (without port)", a)
	}
	return nil
}

// Issue signs a certificate for s. csr (DER) proves that its maker has the key; what else it says is
// not looked at: the caller has decided who s is. A lifetime of 0 is DefaultLifetime; none is longer
// than the authority's own.
func (a *Authority) Issue(csr []byte, s Subject, lifetime time.Duration) (*x509.Certificate, error) {
	req, err := parseCSR(csr)
	if err != nil {
		return nil, err
	}
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	if lifetime < 0 {
		return nil, fmt.Errorf("certificate with a lifetime of %v", lifetime)
	}
	if lifetime == 0 {
		lifetime = DefaultLifetime
	}
	now := a.clock()
	if now.After(a.creds.Cert.NotAfter) {
		return nil, fmt.Errorf("authority of cluster %s ended on %s: %w", a.cluster, a.creds.Cert.NotAfter.Format(time.DateOnly), ErrExpired)
	}
	serial, err := newSerial(a.rand)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{string(a.cluster)}, CommonName: s.Name, SerialNumber: s.NodeID},
		URIs:                  []*url.URL{identityURI(a.cluster, s.Role, s.Name)},
		NotBefore:             now.Add(-ClockSkew),
		NotAfter:              now.Add(lifetime),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	if s.Role == RoleNode {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	if t.NotAfter.After(a.creds.Cert.NotAfter) {
		t.NotAfter = a.creds.Cert.NotAfter
	}
	for _, addr := range s.Addresses {
		if ip := net.ParseIP(addr); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, addr)
		}
	}
	return sign(a.rand, t, a.creds.Cert, req.PublicKey.(*ecdsa.PublicKey), a.creds.Key)
}

// sign makes a certificate of pub, signed with the key of parent.
func sign(rand io.Reader, t, parent *x509.Certificate, pub *ecdsa.PublicKey, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand, t, parent, pub, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// newSerial returns 127 random bits; RFC 5280 wants serial numbers positive and at most 20 bytes.
func newSerial(rand io.Reader) (*big.Int, error) {
	var b [16]byte
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		return nil, fmt.Errorf("serial number: %w", err)
	}
	b[0] = b[0]&0x7f | 0x40 // never zero, always as long
	return new(big.Int).SetBytes(b[:]), nil
}

// NewCSR makes a new key, and the request (DER) to have it certified. name is for people who look
// at the request; what the certificate will say is decided by who signs it.
func NewCSR(name string, rand io.Reader) (csr []byte, key *ecdsa.PrivateKey, err error) {
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand); err != nil {
		return nil, nil, err
	}
	csr, err = x509.CreateCertificateRequest(rand, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	return csr, key, err
}

func parseCSR(der []byte) (*x509.CertificateRequest, error) {
	req, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	if k, ok := req.PublicKey.(*ecdsa.PublicKey); !ok || k.Curve != elliptic.P256() {
		return nil, fmt.Errorf("certificate request with a %v key, want ECDSA P-256", req.PublicKeyAlgorithm)
	}
	if err := req.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	return req, nil
}
