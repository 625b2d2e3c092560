package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/lockstep-ha/lockstep/internal/outq"
)

// TLSMode is what a listener demands of its clients, proto.md "Server-side requirements".
type TLSMode uint8

const (
	TLSOff      TLSMode = iota // plain connections alone: NOTLS
	TLSAllowed                 // the client's choice, unless Lookup insists (NotServedTLS): SELECTIVETLS
	TLSRequired                // no option is answered before STARTTLS: FORCEDTLS
)

func (m TLSMode) String() string {
	switch m {
	case TLSOff:
		return "off"
	case TLSAllowed:
		return "allowed"
	case TLSRequired:
		return "required"
	}
	return "invalid"
}

// defaultHandshake is the usual TLS.HandshakeTimeout.
const defaultHandshake = 10 * time.Second

// TLS is how the connections of one listener are protected. The zero value is TLSOff.
type TLS struct {
	Mode TLSMode
	// Config has the server's certificate and says, by ClientAuth, whether clients need one.
	// Serving goes on with what its GetCertificate and VerifyConnection return at each
	// handshake, so certificates change without a restart. GetConfigForClient must be nil: what
	// it returned would go past Verify. Sessions are never resumed.
	//
	// proto.md asks servers for TLS 1.2; a Config that begins at 1.3 is stricter, on purpose.
	Config *tls.Config
	// HandshakeTimeout is from STARTTLS to the end of the handshake; it is part of
	// NegotiationTimeout and cannot exceed it. Default 10 s.
	HandshakeTimeout time.Duration
	// Verify, if set, decides on each handshake, after Config.VerifyConnection and before the
	// server's side of it is complete, and names the client. An error ends the connection; the
	// client sees an alert without a reason, the log has the reason.
	Verify func(tls.ConnectionState) (client string, err error)
}

// Validate lists what makes t impossible to serve.
func (t TLS) Validate() error {
	var faults []error
	if t.Mode > TLSRequired {
		faults = append(faults, fmt.Errorf("nbd: TLS mode %d", t.Mode))
	}
	if t.HandshakeTimeout < 0 {
		faults = append(faults, fmt.Errorf("nbd: TLS handshake timeout is %v, want 0 or more", t.HandshakeTimeout))
	}
	switch c := t.Config; {
	case t.Mode == TLSOff:
	case c == nil:
		faults = append(faults, fmt.Errorf("nbd: TLS is %v and has no configuration", t.Mode))
	case c.GetConfigForClient != nil:
		faults = append(faults, errors.New("nbd: TLS configuration with GetConfigForClient"))
	case len(c.Certificates) == 0 && c.GetCertificate == nil:
		faults = append(faults, errors.New("nbd: TLS configuration without a certificate"))
	}
	return errors.Join(faults...)
}

// Client is who asks for an export.
type Client struct {
	Remote net.Addr
	Name   string               // as TLS.Verify names it; "" without
	TLS    *tls.ConnectionState // nil on a plain connection; read-only
}

type clientKey struct{}

// ClientOf returns the client in whose name Exports.Lookup was called with ctx.
func ClientOf(ctx context.Context) (Client, bool) {
	c, ok := ctx.Value(clientKey{}).(Client)
	return c, ok
}

// withClient is ctx as Lookup gets it.
func (c *Conn) withClient(ctx context.Context) context.Context {
	cl := Client{Remote: c.nc.RemoteAddr(), Name: c.client}
	if c.tls != nil {
		st := c.tls.ConnectionState()
		cl.TLS = &st
	}
	return context.WithValue(ctx, clientKey{}, cl)
}

// needsTLS reports whether opt has to be refused because the connection is still plain.
func (c *Conn) needsTLS(opt uint32) bool {
	return c.lst.tls.Mode == TLSRequired && c.tls == nil && opt != optStartTLS && opt != optAbort
}

// refuseWithoutTLS answers an option that the client may only use within TLS. EXPORT_NAME has no
// error reply: proto.md "FORCEDTLS mode" has the session terminated.
func (c *Conn) refuseWithoutTLS(opt uint32) error {
	if opt == optExportName {
		return errors.New("nbd: export name without TLS, which this listener requires")
	}
	return c.reply(opt, repErrTLSReqd, []byte("this server requires TLS"))
}

