package nbdtest

import (
	"encoding/binary"
	"net"
	"testing"

	"github.com/pojntfx/go-nbd/pkg/protocol"

	"github.com/lockstep-ha/lockstep/nbd"
)

// Attach sends ATTACH and returns the number of the registration, or the error that came instead:
// its type and text. Greet comes before it, Go after it.
func (c *Client) Attach(a nbd.Attach) (number uint64, refused uint32, text string) {
	c.tb.Helper()
	replies := c.Option(nbd.OptAttach, nbd.AppendAttach(nil, a))
	if last := replies[len(replies)-1]; last.Type != protocol.NEGOTIATION_TYPE_REPLY_ACK {
		return 0, last.Type, string(last.Data)
	}
	if len(replies) != 2 || replies[0].Type != nbd.RepAttached || len(replies[0].Data) != 8 {
		c.tb.Fatalf("ATTACH: replies %+v", replies)
	}
	return binary.BigEndian.Uint64(replies[0].Data), 0, ""
}

// Detach sends DETACH and returns the error that came instead of an acknowledgement, 0 for none.
func (c *Client) Detach(resource string, key nbd.Key) (refused uint32, text string) {
	c.tb.Helper()
	r := c.Option(nbd.OptDetach, nbd.AppendDetach(nil, resource, key))
	if r[0].Type != protocol.NEGOTIATION_TYPE_REPLY_ACK {
		return r[0].Type, string(r[0].Data)
	}
	return 0, ""
}

// Go sends GO and returns the error that came instead of an acknowledgement, 0 for none. After an
// acknowledgement requests may follow.
func (c *Client) Go(export string) (refused uint32, text string) {
	c.tb.Helper()
	replies := c.Option(protocol.NEGOTIATION_ID_OPTION_GO, InfoRequest(export))
	if last := replies[len(replies)-1]; last.Type != protocol.NEGOTIATION_TYPE_REPLY_ACK {
		return last.Type, string(last.Data)
	}
	return 0, ""
}

// Over returns a client on conn, which stays the caller's to close.
func Over(tb testing.TB, conn net.Conn) *Client { return &Client{Conn: conn, tb: tb} }
