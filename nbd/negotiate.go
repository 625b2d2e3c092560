package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// undeclaredWait is how long the data of an OPT_GO that declares none may take to arrive.
const undeclaredWait = time.Second

// negotiate speaks the option phase until an export is bound. Whatever ends the connection
// before that is an error, errDisconnect when the client wished it.
//
//	greeting -> client flags -> option ... option -> GO or EXPORT_NAME -> transmission
//	                                |                      | refused (GO)
//	                                +-> ABORT: closed      +-> further options
//	                                +-> STARTTLS: from here on within TLS, further options
func (c *Conn) negotiate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.srv.cfg.NegotiationTimeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	if err := c.nc.SetDeadline(deadline); err != nil {
		return err
	}
	if err := c.send(appendGreeting(nil)); err != nil {
		return err
	}
	if err := c.rd.fill(4); err != nil {
		return err
	}
	clientFlags := binary.BigEndian.Uint32(c.rd.next(4))
	if clientFlags&^uint32(flagFixedNewstyle|flagNoZeroes) != 0 {
		return fmt.Errorf("nbd: unknown client flags %#x", clientFlags)
	}
	for c.exp == nil {
		if err := c.option(ctx, uint16(clientFlags)); err != nil {
			return err
		}
	}
	return c.nc.SetDeadline(time.Time{})
}

// send writes b in negotiation, when the queue is not in use yet, the way that the reader reads.
func (c *Conn) send(b []byte) error {
	_, err := c.rd.conn.Write(b)
	return err
}

func (c *Conn) reply(opt, typ uint32, data []byte) error {
	return c.send(appendOptionReply(nil, opt, typ, data))
}

// option reads and answers one option.
func (c *Conn) option(ctx context.Context, clientFlags uint16) error {
	if err := c.rd.fill(optionSize); err != nil {
		return err
	}
	h := decodeOption(c.rd.next(optionSize))
	if h.OptionMagic != protocol.NEGOTIATION_MAGIC_OPTION {
		return fmt.Errorf("nbd: option magic %#x", h.OptionMagic)
	}
	if h.Length > maxOption {
		return fmt.Errorf("nbd: option %d with %d bytes of data", h.ID, h.Length)
	}
	if err := c.rd.fill(int(h.Length)); err != nil {
		return err
	}
	data := c.rd.next(int(h.Length))
	if c.needsTLS(h.ID) {
		return c.refuseWithoutTLS(h.ID)
	}
	switch h.ID {
	case optExportName:
		return c.optExportName(ctx, data, clientFlags&flagNoZeroes != 0)
	case optAbort:
		_ = c.reply(h.ID, repAck, nil) // the client need not wait for it
		return errDisconnect
	case optList:
		return c.optList(data)
	case optStartTLS:
		return c.optStartTLS(ctx, data, clientFlags&flagFixedNewstyle != 0)
	case optInfo:
		return c.optInfo(ctx, h.ID, data)
	case optGo:
		if len(data) == 0 {
			var err error
			if data, err = c.undeclaredData(ctx); err != nil {
				return err
			}
		}
		return c.optInfo(ctx, h.ID, data)
	case optAttach:
		return c.optAttachTo(ctx, data)
	case optDetach:
		return c.optDetachFrom(ctx, data)
	}
	return c.reply(h.ID, repErrUnsup, nil)
}

// optExportName is the option without error replies: what cannot be served closes the connection.
func (c *Conn) optExportName(ctx context.Context, data []byte, noZeroes bool) error {
	name, ok := exportName(data)
	if !ok {
		return errors.New("nbd: malformed export name")
	}
	exp, refusal := c.lookup(ctx, name, true)
	if refusal != nil {
		return refusal
	}
	b := binary.BigEndian.AppendUint64(nil, uint64(exp.Size))
	b = binary.BigEndian.AppendUint16(b, exp.transmissionFlags())
	if !noZeroes {
		b = append(b, make([]byte, exportPadding)...)
	}
	c.exp = exp
	return c.send(b)
}

// optList answers with one reply per export, its name alone: text after the name is allowed
// (NBD_REP_SERVER), but clients exist that take it for another name. INFO carries the text.
func (c *Conn) optList(data []byte) error {
	if len(data) > 0 {
		return c.reply(optList, repErrInvalid, []byte("LIST takes no data"))
	}
	var b []byte
	for _, e := range c.srv.exports.List() {
		d := binary.BigEndian.AppendUint32(nil, uint32(len(e.Name)))
		b = appendOptionReply(b, optList, repServer, append(d, e.Name...))
	}
	return c.send(appendOptionReply(b, optList, repAck, nil))
}

