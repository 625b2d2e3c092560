package attach

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/pojntfx/go-nbd/pkg/protocol"
	"golang.org/x/sys/unix"

	"github.com/lockstep-ha/lockstep/nbd"
)

// Why a server does not take us. What Refusal.Is says decides; its text is for people.
var (
	ErrHeld        = errors.New("held by another host, or in use")
	ErrUnknown     = errors.New("no such resource")
	ErrElsewhere   = errors.New("not served here now")
	ErrSuperseded  = errors.New("the attachment has ended or was taken over")
	ErrNotLockstep = errors.New("this NBD server is no lockstep node")
	ErrNeedsTLS    = errors.New("the server wants TLS, and no certificates were given")
)

// Refusal is a server's answer to an option that it does not grant.
type Refusal struct {
	Server Server
	Why    error  // one of the above, or a description of the reply
	Text   string // the server's own words
}

func (r *Refusal) Error() string {
	if r.Text == "" {
		return fmt.Sprintf("%v: %v", r.Server, r.Why)
	}
	return fmt.Sprintf("%v: %s", r.Server, r.Text)
}

func (r *Refusal) Unwrap() error { return r.Why }

// Option and reply numbers, proto.md "Option types" and "Option reply types".
const (
	optAbort    = uint32(2)
	optStartTLS = uint32(5)
	optInfo     = uint32(6)
	optGo       = uint32(7)

	repAck         = uint32(1)
	repInfo        = uint32(3)
	repErr         = uint32(1 << 31)
	repErrUnsup    = repErr | 1
	repErrPolicy   = repErr | 2
	repErrTLSReqd  = repErr | 5
	repErrUnknown  = repErr | 6
	repErrShutdown = repErr | 7

	infoExport      = uint16(0)
	infoDescription = uint16(2)
	infoBlockSize   = uint16(3)

	maxReplyData = 64 << 10 // bytes; no reply to our options comes near
	readAhead    = 128 << 10
)

const (
	dialTimeout   = 2 * time.Second
	attachTimeout = 15 * time.Second // a first ATTACH waits for the ledger
	goTimeout     = 5 * time.Second  // GO waits for what earlier sessions began; asked again after it
)

// exportInfo is what a server says of the export.
type exportInfo struct {
	size  int64 // bytes
	flags uint16
	block nbd.BlockSize
	about string // for people; of a lockstep node it names the node, so equal ones are of one node
}

// upstream is a connection to a server: attached after attachTo, transmitting after enter.
type upstream struct {
	server  Server
	conn    net.Conn // with TLS, if there is TLS
	rd      *bufio.Reader
	number  uint64 // of the registration
	session uint64
	info    exportInfo
}

func (u *upstream) close() {
	nc := u.conn
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn() // Close of a TLS connection may wait to say goodbye
	}
	nc.Close()
}

// within runs f, which uses u's connection, for at most d and until ctx ends.
func (u *upstream) within(ctx context.Context, d time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = u.conn.SetDeadline(time.Unix(1, 0)) })
	err := f()
	if !stop() && ctx.Err() != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) || err == nil {
			err = fmt.Errorf("%v: no answer within %v: %w", u.server, d, context.Cause(ctx))
		}
		return err
	}
	return err
}

// connect dials a server and negotiates up to where options can be sent. tlsOf may be nil: no TLS.
func connect(ctx context.Context, s Server, tlsOf func() (*tls.Config, error)) (*upstream, error) {
	d := net.Dialer{
		Timeout: dialTimeout,
		// A host that lost its power closes nothing. These notice it within seconds, for the case in which
		// no other server could be asked.
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 4},
		Control: func(network, _ string, c syscall.RawConn) error {
			if network == "unix" {
				return nil
			}
			return c.Control(func(fd uintptr) {
				// Best effort: without it the kernel's own limit, minutes, applies.
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 5000)
			})
		},
	}
	nc, err := d.DialContext(ctx, s.Network, s.Addr)
	if err != nil {
		return nil, err
	}
	u := &upstream{server: s, conn: nc, rd: bufio.NewReaderSize(nc, readAhead)}
	err = u.within(ctx, dialTimeout, func() error {
		if err := u.greet(); err != nil {
			return err
		}
		if tlsOf == nil || s.Network == "unix" {
			return nil
		}
		cfg, err := tlsOf()
		if err != nil {
			return err
		}
		return u.startTLS(ctx, cfg)
	})
	if err != nil {
		u.close()
		return nil, err
	}
	return u, nil
}

