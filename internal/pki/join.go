package pki

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"
)

// TokenRecord is what the cluster keeps of a token. It holds no secret.
type TokenRecord struct {
	ID      TokenID
	Hash    TokenHash
	Expires time.Time
	// Name, if set, is the only name under which the token's user may join.
	Name string
	// UsedBy and UsedName are the key and name that joined with it; zero while nobody has. Whoever
	// stores records must set them before the certificate is issued, and only if they are still
	// zero: that is what makes a token good for one node.
	UsedBy   KeyHash
	UsedName string
}

// Record returns what the cluster keeps of t; name "" lets its user choose.
func (t Token) Record(expires time.Time, name string) TokenRecord {
	return TokenRecord{ID: t.id, Hash: t.Hash(), Expires: expires, Name: name}
}

// Binding ties a proof to one TLS connection.
type Binding [sha256.Size]byte

// BindingOf returns the binding of a connection: the same at both its ends, and at no other.
func BindingOf(cs tls.ConnectionState) (b Binding, err error) {
	if !cs.HandshakeComplete || cs.Version < tls.VersionTLS13 {
		return b, errors.New("binding: not a connection of TLS 1.3") // before it, exporters could collide
	}
	raw, err := cs.ExportKeyingMaterial("EXPORTER-lockstep-join/1", nil, len(b))
	copy(b[:], raw)
	return b, err
}

// JoinRequest is what a new node asks for.
type JoinRequest struct {
	Token     TokenID
	Proof     [sha256.Size]byte
	Name      string
	NodeID    string
	Addresses []string
	CSR       []byte // DER
}

// NewJoinRequest asks, over the connection of binding, for a certificate for csr. Of s the role is
// always RoleNode.
func NewJoinRequest(t Token, binding Binding, csr []byte, s Subject) (*JoinRequest, error) {
	s.Role = RoleNode
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	q := &JoinRequest{Token: t.id, Name: s.Name, NodeID: s.NodeID, Addresses: s.Addresses, CSR: csr}
	q.Proof = t.prove(q.message(binding))
	return q, nil
}

// message is what the proof is for: the connection, and all that is asked.
func (q *JoinRequest) message(binding Binding) []byte {
	bare := *q
	bare.Proof = [sha256.Size]byte{}
	return append(binding[:], bare.Encode()...)
}

// Admission is a join that may go on.
type Admission struct {
	Subject Subject
	Key     KeyHash // to be recorded, with the name, as who used the token
	Again   bool    // this node has used this token before, and may have missed the answer
}

// VerifyJoin decides whether a request may be granted. rec is the record of its token, the zero one
// if there is none. It changes nothing: the caller then records the use, which has to fail if
// another was recorded meanwhile, and issues the certificate. member tells whether a name is that of
// a member: a certificate for it would let the new node pass for the old one.
//
// Nothing about a token is said to those who do not have its secret: they get ErrTokenProof,
// whether there is such a token or not.
func VerifyJoin(rec TokenRecord, binding Binding, q *JoinRequest, now time.Time, member func(name string) bool) (Admission, error) {
	known := rec.ID == q.Token && rec.Hash != TokenHash{}
	if !rec.Hash.proves(q.Proof, q.message(binding)) || !known {
		return Admission{}, fmt.Errorf("token %v: %w", q.Token, ErrTokenProof)
	}
	s := Subject{Role: RoleNode, Name: q.Name, NodeID: q.NodeID, Addresses: q.Addresses}
	if err := s.check(); err != nil {
		return Admission{}, fmt.Errorf("token %v: %w: %w", q.Token, ErrJoin, err)
	}
	csr, err := parseCSR(q.CSR)
	if err != nil {
		return Admission{}, fmt.Errorf("token %v: %w: %w", q.Token, ErrJoin, err)
	}
	a := Admission{Subject: s, Key: sha256.Sum256(csr.RawSubjectPublicKeyInfo)}
	switch {
	case rec.Name != "" && rec.Name != q.Name:
		return Admission{}, fmt.Errorf("token %v: %w: it is for %s, not for %s", q.Token, ErrNode, rec.Name, q.Name)
	case now.After(rec.Expires):
		return Admission{}, fmt.Errorf("token %v: %w: at %s", q.Token, ErrTokenExpired, text(rec.Expires))
	case rec.UsedBy == KeyHash{} && member(q.Name):
		return Admission{}, fmt.Errorf("token %v: %w: %s", q.Token, ErrNameTaken, q.Name)
	case rec.UsedBy == KeyHash{}:
	case rec.UsedBy != a.Key || rec.UsedName != q.Name:
		return Admission{}, fmt.Errorf("token %v: %w: %s", q.Token, ErrTokenUsed, rec.UsedName)
	default:
		a.Again = true
	}
	return a, nil
}

// JoinReply is the cluster's answer.
type JoinReply struct {
	Refusal string // if set, why not; the rest is empty
	Cert    []byte // DER
	Bundle  []byte // PEM
	Cluster []byte // what else a member has to know; not looked at here
}

// Accept returns what the reply brings, once it is what was asked for: a certificate for the key of
// the request, under its name, by an authority of the bundle, in which the token's is. member is
// who answered, as Token.Member said.
func (r *JoinReply) Accept(t Token, member Peer, q *JoinRequest, key *ecdsa.PrivateKey, now time.Time) (Credentials, Bundle, error) {
	fail := func(err error) (Credentials, Bundle, error) {
		return Credentials{}, Bundle{}, fmt.Errorf("answer of %v to the join: %w", member, err)
	}
	if r.Refusal != "" {
		return fail(fmt.Errorf("%w: %s", ErrRefused, r.Refusal))
	}
	b, err := ParseBundle(r.Bundle)
	if err != nil {
		return fail(err)
	}
	cert, err := x509.ParseCertificate(r.Cert)
	if err != nil {
		return fail(err)
	}
	c := Credentials{Cert: cert, Key: key}
	if err := c.check(); err != nil {
		return fail(err)
	}
	got, err := b.verify(cert, x509.ExtKeyUsageServerAuth, now)
	if err != nil {
		return fail(err)
	}
	if want := (Peer{Cluster: member.Cluster, Role: RoleNode, Name: q.Name}); !same(got, want) {
		return fail(fmt.Errorf("%w: it is for %v, asked was for %v", ErrNode, got, want))
	}
	if !slices.Contains(b.Keys(), t.authority) {
		return fail(fmt.Errorf("%w: the token's authority is not in the bundle", ErrUntrusted))
	}
	return c, b, nil
}
