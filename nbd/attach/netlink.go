package attach

import (
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
)

// The generic netlink family of the kernel's NBD driver, include/uapi/linux/nbd-netlink.h. Its numbers
// are spelled out, since they are an interface and not this program's to renumber.
const (
	nlFamily  = "nbd"
	nlVersion = 1
	nlGroup   = "nbd_mc_group"

	nlConnect     = 1 // NBD_CMD_CONNECT
	nlDisconnect  = 2
	nlReconfigure = 3
	nlLinkDead    = 4 // multicast
	nlStatus      = 5

	attrIndex       = 1  // u32
	attrSize        = 2  // u64, bytes
	attrBlockSize   = 3  // u64, bytes
	attrTimeout     = 4  // u64, seconds
	attrServerFlags = 5  // u64, transmission flags
	attrSockets     = 7  // nested
	attrDeadTimeout = 8  // u64, seconds
	attrDeviceList  = 9  // nested
	attrBackend     = 10 // string

	sockItem = 1 // nested, of attrSockets
	sockFD   = 1 // u32

	deviceItem      = 1 // nested, of attrDeviceList
	deviceIndex     = 1 // u32
	deviceConnected = 2 // u8
)

// ConnectRequest makes a device. The request timer is off, always: a request waits as long as the relay
// wants it to.
type ConnectRequest struct {
	Index       uint32
	Size        int64  // bytes
	BlockSize   uint32 // logical block, bytes: a power of two, 512 to the size of a page
	Flags       uint16 // transmission flags
	DeadTimeout time.Duration
	Backend     string
	Sockets     []int // file descriptors, one for each connection
}

// ReconfigureRequest changes a device.
type ReconfigureRequest struct {
	Index   uint32
	Backend string // as it was made; the kernel compares it
	Size    int64  // bytes; 0: as it is
	Sockets []int  // each takes the place of a dead one, if there is one
}

func (q ConnectRequest) encode() ([]byte, error) {
	e := netlink.NewAttributeEncoder()
	e.Uint32(attrIndex, q.Index)
	e.Uint64(attrSize, uint64(q.Size))
	e.Uint64(attrBlockSize, uint64(q.BlockSize))
	e.Uint64(attrTimeout, 0)
	e.Uint64(attrServerFlags, uint64(q.Flags))
	e.Uint64(attrDeadTimeout, uint64(q.DeadTimeout/time.Second))
	encodeSockets(e, q.Sockets)
	e.String(attrBackend, q.Backend)
	return e.Encode()
}

// encode leaves the timeout out: the kernel would take 0 as an order to put queue/io_timeout back.
func (q ReconfigureRequest) encode() ([]byte, error) {
	e := netlink.NewAttributeEncoder()
	e.Uint32(attrIndex, q.Index)
	if q.Size > 0 {
		e.Uint64(attrSize, uint64(q.Size))
	}
	if len(q.Sockets) > 0 {
		encodeSockets(e, q.Sockets)
	}
	e.String(attrBackend, q.Backend)
	return e.Encode()
}

func encodeSockets(e *netlink.AttributeEncoder, fds []int) {
	e.Nested(attrSockets, func(list *netlink.AttributeEncoder) error {
		for _, fd := range fds {
			list.Nested(sockItem, func(item *netlink.AttributeEncoder) error {
				item.Uint32(sockFD, uint32(fd))
				return nil
			})
		}
		return nil
	})
}

func encodeIndex(index uint32) ([]byte, error) {
	e := netlink.NewAttributeEncoder()
	e.Uint32(attrIndex, index)
	return e.Encode()
}

// decodeIndex reads the index in the answer to CONNECT, and in LINK_DEAD.
func decodeIndex(b []byte) (index uint32, err error) {
	d, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return 0, err
	}
	found := false
	for d.Next() {
		if d.Type() == attrIndex {
			index, found = d.Uint32(), true
		}
	}
	if err := d.Err(); err != nil {
		return 0, err
	}
	if !found {
		return 0, errors.New("netlink: a message without a device's index")
	}
	return index, nil
}

// decodeStatus reads the answer to STATUS: which devices are connected.
func decodeStatus(b []byte) (map[uint32]bool, error) {
	out := map[uint32]bool{}
	d, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return nil, err
	}
	for d.Next() {
		if d.Type() != attrDeviceList {
			continue
		}
		d.Nested(func(list *netlink.AttributeDecoder) error {
			for list.Next() {
				if list.Type() == deviceItem {
					list.Nested(func(item *netlink.AttributeDecoder) error { return decodeDevice(item, out) })
				}
			}
			return nil
		})
	}
	if err := d.Err(); err != nil {
		return nil, fmt.Errorf("netlink: status: %w", err)
	}
	return out, nil
}

func decodeDevice(item *netlink.AttributeDecoder, out map[uint32]bool) error {
	index, connected, found := uint32(0), false, false
	for item.Next() {
		switch item.Type() {
		case deviceIndex:
			index, found = item.Uint32(), true
		case deviceConnected:
			connected = item.Uint8() != 0
		}
	}
	if found {
		out[index] = connected
	}
	return nil
}
