// Package userdev stands in for the kernel's NBD driver on machines that have none. A relay (package nbd/attach)
// that is given this Kernel believes that it serves /dev/nbdX. In truth the bytes of its socket go to whoever
// connects to a unix socket: nbdfuse, which makes a file of it, and a loop device makes a block device of the file.
//
//	ext4 - loop device - nbdfuse - unix socket - Kernel - socket pair - relay - the primary
//
// So a real file system on a real relay can be tried and measured without emulation; what it costs is two more
// hops between processes than the driver has.
package userdev

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/pojntfx/go-nbd/pkg/protocol"

	"github.com/lockstep-ha/lockstep/nbd/attach"
)

// Kernel is one device, served at a unix socket to one client.
type Kernel struct {
	path string

	mu      sync.Mutex
	backend string // of the device that is connected; "": none
	sector  uint32 // its logical block, bytes
	end     func() // closes its connections and its listener
}

var _ attach.Kernel = (*Kernel)(nil)

// NewKernel returns a Kernel whose device is served at path once a relay has connected it.
func NewKernel(path string) *Kernel { return &Kernel{path: path} }

// URI is where clients find the device.
func (k *Kernel) URI() string { return "nbd+unix:///?socket=" + k.path }

func (k *Kernel) block() uint32 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.sector
}

// Check implements attach.Kernel.
func (k *Kernel) Check() error { return nil }

// Connect implements attach.Kernel. Of several sockets the first is used.
func (k *Kernel) Connect(q attach.ConnectRequest) error {
	relay, err := fileConn(q.Sockets[0])
	if err != nil {
		return err
	}
	l, err := net.Listen("unix", k.path)
	if err != nil {
		relay.Close()
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.backend, k.sector = q.Backend, q.BlockSize
	k.end = sync.OnceFunc(func() {
		l.Close()
		relay.Close()
	})
	go k.serve(q, l, relay)
	return nil
}

// fileConn makes a connection of a file descriptor, which stays the caller's.
func fileConn(fd int) (net.Conn, error) {
	dup, err := syscall.Dup(fd)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(dup), "relay")
	defer f.Close()
	return net.FileConn(f)
}

// serve has one client talk to the relay, until either has enough.
func (k *Kernel) serve(q attach.ConnectRequest, l net.Listener, relay net.Conn) {
	defer k.gone()
	client, err := l.Accept()
	if err != nil {
		return // Disconnect
	}
	defer client.Close()
	if greet(client, q) != nil {
		return
	}
	go func() {
		_, _ = io.Copy(client, relay) // whichever end fails, both end
		client.Close()
	}()
	_, _ = io.Copy(relay, client)
}

// gone ends the device.
func (k *Kernel) gone() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.backend != "" {
		k.backend = ""
		k.end()
	}
}

// greet leads a client through the fixed newstyle handshake (NBD's doc/proto.md) to the transmission phase, which is the
// relay's. Only GO is known: whoever wants structured replies gets simple ones, as the kernel does.
func greet(c io.ReadWriter, q attach.ConnectRequest) error {
	const noZeroes = 1 << 1
	hello := protocol.NegotiationNewstyleHeader{
		OldstyleMagic: protocol.NEGOTIATION_MAGIC_OLDSTYLE, OptionMagic: protocol.NEGOTIATION_MAGIC_OPTION,
		HandshakeFlags: protocol.NEGOTIATION_HANDSHAKE_FLAG_FIXED_NEWSTYLE | noZeroes,
	}
	var flags uint32
	if err := errors.Join(binary.Write(c, binary.BigEndian, hello), binary.Read(c, binary.BigEndian, &flags)); err != nil {
		return err
	}
	for {
		var o protocol.NegotiationOptionHeader
		if err := binary.Read(c, binary.BigEndian, &o); err != nil {
			return err
		}
		if _, err := io.CopyN(io.Discard, c, int64(o.Length)); err != nil {
			return err
		}
		reply := func(kind uint32, body any) error {
			size := 0
			if body != nil {
				size = binary.Size(body)
			}
			h := protocol.NegotiationReplyHeader{ReplyMagic: protocol.NEGOTIATION_MAGIC_REPLY, ID: o.ID, Type: kind, Length: uint32(size)}
			err := binary.Write(c, binary.BigEndian, h)
			if body != nil {
				err = errors.Join(err, binary.Write(c, binary.BigEndian, body))
			}
			return err
		}
		switch o.ID {
		case protocol.NEGOTIATION_ID_OPTION_GO:
			return errors.Join(
				reply(protocol.NEGOTIATION_TYPE_REPLY_INFO, protocol.NegotiationReplyInfo{
					Type: protocol.NEGOTIATION_TYPE_INFO_EXPORT, Size: uint64(q.Size),
					TransmissionFlags: q.Flags &^ protocol.NEGOTIATION_REPLY_FLAGS_CAN_MULTI_CONN}), // nbdfuse would open four
				reply(protocol.NEGOTIATION_TYPE_REPLY_INFO, protocol.NegotiationReplyBlockSize{
					Type: protocol.NEGOTIATION_TYPE_INFO_BLOCKSIZE, MinimumBlockSize: q.BlockSize, PreferredBlockSize: q.BlockSize, MaximumBlockSize: 1 << 20}),
				reply(protocol.NEGOTIATION_TYPE_REPLY_ACK, nil))
		case protocol.NEGOTIATION_ID_OPTION_ABORT:
			return errors.Join(reply(protocol.NEGOTIATION_TYPE_REPLY_ACK, nil), io.EOF)
		default:
			if err := reply(protocol.NEGOTIATION_TYPE_REPLY_ERR_UNSUPPORTED, nil); err != nil {
				return err
			}
		}
	}
}

// Reconfigure implements attach.Kernel. A device here keeps its size and its socket.
func (k *Kernel) Reconfigure(q attach.ReconfigureRequest) error {
	return fmt.Errorf("nbd%d: %w", q.Index, syscall.EINVAL)
}

// Disconnect implements attach.Kernel.
func (k *Kernel) Disconnect(uint32) error {
	k.gone()
	return nil
}

// Backend implements attach.Kernel.
func (k *Kernel) Backend(uint32) (string, bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.backend, k.backend != "", nil
}

// SetIOTimeout implements attach.Kernel. Nothing here has a timer.
func (k *Kernel) SetIOTimeout(uint32, time.Duration) error { return nil }

// LinkDead implements attach.Kernel. A device here has one connection, and dies with it.
func (k *Kernel) LinkDead(ctx context.Context, _ func(uint32)) error {
	<-ctx.Done()
	return nil
}