// greet takes the greeting and answers with fixed newstyle, no zeroes.
func (u *upstream) greet() error {
	var b [18]byte
	if _, err := io.ReadFull(u.rd, b[:]); err != nil {
		return fmt.Errorf("%v: greeting: %w", u.server, err)
	}
	if binary.BigEndian.Uint64(b[:]) != protocol.NEGOTIATION_MAGIC_OLDSTYLE || binary.BigEndian.Uint64(b[8:]) != protocol.NEGOTIATION_MAGIC_OPTION ||
		b[17]&3 != 3 {
		return &Refusal{Server: u.server, Why: ErrNotLockstep, Text: "what answers is no NBD server that lockstep can use"}
	}
	_, err := u.conn.Write([]byte{0, 0, 0, 3})
	return err
}

func (u *upstream) startTLS(ctx context.Context, cfg *tls.Config) error {
	if _, err := u.option(optStartTLS, nil); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	if u.rd.Buffered() > 0 {
		return fmt.Errorf("%v: bytes in the clear behind STARTTLS", u.server)
	}
	tc := tls.Client(u.conn, cfg)
	if err := tc.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("%v: TLS: %w", u.server, err)
	}
	u.conn = tc
	u.rd.Reset(tc)
	return nil
}

// reply is one answer to an option.
type reply struct {
	typ  uint32
	data []byte
}

// option sends an option and returns the replies before its acknowledgement, or a *Refusal.
func (u *upstream) option(opt uint32, data []byte) (replies []reply, err error) {
	b := binary.BigEndian.AppendUint64(nil, protocol.NEGOTIATION_MAGIC_OPTION)
	b = binary.BigEndian.AppendUint32(b, opt)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	if _, err := u.conn.Write(append(b, data...)); err != nil {
		return nil, fmt.Errorf("%v: %w", u.server, err)
	}
	for len(replies) < 64 {
		r, err := u.optionReply(opt)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%v: option %#x: %w", u.server, opt, err)
		case r.typ == repAck:
			return replies, nil
		case r.typ&repErr != 0:
			return nil, u.refusal(opt, r)
		}
		replies = append(replies, r)
	}
	return nil, fmt.Errorf("%v: option %#x: replies without end", u.server, opt)
}

func (u *upstream) optionReply(opt uint32) (r reply, err error) {
	var h [20]byte
	if _, err := io.ReadFull(u.rd, h[:]); err != nil {
		return r, err
	}
	n := binary.BigEndian.Uint32(h[16:])
	if binary.BigEndian.Uint64(h[:]) != protocol.NEGOTIATION_MAGIC_REPLY || binary.BigEndian.Uint32(h[8:]) != opt || n > maxReplyData {
		return r, errors.New("what came is no reply to it")
	}
	r.typ, r.data = binary.BigEndian.Uint32(h[12:]), make([]byte, n)
	_, err = io.ReadFull(u.rd, r.data)
	return r, err
}

// refusal classes an error reply.
func (u *upstream) refusal(opt uint32, r reply) error {
	e := &Refusal{Server: u.server, Text: string(r.data)}
	switch r.typ {
	case nbd.RepErrSuperseded:
		e.Why = ErrSuperseded
	case repErrPolicy:
		e.Why = ErrElsewhere
		if opt == nbd.OptAttach {
			e.Why = ErrHeld
		}
	case repErrUnknown:
		e.Why = ErrUnknown
	case repErrShutdown:
		e.Why = ErrElsewhere
	case repErrTLSReqd:
		e.Why, e.Text = ErrNeedsTLS, ""
	case repErrUnsup:
		e.Why, e.Text = fmt.Errorf("option %#x is not supported", opt), ""
		if opt == nbd.OptAttach || opt == nbd.OptDetach {
			e.Why = ErrNotLockstep
		}
	default:
		e.Why = fmt.Errorf("option %#x is refused with reply type %#x", opt, r.typ)
	}
	return e
}

