package node

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"
)

// nbdConn is a client that has one request under way at a time (proto.md: fixed newstyle
// negotiation, EXPORT_NAME, simple replies).
type nbdConn struct {
	net.Conn
	size   uint64
	cookie uint64
}

const (
	cmdRead  = 0
	cmdWrite = 1
	cmdFlush = 3
)

func dialNBD(t testing.TB, socket, export string) (*nbdConn, error) {
	t.Helper()
	c, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return nil, err
	}
	hello := make([]byte, 18) // "NBDMAGIC", "IHAVEOPT", flags
	if _, err := io.ReadFull(c, hello); err != nil {
		return nil, err
	}
	out := binary.BigEndian.AppendUint32(nil, 3) // fixed newstyle, no zeroes
	out = append(out, "IHAVEOPT"...)
	out = binary.BigEndian.AppendUint32(out, 1) // EXPORT_NAME
	out = binary.BigEndian.AppendUint32(out, uint32(len(export)))
	out = append(out, export...)
	if _, err := c.Write(out); err != nil {
		return nil, err
	}
	info := make([]byte, 10)
	if _, err := io.ReadFull(c, info); err != nil {
		return nil, fmt.Errorf("export refused: %w", err)
	}
	return &nbdConn{Conn: c, size: binary.BigEndian.Uint64(info)}, nil
}

// do carries one request out. data is written, or read into.
func (c *nbdConn) do(cmd uint16, off int64, data []byte) error {
	c.cookie++
	out := binary.BigEndian.AppendUint32(nil, 0x25609513)
	out = binary.BigEndian.AppendUint16(out, 0)
	out = binary.BigEndian.AppendUint16(out, cmd)
	out = binary.BigEndian.AppendUint64(out, c.cookie)
	out = binary.BigEndian.AppendUint64(out, uint64(off))
	out = binary.BigEndian.AppendUint32(out, uint32(len(data)))
	if cmd == cmdWrite {
		out = append(out, data...)
	}
	if _, err := c.Write(out); err != nil {
		return err
	}
	rep := make([]byte, 16)
	if _, err := io.ReadFull(c, rep); err != nil {
		return err
	}
	switch {
	case binary.BigEndian.Uint32(rep) != 0x67446698 || binary.BigEndian.Uint64(rep[8:]) != c.cookie:
		return errors.New("not the reply to the request")
	case binary.BigEndian.Uint32(rep[4:]) != 0:
		return fmt.Errorf("error %d", binary.BigEndian.Uint32(rep[4:]))
	case cmd == cmdRead:
		_, err := io.ReadFull(c, data)
		return err
	}
	return nil
}
