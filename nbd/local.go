package nbd

import (
	"context"
	"errors"
	"io"
	"net"
)

// ServeTransmission serves exp on nc from the first request on, for a client whose negotiation
// somebody else has done: a kernel gets its device's size and flags over netlink. It returns when the
// last request is replied: nil when the client said goodbye, io.EOF when it closed nc without, else
// what went wrong, or ctx's cause. It closes nc.
//
// ended, which may be nil, is called once no further request will be submitted; those that are not
// replied yet have nobody any more who waits for an answer. Of cfg the limits of one connection count.
func ServeTransmission(ctx context.Context, nc net.Conn, exp *Export, cfg Config, ended func(*Conn)) error {
	exp, err := exp.withDefaults()
	if err == nil {
		err = cfg.Validate()
	}
	if err != nil {
		nc.Close()
		return err
	}
	c := newConn(NewServer(cfg, nil), &listening{}, 1, nc)
	c.exp = exp
	stop := context.AfterFunc(ctx, func() { c.kill(context.Cause(ctx)) })
	defer stop()
	c.transmission(ctx, ended)
	switch err := c.reason(); {
	case errors.Is(err, errDisconnect):
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return io.EOF // half a request or none: in either case nobody is there
	default:
		return err
	}
}

// transmission is a connection's life once it has its export, up to its last reply.
func (c *Conn) transmission(ctx context.Context, ended func(*Conn)) {
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		// The queue has no deadline of its own: Close, by kill, ends it.
		c.kill(c.q.Run(context.WithoutCancel(ctx)))
	}()
	c.end(c.transmit())
	if ended != nil {
		ended(c)
	}
	<-sent
	c.budget.waitReplied()
	c.rd.free()
}
