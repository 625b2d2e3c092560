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

// welcome is the listener's side of the handshake. The hello is never nil; when err is nil all
// it says is proven, and a handler for its service is there.
func (t *Transport) welcome(conn net.Conn) (*hello, error) {
	if err := prepare(conn, time.Now().Add(t.cfg.HandshakeTimeout)); err != nil {
		return &hello{}, err
	}
	var first [helloSize]byte
	if err := read(conn, first[:]); err != nil {
		return &hello{}, err
	}
	h, err := decodeHello(first[:])
	if err != nil {
		return &hello{}, err
	}
	c := &challenge{version: Version, listener: t.cfg.Node}
	if c.verdict, err = t.judge(h); err != nil {
		_, _ = conn.Write(c.encode()) // only an explanation; the refusal itself is the close
		return h, err
	}
	rand.Read(c.nonce[:])
	copy(c.mac[:], mac(t.cfg.Key, labelListener, first[:], c.encode()[:challengeMAC]))
	second := c.encode()
	if _, err := conn.Write(second); err != nil {
		return h, fmt.Errorf("%w: %w", ErrClosed, err)
	}
	var proof [macSize]byte
	if err := read(conn, proof[:]); err != nil {
		return h, fmt.Errorf("%w, after it saw our proof: its key may be another one", err)
	}
	if !hmac.Equal(proof[:], mac(t.cfg.Key, labelDialer, first[:], second)) {
		return h, ErrKey
	}
	if _, err := conn.Write(mac(t.cfg.Key, labelAccept, first[:], second, proof[:])); err != nil {
		return h, fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return h, conn.SetDeadline(time.Time{})
}

// judge compares what a dialer wants with what this node is.
func (t *Transport) judge(h *hello) (verdict, error) {
	switch {
	case h.version != Version:
		return otherVersion, fmt.Errorf("%w: %d, here %d", ErrVersion, h.version, Version)
	case h.cluster != t.cfg.Cluster:
		return otherCluster, fmt.Errorf("%w: %q, here %q", ErrCluster, h.cluster, t.cfg.Cluster)
	case h.listener != t.cfg.Node:
		return otherNode, fmt.Errorf("%w: it asks for %q, this is %q", ErrNode, h.listener, t.cfg.Node)
	case t.handler(h.service) == nil:
		return noService, fmt.Errorf("%w: %q", ErrService, h.service)
	}
	return goOn, nil
}

// Dial connects to addr and returns the connection when the other end has proven that it is
// node, of this cluster, and has accepted this node's proof. The result is a *net.TCPConn, or what
// Config.Connect has made, owned by the caller. ctx bounds all of Dial, and no longer the
// connection afterwards.
//
// Errors: ErrKey, ErrCluster, ErrVersion, ErrNode, ErrService, ErrProtocol, ErrClosed, or the
// error of the network.
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
	err = t.introduce(ctx, conn, node, service)
	if !stop() && err == nil {
		err = ctx.Err() // it is closed, or about to be
	}
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", ErrClosed, ctx.Err())
		}
		return nil, fmt.Errorf("node %s at %s, service %s: %w", node, addr, service, err)
	}
	return conn, nil
}

// introduce is the dialer's side of the handshake.
func (t *Transport) introduce(ctx context.Context, conn net.Conn, node, service string) error {
	deadline, _ := ctx.Deadline()
	if err := prepare(conn, deadline); err != nil {
		return err
	}
	h := &hello{version: Version, service: service, cluster: t.cfg.Cluster, dialer: t.cfg.Node, listener: node}
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
	if !hmac.Equal(c.mac[:], mac(t.cfg.Key, labelListener, first, second[:challengeMAC])) {
		return ErrKey
	}
	if c.listener != node { // it holds the key, so this is true
		return fmt.Errorf("%w: %q", ErrNode, c.listener)
	}
	proof := mac(t.cfg.Key, labelDialer, first, second[:])
	if _, err := conn.Write(proof); err != nil {
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	var accept [macSize]byte
	if err := read(conn, accept[:]); err != nil {
		return err
	}
	if !hmac.Equal(accept[:], mac(t.cfg.Key, labelAccept, first, second[:], proof)) {
		return ErrKey
	}
	return conn.SetDeadline(time.Time{})
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
	if _, err := io.ReadFull(conn, b); err != nil {
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return nil
}
