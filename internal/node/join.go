package node

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/pki"
	"github.com/lockstep-ha/lockstep/quorum"
)

// admitter lets new nodes in and signs certificates, or has it done by a node that holds the
// authority's key. What it decides by is in the ledger, so any member can be asked.
//
// On a connection of a node that joins, each message is its length, 4 bytes big endian, and as many
// bytes:
//
//	new node -> member   pki.JoinRequest
//	new node -> member   enrollment, JSON
//	member -> new node   pki.JoinReply; its Cluster is a welcome, JSON
//
// A member without the authority's key passes both on, with the binding of its connection: only it
// can tell that, and a member that lied about it could as well make a token.
type admitter struct {
	cfg    config.Node
	id     *pki.Identity
	ca     *pki.Authority // nil: the key is elsewhere
	ledger ledgerAPI
	asker  asker
	log    *slog.Logger
}

// enrollment is what the ledger has to know of a new node.
type enrollment struct {
	Voter   uint64 `json:"voter"`
	Addr    string `json:"addr"`
	Gossip  string `json:"gossip"`
	Witness bool   `json:"witness,omitempty"`
}

// welcome is what a new node has to know of the cluster.
type welcome struct {
	Key            string        `json:"key"` // of the gossip, base64
	Nodes          []config.Peer `json:"nodes"`
	Timing         string        `json:"timing"`
	ReplicationTLS bool          `json:"replication_tls"`
}

const (
	maxEnrollment = 4 << 10 // bytes
	tokenLongest  = 7 * 24 * time.Hour
	tokenUsual    = time.Hour
)

// Questions of one node to another about certificates; see question.Op.
const (
	opAdmit   = "admit"   // a relayed: let this node in
	opRenew   = "renew"   // a CSR of who asks: certify it
	opCertify = "certify" // a clientCSR: certify it
)

// relayed is a join on its way to a node that can sign.
type relayed struct {
	Binding pki.Binding `json:"binding"`
	Request []byte      `json:"request"`
	Enroll  enrollment  `json:"enroll"`
}

type clientCSR struct {
	Name string `json:"name"`
	CSR  []byte `json:"csr"`
}

// serve answers a node that joins.
func (a *admitter) serve(ctx context.Context, conn *tls.Conn) {
	stop := context.AfterFunc(ctx, func() { conn.NetConn().Close() })
	defer stop()
	defer conn.Close()
	r, err := a.receive(conn)
	if err != nil {
		a.log.Warn("join refused", "remote", conn.RemoteAddr().String(), "err", err)
		return
	}
	reply := a.admit(ctx, r)
	if reply.Refusal != "" {
		a.log.Warn("join refused", "remote", conn.RemoteAddr().String(), "err", reply.Refusal)
	}
	b, err := reply.Encode()
	if err == nil {
		err = writeMessage(conn, b)
	}
	if err != nil {
		a.log.Warn("join not answered; the node may repeat it with the same token", "remote", conn.RemoteAddr().String(), "err", err)
	}
}

func (a *admitter) receive(conn *tls.Conn) (relayed, error) {
	var r relayed
	var err error
	if r.Binding, err = pki.BindingOf(conn.ConnectionState()); err != nil {
		return r, err
	}
	if r.Request, err = readMessage(conn, pki.MaxJoinRequest); err != nil {
		return r, err
	}
	b, err := readMessage(conn, maxEnrollment)
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(b, &r.Enroll)
}

// admit has a join decided, here or where the authority's key is.
func (a *admitter) admit(ctx context.Context, r relayed) pki.JoinReply {
	var out pki.JoinReply
	b, err := a.signed(ctx, opAdmit, r, func() ([]byte, error) {
		reply, err := a.letIn(ctx, r)
		if err != nil {
			return nil, err
		}
		return reply.Encode()
	})
	if err == nil {
		var reply *pki.JoinReply
		if reply, err = pki.DecodeJoinReply(b); err == nil {
			return *reply
		}
	}
	out.Refusal = err.Error()
	return out
}

