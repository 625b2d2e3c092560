package rig

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// What of NBD it takes to be QEMU's disk: fixed newstyle, one export, simple replies. The product's own server
// is not used: the ground that a test stands on must not be what it tests.
const (
	nbdMagic     = 0x4e42444d41474943 // NBDMAGIC
	nbdIHaveOpt  = 0x49484156454f5054 // IHAVEOPT
	nbdOptReply  = 0x0003e889045565a9
	nbdRequest   = 0x25609513
	nbdSimple    = 0x67446698
	nbdOptAbort  = 2
	nbdOptGo     = 7
	nbdAck       = 1
	nbdInfo      = 3
	nbdErrUnsup  = 1<<31 + 1
	nbdFlags     = 1 | 1<<2 // of the export: has flags, sends flushes
	nbdCmdRead   = 0
	nbdCmdWrite  = 1
	nbdCmdDisc   = 2
	nbdCmdFlush  = 3
	nbdEInval    = 22
	maxDiskIO    = 32 << 20
	maxOptLength = 64 << 10
)

// serve answers on a unix socket until the end of the test.
func (d *Disk) serve(t testing.TB) {
	t.Helper()
	dir, err := os.MkdirTemp("", "rig") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	d.addr = filepath.Join(dir, "disk")
	l, err := net.Listen("unix", d.addr)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			d.sessions.Go(func() {
				defer c.Close()
				err := d.session(c)
				// A machine that is killed in the middle of something resets the connection.
				if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("disk: %v", err)
				}
			})
		}
	})
	t.Cleanup(func() { // after the machines, which were started later
		l.Close()
		wg.Wait()
		d.sessions.Wait()
		os.RemoveAll(dir)
	})
}

// session serves one connection: one request after the other, so that a flush covers what was answered
// before it. What a machine had sent when it was killed is still carried out; VM.PowerCut waits for that
// before it cuts.
func (d *Disk) session(c net.Conn) error {
	if err := d.negotiate(c); err != nil {
		return err
	}
	var h [28]byte
	for {
		if _, err := io.ReadFull(c, h[:]); err != nil {
			return err
		}
		if m := binary.BigEndian.Uint32(h[:]); m != nbdRequest {
			return fmt.Errorf("request begins with %#x", m)
		}
		cmd := binary.BigEndian.Uint16(h[6:])
		off, length := int64(binary.BigEndian.Uint64(h[16:])), int64(binary.BigEndian.Uint32(h[24:]))
		if length > maxDiskIO || off < 0 || off > d.size-length {
			return fmt.Errorf("command %d of %d bytes at %d: out of range", cmd, length, off)
		}
		reply := make([]byte, 16)
		binary.BigEndian.PutUint32(reply, nbdSimple)
		copy(reply[8:], h[8:16])
		switch cmd {
		case nbdCmdRead:
			reply = append(reply, make([]byte, length)...)
			d.read(off, reply[16:])
		case nbdCmdWrite:
			data := make([]byte, length)
			if _, err := io.ReadFull(c, data); err != nil {
				return err // never whole in the disk's hands
			}
			d.write(off, data)
		case nbdCmdFlush:
			d.flush()
		case nbdCmdDisc:
			return nil
		default:
			binary.BigEndian.PutUint32(reply[4:], nbdEInval)
		}
		if _, err := c.Write(reply); err != nil {
			return nil // the machine is gone
		}
	}
}

// negotiate grants the only export whatever its name and declines every other option.
func (d *Disk) negotiate(c net.Conn) error {
	hello := binary.BigEndian.AppendUint64(nil, nbdMagic)
	hello = binary.BigEndian.AppendUint64(hello, nbdIHaveOpt)
	hello = binary.BigEndian.AppendUint16(hello, 1|2) // fixed newstyle, no padding
	if _, err := c.Write(hello); err != nil {
		return err
	}
	var flags [4]byte
	if _, err := io.ReadFull(c, flags[:]); err != nil {
		return err
	}
	for {
		var h [16]byte
		if _, err := io.ReadFull(c, h[:]); err != nil {
			return err
		}
		opt, length := binary.BigEndian.Uint32(h[8:]), binary.BigEndian.Uint32(h[12:])
		if length > maxOptLength {
			return fmt.Errorf("option %d of %d bytes", opt, length)
		}
		if _, err := io.CopyN(io.Discard, c, int64(length)); err != nil {
			return err
		}
		answer := func(typ uint32, data []byte) error {
			b := binary.BigEndian.AppendUint64(nil, nbdOptReply)
			b = binary.BigEndian.AppendUint32(b, opt)
			b = binary.BigEndian.AppendUint32(b, typ)
			b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
			_, err := c.Write(append(b, data...))
			return err
		}
		switch opt {
		case nbdOptAbort:
			return errors.Join(answer(nbdAck, nil), io.EOF)
		case nbdOptGo:
			info := binary.BigEndian.AppendUint16(nil, 0) // NBD_INFO_EXPORT
			info = binary.BigEndian.AppendUint64(info, uint64(d.size))
			info = binary.BigEndian.AppendUint16(info, nbdFlags)
			return errors.Join(answer(nbdInfo, info), answer(nbdAck, nil))
		default:
			if err := answer(nbdErrUnsup, nil); err != nil {
				return err
			}
		}
	}
}
