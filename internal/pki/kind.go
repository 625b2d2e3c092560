package pki

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
)

// Kind is what a connection is for.
type Kind uint8

const (
	KindPeers     Kind = iota + 1 // node to node
	KindOperators                 // orders, from operators, and from nodes that pass them on
	KindNBD                       // NBD, from clients and nodes that have a certificate
	KindNBDOpen                   // NBD, from anybody; a certificate, if there is one, must be good
	KindJoin                      // from a new node, which has none yet and proves a token instead
)

// kinds says what each Kind demands.
var kinds = [...]struct {
	name  string
	alpn  string // "" where the client may be another's program
	asks  tls.ClientAuthType
	roles []Role
}{
	KindPeers:     {"peers", "lockstep-peer/1", tls.RequireAnyClientCert, []Role{RoleNode}},
	KindOperators: {"operators", "lockstep-operator/1", tls.RequireAnyClientCert, []Role{RoleOperator, RoleNode}},
	KindNBD:       {"NBD", "", tls.RequireAnyClientCert, []Role{RoleClient, RoleNode}},
	KindNBDOpen:   {"NBD without client certificates", "", tls.RequestClientCert, []Role{RoleClient, RoleNode}},
	KindJoin:      {"joining", "lockstep-join/1", tls.NoClientCert, nil},
}

func (k Kind) String() string {
	if k == 0 || int(k) >= len(kinds) {
		return "invalid"
	}
	return kinds[k].name
}

// KindOf returns which of several Kinds of one listener a connection is; 0 for one without ALPN.
func KindOf(cs tls.ConnectionState) Kind {
	for k := KindPeers; int(k) < len(kinds); k++ {
		if kinds[k].alpn != "" && kinds[k].alpn == cs.NegotiatedProtocol {
			return k
		}
	}
	return 0
}

// base is what all configurations share. The certificates come from verifyPeer and its kin: Go's
// own verification compares host names, which say nothing here, so it is turned off.
func (i *Identity) base(alpn string) *tls.Config {
	c := &tls.Config{
		MinVersion:             tls.VersionTLS13,
		SessionTicketsDisabled: true,
		Time:                   i.cfg.Clock,
	}
	if alpn != "" {
		c.NextProtos = []string{alpn}
	}
	return c
}

// ServerConfig returns the configuration of a listener for connections of one kind, or of several,
// which KindOf then tells apart; of several, each needs an ALPN name. It stays good when the
// identity changes.
func (i *Identity) ServerConfig(ks ...Kind) *tls.Config {
	if len(ks) == 1 {
		return i.serverConfig(ks[0])
	}
	configs := map[string]*tls.Config{}
	for _, k := range ks {
		if kinds[k].alpn == "" {
			panic(fmt.Sprintf("pki: a listener for %v can be for nothing else", k))
		}
		configs[kinds[k].alpn] = i.serverConfig(k)
	}
	c := i.base("")
	c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		for _, p := range hello.SupportedProtos {
			if c, ok := configs[p]; ok {
				return c, nil
			}
		}
		return nil, fmt.Errorf("%w: it offers %.200q", ErrProtocol, hello.SupportedProtos)
	}
	return c
}

func (i *Identity) serverConfig(k Kind) *tls.Config {
	c := i.base(kinds[k].alpn)
	c.ClientAuth = kinds[k].asks
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		if k == KindJoin {
			return i.cur.Load().chain, nil
		}
		return i.cur.Load().alone, nil
	}
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		if cs.NegotiatedProtocol != kinds[k].alpn {
			return fmt.Errorf("%v: %w: it is for %q", k, ErrProtocol, cs.NegotiatedProtocol)
		}
		if len(cs.PeerCertificates) == 0 && kinds[k].asks != tls.RequireAnyClientCert {
			return nil
		}
		_, err := i.verifyPeer(cs, x509.ExtKeyUsageClientAuth, kinds[k].roles)
		return err
	}
	return c
}

// ClientConfig returns the configuration with which to connect to a node; node "" takes any of
// this cluster. It stays good when the identity changes. For joining there is Token.ClientConfig.
func (i *Identity) ClientConfig(k Kind, node string) *tls.Config {
	if k == KindJoin {
		panic("pki: who has an identity does not join")
	}
	c := i.base(kinds[k].alpn)
	c.InsecureSkipVerify = true // in favour of VerifyConnection, see base
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return i.cur.Load().alone, nil
	}
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		p, err := i.verifyPeer(cs, x509.ExtKeyUsageServerAuth, []Role{RoleNode})
		switch {
		case err != nil:
			return err
		case node != "" && p.Name != node:
			return fmt.Errorf("%w: it is %s, wanted %.80q", ErrNode, p.Name, node)
		case cs.NegotiatedProtocol != kinds[k].alpn:
			return fmt.Errorf("%v: %w: it is for %q", p, ErrProtocol, cs.NegotiatedProtocol)
		}
		return nil
	}
	return c
}

// verifyPeer returns who is at the other end, when all of the package comment's steps say so.
func (i *Identity) verifyPeer(cs tls.ConnectionState, usage x509.ExtKeyUsage, roles []Role) (Peer, error) {
	if len(cs.PeerCertificates) == 0 {
		return Peer{}, ErrNoCertificate
	}
	p, err := i.cur.Load().bundle.verify(cs.PeerCertificates[0], usage, i.cfg.Clock())
	if err != nil {
		return Peer{}, err
	}
	if !slices.Contains(roles, p.Role) {
		return Peer{}, fmt.Errorf("%v: %w", p, ErrRole)
	}
	if i.cfg.Admit != nil {
		if err := i.cfg.Admit(p); err != nil {
			return Peer{}, fmt.Errorf("%v: %w", p, err)
		}
	}
	return p, nil
}

// PeerNode returns who is at the other end of a connection whose handshake one of our
// configurations has accepted. It looks at the certificate once more, so it also tells whether the
// peer would still be believed; what it is allowed, and Admit, were the handshake's business.
// Within a handshake (VerifyConnection, nbd.TLS.Verify) the answer holds only if the handshake then
// succeeds: that the peer has the key is checked last.
//
// ErrNoCertificate: the peer has not said who it is, which KindNBDOpen and KindJoin allow.
func (i *Identity) PeerNode(cs tls.ConnectionState) (Peer, error) {
	if len(cs.PeerCertificates) == 0 {
		return Peer{}, ErrNoCertificate
	}
	return i.cur.Load().bundle.verify(cs.PeerCertificates[0], x509.ExtKeyUsageAny, i.cfg.Clock())
}
