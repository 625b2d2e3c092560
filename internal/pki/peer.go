package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/lockstep-ha/lockstep/internal/config"
)

// Clock tells the time; time.Now in the daemon.
type Clock func() time.Time

// ClusterID names a cluster within its certificates.
type ClusterID string

// check reports what is wrong with a cluster's name. Beyond other names it has to be a host of a URI.
func (c ClusterID) check() error {
	if err := config.CheckName("cluster", string(c)); err != nil {
		return err
	}
	if strings.Contains(string(c), "..") || strings.HasSuffix(string(c), ".") {
		return fmt.Errorf("cluster name %q: a certificate cannot carry a name with an empty part between dots", c)
	}
	return nil
}

// Role is what the holder of a certificate may be.
type Role uint8

const (
	RoleNode     Role = iota + 1 // a member: serves, and connects to other members
	RoleClient                   // uses exports
	RoleOperator                 // gives orders
)

func (r Role) String() string {
	switch r {
	case RoleNode:
		return "node"
	case RoleClient:
		return "client"
	case RoleOperator:
		return "operator"
	}
	return "invalid"
}

// ParseRole is the reverse of Role.String.
func ParseRole(s string) (Role, error) {
	for _, r := range []Role{RoleNode, RoleClient, RoleOperator} {
		if s == r.String() {
			return r, nil
		}
	}
	return 0, fmt.Errorf("role %.20q is not node, client or operator", s)
}

// KeyHash is the SHA-256 of a public key in its X.509 form (SubjectPublicKeyInfo).
type KeyHash [sha256.Size]byte

func (h KeyHash) String() string { return fmt.Sprintf("sha256:%x", h[:]) }

func keyHash(cert *x509.Certificate) KeyHash { return sha256.Sum256(cert.RawSubjectPublicKeyInfo) }

// Peer is who holds a certificate that was verified.
type Peer struct {
	Cluster  ClusterID
	Role     Role
	Name     string
	NodeID   string // as Subject.NodeID; "" if it has none
	Key      KeyHash
	NotAfter time.Time
}

func (p Peer) String() string { return fmt.Sprintf("%v %s of cluster %s", p.Role, p.Name, p.Cluster) }

// scheme is that of the URIs in certificates.
const scheme = "lockstep"

// identityURI is the URI of a certificate, see the package comment.
func identityURI(c ClusterID, r Role, name string) *url.URL {
	return &url.URL{Scheme: scheme, Host: string(c), Path: "/" + r.String() + "/" + name}
}

// parseURI is the reverse of identityURI and takes nothing else, however alike.
func parseURI(u *url.URL) (c ClusterID, r Role, name string, err error) {
	c = ClusterID(u.Host)
	role, name, ok := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	if u.Scheme != scheme || !ok {
		return "", 0, "", fmt.Errorf("%.200q is no identity of this system", u)
	}
	if r, err = ParseRole(role); err != nil {
		return "", 0, "", err
	}
	if err := c.check(); err != nil {
		return "", 0, "", err
	}
	if err := config.CheckName(role, name); err != nil {
		return "", 0, "", err
	}
	if *u != *identityURI(c, r, name) {
		return "", 0, "", fmt.Errorf("%.200q has more than an identity", u)
	}
	return c, r, name, nil
}

// claims returns who cert says that its holder is. Nobody has vouched for it.
func claims(cert *x509.Certificate) (Peer, error) {
	if len(cert.URIs) != 1 {
		return Peer{}, fmt.Errorf("certificate with %d URIs, want 1", len(cert.URIs))
	}
	p := Peer{NodeID: cert.Subject.SerialNumber, Key: keyHash(cert), NotAfter: cert.NotAfter}
	var err error
	p.Cluster, p.Role, p.Name, err = parseURI(cert.URIs[0])
	return p, err
}
