package node

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/pki"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/quorum/ledger"
)

// Seat is where a node that is about to be part of a cluster will be. Forming and joining are done
// while no daemon runs on its data directory.
type Seat struct {
	Name    string
	DataDir string
	Config  string // path of the node file that is written; "": node.toml in DataDir
	Listen  string // host:port for the other nodes, at which they reach it
	Gossip  string // likewise, for membership; "": the port behind that of Listen
	NBD     string // host:port for NBD clients; "": none
	Witness bool
}

// Files of a seat, below its data directory.
const (
	pkiDir      = "pki"
	gossipKey   = "gossip.key"
	pendingFile = "joining.pem" // the key of a join that has not ended, and who the node is in it
	pendingType = "LOCKSTEP NODE ID"
)

// file returns the node file of s, in a cluster.
func (s *Seat) file(cluster string) config.Node {
	n := config.DefaultNode()
	n.Name, n.Cluster, n.DataDir, n.Witness = s.Name, cluster, s.DataDir, s.Witness
	n.Listen, n.GossipListen, n.NBDListen = s.Listen, s.Gossip, s.NBD
	n.PKIDir, n.KeyFile = filepath.Join(s.DataDir, pkiDir), filepath.Join(s.DataDir, gossipKey)
	n.Resolve("/")
	return n
}

// complete fills s in and judges it.
//
// Errors: control.ErrUsage, control.ErrExists.
func (s *Seat) complete() error {
	if err := config.CheckName("node", s.Name); err != nil {
		return control.Usagef("%v", err)
	}
	var err error
	if s.DataDir, err = filepath.Abs(s.DataDir); err != nil {
		return err
	}
	if s.Config == "" {
		s.Config = filepath.Join(s.DataDir, "node.toml")
	}
	if s.Config, err = filepath.Abs(s.Config); err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(s.Listen)
	if err != nil {
		return control.Usagef("listen address %q: %v; write host:port", s.Listen, err)
	}
	if a, err := netip.ParseAddr(host); host == "" || err == nil && a.IsUnspecified() {
		return control.Usagef("listen address %q: the others are told this address, so it names one of this host's", s.Listen)
	}
	if s.Gossip == "" {
		p, err := strconv.ParseUint(port, 10, 16)
		if err != nil || p == 0 || p == 1<<16-1 {
			return control.Usagef("listen address %q has no port that could be followed by that of the gossip", s.Listen)
		}
		s.Gossip = net.JoinHostPort(host, strconv.FormatUint(p+1, 10))
	}
	if _, err := os.Lstat(s.Config); !errors.Is(err, os.ErrNotExist) {
		return control.Errorf(control.CodeExists, "%s exists; a node that is part of a cluster stays in it", s.Config)
	}
	return os.MkdirAll(s.DataDir, 0o700)
}

// finish writes the gossip key and, last, the node file: with it the seat is taken.
func (s *Seat) finish(n config.Node, key config.Key) error {
	if err := replaceFile(n.KeyFile, []byte(key.Encode()+"\n")); err != nil {
		return fmt.Errorf("gossip key: %w", err)
	}
	n.Key = key
	if err := n.Validate(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(s.Config), 0o755); err != nil {
		return err
	}
	return replaceFile(s.Config, n.Encode())
}

// NewCluster is what InitCluster is told beyond the seat of the first node.
type NewCluster struct {
	Name             string
	Timing           string // preset; "": lan
	PlainReplication bool   // replication_tls = false
}

// InitCluster forms a cluster of one: its authority, the identity of its first node, its ledger and
// the node file. What an attempt that failed leaves behind has to be removed by hand.
//
// Errors: control.ErrUsage, control.ErrExists, config.Faults, or that of the file system.
func InitCluster(c NewCluster, s Seat) (file string, err error) {
	if s.Witness {
		return "", control.Usagef("the first node holds data; a witness joins later")
	}
	if err := s.complete(); err != nil {
		return "", err
	}
	n := s.file(c.Name)
	n.ReplicationTLS = !c.PlainReplication
	if c.Timing != "" {
		n.Timing = c.Timing
		n.ApplyTiming()
	}
	n.Nodes = []config.Peer{{Name: s.Name, Addr: s.Listen, Gossip: s.Gossip}}
	key := config.NewKey()
	probe := n
	probe.Key = key
	if err := probe.Validate(); err != nil { // before anything is written
		return "", err
	}
	ca, err := pki.NewAuthority(pki.ClusterID(c.Name), time.Now, rand.Reader)
	if err != nil {
		return "", control.Usagef("%v", err)
	}
	csr, priv, err := pki.NewCSR(s.Name, rand.Reader)
	if err != nil {
		return "", err
	}
	id := newIdentityID()
	cert, err := ca.Issue(csr, pki.Subject{Role: pki.RoleNode, Name: s.Name, NodeID: id, Addresses: hostPart(s.Listen)}, 0)
	if err != nil {
		return "", err
	}
	if err := ca.Save(n.PKIDir); err != nil {
		return "", err
	}
	if err := pki.Create(n.PKIDir, pki.Credentials{Cert: cert, Key: priv}, ca.Bundle(), time.Now()); err != nil {
		return "", err
	}
	if err := ledger.Found(s.DataDir, c.Name, quorum.Node{Name: s.Name, Addr: s.Listen, Gossip: s.Gossip, Identity: id}); err != nil {
		return "", err
	}
	return s.Config, s.finish(n, key)
}

