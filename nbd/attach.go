package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
)

// The private options by which a client says who it is. An ordinary client never sends them, and an
// ordinary server answers that it does not know them.
//
//	0x4c530001  ATTACH
//	offset  size  field
//	0       2     format, 1
//	2       2     flags: bit 0 shared, bit 1 resume; others 0
//	4       16    key
//	20      8     session, 1 to MaxSession
//	28      2+n   resource: length and name, which is the export's
//	..      2+n   holder: host name
//	..      2+n   device: path on that host
//	..      2+n   boot id of that host's kernel
//
//	0x4c530002  DETACH
//	0       2     format, 1
//	2       16    key
//	18      2+n   resource
//
// Numbers are big endian and the length is exact. ATTACH is answered by one reply of type
// 0x4c530001, whose data is the registration's number (8 bytes), and by ACK; DETACH by ACK, once the
// registration has ended. Errors: INVALID, UNSUP, and those of NotServedKind.
//
// # Changes
//
//   - 1: first.
const (
	optAttach = uint32(0x4c530001)
	optDetach = uint32(0x4c530002)

	repAttached      = uint32(0x4c530001)
	repErrSuperseded = uint32(1<<31 | 0x4c53)

	attachFormat = 1
	attachShared = uint16(1 << 0)
	attachResume = uint16(1 << 1)
)

// MaxSession is the highest number of a session.
const MaxSession = 1<<40 - 1

// Key proves who holds a registration.
type Key [16]byte

// Attach is what a client says of itself with ATTACH.
type Attach struct {
	Resource string // name of the export
	Key      Key    // random, the holder's own
	Session  uint64 // rises with each connection of the holder, 1 to MaxSession
	Shared   bool   // others may be attached, too
	Resume   bool   // it was registered before: a key that is not known has been superseded
	Holder   string // host name
	Device   string // path on that host
	Boot     string // boot id of that host's kernel
}

// Attachments is what Exports may be, too: it serves clients that say who they are. Its methods are
// called from many goroutines at once; ctx ends with the time allowed for negotiation.
type Attachments interface {
	// Attach registers a, or finds it registered. Errors are those of Exports.Lookup.
	Attach(ctx context.Context, a Attach) (Attached, error)
	// Detach ends the registration with key, and returns when that is certain.
	Detach(ctx context.Context, resource string, key Key) error
}

// Attached is one connection's share in a registration. Its errors are those of Exports.Lookup.
type Attached interface {
	// Number is that of the registration.
	Number() uint64
	// Lookup returns the export for somebody who only wants to know of it.
	Lookup(ctx context.Context) (*Export, error)
	// Open begins the session, and returns when nothing that earlier ones began is under way. The
	// Export's Gone ends it.
	Open(ctx context.Context) (*Export, error)
}

// optAttachTo answers ATTACH: from then on the connection is good for that export alone.
func (c *Conn) optAttachTo(ctx context.Context, data []byte) error {
	srv, ok := c.srv.exports.(Attachments)
	if !ok {
		return c.reply(optAttach, repErrUnsup, nil)
	}
	a, ok := decodeAttach(data)
	switch {
	case !ok:
		return c.reply(optAttach, repErrInvalid, []byte("malformed request"))
	case c.attached != nil:
		return c.reply(optAttach, repErrInvalid, []byte("this connection is attached already"))
	}
	at, err := srv.Attach(c.withClient(ctx), a)
	if err != nil {
		return c.refuse(optAttach, c.refusal(a.Resource, err))
	}
	c.attached, c.attachedTo = at, a.Resource
	b := appendOptionReply(nil, optAttach, repAttached, binary.BigEndian.AppendUint64(nil, at.Number()))
	return c.send(appendOptionReply(b, optAttach, repAck, nil))
}

// optDetachFrom answers DETACH.
func (c *Conn) optDetachFrom(ctx context.Context, data []byte) error {
	srv, ok := c.srv.exports.(Attachments)
	if !ok {
		return c.reply(optDetach, repErrUnsup, nil)
	}
	resource, key, ok := decodeDetach(data)
	if !ok {
		return c.reply(optDetach, repErrInvalid, []byte("malformed request"))
	}
	if err := srv.Detach(c.withClient(ctx), resource, key); err != nil {
		return c.refuse(optDetach, c.refusal(resource, err))
	}
	return c.reply(optDetach, repAck, nil)
}

// lookupAttached is lookup for a connection that said who it is. It is bound before the session is
// opened, so that who ends the registration meanwhile, or the role, finds it.
func (c *Conn) lookupAttached(ctx context.Context, name string, bind bool) (*Export, *ErrNotServed) {
	if name != c.attachedTo {
		return nil, &ErrNotServed{Kind: NotServedPolicy, Reason: fmt.Sprintf("this connection is attached to %q and to nothing else", c.attachedTo)}
	}
	if !bind {
		exp, err := c.attached.Lookup(c.withClient(ctx))
		if err == nil {
			exp, err = exp.withDefaults()
		}
		return exp, c.refusal(name, err)
	}
	c.tie(name, true)
	exp, err := c.attached.Open(c.withClient(ctx))
	if err != nil {
		c.tie("", false)
		return nil, c.refusal(name, err)
	}
	full, err := exp.withDefaults()
	if err != nil {
		c.tie("", false)
		exp.gone()
		return nil, c.refusal(name, err)
	}
	c.srv.granted(c)
	return full, nil
}

