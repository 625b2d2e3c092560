package nbdclient

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
)

// ErrLost says that the connection ended before the answer came: whether the command was carried
// out is unknown.
var ErrLost = errors.New("connection ended before the answer")

// maxPayload bounds what a reply may make the client read, in bytes.
const maxPayload = 64 << 20

// Client is one connection to one export. Its methods may be called by many goroutines at once.
type Client struct {
	conn  net.Conn
	size  int64
	flags TransmissionFlags
	pref  uint32

	writeMu sync.Mutex // orders requests on conn

	mu      sync.Mutex
	pending map[uint64]*call
	cookie  uint64
	err     error // why the connection ended; wraps ErrLost

	readerDone chan struct{}
}

// call is a command that has no answer yet.
type call struct {
	into []byte // where the payload of a read goes; nil for the others
	done func(error)
}

// Dial connects to an NBD URI: nbd://host:port/export or nbd+unix:///export?socket=path.
// A server that does not grant the export yields a *Refused.
func Dial(ctx context.Context, uri string) (*Client, error) {
	network, addr, export, err := ParseURI(uri)
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c, err := New(ctx, conn, export)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("nbd handshake with %s: %w", addr, err)
	}
	return c, nil
}

// ParseURI splits an NBD URI into what net.Dial takes and the export's name.
func ParseURI(uri string) (network, addr, export string, err error) {
	u, err := url.Parse(uri)
	if err != nil {
		return "", "", "", fmt.Errorf("parse NBD URI: %w", err)
	}
	export = strings.TrimPrefix(u.Path, "/")
	switch u.Scheme {
	case "nbd":
		addr = u.Host
		if u.Port() == "" {
			addr = net.JoinHostPort(u.Hostname(), "10809")
		}
		return "tcp", addr, export, nil
	case "nbd+unix":
		if s := u.Query().Get("socket"); s != "" {
			return "unix", s, export, nil
		}
		return "", "", "", fmt.Errorf("NBD URI %q names no socket", uri)
	}
	return "", "", "", fmt.Errorf("NBD URI %q: scheme is neither nbd nor nbd+unix", uri)
}

// New negotiates export on conn and takes conn over: Close closes it. The handshake ends when ctx
// does.
func New(ctx context.Context, conn net.Conn, export string) (*Client, error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	c := &Client{conn: conn, pending: map[uint64]*call{}, readerDone: make(chan struct{})}
	r := bufio.NewReaderSize(conn, 256<<10)
	if err := c.handshake(r, export); err != nil {
		return nil, err
	}
	go c.readReplies(r)
	return c, nil
}

// Size returns the size of the export in bytes.
func (c *Client) Size() int64 { return c.size }

// Flags returns what the server announced.
func (c *Client) Flags() TransmissionFlags { return c.flags }

// PreferredBlock returns the preferred block size in bytes, 0 when the server named none.
func (c *Client) PreferredBlock() uint32 { return c.pref }

// handshake runs the fixed newstyle negotiation up to the transmission phase.
func (c *Client) handshake(r io.Reader, export string) error {
	var hello [18]byte
	if _, err := io.ReadFull(r, hello[:]); err != nil {
		return fmt.Errorf("read greeting: %w", err)
	}
	if binary.BigEndian.Uint64(hello[:]) != magicInit || binary.BigEndian.Uint64(hello[8:]) != magicOption {
		return errors.New("not a newstyle NBD server")
	}
	serverFlags := binary.BigEndian.Uint16(hello[16:])
	if serverFlags&flagFixedNewstyle == 0 {
		return errors.New("server does not offer fixed newstyle")
	}
	out := binary.BigEndian.AppendUint32(nil, uint32(serverFlags&(flagFixedNewstyle|flagNoZeroes)))
	out = binary.BigEndian.AppendUint64(out, magicOption)
	out = binary.BigEndian.AppendUint32(out, optGo)
	out = binary.BigEndian.AppendUint32(out, uint32(4+len(export)+2+2))
	out = binary.BigEndian.AppendUint32(out, uint32(len(export)))
	out = append(out, export...)
	out = binary.BigEndian.AppendUint16(out, 1)
	out = binary.BigEndian.AppendUint16(out, infoBlockSize)
	if _, err := c.conn.Write(out); err != nil {
		return fmt.Errorf("send NBD_OPT_GO: %w", err)
	}
	for {
		done, err := c.readOptionReply(r)
		if done || err != nil {
			return err
		}
	}
}

