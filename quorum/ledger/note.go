package ledger

import (
	"time"

	"github.com/lockstep-ha/lockstep/quorum/voter"
)

// MaxNote bounds the body of a note, in bytes.
const MaxNote = voter.MaxNote

// Note sends body, at most MaxNote bytes, to another node over the ledger's own connection, where
// its Config.OnNote takes it. It may be lost: false says that it certainly is. No order is kept
// with what the ledger itself sends.
func (l *Ledger) Note(node string, body []byte) bool {
	return l.mesh.SendNode(node, voter.NewFrame(voter.FrameNote, body))
}

// SinceHeard returns how long ago anything came from node over its connections with the ledger here;
// below 0: never, or not since one of them ended. It is a hint.
func (l *Ledger) SinceHeard(node string) time.Duration { return l.mesh.sinceHeard(node) }
