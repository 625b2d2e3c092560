package replication

import (
	"time"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/planted"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

// phase tells how far a session with a peer has come.
//
//	none --SessionUp--> up --(primary: id stored)--> leading --Follow--> following
//	any --SessionDown--> none
//
// On a secondary a session stays in up; the session that leads it is Resource.leader.
type phase uint8

const (
	phaseNone phase = iota
	phaseUp
	phaseOffering // primary: the session id is being stored
	phaseLeading  // primary: Lead is sent
	phaseFollowing
)

var phaseNames = [...]string{"Connecting", "Connected", "Handshaking", "Handshaking", "Connected"}

func (p phase) String() string { return phaseNames[p] }

// syncPhase tells how far the primary has come in making a following peer equal.
//
//	idle --dirty, member--------------> copying --dirty empty--> draining
//	idle --dirty, outside--> beginning --ResyncReady--> copying
//	idle --clean, outside--------------------------------------> draining
//	draining --all earlier frames acked--> flushing --FlushAck--> preparing
//	preparing --JoinReady, member--> idle
//	preparing --JoinReady, outside--> joining --Join applied--> idle
//
// From draining on the peer counts (rules 1 and 2). New dirty bits lead back to copying.
type syncPhase uint8

const (
	syncIdle syncPhase = iota
	syncBeginning
	syncCopying
	syncDraining
	syncFlushing
	syncPreparing
	syncJoining
)

var syncNames = [...]string{"idle", "beginning", "copying", "draining", "flushing", "preparing", "joining"}

func (s syncPhase) String() string { return syncNames[s] }

// peer is what this replica knows of another one and tracks for it.
type peer struct {
	idx  Peer
	node string

	// From the ledger.
	inSet    bool
	instance uint64 // the replica instance that dirty is about

	// Session.
	phase      phase
	session    SessionID
	hello      *wire.Hello
	state      DiskState
	closing    bool // its end was asked for: nothing it still brings is used
	hashKey    [32]byte
	wireID     uint64        // session id stored by both sides, 0 before it is
	lostAt     time.Duration // it stopped to follow
	heardAt    time.Duration // anything came, or it was asked to follow; it is given up when it is silent for too long since
	frameAt    time.Duration // anything came
	progressAt time.Duration // an ack or a hash reply came, or the first frame in a while left
	flushAt    time.Duration // the tracked flush was sent
	beaconAt   time.Duration
	continued  bool // its report adds nothing to what this process knows; see onSessionUp
	chain      uint64
	chainEpoch uint64

	// counts: its acknowledgements are needed (rule 1). Never less than inSet on a primary.
	counts bool
	// mustDrop: it cannot stay in the set, whatever the session does; why is for people.
	mustDrop bool
	why      string

	// What it lacks.
	dirty    *bitmap.Bitmap // blocks to copy
	coarse   *bitmap.Bitmap // those of dirty that are perhaps equal: compare first
	unstable *bitmap.Bitmap // acknowledged, not flushed
	flushing *bitmap.Bitmap // of the unstable ones, covered by flush flushSeq
	heldBy   string         // boot id of the host whose page cache holds the unstable ones
	flushSeq uint64         // 0: no flush is tracked
	inflight flightQueue
	acked    uint64
	sent     uint64
	stored   map[int]bool // bitmap pages whose stored image may hold a bit
	unsaved  bool         // bits were set that no activity log speaks for: the next save stores the pages

	// Copier.
	sync       syncPhase
	needSettle bool            // its report or our copies still have to be confirmed by JoinPrepare
	copies     []bitmap.Extent // runs under way
	copying    int64           // bytes of them
	cursor     int64
	hint       int64 // offset that a gated request waits for; -1: none
	hashes     int   // requests for hashes that are not answered
	joinSeq    uint64
	joinFlush  uint64
	retryAt    time.Duration
	askedAt    time.Duration // ResyncBegin, JoinPrepare or a Handover was sent
	joinAsked  bool          // a Join may have been proposed
	joinAt     time.Duration // a Join was refused: it is not asked for again before this
	joinPause  time.Duration // after the last refusal in a row; 0: there was none
	dropAsked  bool          // a Drop was proposed, and may apply at any moment
	resync     resyncStats

	// Lease and liveness.
	beaconSeq   uint64
	beacons     [64]beacon
	leaseUntil  time.Duration
	confirmedAt time.Duration // a beacon sent then was answered

	handed  uint32     // peers whose bitmap it holds durably, as of this session; a bit each
	handing []handover // on their way
	stamp   uint64     // newest that this process has seen of its instance
	older   bool       // its Hello had a lower one
	theirs  []uint64   // its history, where it is no prefix of ours

	// The session that ended last, for who may go on alone: see MayGoAlone.
	heldThrough bool
	brokeAt     time.Duration
}

type beacon struct {
	seq   uint64
	at    time.Duration
	lease time.Duration
}

func (p *peer) bit() uint32 { return 1 << uint(p.idx) }

// takesWrites reports whether a follower gets what clients write. One that is outside the set and
// lacks blocks does only once it is Inconsistent: with newer writes among its old blocks it would
// hold a state that the device never had, and call itself Outdated (rule 12).
func (p *peer) takesWrites() bool {
	return p.counts || p.sync >= syncCopying || planted.On(planted.TargetStaysUpToDate)
}

// mark notes that the peer lacks ext.
func (p *peer) mark(ext bitmap.Extent) { p.dirty.Mark(ext) }

// markAll notes that the peer may lack everything; equal blocks are found by hash.
func (p *peer) markAll(size int64) {
	all := bitmap.Extent{Len: size}
	p.dirty.Mark(all)
	p.coarse.Mark(all)
	p.unsaved = true
}

// settledBlocks notes that ext is equal on the peer as far as it acknowledged: no longer dirty, but
// unstable until a flush (rule 11).
func (p *peer) settledBlocks(ext bitmap.Extent) {
	p.dirty.Clear(ext)
	p.coarse.Clear(ext)
	p.unstable.Mark(ext)
}

// endTracking turns a flush that will not be answered back into unstable blocks.
func (p *peer) endTracking() {
	p.unstable.Or(p.flushing)
	p.flushing.Reset()
	p.flushSeq = 0
}

// lost moves everything that is not known to be kept into dirty (rule 10).
func (p *peer) lost() {
	p.endTracking()
	p.dirty.Or(p.unstable)
	p.unstable.Reset()
}

// image returns page i as it must be stored: everything that the peer may lack.
func (p *peer) image(i int, extra *bitmap.Bitmap) []byte {
	out := make([]byte, bitmap.PageSize)
	for _, b := range []*bitmap.Bitmap{p.dirty, p.unstable, p.flushing, extra} {
		if b == nil {
			continue
		}
		for j, v := range b.Page(i) {
			out[j] |= v
		}
	}
	return out
}
