package drill

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"
)

// Numbers of the NBD protocol.
const (
	nbdMagic     = 0x4e42444d41474943 // "NBDMAGIC"
	optionMagic  = 0x49484156454f5054 // "IHAVEOPT"
	optionReply  = 0x0003e889045565a9
	requestMagic = 0x25609513
	replyMagic   = 0x67446698

	optAbort    = 2
	optStartTLS = 5
	optGo       = 7
	repAck      = 1
	repInfo     = 3
	repError    = 1 << 31

	cmdRead  = 0
	cmdWrite = 1
	cmdFlush = 3
)

const (
	connectWithin = 2 * time.Second // for a connection and its negotiation
	maxReplyText  = 64 << 10
)

// errLost means that the connection ended: the outcome of a request on it is unknown.
var errLost = errors.New("the connection is lost")

// endpoint is where a node serves NBD.
type endpoint struct {
	node, network, addr string
	tls                 *tls.Config // nil: in the clear
}

// client is one connection to an export. One request is under way at a time.
type client struct {
	conn   net.Conn
	node   string
	size   int64
	handle uint64
	head   [28]byte
}

// connect opens an export. Errors: of the network, or what the server says.
func connect(ctx context.Context, at endpoint, export string) (*client, error) {
	ctx, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, at.network, at.addr)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	c := &client{conn: conn, node: at.node}
	if err = conn.SetDeadline(deadline); err == nil {
		err = c.negotiate(ctx, export, at.tls)
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("%s: %w", at.addr, err)
	}
	return c, nil
}

// negotiate asks for an export, within TLS unless cfg is nil; "" only greets the server.
func (c *client) negotiate(ctx context.Context, export string, cfg *tls.Config) error {
	var greeting [18]byte
	if _, err := io.ReadFull(c.conn, greeting[:]); err != nil {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	if binary.BigEndian.Uint64(greeting[:]) != nbdMagic || binary.BigEndian.Uint64(greeting[8:]) != optionMagic {
		return errors.New("no NBD server answers there")
	}
	flags := binary.BigEndian.AppendUint32(nil, uint32(binary.BigEndian.Uint16(greeting[16:])&3)) // fixed newstyle, no zeroes
	if _, err := c.conn.Write(flags); err != nil {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	if cfg != nil {
		if err := c.startTLS(ctx, cfg); err != nil {
			return err
		}
	}
	body := binary.BigEndian.AppendUint32(nil, uint32(len(export)))
	body = append(append(body, export...), 0, 0) // no further information is asked for
	option := uint32(optGo)
	if export == "" {
		option, body = optAbort, nil
	}
	if err := c.option(option, body); err != nil {
		return err
	}
	for export != "" {
		done, err := c.optionReply()
		if done || err != nil {
			return err
		}
	}
	return nil
}

func (c *client) option(option uint32, body []byte) error {
	out := binary.BigEndian.AppendUint64(nil, optionMagic)
	out = binary.BigEndian.AppendUint32(out, option)
	out = binary.BigEndian.AppendUint32(out, uint32(len(body)))
	if _, err := c.conn.Write(append(out, body...)); err != nil {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	return nil
}

// startTLS goes on within TLS, or not at all.
func (c *client) startTLS(ctx context.Context, cfg *tls.Config) error {
	if err := c.option(optStartTLS, nil); err != nil {
		return err
	}
	if _, err := c.optionReply(); err != nil {
		return fmt.Errorf("STARTTLS: %w", err)
	}
	conn := tls.Client(c.conn, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	c.conn = conn
	return nil
}

// optionReply reads one reply; done says that the option is granted.
func (c *client) optionReply() (done bool, err error) {
	var head [20]byte
	if _, err := io.ReadFull(c.conn, head[:]); err != nil {
		return false, fmt.Errorf("%w: %w", errLost, err)
	}
	kind, n := binary.BigEndian.Uint32(head[12:]), binary.BigEndian.Uint32(head[16:])
	if binary.BigEndian.Uint64(head[:]) != optionReply || n > maxReplyText {
		return false, errors.New("the NBD server answers with something else")
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(c.conn, text); err != nil {
		return false, fmt.Errorf("%w: %w", errLost, err)
	}
	switch {
	case kind == repAck:
		return true, nil
	case kind == repInfo && n == 12 && binary.BigEndian.Uint16(text) == 0:
		c.size = int64(binary.BigEndian.Uint64(text[2:]))
	case kind&repError != 0:
		return false, fmt.Errorf("refused: %s", bytes.TrimSpace(text))
	}
	return false, nil
}

// do carries out one request. Errors: errLost, or the errno that the server answered with.
func (c *client) do(cmd uint16, off int64, p []byte) error {
	c.handle++
	h := c.head[:]
	binary.BigEndian.PutUint32(h, requestMagic)
	binary.BigEndian.PutUint16(h[4:], 0)
	binary.BigEndian.PutUint16(h[6:], cmd)
	binary.BigEndian.PutUint64(h[8:], c.handle)
	binary.BigEndian.PutUint64(h[16:], uint64(off))
	binary.BigEndian.PutUint32(h[24:], uint32(len(p)))
	bufs := net.Buffers{h}
	if cmd == cmdWrite {
		bufs = append(bufs, p)
	}
	if _, err := bufs.WriteTo(c.conn); err != nil {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	var r [16]byte
	if _, err := io.ReadFull(c.conn, r[:]); err != nil {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	if binary.BigEndian.Uint32(r[:]) != replyMagic || binary.BigEndian.Uint64(r[8:]) != c.handle {
		return fmt.Errorf("%w: the server answers with something else", errLost)
	}
	if errno := binary.BigEndian.Uint32(r[4:]); errno != 0 {
		return syscall.Errno(errno)
	}
	if cmd == cmdRead {
		if _, err := io.ReadFull(c.conn, p); err != nil {
			return fmt.Errorf("%w: %w", errLost, err)
		}
	}
	return nil
}

func (c *client) close() { c.conn.Close() }
