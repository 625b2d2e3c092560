package control

import (
	"context"
	"net/http"
	"time"

	"github.com/lockstep-ha/lockstep/internal/config"
)

// Former is the part of a Backend that decides who belongs to the cluster. Without certificates
// everything of it is ErrUnsupported.
type Former interface {
	// Token makes a permission to join, for one node, once.
	Token(ctx context.Context, req TokenRequest) (TokenGrant, error)
	// ClientCert has the key of an NBD client certified.
	ClientCert(ctx context.Context, req CertRequest) (CertGrant, error)
	// Renew renews this node's certificate now.
	Renew(ctx context.Context) (Security, error)
	// GossipKey takes one step of a change of the gossip key on this node.
	GossipKey(ctx context.Context, req GossipKey) error
	// RemoveNode takes a node that holds no replica out of the cluster.
	RemoveNode(ctx context.Context, req RemoveNode) error
}

// GossipKey is one step of a change of the gossip key. All nodes take each before any takes the next, so at no
// moment are there two that do not hear each other.
type GossipKey struct {
	Step string `json:"step"` // one of the steps below
	Key  string `json:"key"`  // the new one, base64
}

// Steps of GossipKey, in their order.
const (
	GossipKeyBelieve = "believe" // who uses it is heard
	GossipKeyUse     = "use"     // it is used, and the others are believed
	GossipKeyOnly    = "only"    // nothing else is believed any more
)

// TokenRequest says for whom a token is.
type TokenRequest struct {
	TTL  time.Duration `json:"ttl_ns,omitempty"` // 1 minute to 7 days; 0: 1 hour
	Node string        `json:"node,omitempty"`   // the only name it is good for; "": any new one
	// Replace: the user takes the place of the member Node, whose certificate is refused from then on.
	Replace bool `json:"replace,omitempty"`
}

// Validate reports what is wrong with r by itself, as ErrUsage.
func (r *TokenRequest) Validate() error {
	if r.Node == "" && !r.Replace {
		return nil
	}
	return usage(config.CheckName("node", r.Node))
}

// TokenGrant is a token. It is a secret.
type TokenGrant struct {
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
	Addr    string    `json:"addr"` // of a member, to join at
}

// CertRequest asks for the certificate of an NBD client.
type CertRequest struct {
	Name string `json:"name"`
	CSR  []byte `json:"csr"` // DER; the key stays with who asks
}

// CertGrant is a certificate, and the authorities that the client is to believe.
type CertGrant struct {
	Certificate []byte `json:"certificate"` // DER
	Bundle      []byte `json:"bundle"`      // PEM
}

// RemoveNode says who is to be removed.
type RemoveNode struct {
	Node  string `json:"node"`
	Force bool   `json:"force,omitempty"` // although the cluster is worse off without it
}

// Security says how the answering node's links are protected.
type Security struct {
	Links           string    `json:"links"` // tls, or plain when replication is not encrypted
	CertificateEnds time.Time `json:"certificate_ends"`
	Signs           bool      `json:"signs"` // it holds the authority's key
	// Problem is a sentence: what is wrong with the certificate, and what to type.
	Problem string `json:"problem,omitempty"`
}

func (s *Server) formerRoutes() {
	s.mux.HandleFunc("POST /v1/cluster/token", func(w http.ResponseWriter, r *http.Request) {
		var body TokenRequest
		s.answer(w, r, "", &body, func(ctx context.Context, _ string) (any, error) {
			if err := body.Validate(); err != nil {
				return nil, err
			}
			return s.opts.Backend.Token(ctx, body)
		})
	})
	s.mux.HandleFunc("POST /v1/cluster/client-cert", func(w http.ResponseWriter, r *http.Request) {
		var body CertRequest
		s.answer(w, r, "", &body, func(ctx context.Context, _ string) (any, error) {
			if err := usage(config.CheckName("client", body.Name)); err != nil {
				return nil, err
			}
			return s.opts.Backend.ClientCert(ctx, body)
		})
	})
	s.mux.HandleFunc("POST /v1/cluster/renew", func(w http.ResponseWriter, r *http.Request) {
		s.answer(w, r, "", nil, func(ctx context.Context, _ string) (any, error) { return s.opts.Backend.Renew(ctx) })
	})
	s.mux.HandleFunc("POST /v1/cluster/gossip-key", func(w http.ResponseWriter, r *http.Request) {
		var body GossipKey
		s.change(w, r, "", &body, func(ctx context.Context, _ string) error { return s.opts.Backend.GossipKey(ctx, body) })
	})
	s.mux.HandleFunc("POST /v1/cluster/remove-node", func(w http.ResponseWriter, r *http.Request) {
		var body RemoveNode
		s.change(w, r, "", &body, func(ctx context.Context, _ string) error {
			if err := usage(config.CheckName("node", body.Node)); err != nil {
				return err
			}
			return s.opts.Backend.RemoveNode(ctx, body)
		})
	})
}

// Token asks for a permission to join; see Former.
func (c *Client) Token(ctx context.Context, req TokenRequest) (TokenGrant, error) {
	var g TokenGrant
	err := c.call(ctx, http.MethodPost, "/v1/cluster/token", nil, req, &g)
	return g, err
}

// ClientCert has a client's key certified; see Former.
func (c *Client) ClientCert(ctx context.Context, req CertRequest) (CertGrant, error) {
	var g CertGrant
	err := c.call(ctx, http.MethodPost, "/v1/cluster/client-cert", nil, req, &g)
	return g, err
}

// Renew renews a certificate; see Former.
func (c *Client) Renew(ctx context.Context) (Security, error) {
	var s Security
	err := c.call(ctx, http.MethodPost, "/v1/cluster/renew", nil, nil, &s)
	return s, err
}

// GossipKey takes one step of a change of the gossip key; see Former.
func (c *Client) GossipKey(ctx context.Context, req GossipKey) error {
	return c.call(ctx, http.MethodPost, "/v1/cluster/gossip-key", nil, req, nil)
}

// RemoveNode takes a node out of the cluster; see Former.
func (c *Client) RemoveNode(ctx context.Context, req RemoveNode) error {
	return c.call(ctx, http.MethodPost, "/v1/cluster/remove-node", nil, req, nil)
}
