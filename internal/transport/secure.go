package transport

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/lockstep-ha/lockstep/internal/pki"
)

// joinWithin bounds the serving of a node that joins: the ledger has to answer within it.
const joinWithin = 30 * time.Second

// Secure is a connection within TLS whose two ends know each other.
type Secure struct {
	*tls.Conn
	cut    *recordConn
	key    []byte // of the handshake: both ends of this TLS connection have it, and nobody else
	peer   pki.Peer
	t      *Transport
	closed sync.Once
}

// Close closes the socket. It does not say goodbye first, as tls.Conn does: that can wait for a peer
// that reads no more, and what is sent here tells itself whether it is complete.
func (s *Secure) Close() error {
	err := net.ErrClosed
	s.closed.Do(func() {
		s.t.mu.Lock()
		delete(s.t.secured, s)
		s.t.mu.Unlock()
		err = s.cut.Conn.Close()
	})
	return err
}

// NetConn returns the socket, for its options alone.
func (s *Secure) NetConn() net.Conn { return s.cut.Conn }

// clear reports whether connections for service go on unencrypted.
func (t *Transport) clear(service string) bool { return slices.Contains(t.cfg.Clear, service) }

// secureFrom is the listener's TLS handshake.
func (t *Transport) secureFrom(ctx context.Context, raw net.Conn) (*Secure, error) {
	kinds := []pki.Kind{pki.KindPeers}
	if t.cfg.Join != nil {
		kinds = append(kinds, pki.KindJoin)
	}
	cut := &recordConn{Conn: raw}
	return t.shake(ctx, cut, tls.Server(cut, whole(t.cfg.Identity.ServerConfig(kinds...))))
}

// secureTo is the dialer's TLS handshake.
func (t *Transport) secureTo(ctx context.Context, raw net.Conn, node string) (*Secure, error) {
	cut := &recordConn{Conn: raw}
	return t.shake(ctx, cut, tls.Client(cut, whole(t.cfg.Identity.ClientConfig(pki.KindPeers, node))))
}

// whole has records be as large as what is written, from the first one on. Go begins with records
// of one packet, which helps a browser to draw early and costs a stream of blocks throughput.
func whole(c *tls.Config) *tls.Config {
	c.DynamicRecordSizingDisabled = true
	if inner := c.GetConfigForClient; inner != nil {
		c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			got, err := inner(hello)
			if err != nil || got == nil {
				return got, err
			}
			got = got.Clone()
			got.DynamicRecordSizingDisabled = true
			return got, nil
		}
	}
	return c
}

func (t *Transport) shake(ctx context.Context, cut *recordConn, tc *tls.Conn) (*Secure, error) {
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, refusedTLS(err)
	}
	cs := tc.ConnectionState()
	s := &Secure{Conn: tc, cut: cut, t: t}
	if pki.KindOf(cs) == pki.KindJoin {
		return s, nil
	}
	var err error
	if s.peer, err = t.cfg.Identity.PeerNode(cs); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	if s.key, err = cs.ExportKeyingMaterial("EXPORTER-lockstep-peer/1", nil, 32); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return s, nil
}

// refusedTLS says what the end of a TLS handshake, or of the first read after it, means: in TLS 1.3 a
// dialer learns only there that its certificate was refused.
func refusedTLS(err error) error {
	var garbage tls.RecordHeaderError
	var alert *net.OpError
	var ne net.Error
	switch {
	case errors.As(err, &garbage):
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	case errors.As(err, &alert) && alert.Op == "remote error":
		return fmt.Errorf("%w: %w", ErrCertificate, err)
	case errors.As(err, &ne), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return fmt.Errorf("%w: %w", ErrCertificate, err)
}

// settle returns the connection that a service gets.
func (t *Transport) settle(s *Secure, clear bool) net.Conn {
	if clear {
		// Nothing of the service was read yet: recordConn stops at the end of a record, and the last
		// one of the handshake is read.
		return s.cut.Conn
	}
	s.cut.free = true
	t.mu.Lock()
	t.secured[s] = true
	t.mu.Unlock()
	return s
}

// Recheck closes the connections to those whom admit does not want any more. Connections that go on
// unencrypted are not known here.
func (t *Transport) Recheck(admit func(pki.Peer) error) {
	var out []*Secure
	t.mu.Lock()
	for s := range t.secured {
		if admit(s.peer) != nil {
			out = append(out, s)
		}
	}
	t.mu.Unlock()
	for _, s := range out {
		t.log.Warn("connection closed", "peer", s.peer.Name, "reason", admit(s.peer))
		s.Close()
	}
}

// recordConn gives TLS no byte beyond the record that it is reading, so that what follows the last
// one can be read from the socket. It looks at the five bytes before each record: type, version,
// length. Once free, it gives what there is.
type recordConn struct {
	net.Conn
	free bool

	head [5]byte
	have int // bytes of head
	left int // bytes of the record behind head
}

func (c *recordConn) Read(p []byte) (int, error) {
	if c.free || len(p) == 0 {
		return c.Conn.Read(p)
	}
	if c.have == len(c.head) && c.left == 0 {
		c.have = 0
	}
	if c.have < len(c.head) {
		n, err := c.Conn.Read(p[:min(len(p), len(c.head)-c.have)])
		c.have += copy(c.head[c.have:], p[:n])
		if c.have == len(c.head) {
			c.left = int(binary.BigEndian.Uint16(c.head[3:]))
		}
		return n, err
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}