// newIdentityID tells one certified node from a later one of the same name.
func newIdentityID() string {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// Joined is how a join ended.
type Joined struct {
	Cluster string
	Member  string // who let the node in
	File    string // the node file that was written
}

// JoinCluster makes a node a member of the cluster that token is of, through its member at addr. It
// can be repeated with the same token when its answer was lost.
//
// Errors: control.ErrUsage, control.ErrExists, control.ErrUnreachable, pki.ErrRefused, or that of the
// file system.
func JoinCluster(ctx context.Context, addr, token string, s Seat) (Joined, error) {
	tok, err := pki.ParseToken(token)
	if err != nil {
		return Joined{}, control.Usagef("%v", err)
	}
	if err := s.complete(); err != nil {
		return Joined{}, err
	}
	d := tls.Dialer{Config: tok.ClientConfig(time.Now)}
	raw, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return Joined{}, control.Errorf(control.CodeUnreachable, "%s does not let itself be joined: %v", addr, err)
	}
	conn := raw.(*tls.Conn)
	defer conn.NetConn().Close()
	stop := context.AfterFunc(ctx, func() { conn.NetConn().Close() })
	defer stop()
	member, err := tok.Member(conn.ConnectionState(), time.Now())
	if err != nil {
		return Joined{}, err
	}
	n := s.file(string(member.Cluster))
	key, err := enroll(conn, tok, member, &n, s)
	if err != nil {
		return Joined{}, err
	}
	if err := s.finish(n, key); err != nil {
		return Joined{}, err
	}
	_ = os.Remove(filepath.Join(s.DataDir, pendingFile)) // what it held is in identity.pem now
	return Joined{Cluster: n.Cluster, Member: member.Name, File: s.Config}, nil
}

// enroll has the member let this node in, installs the certificate and completes n with what a member
// has to know. It returns the gossip key.
func enroll(conn *tls.Conn, tok pki.Token, member pki.Peer, n *config.Node, s Seat) (config.Key, error) {
	var none config.Key
	voter, err := ledger.Prepare(s.DataDir, n.Cluster, s.Name)
	if err != nil {
		return none, fmt.Errorf("%w; a node that joins begins with an empty data_dir", err)
	}
	priv, id, err := pending(s.DataDir)
	if err != nil {
		return none, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, priv)
	if err != nil {
		return none, err
	}
	binding, err := pki.BindingOf(conn.ConnectionState())
	if err != nil {
		return none, err
	}
	q, err := pki.NewJoinRequest(tok, binding, csr, pki.Subject{Name: s.Name, NodeID: id, Addresses: hostPart(s.Listen)})
	if err != nil {
		return none, err
	}
	e, err := json.Marshal(enrollment{Voter: voter, Addr: s.Listen, Gossip: s.Gossip, Witness: s.Witness})
	if err != nil {
		return none, err
	}
	if err := errors.Join(writeMessage(conn, q.Encode()), writeMessage(conn, e)); err != nil {
		return none, noAnswer(member, err)
	}
	b, err := readMessage(conn, pki.MaxJoinReply)
	if err != nil {
		return none, noAnswer(member, err)
	}
	reply, err := pki.DecodeJoinReply(b)
	if err != nil {
		return none, err
	}
	creds, bundle, err := reply.Accept(tok, member, q, priv, time.Now())
	if err != nil {
		return none, control.Errorf(control.CodeRefused, "%v", err)
	}
	if err := pki.Create(n.PKIDir, creds, bundle, time.Now()); err != nil && !errors.Is(err, os.ErrExist) {
		return none, err // one that exists is of this very key: an earlier attempt came as far as that
	}
	var w welcome
	if err := json.Unmarshal(reply.Cluster, &w); err != nil {
		return none, fmt.Errorf("answer of %v: %w", member, err)
	}
	n.Timing, n.ReplicationTLS = w.Timing, w.ReplicationTLS
	n.ApplyTiming()
	n.Nodes = append(w.Nodes, config.Peer{Name: s.Name, Addr: s.Listen, Gossip: s.Gossip, Witness: s.Witness})
	return config.ParseKey(w.Key)
}

func noAnswer(member pki.Peer, err error) error {
	return control.Errorf(control.CodeOutcomeUnknown, "%v has not answered: %v", member, err).
		WithHint("do the same again with the same token: that is safe")
}

// pending returns the key with which this node joins, and who it is then. They are made once and kept
// until the join has ended: a token serves one key alone.
func pending(dir string) (*ecdsa.PrivateKey, string, error) {
	path := filepath.Join(dir, pendingFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		_, key, err := pki.NewCSR("", rand.Reader)
		if err != nil {
			return nil, "", err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, "", err
		}
		id := newIdentityID()
		b := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: pendingType, Bytes: []byte(id)})...)
		return key, id, replaceFile(path, b)
	}
	if err != nil {
		return nil, "", err
	}
	first, rest := pem.Decode(b)
	second, _ := pem.Decode(rest)
	if first == nil || second == nil || second.Type != pendingType {
		return nil, "", fmt.Errorf("%s is damaged; remove it, and join with a new token", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(first.Bytes)
	key, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok {
		return nil, "", fmt.Errorf("%s is damaged; remove it, and join with a new token", path)
	}
	return key, string(second.Bytes), nil
}
