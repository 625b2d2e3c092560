package attach

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-ha/lockstep/nbd"
)

// Config is what a Relay needs. The zero value of a field with a default means that.
type Config struct {
	// Who is said to servers: all but Session and Resume.
	Who nbd.Attach
	// Servers are those to try. Discover, which may be nil, is asked for more of them while none of the
	// known ones serves.
	Servers  []Server
	Discover func(context.Context) ([]Server, error)
	// TLS returns the configuration for the next connection over TCP; nil: no TLS.
	TLS func() (*tls.Config, error)

	Deadline  time.Duration // without a primary for so long, requests fail; 0: never
	Stall     time.Duration // a server silent for so long has the others asked; default 500 ms
	LookEvery time.Duration // between two looks at the size; default 1 s

	// OnSize, which may be nil, is told the size of each session's export that differs from the last
	// one's. It must not wait.
	OnSize func(bytes int64)
	Logger *slog.Logger // default: slog.Default()
}

func (c Config) withDefaults() Config {
	if c.Stall == 0 {
		c.Stall = 500 * time.Millisecond
	}
	if c.LookEvery == 0 {
		c.LookEvery = time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// ErrShrunk ends a relay: a device must not become smaller under its user.
var ErrShrunk = errors.New("the resource has become smaller than the device")

// errStopped is why requests are dropped when the relay ends but the device lives on.
var errStopped = errors.New("attach: relay stopped")

// Relay is the client of a resource that keeps requests until they are answered; see the package
// comment. It is the nbd.Backend of the local connections.
type Relay struct {
	cfg Config

	mu       sync.Mutex
	table    table
	sess     *session // nil: no server, requests wait
	failing  error    // requests fail with EIO: nobody served for Deadline
	ended    error    // for good: requests fail; errStopped: they are dropped
	size     int64    // bytes, of the last session's export
	number   uint64
	session  uint64 // the last number used
	last     Server // of the last session
	lostAt   time.Time
	cause    error // why nobody serves
	sessions uint64
	resent   uint64
	next     *upstream // a rival that has admitted us already
	servers  []Server  // all that are known
}

// NewRelay returns a relay without a session.
func NewRelay(cfg Config) *Relay {
	cfg = cfg.withDefaults()
	r := &Relay{cfg: cfg, table: newTable(), lostAt: time.Now()}
	r.addServers(cfg.Servers)
	return r
}

// Info is what the export is like.
type Info struct {
	Size   int64  // bytes
	Flags  uint16 // transmission flags, proto.md "Transmission flags"
	Block  nbd.BlockSize
	Number uint64 // of the registration
	Server Server
}

// Open opens the first session. With resume the registration exists and is not made. It tries until
// ctx ends; errors that waiting does not mend (ErrHeld, ErrUnknown, ErrSuperseded, ErrNotLockstep,
// ErrNeedsTLS) it returns at once.
func (r *Relay) Open(ctx context.Context, resume bool) (Info, error) {
	u, err := r.seek(ctx, wish{resume: resume})
	if err != nil {
		return Info{}, err
	}
	r.mu.Lock()
	r.next, r.size, r.number = u, u.info.size, u.number
	r.mu.Unlock()
	return Info{Size: u.info.size, Flags: u.info.flags, Block: u.info.block, Number: u.number, Server: u.server}, nil
}

// Run carries requests, after Open, until ctx ends, which drops what is unfinished without an answer, or
// until the attachment has ended for good: then everything fails, and it returns why.
func (r *Relay) Run(ctx context.Context) error {
	for {
		err := r.round(ctx)
		if ctx.Err() != nil {
			r.finish(errStopped)
			return nil
		}
		if err != nil {
			r.finish(err)
			return err
		}
	}
}

// round finds a server and uses it until it is lost. Its error is one for good.
func (r *Relay) round(ctx context.Context) error {
	r.mu.Lock()
	u, size := r.next, r.size
	r.next = nil
	r.mu.Unlock()
	if u == nil {
		var err error
		if u, err = r.seek(ctx, wish{resume: true, deadline: r.cfg.Deadline}); err != nil {
			return err
		}
	}
	if u.info.size < size {
		u.close()
		return fmt.Errorf("%w: %d bytes, it was %d", ErrShrunk, u.info.size, size)
	}
	if u.info.size != size && r.cfg.OnSize != nil {
		r.cfg.OnSize(u.info.size)
	}
	r.serve(ctx, u)
	return nil
}

// finish completes everything: with errStopped without an answer, else with EIO.
func (r *Relay) finish(why error) {
	r.mu.Lock()
	r.ended = why
	if r.cause == nil || why != errStopped {
		r.cause = why
	}
	all := r.table.takeIf(func(*slot) bool { return true })
	u := r.next
	r.next = nil
	r.mu.Unlock()
	if u != nil {
		u.close()
	}
	if why == errStopped {
		complete(all, nbd.ErrDrop)
		return
	}
	r.cfg.Logger.Error("the attachment has ended: every request fails", "resource", r.cfg.Who.Resource, "failed", len(all), "reason", why)
	complete(all, syscall.EIO)
}

// giveUp fails what waits, and what comes, until a session is open again.
func (r *Relay) giveUp(why error) {
	r.mu.Lock()
	r.failing = why
	all := r.table.takeIf(func(*slot) bool { return true })
	r.mu.Unlock()
	r.cfg.Logger.Error("no primary within the deadline: requests fail until there is one", "resource", r.cfg.Who.Resource,
		"deadline", r.cfg.Deadline, "failed", len(all), "reason", why)
	complete(all, syscall.EIO)
}

// Submit implements nbd.Backend. What bounds the table is the local connections' own limit, see
// nbd.Config.
func (r *Relay) Submit(batch []*nbd.Request) {
	r.mu.Lock()
	if why := r.refusing(); why != nil {
		r.mu.Unlock()
		for _, req := range batch {
			req.Reply(why)
		}
		return
	}
	s := r.sess
	if s != nil && r.table.n == 0 {
		s.heard.Store(sinceEpoch()) // it had nothing to say until now
	}
	for _, req := range batch {
		i := r.table.add(req)
		if s != nil {
			s.send(&r.table, i)
		}
	}
	r.mu.Unlock()
	if s != nil {
		s.q.Flush()
	}
}

// refusing returns what requests are completed with at once, nil if they are carried. Caller holds mu.
func (r *Relay) refusing() error {
	switch {
	case r.ended == errStopped:
		return nbd.ErrDrop
	case r.ended != nil, r.failing != nil:
		return syscall.EIO
	}
	return nil
}

// ConnEnded takes in that a local connection has ended: nobody waits for its answers, and the kernel
// sends what it still wants on another connection. What the present session has under way is kept until
// that answers or ends, the rest is dropped.
func (r *Relay) ConnEnded(c *nbd.Conn) {
	r.mu.Lock()
	gone := r.table.takeIf(func(e *slot) bool {
		if e.req.Conn() != c {
			return false
		}
		e.orphan = true
		return !e.sent
	})
	r.mu.Unlock()
	complete(gone, nbd.ErrDrop)
}

// newSession returns the next session number.
func (r *Relay) newSession() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	// Sessions are opened more slowly than milliseconds go by, so the number is never ahead of the clock
	// by more than a start of this program takes.
	r.session = max(r.session+1, bootMillis())
	return r.session
}

// bootMillis is CLOCK_BOOTTIME in milliseconds.
func bootMillis() uint64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("attach: CLOCK_BOOTTIME: " + err.Error()) // every Linux that runs Go has it
	}
	return uint64(ts.Sec)*1000 + uint64(ts.Nsec)/1e6
}

