package linkcheck

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// Service is the name of the echo on the transport.
const Service = "echo"

const (
	frameSize = 32
	magic     = "lsecho/1"
)

// errFrame means that the other end does not speak this protocol.
var errFrame = errors.New("not a frame of the echo")

// frame is a request, or a reply: then with the echo's stamps.
type frame struct {
	number         uint64
	came, answered int64 // ns since 1970
}

func (f frame) encode(b *[frameSize]byte) {
	copy(b[:8], magic)
	binary.BigEndian.PutUint64(b[8:], f.number)
	binary.BigEndian.PutUint64(b[16:], uint64(f.came))
	binary.BigEndian.PutUint64(b[24:], uint64(f.answered))
}

func decode(b *[frameSize]byte) (frame, error) {
	if string(b[:8]) != magic {
		return frame{}, fmt.Errorf("%w: it begins with %q", errFrame, b[:8])
	}
	return frame{
		number: binary.BigEndian.Uint64(b[8:]),
		came:   int64(binary.BigEndian.Uint64(b[16:])), answered: int64(binary.BigEndian.Uint64(b[24:])),
	}, nil
}

func readFrame(r io.Reader) (frame, error) {
	var b [frameSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return frame{}, err
	}
	return decode(&b)
}

// idle is how long an asker may be silent before the echo hangs up.
const idle = 2 * time.Minute

// Serve echoes what comes on conn, which it closes, until the other end hangs up or ctx ends. Errors: what
// is no frame.
func Serve(ctx context.Context, conn net.Conn) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	var b [frameSize]byte
	for {
		_ = conn.SetDeadline(time.Now().Add(idle)) // a connection without deadlines ends with ctx
		if _, err := io.ReadFull(conn, b[:]); err != nil {
			return nil
		}
		came := time.Now().UnixNano()
		f, err := decode(&b)
		if err != nil {
			return err
		}
		f.came, f.answered = came, time.Now().UnixNano()
		f.encode(&b)
		if _, err := conn.Write(b[:]); err != nil {
			return nil
		}
	}
}
