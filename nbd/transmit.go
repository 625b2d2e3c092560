package nbd

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/pojntfx/go-nbd/pkg/protocol"

	"github.com/lockstep-ha/lockstep/internal/buf"
)

// transmit reads requests until the connection ends, and returns why.
func (c *Conn) transmit() error {
	c.batch = make([]*Request, 0, c.srv.cfg.MaxBatch)
	err := c.readRequests()
	if err != nil && !errors.Is(err, errDisconnect) {
		c.submit() // complete requests before the fault count, unless the connection was killed
	}
	return err
}

func (c *Conn) readRequests() error {
	for {
		if c.rd.buffered() < requestSize {
			c.submit() // nothing that is complete waits for the network
			if err := c.rd.fill(requestSize); err != nil {
				return err
			}
		}
		h := decodeRequest(c.rd.next(requestSize))
		if h.RequestMagic != protocol.TRANSMISSION_MAGIC_REQUEST {
			return fmt.Errorf("nbd: request magic %#x", h.RequestMagic)
		}
		if h.Type == cmdDisc {
			// proto.md "Terminating the transmission phase": what is in flight is answered.
			c.submit()
			c.budget.waitSent()
			return errDisconnect
		}
		if err := c.receive(h); err != nil {
			return err
		}
		if len(c.batch) == cap(c.batch) {
			c.submit()
		}
	}
}

// submit hands the gathered requests to the backend and sends what is to be sent.
func (c *Conn) submit() {
	if len(c.batch) > 0 {
		if c.killed.Load() {
			for _, r := range c.batch {
				r.drop()
			}
		} else {
			c.exp.Backend.Submit(c.batch)
		}
		clear(c.batch)
		c.batch = c.batch[:0]
	}
	c.q.Flush()
}

// receive turns one header, and the payload behind it, into a gathered request, or into a reply
// when there is nothing to do for the backend.
func (c *Conn) receive(h protocol.TransmissionRequestHeader) error {
	refused := c.exp.check(h)
	payload := int64(0)
	if h.Type == cmdWrite {
		payload = int64(h.Length)
	}
	if payload > maxDiscard {
		return fmt.Errorf("nbd: write with a payload of %d bytes", payload)
	}
	held := int64(0)
	if refused == nil && (h.Type == cmdRead || h.Type == cmdWrite) {
		held = int64(h.Length)
	}
	if !c.budget.take(replySize+held, false) {
		c.submit()
		if !c.budget.take(replySize+held, true) {
			return c.closedReason()
		}
	}
	r := requests.Get().(*Request)
	r.conn, r.cookie, r.reserved = c, h.Handle, replySize+held
	r.Op, r.Flags = opOf(h.Type), flagsOf(h)
	r.Off, r.Len = int64(h.Offset), int64(h.Length)
	if refused != nil {
		if err := c.discard(payload); err != nil {
			r.drop()
			return err
		}
		r.Reply(refused)
		return nil
	}
	if h.Length == 0 && r.Op != OpFlush {
		r.Reply(nil) // without effect; proto.md leaves it open but for not disconnecting
		return nil
	}
	if held > 0 {
		r.Buf = buf.Get(int(held))
	}
	if payload > 0 {
		if err := c.readPayload(r.Buf.B); err != nil {
			r.drop()
			return err
		}
	}
	c.batch = append(c.batch, r)
	return nil
}

// closedReason is the error of a reader that found its connection killed.
func (c *Conn) closedReason() error {
	if err := c.reason(); err != nil {
		return err
	}
	return ErrDrop
}

// readPayload reads a write's payload. Requests before it do not wait for what is not here yet.
func (c *Conn) readPayload(p []byte) error {
	if c.rd.buffered() < len(p) {
		c.submit()
	}
	return c.rd.readFull(p)
}

// discard reads away the payload of a refused write.
func (c *Conn) discard(n int64) error {
	if int64(c.rd.buffered()) < n {
		c.submit()
	}
	return c.rd.discard(n)
}

// opOf returns the Op of a command type, 0 for an unknown one.
func opOf(cmd uint16) Op {
	switch cmd {
	case cmdRead:
		return OpRead
	case cmdWrite:
		return OpWrite
	case cmdFlush:
		return OpFlush
	case cmdTrim:
		return OpTrim
	case cmdCache:
		return OpCache
	case cmdWriteZeroes:
		return OpWriteZeroes
	}
	return 0
}

func flagsOf(h protocol.TransmissionRequestHeader) (f Flags) {
	if h.CommandFlags&cmdFlagFUA != 0 {
		f |= FlagFUA
	}
	if h.Type == cmdWriteZeroes {
		if h.CommandFlags&cmdFlagNoHole == 0 {
			f |= FlagPunch
		}
		if h.CommandFlags&cmdFlagFastZero != 0 {
			f |= FlagFastZero
		}
	}
	return f
}

// check returns nil when the backend can be asked for h, else the syscall.Errno to refuse it
// with: proto.md "Request types" and "Error values".
func (e *Export) check(h protocol.TransmissionRequestHeader) error {
	op := opOf(h.Type)
	changes := op == OpWrite || op == OpTrim || op == OpWriteZeroes
	switch {
	case op == 0:
		return syscall.EINVAL
	case changes && e.ReadOnly:
		return syscall.EPERM
	case !e.offers(op), h.CommandFlags&^e.flagsFor(op) != 0:
		return syscall.EINVAL
	case op == OpFlush:
		if h.Offset != 0 || h.Length != 0 {
			return syscall.EINVAL
		}
		return nil
	case (op == OpRead || op == OpWrite) && h.Length > MaxPayload:
		return syscall.EINVAL
	case !e.contains(h.Offset, h.Length):
		if op == OpWrite || op == OpWriteZeroes {
			return syscall.ENOSPC
		}
		return syscall.EINVAL
	case (h.Offset|uint64(h.Length))%uint64(e.BlockSize.Min) != 0:
		return syscall.EINVAL
	}
	return nil
}

// offers reports whether op was advertised.
func (e *Export) offers(op Op) bool {
	switch op {
	case OpFlush:
		return e.Features&FeatureFlush != 0
	case OpTrim:
		return e.Features&FeatureTrim != 0
	case OpWriteZeroes:
		return e.Features&FeatureWriteZeroes != 0
	case OpCache:
		return e.Features&FeatureCache != 0
	}
	return true
}

// flagsFor returns the command flags that op may carry. FUA is allowed on every command once it
// is advertised, also where it changes nothing (proto.md "Command flags").
func (e *Export) flagsFor(op Op) (flags uint16) {
	if e.Features&FeatureFUA != 0 {
		flags |= cmdFlagFUA
	}
	if op == OpWriteZeroes {
		flags |= cmdFlagNoHole
		if e.Features&FeatureFastZero != 0 {
			flags |= cmdFlagFastZero
		}
	}
	return flags
}
