package transport

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"time"
)

// welcome is the listener's side of the handshake, under key. certified is the name that the
// dialer's certificate has proven, "" without TLS. The hello is never nil; when err is nil all it says
// is proven, and a handler for its service is there.
func (t *Transport) welcome(conn net.Conn, key []byte, certified string) (*hello, error) {
	var first [helloSize]byte
	if err := read(conn, first[:]); err != nil {
		return &hello{}, err
	}
	h, err := decodeHello(first[:])
	if err != nil {
		return &hello{}, err
	}
	c := &challenge{version: Version, listener: t.cfg.Node}
	if c.verdict, err = t.judge(h, certified); err != nil {
		_, _ = conn.Write(c.encode()) // only an explanation; the refusal itself is the close
		return h, err
	}
	rand.Read(c.nonce[:])
	copy(c.mac[:], mac(key, labelListener, first[:], c.encode()[:challengeMAC]))
	second := c.encode()
	if _, err := conn.Write(second); err != nil {
		return h, fmt.Errorf("%w: %w", ErrClosed, err)
	}
	var proof [macSize]byte
	if err := read(conn, proof[:]); err != nil {
		return h, fmt.Errorf("%w, after it saw our proof: its key may be another one", err)
	}
	if !hmac.Equal(proof[:], mac(key, labelDialer, first[:], second)) {
		return h, ErrKey
	}
	if _, err := conn.Write(mac(key, labelAccept, first[:], second, proof[:])); err != nil {
		return h, fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return h, nil
}

// judge compares what a dialer wants with what this node is.
func (t *Transport) judge(h *hello, certified string) (verdict, error) {
	switch {
	case h.version != Version:
		return otherVersion, fmt.Errorf("%w: %d, here %d", ErrVersion, h.version, Version)
	case h.cluster != t.cfg.Cluster:
		return otherCluster, fmt.Errorf("%w: %q, here %q", ErrCluster, h.cluster, t.cfg.Cluster)
	case h.listener != t.cfg.Node:
		return otherNode, fmt.Errorf("%w: it asks for %q, this is %q", ErrNode, h.listener, t.cfg.Node)
	case certified != "" && h.dialer != certified:
		return otherNode, fmt.Errorf("%w: it calls itself %q and has the certificate of %q", ErrNode, h.dialer, certified)
	case t.handler(h.service) == nil:
		return noService, fmt.Errorf("%w: %q", ErrService, h.service)
	case h.clear != t.clear(h.service):
		return otherProtection, fmt.Errorf("%w: %q", ErrProtection, h.service)
	}
	return goOn, nil
}

// Dial connects to addr and returns the connection when the other end has proven that it is
// node, of this cluster, and has accepted this node's proof. The result is a *Secure, or where
// nothing is encrypted a *net.TCPConn, or what Config.Connect has made; the caller owns it. ctx
// bounds all of Dial, and no longer the connection afterwards.
//
// Errors: ErrCertificate, ErrKey, ErrCluster, ErrVersion, ErrNode, ErrService, ErrProtection,
// ErrProtocol, ErrClosed, or the error of the network.
func (t *Transport) Dial(ctx context.Context, addr, node, service string) (net.Conn, error) {
	if !fits(node, maxName) || !fits(service, maxService) {
		return nil, fmt.Errorf("%w: dial node %.80q, service %.80q", ErrConfig, node, service)
	}
	ctx, cancel := context.WithTimeout(ctx, t.cfg.HandshakeTimeout)
	defer cancel()
	conn, err := t.cfg.Connect(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", node, err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	out, err := t.present(ctx, conn, node, service)
	if !stop() && err == nil {
		err = ctx.Err() // it is closed, or about to be
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		if out != nil {
			out.Close() // so that it is not counted any more
		}
		conn.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", ErrClosed, ctx.Err())
		}
		return nil, fmt.Errorf("node %s at %s, service %s: %w", node, addr, service, err)
	}
	return out, nil
}

// present makes a connection that was just opened into one to node, which has proven itself.
func (t *Transport) present(ctx context.Context, conn net.Conn, node, service string) (net.Conn, error) {
	deadline, _ := ctx.Deadline()
	if err := prepare(conn, deadline); err != nil {
		return nil, err
	}
	if t.cfg.Identity == nil {
		return conn, t.introduce(conn, t.cfg.Key, node, service)
	}
	s, err := t.secureTo(ctx, conn, node)
	if err != nil {
		return nil, err
	}
	if err := t.introduce(s, s.key, node, service); err != nil {
		return nil, err
	}
	return t.settle(s, t.clear(service)), nil
}

// introduce is the dialer's side of the handshake, under key.
func (t *Transport) introduce(conn net.Conn, key []byte, node, service string) error {
	h := &hello{version: Version, service: service, cluster: t.cfg.Cluster, dialer: t.cfg.Node, listener: node, clear: t.clear(service)}
	rand.Read(h.nonce[:])
	first := h.encode()
	if _, err := conn.Write(first); err != nil {
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	var second [challengeLen]byte
	if err := read(conn, second[:]); err != nil {
		return err
	}
	c, err := decodeChallenge(second[:])
	if err != nil {
		return err
	}
	if err := c.refused(); err != nil {
		return err
	}
	if !hmac.Equal(c.mac[:], mac(key, labelListener, first, second[:challengeMAC])) {
		return ErrKey
	}
	if c.listener != node { // it holds the key, so this is true
		return fmt.Errorf("%w: %q", ErrNode, c.listener)
	}
	proof := mac(key, labelDialer, first, second[:])
	if _, err := conn.Write(proof); err != nil {
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	var accept [macSize]byte
	if err := read(conn, accept[:]); err != nil {
		return err
	}
	if !hmac.Equal(accept[:], mac(key, labelAccept, first, second[:], proof)) {
		return ErrKey
	}
	return nil
}

// refused turns the listener's verdict into an error.
func (c *challenge) refused() error {
	switch {
	case c.version != Version || c.verdict == otherVersion:
		return fmt.Errorf("%w: %d, here %d", ErrVersion, c.version, Version)
	case c.verdict == otherCluster:
		return ErrCluster
	case c.verdict == otherNode:
		return ErrNode
	case c.verdict == noService:
		return ErrService
	case c.verdict == otherProtection:
		return ErrProtection
	case c.verdict != goOn:
		return fmt.Errorf("%w: verdict %d", ErrProtocol, c.verdict)
	}
	return nil
}

// prepare makes conn ready for a handshake that ends at deadline.
func prepare(conn net.Conn, deadline time.Time) error {
	if tcp, ok := conn.(*net.TCPConn); ok {
		if err := tcp.SetNoDelay(true); err != nil {
			return err
		}
	}
	return conn.SetDeadline(deadline)
}

// read fills b and reads nothing beyond it: what follows belongs to the service.
func read(conn net.Conn, b []byte) error {
	_, err := io.ReadFull(conn, b)
	if err == nil {
		return nil
	}
	if _, within := conn.(*Secure); within {
		return refusedTLS(err)
	}
	return fmt.Errorf("%w: %w", ErrClosed, err)
}