// tie makes the connection one of an export, or of none again.
func (c *Conn) tie(name string, on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bound, c.isBound = name, on
}

// granted takes c from those in negotiation.
func (s *Server) granted(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leave(c)
}

// refusal turns an error of a lookup into what the client is told; nil stays nil.
func (c *Conn) refusal(name string, err error) (refusal *ErrNotServed) {
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refusal):
		return refusal
	}
	c.srv.cfg.Logger.Warn("export cannot be served", slog.String("export", name), slog.Any("error", err))
	return &ErrNotServed{Reason: fmt.Sprintf("export %q cannot be served", name)}
}

// refuse answers an option with a refusal.
func (c *Conn) refuse(opt uint32, refusal *ErrNotServed) error {
	reason := refusal.Reason
	if len(reason) > maxName {
		reason = reason[:maxName]
	}
	return c.reply(opt, c.refusalReply(refusal.Kind), []byte(reason))
}

// CloseConns ends those connections of the export called name that match, as CloseExport does, and
// returns how many. match gets nil for a connection that did not say who it is; it is called with
// locks held, and must not call back. With plain, clients that did not say who they are and have
// looked the export up, but are not bound to it yet, are refused.
func (s *Server) CloseConns(name, reason string, plain bool, match func(Attached) bool) int {
	var conns []*Conn
	s.mu.Lock()
	if plain {
		s.closes++
		s.closedAt[name] = s.closes
	}
	for _, c := range s.bound(name) {
		if match(c.attached) {
			conns = append(conns, c)
		}
	}
	s.mu.Unlock()
	if len(conns) > 0 {
		s.cfg.Logger.Info("connections closed", slog.String("export", name),
			slog.Int("connections", len(conns)), slog.String("reason", reason))
	}
	err := fmt.Errorf("nbd: connection closed: %s", reason)
	for _, c := range conns {
		c.kill(err)
	}
	return len(conns)
}

// Attached returns what the connections of an export said of themselves, nil for those that said
// nothing.
func (s *Server) Attached(name string) (all []Attached) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.bound(name) {
		all = append(all, c.attached)
	}
	return all
}

// decodeAttach takes the data of ATTACH apart.
func decodeAttach(b []byte) (a Attach, ok bool) {
	if len(b) < 28 || binary.BigEndian.Uint16(b) != attachFormat {
		return a, false
	}
	flags := binary.BigEndian.Uint16(b[2:])
	a.Shared, a.Resume = flags&attachShared != 0, flags&attachResume != 0
	copy(a.Key[:], b[4:])
	a.Session = binary.BigEndian.Uint64(b[20:])
	b = b[28:]
	for _, field := range []*string{&a.Resource, &a.Holder, &a.Device, &a.Boot} {
		if *field, b, ok = takeName(b); !ok {
			return a, false
		}
	}
	return a, len(b) == 0 && flags&^(attachShared|attachResume) == 0 && a.Session >= 1 && a.Session <= MaxSession
}

// decodeDetach takes the data of DETACH apart.
func decodeDetach(b []byte) (resource string, key Key, ok bool) {
	if len(b) < 18 || binary.BigEndian.Uint16(b) != attachFormat {
		return "", key, false
	}
	copy(key[:], b[2:])
	resource, rest, ok := takeName(b[18:])
	return resource, key, ok && len(rest) == 0
}

// takeName takes a length of two bytes, and as many bytes of a name, from b. No name is empty.
func takeName(b []byte) (name string, rest []byte, ok bool) {
	if len(b) < 2 {
		return "", nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if b = b[2:]; n == 0 || n > len(b) {
		return "", nil, false
	}
	name, ok = exportName(b[:n])
	return name, b[n:], ok
}

// AppendAttach appends the data of ATTACH to b. It panics if a field is longer than a length of two
// bytes can say.
func AppendAttach(b []byte, a Attach) []byte {
	var flags uint16
	if a.Shared {
		flags |= attachShared
	}
	if a.Resume {
		flags |= attachResume
	}
	b = binary.BigEndian.AppendUint16(b, attachFormat)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = append(b, a.Key[:]...)
	b = binary.BigEndian.AppendUint64(b, a.Session)
	for _, field := range []string{a.Resource, a.Holder, a.Device, a.Boot} {
		b = appendName(b, field)
	}
	return b
}

// AppendDetach appends the data of DETACH to b; see AppendAttach.
func AppendDetach(b []byte, resource string, key Key) []byte {
	b = binary.BigEndian.AppendUint16(b, attachFormat)
	b = append(b, key[:]...)
	return appendName(b, resource)
}

func appendName(b []byte, name string) []byte {
	if len(name) > 1<<16-1 {
		panic(fmt.Sprintf("nbd: a name of %d bytes", len(name)))
	}
	return append(binary.BigEndian.AppendUint16(b, uint16(len(name))), name...)
}

// Numbers of the private protocol, for clients.
const (
	OptAttach        = optAttach
	OptDetach        = optDetach
	RepAttached      = repAttached
	RepErrSuperseded = repErrSuperseded
)