// addServers makes servers known and returns those that were not.
func (r *Relay) addServers(list []Server) (added []Server) {
	r.mu.Lock()
	defer r.mu.Unlock()
next:
	for _, s := range list {
		for _, k := range r.servers {
			if k == s {
				continue next
			}
		}
		if len(r.servers) == maxServers {
			break
		}
		r.servers = append(r.servers, s)
		added = append(added, s)
	}
	return added
}

// known returns the servers, the last one that served first.
func (r *Relay) known() []Server {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Server, 0, len(r.servers))
	for _, s := range r.servers {
		if s == r.last {
			out = append([]Server{s}, out...)
		} else {
			out = append(out, s)
		}
	}
	return out
}

// RelayStatus is a relay as operators see it.
type RelayStatus struct {
	Serving    bool          // a session is open
	Failing    bool          // requests fail: the deadline has passed, or the attachment has ended
	Cause      string        // why it is not serving; "" when it is
	Away       time.Duration // since the last session was lost; 0 when serving
	Server     string        // of the session, or of the last one
	Session    uint64
	Number     uint64 // of the registration
	Size       int64  // bytes
	Unfinished int    // requests
	Sessions   uint64 // opened so far
	Resent     uint64 // requests that were sent again
}

// Status returns the present state.
func (r *Relay) Status() RelayStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	st := RelayStatus{
		Failing: r.failing != nil || r.ended != nil,
		Server:  r.last.String(), Session: r.session, Number: r.number, Size: r.size,
		Unfinished: r.table.n, Sessions: r.sessions, Resent: r.resent,
	}
	u := r.next // about to be the session
	if r.sess != nil {
		u = r.sess.u
	}
	if u != nil {
		st.Serving, st.Session, st.Server = true, u.session, u.server.String()
		return st
	}
	st.Away = time.Since(r.lostAt)
	if r.cause != nil {
		st.Cause = r.cause.Error()
	}
	return st
}

// takeUp stands for Open where a device and its registration exist already: Run opens the session.
func (r *Relay) takeUp(size int64, number uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.size, r.number = size, number
}