// readOptionReply takes one reply to NBD_OPT_GO; done means that the transmission phase began.
func (c *Client) readOptionReply(r io.Reader) (done bool, err error) {
	var head [20]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return false, fmt.Errorf("read option reply: %w", err)
	}
	if binary.BigEndian.Uint64(head[:]) != magicOptionReply {
		return false, errors.New("option reply without its magic")
	}
	kind, length := binary.BigEndian.Uint32(head[12:]), binary.BigEndian.Uint32(head[16:])
	if length > 64<<10 {
		return false, fmt.Errorf("option reply of %d bytes", length)
	}
	data := make([]byte, length)
	if _, err := io.ReadFull(r, data); err != nil {
		return false, fmt.Errorf("read option reply: %w", err)
	}
	switch {
	case kind == repAck:
		if c.flags&HasFlags == 0 {
			return false, errors.New("server acknowledged NBD_OPT_GO without NBD_INFO_EXPORT")
		}
		return true, nil
	case kind&repErrBit != 0:
		return false, &Refused{Code: kind, Message: string(data)}
	case kind == repInfo && len(data) == 12 && binary.BigEndian.Uint16(data) == infoExport:
		c.size = int64(binary.BigEndian.Uint64(data[2:]))
		c.flags = TransmissionFlags(binary.BigEndian.Uint16(data[10:]))
	case kind == repInfo && len(data) == 14 && binary.BigEndian.Uint16(data) == infoBlockSize:
		c.pref = binary.BigEndian.Uint32(data[6:])
	}
	return false, nil
}

// readReplies hands each answer to its command until the connection ends, and then ErrLost to all
// that are left.
func (c *Client) readReplies(r io.Reader) {
	defer close(c.readerDone)
	var err error
	for err == nil {
		err = c.readReply(r)
	}
	c.conn.Close()
	c.mu.Lock()
	c.err = fmt.Errorf("%w: %v", ErrLost, err)
	lost, why := c.pending, c.err
	c.pending = nil
	c.mu.Unlock()
	for _, p := range lost {
		p.done(why)
	}
}

// readReply takes one simple reply. An error means that the connection is of no more use.
func (c *Client) readReply(r io.Reader) error {
	var head [16]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	if binary.BigEndian.Uint32(head[:]) != magicReply {
		return fmt.Errorf("reply magic is %#x", head[:4])
	}
	code, cookie := Errno(binary.BigEndian.Uint32(head[4:])), binary.BigEndian.Uint64(head[8:])
	c.mu.Lock()
	p := c.pending[cookie]
	c.mu.Unlock()
	if p == nil {
		return fmt.Errorf("reply to command %d, which is not waiting for one", cookie)
	}
	if code == 0 && p.into != nil {
		// The command stays pending until its payload is whole: a cut here is a lost answer.
		if _, err := io.ReadFull(r, p.into); err != nil {
			return err
		}
	}
	c.mu.Lock()
	delete(c.pending, cookie)
	c.mu.Unlock()
	if code != 0 {
		p.done(code)
	} else {
		p.done(nil)
	}
	return nil
}

// Close sends NBD_CMD_DISC and closes the connection; commands in flight end with ErrLost.
// It returns when the last callback has returned.
func (c *Client) Close() error {
	c.writeMu.Lock()
	var req [28]byte
	binary.BigEndian.PutUint32(req[:], magicRequest)
	binary.BigEndian.PutUint16(req[6:], cmdDisc)
	_, err := c.conn.Write(req[:])
	c.writeMu.Unlock()
	if cerr := c.conn.Close(); err == nil && !errors.Is(cerr, net.ErrClosed) {
		err = cerr
	}
	<-c.readerDone
	return err
}

// Abort closes the connection without a word, as a client that dies does.
func (c *Client) Abort() {
	c.conn.Close()
	<-c.readerDone
}