// attachTo says who we are. From then on the connection is good for that export alone.
func (u *upstream) attachTo(ctx context.Context, a nbd.Attach) error {
	u.session = a.Session
	return u.within(ctx, attachTimeout, func() error {
		replies, err := u.option(nbd.OptAttach, nbd.AppendAttach(nil, a))
		if err != nil {
			return err
		}
		if len(replies) != 1 || replies[0].typ != nbd.RepAttached || len(replies[0].data) != 8 {
			return fmt.Errorf("%v: ATTACH is answered without a registration", u.server)
		}
		u.number = binary.BigEndian.Uint64(replies[0].data)
		return nil
	})
}

// enter opens the session: requests may follow. Where only look is wanted, the export is just asked about.
func (u *upstream) enter(ctx context.Context, export string, look bool) error {
	opt, d := optGo, goTimeout
	if look {
		opt, d = optInfo, dialTimeout
	}
	b := binary.BigEndian.AppendUint32(nil, uint32(len(export)))
	b = append(b, export...)
	b = binary.BigEndian.AppendUint16(b, 2)
	b = binary.BigEndian.AppendUint16(b, infoBlockSize)
	b = binary.BigEndian.AppendUint16(b, infoDescription)
	return u.within(ctx, d, func() error {
		replies, err := u.option(opt, b)
		if err != nil {
			return err
		}
		u.info, err = decodeInfo(replies)
		if err != nil {
			return fmt.Errorf("%v: %w", u.server, err)
		}
		return nil
	})
}

// decodeInfo reads the replies to INFO or GO.
func decodeInfo(replies []reply) (x exportInfo, err error) {
	known := false
	x.block = nbd.BlockSize{Min: 1, Preferred: 4096, Max: nbd.MaxPayload}
	for _, r := range replies {
		if r.typ != repInfo || len(r.data) < 2 {
			continue
		}
		d := r.data[2:]
		switch binary.BigEndian.Uint16(r.data) {
		case infoExport:
			if len(d) != 10 {
				return x, errors.New("malformed description of the export")
			}
			x.size, x.flags = int64(binary.BigEndian.Uint64(d)), binary.BigEndian.Uint16(d[8:])
			known = x.size >= 0
		case infoDescription:
			x.about = string(d)
		case infoBlockSize:
			if len(d) != 12 {
				return x, errors.New("malformed block sizes of the export")
			}
			x.block = nbd.BlockSize{Min: binary.BigEndian.Uint32(d), Preferred: binary.BigEndian.Uint32(d[4:]), Max: binary.BigEndian.Uint32(d[8:])}
		}
	}
	if !known {
		return x, errors.New("the size of the export is not told")
	}
	return x, nil
}

// detach ends a registration.
func (u *upstream) detach(ctx context.Context, resource string, key nbd.Key) error {
	return u.within(ctx, attachTimeout, func() error {
		_, err := u.option(nbd.OptDetach, nbd.AppendDetach(nil, resource, key))
		return err
	})
}

// abort ends a negotiation politely.
func (u *upstream) abort() {
	b := binary.BigEndian.AppendUint64(nil, protocol.NEGOTIATION_MAGIC_OPTION)
	b = binary.BigEndian.AppendUint32(b, optAbort)
	b = binary.BigEndian.AppendUint32(b, 0)
	_ = u.conn.SetDeadline(time.Now().Add(time.Second)) // whoever does not take it need not
	_, _ = u.conn.Write(b)
	u.close()
}

// Transmission flags, proto.md "Transmission flags".
const (
	txHasFlags    = uint16(1 << 0)
	txReadOnly    = uint16(1 << 1)
	txFlush       = uint16(1 << 2)
	txFUA         = uint16(1 << 3)
	txTrim        = uint16(1 << 5)
	txWriteZeroes = uint16(1 << 6)
	txMultiConn   = uint16(1 << 8)
)