// optInfo answers INFO and GO, which differ only in what follows.
func (c *Conn) optInfo(ctx context.Context, opt uint32, data []byte) error {
	name, wanted, ok := decodeInfoRequest(data)
	if !ok {
		return c.reply(opt, repErrInvalid, []byte("malformed request"))
	}
	exp, refusal := c.lookup(ctx, name, opt == optGo)
	if refusal != nil {
		return c.refuse(opt, refusal)
	}
	b := appendOptionReply(nil, opt, repInfo, appendExportInfo(nil, exp))
	b = appendOptionReply(b, opt, repInfo, appendBlockSizeInfo(nil, exp.BlockSize))
	for _, w := range wanted {
		switch w {
		case protocol.NEGOTIATION_TYPE_INFO_NAME:
			b = appendOptionReply(b, opt, repInfo, appendTextInfo(w, exp.Name))
		case protocol.NEGOTIATION_TYPE_INFO_DESCRIPTION:
			if exp.Description != "" {
				b = appendOptionReply(b, opt, repInfo, appendTextInfo(w, exp.Description))
			}
		}
	}
	if opt == optGo {
		c.exp = exp
	}
	return c.send(appendOptionReply(b, opt, repAck, nil))
}

// lookup finds the export called name and, with bind, ties the connection to it, so that
// CloseExport finds it. A nil refusal means that exp can be served.
func (c *Conn) lookup(ctx context.Context, name string, bind bool) (exp *Export, refusal *ErrNotServed) {
	if c.attached != nil {
		return c.lookupAttached(ctx, name, bind)
	}
	closes := c.srv.closeCount()
	exp, err := c.srv.exports.Lookup(c.withClient(ctx), name)
	if err == nil {
		exp, err = exp.withDefaults()
	}
	if err != nil {
		return nil, c.refusal(name, err)
	}
	if bind && !c.srv.bind(c, exp.Name, closes) {
		return nil, &ErrNotServed{Kind: NotServedShutdown, Reason: "the export was just closed, try again"}
	}
	return exp, nil
}

// exportName returns b as a name, if it is one: proto.md "Values", UTF-8 without NUL.
func exportName(b []byte) (string, bool) {
	ok := len(b) <= maxName && utf8.Valid(b) && bytes.IndexByte(b, 0) < 0
	return string(b), ok
}

// decodeInfoRequest takes the data of INFO and GO apart; wanted lists the info types asked for.
//
//	offset  size  field
//	0       4     length of the name
//	4       n     name
//	4+n     2     number of info requests
//	6+n     2 m   info requests
func decodeInfoRequest(b []byte) (name string, wanted []uint16, ok bool) {
	if len(b) < 6 {
		return "", nil, false
	}
	n := binary.BigEndian.Uint32(b)
	if n > maxName || int(n) > len(b)-6 {
		return "", nil, false
	}
	name, ok = exportName(b[4 : 4+n])
	b = b[4+n:]
	count := int(binary.BigEndian.Uint16(b))
	b = b[2:]
	if !ok || len(b) != 2*count {
		return "", nil, false
	}
	seen := make(map[uint16]bool)
	for ; len(b) > 0; b = b[2:] {
		if w := binary.BigEndian.Uint16(b); !seen[w] {
			seen[w] = true
			wanted = append(wanted, w)
		}
	}
	return name, wanted, true
}

// undeclaredData returns the data of an OPT_GO whose header declares none, or nothing if the
// client sent none. Every valid request has six bytes at least, so such a header is a fault in
// any case; go-nbd's client makes it and then sends the data all the same. The next option's
// magic cannot be mistaken for a name's length.
func (c *Conn) undeclaredData(ctx context.Context) ([]byte, error) {
	deadline, _ := ctx.Deadline()
	if d := time.Now().Add(undeclaredWait); d.Before(deadline) {
		if err := c.nc.SetReadDeadline(d); err != nil {
			return nil, err
		}
	}
	if err := c.rd.fill(4); err != nil {
		if ne := (interface{ Timeout() bool })(nil); !errors.As(err, &ne) || !ne.Timeout() || ctx.Err() != nil {
			return nil, err
		}
		return nil, c.nc.SetReadDeadline(deadline)
	}
	if err := c.nc.SetReadDeadline(deadline); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(c.rd.peek(4))
	if n > maxName {
		return nil, nil
	}
	size := 4 + int(n) + 2
	if err := c.rd.fill(size); err != nil {
		return nil, err
	}
	size += 2 * int(binary.BigEndian.Uint16(c.rd.peek(size)[size-2:]))
	if size > maxOption {
		return nil, errors.New("nbd: option with too much undeclared data")
	}
	if err := c.rd.fill(size); err != nil {
		return nil, err
	}
	return c.rd.next(size), nil
}

func appendExportInfo(b []byte, e *Export) []byte {
	b = binary.BigEndian.AppendUint16(b, protocol.NEGOTIATION_TYPE_INFO_EXPORT)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Size))
	return binary.BigEndian.AppendUint16(b, e.transmissionFlags())
}

func appendBlockSizeInfo(b []byte, s BlockSize) []byte {
	b = binary.BigEndian.AppendUint16(b, protocol.NEGOTIATION_TYPE_INFO_BLOCKSIZE)
	b = binary.BigEndian.AppendUint32(b, s.Min)
	b = binary.BigEndian.AppendUint32(b, s.Preferred)
	return binary.BigEndian.AppendUint32(b, s.Max)
}

func appendTextInfo(typ uint16, text string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, typ), text...)
}
