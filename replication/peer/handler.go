package peer

import (
	"errors"
	"fmt"

	"github.com/lockstep-ha/lockstep/internal/buf"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

// Why a session ends. Session.Close adds whatever its caller gives.
var (
	ErrClosed     = errors.New("session closed")
	ErrPeerClosed = errors.New("peer closed the connection")
	ErrReplaced   = errors.New("replaced by a new connection of the peer")
	ErrDisabled   = errors.New("disconnected by the operator")
	ErrIdentity   = errors.New("peer is not who it says")
	ErrHandshake  = errors.New("unexpected message in the handshake")
)

// RefusedError tells that one side would not have the session.
type RefusedError struct {
	Remote bool   // the peer refused; otherwise this node did
	Reason string // a sentence for the operator
	Err    error  // what Reason was made of, on this node; nil when Remote
}

func (e *RefusedError) Error() string {
	if e.Remote {
		return "the peer refused the session: " + e.Reason
	}
	return "this node refused the session: " + e.Reason
}

func (e *RefusedError) Unwrap() error { return e.Err }

func refused(err error) *RefusedError { return &RefusedError{Reason: err.Error(), Err: err} }

// Handler is what a Link serves. The Link calls it from one goroutine, never from two at once
// and never with a lock held; it may call any method of the Session and of the Link but Run.
type Handler interface {
	// Hello returns what this side says of itself now. It is called once for each handshake,
	// before Check. The link sets Protocol, Resource, Node, Features and Attempt.
	Hello() wire.Hello

	// Check judges the peer's Hello. An error refuses the session, and both sides log its text.
	// Resource, Node and protocol were compared before.
	Check(theirs wire.Hello) error

	// Up tells that the session is open. It comes before the first Frames.
	Up(s *Session, theirs wire.Hello)

	// Frames hands over 1 to 64 frames in the order they were sent: all that had arrived
	// completely. The handler owns one reference of each Payload; batch itself is only lent.
	// After Close of the session the frames that were not handed over are dropped.
	Frames(s *Session, batch []Received)

	// Down tells that the session has ended and why; err is never nil. It comes exactly once
	// after each Up, and nothing comes for s after it.
	Down(s *Session, err error)
}

// Received is one frame that arrived, checked and decompressed.
type Received struct {
	Frame   wire.Frame
	Payload *buf.Buf // nil when the frame has none
}

// String describes the frame in one line.
func (r Received) String() string { return fmt.Sprint(&r.Frame) }