// signed does what needs the authority's key, here or at the first node that has it.
//
// Errors: that of do, or *control.Error.
func (a *admitter) signed(ctx context.Context, op string, body any, do func() ([]byte, error)) ([]byte, error) {
	if a.ca != nil {
		return do()
	}
	blob, ok := body.([]byte)
	if !ok {
		var err error
		if blob, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	st := a.ledger.State()
	if st == nil {
		return nil, control.Errorf(control.CodeNoQuorum, "this node has not heard from the ledger yet")
	}
	for _, n := range st.Nodes {
		if n.Name == a.cfg.Name {
			continue
		}
		got, err := a.asker.ask(ctx, n.Name, question{Op: op, Blob: blob})
		switch {
		case err != nil, got.Error != nil && errors.Is(got.Error, control.ErrUnsupported):
		case got.Error != nil:
			return nil, got.Error
		default:
			return got.Blob, nil
		}
	}
	return nil, control.Errorf(control.CodeUnreachable, "no node that is reached holds the authority's key").
		WithHint("start the node with ca.key in its pki_dir, or put the key there for as long as it is needed").WithSafety(control.SafetyYes)
}

// reply answers what a node asks about certificates; other questions are for next.
func (a *admitter) reply(from string, next func(context.Context, question) answer) func(context.Context, question) answer {
	return func(ctx context.Context, q question) answer {
		var b []byte
		err := error(control.Errorf(control.CodeUnsupported, "%s does not hold the authority's key", a.cfg.Name))
		switch {
		case q.Op != opAdmit && q.Op != opRenew && q.Op != opCertify:
			return next(ctx, q)
		case a.ca == nil:
		case q.Op == opAdmit:
			b, err = a.letInFor(ctx, q.Blob)
		case q.Op == opRenew:
			b, err = a.certifyNode(from, q.Blob)
		case q.Op == opCertify:
			b, err = a.certifyClient(q.Blob)
		}
		if err != nil {
			return answer{Error: control.AsError(err)}
		}
		return answer{Blob: b}
	}
}

func (a *admitter) letInFor(ctx context.Context, blob []byte) ([]byte, error) {
	var r relayed
	if err := json.Unmarshal(blob, &r); err != nil {
		return nil, control.Usagef("%v", err)
	}
	reply, err := a.letIn(ctx, r)
	if err != nil {
		return nil, refusedf("%v", err)
	}
	return reply.Encode()
}

// letIn decides about a join: the token is used up before a certificate is made, and the node is a
// member before it hears of it, so that what is repeated after a crash ends the same way.
func (a *admitter) letIn(ctx context.Context, r relayed) (*pki.JoinReply, error) {
	q, err := pki.DecodeJoinRequest(r.Request)
	if err != nil {
		return nil, err
	}
	if err := a.ledger.Barrier(ctx); err != nil {
		return nil, fmt.Errorf("the ledger has no majority: %w", err)
	}
	st := a.ledger.State()
	rec, replaces := tokenRecord(st.Token(q.Token.String()))
	adm, err := pki.VerifyJoin(rec, r.Binding, q, time.Now(), func(name string) bool {
		n := st.Node(name)
		return n != nil && n.VoterID != replaces
	})
	if err != nil {
		return nil, err
	}
	if err := a.checkEnrollment(r.Enroll, q); err != nil {
		return nil, err
	}
	key := hex.EncodeToString(adm.Key[:])
	err = catalogue(ctx, a.ledger, func(*quorum.State) *quorum.Command {
		return &quorum.Command{UseToken: &quorum.UseToken{ID: q.Token.String(), Key: key, Name: q.Name}}
	}, func(st *quorum.State) bool {
		t := st.Token(q.Token.String())
		return t != nil && t.UsedBy == key && t.UsedName == q.Name
	})
	if err != nil {
		return nil, err
	}
	cert, err := a.ca.Issue(q.CSR, adm.Subject, 0)
	if err != nil {
		return nil, err
	}
	if err := a.add(ctx, q, r.Enroll, replaces); err != nil {
		return nil, err
	}
	a.log.Info("node joined", "peer", q.Name, "token", q.Token.String(), "voter", r.Enroll.Voter, "again", adm.Again)
	return a.greeting(cert, q.Name)
}

func (a *admitter) checkEnrollment(e enrollment, q *pki.JoinRequest) error {
	for _, addr := range []string{e.Addr, e.Gossip} {
		if host, port, err := net.SplitHostPort(addr); err != nil || host == "" || port == "" || port == "0" {
			return fmt.Errorf("%.100q is no address at which others reach a node: want host:port", addr)
		}
	}
	if e.Voter == 0 || q.NodeID == "" {
		return fmt.Errorf("%s says neither who it is nor how it votes", q.Name)
	}
	return nil
}

// add makes the new node a member.
func (a *admitter) add(ctx context.Context, q *pki.JoinRequest, e enrollment, replaces uint64) error {
	n := quorum.Node{Name: q.Name, VoterID: e.Voter, Addr: e.Addr, Gossip: e.Gossip, Witness: e.Witness, Identity: q.NodeID}
	return catalogue(ctx, a.ledger, func(st *quorum.State) *quorum.Command {
		add := &quorum.AddNode{Node: n}
		if st.Node(n.Name) != nil {
			add.Replaces = replaces // 0 when it is not to replace anybody, and then this is refused
		}
		return &quorum.Command{AddNode: add}
	}, func(st *quorum.State) bool {
		old := st.Node(n.Name)
		return old != nil && old.VoterID == n.VoterID && old.Identity == n.Identity
	})
}

// greeting is the answer to a node that is a member now.
func (a *admitter) greeting(cert *x509.Certificate, name string) (*pki.JoinReply, error) {
	key := a.cfg.Key
	if keys, err := config.ReadKeys(a.cfg.KeyFile); err == nil {
		key = keys[0] // it may have been changed since the start
	}
	w := welcome{Key: key.Encode(), Timing: a.cfg.Timing, ReplicationTLS: a.cfg.ReplicationTLS}
	for _, n := range a.ledger.State().Nodes {
		if n.Name != name {
			w.Nodes = append(w.Nodes, config.Peer{Name: n.Name, Addr: n.Addr, Gossip: n.Gossip, Witness: n.Witness})
		}
	}
	b, err := json.Marshal(w)
	if err != nil {
		return nil, err
	}
	return &pki.JoinReply{Cert: cert.Raw, Bundle: a.id.Bundle().PEM(), Cluster: b}, nil
}

// certifyNode renews the certificate of a member, which its connection has proven to be from.
func (a *admitter) certifyNode(from string, csr []byte) ([]byte, error) {
	st := a.ledger.State()
	if st == nil || st.Node(from) == nil {
		return nil, refusedf("%s is no member", from)
	}
	n := st.Node(from)
	cert, err := a.ca.Issue(csr, pki.Subject{Role: pki.RoleNode, Name: n.Name, NodeID: n.Identity, Addresses: hostPart(n.Addr)}, 0)
	if err != nil {
		return nil, err
	}
	a.log.Info("certificate signed", "role", "node", "name", from, "ends", cert.NotAfter)
	return cert.Raw, nil
}

func (a *admitter) certifyClient(blob []byte) ([]byte, error) {
	var c clientCSR
	if err := json.Unmarshal(blob, &c); err != nil {
		return nil, control.Usagef("%v", err)
	}
	cert, err := a.ca.Issue(c.CSR, pki.Subject{Role: pki.RoleClient, Name: c.Name}, 0)
	if err != nil {
		return nil, control.Usagef("%v", err)
	}
	a.log.Info("certificate signed", "role", "client", "name", c.Name, "ends", cert.NotAfter)
	return cert.Raw, nil
}

// signSelf certifies a new key of this node.
func (a *admitter) signSelf(ctx context.Context, csr []byte) (*x509.Certificate, error) {
	der, err := a.signed(ctx, opRenew, csr, func() ([]byte, error) { return a.certifyNode(a.cfg.Name, csr) })
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// Token makes a permission to join.
func (b *backend) Token(ctx context.Context, req control.TokenRequest) (control.TokenGrant, error) {
	if b.admitter == nil {
		return control.TokenGrant{}, notFormed()
	}
	ttl := req.TTL
	if ttl == 0 {
		ttl = tokenUsual
	}
	if ttl < time.Minute || ttl > tokenLongest {
		return control.TokenGrant{}, control.Usagef("a token is good for 1 minute to %v, not for %v", tokenLongest, ttl)
	}
	tok, err := pki.NewToken(b.keeper.id.Bundle().Keys()[0], rand.Reader)
	if err != nil {
		return control.TokenGrant{}, err
	}
	now := time.Now()
	hash, id := tok.Hash(), tok.ID().String()
	rec := quorum.Token{ID: id, Hash: hex.EncodeToString(hash[:]), Expires: now.Add(ttl).Unix(), Name: req.Node}
	missing := false
	err = catalogue(ctx, b.m.ledger, func(st *quorum.State) *quorum.Command {
		if req.Replace {
			n := st.Node(req.Node)
			if missing = n == nil; missing {
				return nil
			}
			rec.Replaces = n.VoterID
		}
		return &quorum.Command{AddToken: &quorum.AddToken{Token: rec, Now: now.Unix()}}
	}, func(st *quorum.State) bool { return st.Token(id) != nil })
	if missing {
		err = control.Errorf(control.CodeNotFound, "there is no node %s in this cluster", req.Node).WithSafety(control.SafetyYes)
	}
	if err != nil {
		return control.TokenGrant{}, err
	}
	return control.TokenGrant{Token: tok.Text(), Expires: now.Add(ttl), Addr: b.roster.addr(b.m.self.Node)}, nil
}

// ClientCert has the key of a client certified.
func (b *backend) ClientCert(ctx context.Context, req control.CertRequest) (control.CertGrant, error) {
	if b.admitter == nil {
		return control.CertGrant{}, notFormed()
	}
	c := clientCSR{Name: req.Name, CSR: req.CSR}
	blob, err := json.Marshal(c)
	if err != nil {
		return control.CertGrant{}, err
	}
	der, err := b.admitter.signed(ctx, opCertify, c, func() ([]byte, error) { return b.admitter.certifyClient(blob) })
	if err != nil {
		return control.CertGrant{}, err
	}
	return control.CertGrant{Certificate: der, Bundle: b.keeper.id.Bundle().PEM()}, nil
}

// tokenRecord is the ledger's record in the form that pki checks; of none, one that nothing proves.
func tokenRecord(t *quorum.Token) (rec pki.TokenRecord, replaces uint64) {
	if t == nil {
		return pki.TokenRecord{}, 0
	}
	fill := func(to []byte, from string) { _, _ = hex.Decode(to, []byte(from)) } // the ledger has checked the form
	fill(rec.ID[:], t.ID)
	fill(rec.Hash[:], t.Hash)
	fill(rec.UsedBy[:], t.UsedBy)
	rec.Expires, rec.Name, rec.UsedName = time.Unix(t.Expires, 0), t.Name, t.UsedName
	return rec, t.Replaces
}

func writeMessage(w io.Writer, b []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

func readMessage(r io.Reader, limit int) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if uint64(n) > uint64(limit) {
		return nil, fmt.Errorf("message of %d bytes, at most %d are read", n, limit)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}
