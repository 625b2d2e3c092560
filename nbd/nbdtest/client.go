package nbdtest

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// Commands, as proto.md "Request types" numbers them.
const (
	CmdRead        = protocol.TRANSMISSION_TYPE_REQUEST_READ
	CmdWrite       = protocol.TRANSMISSION_TYPE_REQUEST_WRITE
	CmdDisc        = protocol.TRANSMISSION_TYPE_REQUEST_DISC
	CmdFlush       = uint16(3)
	CmdTrim        = uint16(4)
	CmdCache       = uint16(5)
	CmdWriteZeroes = uint16(6)
)

// Client is one connection. Its methods fail the test on any error of the connection, unless
// they return an error.
type Client struct {
	Conn net.Conn
	tb   testing.TB
}

// Dial connects to a server's listener and closes the connection when the test ends.
func Dial(tb testing.TB, addr net.Addr) *Client {
	tb.Helper()
	conn, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { conn.Close() })
	return &Client{Conn: conn, tb: tb}
}

// Open connects and negotiates, so that requests can follow.
func Open(tb testing.TB, addr net.Addr, export string) *Client {
	tb.Helper()
	c := Dial(tb, addr)
	c.Greet()
	replies := c.Option(protocol.NEGOTIATION_ID_OPTION_GO, InfoRequest(export))
	if last := replies[len(replies)-1]; last.Type != protocol.NEGOTIATION_TYPE_REPLY_ACK {
		tb.Fatalf("export %q: option reply %#x %q", export, last.Type, last.Data)
	}
	return c
}

// Write sends raw bytes.
func (c *Client) Write(b []byte) {
	c.tb.Helper()
	if _, err := c.Conn.Write(b); err != nil {
		c.tb.Fatal(err)
	}
}

// Read returns the next n bytes.
func (c *Client) Read(n int) []byte {
	c.tb.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(c.Conn, b); err != nil {
		c.tb.Fatalf("read of %d bytes: %v", n, err)
	}
	return b
}

// Closed fails the test unless the server has closed the connection, or closes it, without
// another byte.
func (c *Client) Closed() {
	c.tb.Helper()
	b := make([]byte, 64)
	if n, err := c.Conn.Read(b); n > 0 || err == nil {
		c.tb.Fatalf("got %x, want the connection closed", b[:n])
	}
}

// Greet reads the greeting and answers with FIXED_NEWSTYLE and NO_ZEROES.
func (c *Client) Greet() {
	c.tb.Helper()
	c.Read(18)
	c.Write([]byte{0, 0, 0, 3})
}

// StartTLS asks for TLS and, when the server agrees, has everything from now on go through it. It
// returns the error of the handshake; in TLS 1.3 the server may still refuse the client's
// certificate afterwards, which shows in the next read.
func (c *Client) StartTLS(cfg *tls.Config) error {
	c.tb.Helper()
	if r := c.Option(OptStartTLS, nil); r[0].Type != protocol.NEGOTIATION_TYPE_REPLY_ACK {
		c.tb.Fatalf("STARTTLS: option reply %#x %q", r[0].Type, r[0].Data)
	}
	conn := tls.Client(c.Conn, cfg)
	c.Conn = conn
	return conn.Handshake()
}

// OptStartTLS is STARTTLS as proto.md "Option types" numbers it.
const OptStartTLS = uint32(5)

// OptionReply is one answer to an option.
type OptionReply struct {
	Option uint32
	Type   uint32
	Data   []byte
}

// Option sends an option and returns the replies, up to the one that ends them: an
// acknowledgement or an error.
func (c *Client) Option(id uint32, data []byte) (replies []OptionReply) {
	c.tb.Helper()
	c.Write(AppendOption(nil, id, data))
	for {
		h := c.Read(20)
		if m := binary.BigEndian.Uint64(h); m != protocol.NEGOTIATION_MAGIC_REPLY {
			c.tb.Fatalf("option reply magic %#x", m)
		}
		r := OptionReply{
			Option: binary.BigEndian.Uint32(h[8:]),
			Type:   binary.BigEndian.Uint32(h[12:]),
			Data:   c.Read(int(binary.BigEndian.Uint32(h[16:]))),
		}
		replies = append(replies, r)
		if r.Type == protocol.NEGOTIATION_TYPE_REPLY_ACK || r.Type&(1<<31) != 0 {
			return replies
		}
	}
}

// AppendOption appends an option to b.
func AppendOption(b []byte, id uint32, data []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, protocol.NEGOTIATION_MAGIC_OPTION)
	b = binary.BigEndian.AppendUint32(b, id)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

// InfoRequest returns the data of INFO or GO for an export.
func InfoRequest(export string, wanted ...uint16) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(export)))
	b = append(b, export...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(wanted)))
	for _, w := range wanted {
		b = binary.BigEndian.AppendUint16(b, w)
	}
	return b
}

// Command is a request without its payload.
type Command struct {
	Type   uint16
	Flags  uint16
	Cookie uint64
	Off    uint64 // bytes
	Len    uint32 // bytes
}

// Append appends the request's header and payload to b.
func (q Command) Append(b []byte, payload []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, protocol.TRANSMISSION_MAGIC_REQUEST)
	b = binary.BigEndian.AppendUint16(b, q.Flags)
	b = binary.BigEndian.AppendUint16(b, q.Type)
	b = binary.BigEndian.AppendUint64(b, q.Cookie)
	b = binary.BigEndian.AppendUint64(b, q.Off)
	b = binary.BigEndian.AppendUint32(b, q.Len)
	return append(b, payload...)
}

// Send sends a request.
func (c *Client) Send(q Command, payload []byte) {
	c.tb.Helper()
	c.Write(q.Append(nil, payload))
}

// Reply reads the header of a reply.
func (c *Client) Reply() (cookie uint64, errno uint32) {
	c.tb.Helper()
	cookie, errno, err := ReadReply(c.Conn)
	if err != nil {
		c.tb.Fatal(err)
	}
	return cookie, errno
}

// ReadReply reads the header of a reply from r.
func ReadReply(r io.Reader) (cookie uint64, errno uint32, err error) {
	h := make([]byte, 16)
	if _, err := io.ReadFull(r, h); err != nil {
		return 0, 0, err
	}
	if m := binary.BigEndian.Uint32(h); m != protocol.TRANSMISSION_MAGIC_REPLY {
		return 0, 0, fmt.Errorf("reply magic %#x", m)
	}
	return binary.BigEndian.Uint64(h[8:]), binary.BigEndian.Uint32(h[4:]), nil
}

// Do sends a request, reads its reply and returns the errno and, for a read that succeeded, the
// payload.
func (c *Client) Do(q Command, payload []byte) (errno uint32, data []byte) {
	c.tb.Helper()
	c.Send(q, payload)
	cookie, errno := c.Reply()
	if cookie != q.Cookie {
		c.tb.Fatalf("reply to %d, want %d", cookie, q.Cookie)
	}
	if errno == 0 && q.Type == CmdRead {
		data = c.Read(int(q.Len))
	}
	return errno, data
}