// refusalReply returns the option reply for k. proto.md allows TLS_REQD only where STARTTLS
// would help: before TLS, on a listener that has it.
func (c *Conn) refusalReply(k NotServedKind) uint32 {
	if k == NotServedTLS && (c.tls != nil || c.lst.tls.Mode == TLSOff) {
		return repErrPolicy
	}
	return k.reply()
}

// optStartTLS answers STARTTLS and, if it may be, does the handshake.
//
// A byte that the client sent behind STARTTLS in the clear, and that is acted on after the
// handshake, is a byte that anybody on the way may have put there: the fault of many STARTTLS
// servers (CVE-2011-0411 and its kin). Nothing crosses over here: buffered bytes end the
// connection, later ones meet the handshake, which fails.
func (c *Conn) optStartTLS(ctx context.Context, data []byte, fixedNewstyle bool) error {
	switch {
	case c.lst.tls.Mode == TLSOff:
		return c.reply(optStartTLS, repErrUnsup, nil)
	case c.tls != nil:
		return c.reply(optStartTLS, repErrInvalid, []byte("TLS is in use already"))
	case len(data) > 0:
		return c.reply(optStartTLS, repErrInvalid, []byte("STARTTLS takes no data"))
	case !fixedNewstyle:
		// proto.md "Server-side requirements": NOTLS for a client that did not agree to it.
		return c.reply(optStartTLS, repErrPolicy, []byte("STARTTLS needs fixed newstyle"))
	case c.rd.buffered() > 0:
		return fmt.Errorf("nbd: %d bytes in the clear behind STARTTLS", c.rd.buffered())
	}
	if err := c.reply(optStartTLS, repAck, nil); err != nil {
		return err
	}
	if err := c.handshake(ctx); err != nil {
		if !c.killed.Load() { // else it is not the handshake that failed
			c.srv.tlsFailed(c, err)
		}
		return fmt.Errorf("nbd: TLS handshake: %w", err)
	}
	return nil
}

// handshake turns the connection into one of TLS. No state of the negotiation before it may
// survive, or whoever wrote the clear part decides on the rest (CVE-2021-3716). What there is of it
// is the read buffer, which is empty, the client flags, which belong to the greeting and stay, and what
// the client said of itself, which is forgotten.
func (c *Conn) handshake(ctx context.Context) error {
	t := &c.lst.tls
	ctx, cancel := context.WithTimeout(ctx, t.HandshakeTimeout)
	defer cancel()
	cfg := t.Config.Clone()
	cfg.SessionTicketsDisabled = true // each connection proves itself anew
	if verify := t.Verify; verify != nil {
		before := cfg.VerifyConnection
		cfg.VerifyConnection = func(st tls.ConnectionState) (err error) {
			if before != nil {
				if err := before(st); err != nil {
					return err
				}
			}
			c.client, err = verify(st)
			return err
		}
	}
	// HandshakeContext bounds the handshake by closing the connection, so the deadline of the
	// negotiation stays as it is.
	tc := tls.Server(c.nc, cfg)
	if err := tc.HandshakeContext(ctx); err != nil {
		return err
	}
	return c.secure(tc)
}

// secure has everything from now on go through tc. c.nc stays the socket: closing that ends tc at
// once, without a goodbye that might wait for the client.
func (c *Conn) secure(tc *tls.Conn) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.killed.Load() {
		return c.err
	}
	c.tls = tc
	c.attached, c.attachedTo = nil, ""
	c.rd.conn = tc
	c.q = outq.New(tc) // the old one is empty and not running; Close would stop writes on the socket
	c.q.OnWritten(c.budget.sent)
	return nil
}

// goodbye ends TLS before the connection, as proto.md demands once a client has disconnected:
// it tells the client that nothing was cut off. crypto/tls gives it 5 s.
func (c *Conn) goodbye() {
	if c.tls != nil {
		_ = c.tls.CloseWrite() // the client may be gone already
	}
}

// tlsFailed books and reports a handshake that came to nothing.
func (s *Server) tlsFailed(c *Conn, err error) {
	s.mu.Lock()
	s.handshakesFailed++
	s.mu.Unlock()
	s.cfg.Logger.Info("TLS handshake with a client failed",
		slog.Uint64("conn", c.id), slog.Any("remote", c.nc.RemoteAddr()), slog.Any("error", err))
}
