package peer

import (
	"fmt"
	"io"

	"github.com/lockstep-ha/lockstep/internal/buf"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

const (
	// readSize is the memory a session reads through, in bytes.
	readSize = 256 << 10

	// bigFrame is the wire length, header included, from which a payload that has not arrived
	// completely is read into its own buffer instead of through the reader's memory.
	bigFrame = 64 << 10

	// maxBatch is the most frames one Handler.Frames gets.
	maxBatch = 64
)

// reader turns the bytes of a session's connection into batches of frames. It belongs to the
// session's goroutine. Invariant: a frame below bigFrame lies in mem as a whole before it is
// decoded; mem has room for it because readSize is larger.
type reader struct {
	s        *Session
	mem      *buf.Buf
	r, w     int // mem.B[r:w] was read and not yet decoded
	batch    []Received
	gotLead  bool       // the peer has claimed the lead
	big      wire.Frame // after needBig
	bigSizes wire.Sizes // of big
}

func newReader(s *Session) *reader {
	return &reader{s: s, mem: buf.Get(readSize), batch: make([]Received, 0, maxBatch)}
}

// free gives the memory back; r is not used after it.
func (r *reader) free() {
	r.mem.Release()
	r.mem = nil
}

// step is what the reader must do before it can decode on.
type step uint8

const (
	goOn     step = iota // nothing: the batch was full
	needMore             // mem ends inside a frame, or is empty
	needBig              // the payload of bigFrame is to be read
)

// run delivers frames until the session is closed, the connection ends or a frame is refused. It
// returns the reason.
func (r *reader) run() error {
	for {
		next, err := r.decode()
		if !r.deliver() {
			return ErrClosed
		}
		switch {
		case err != nil:
			return err
		case next == needBig:
			err = r.readBig()
		case next == needMore:
			err = r.fill()
		}
		if err != nil {
			return err
		}
	}
}

// decode appends to batch every frame that has arrived completely, up to maxBatch. When the next
// one is big and incomplete, it keeps its header in big. With an error, the frames before the
// faulty one are in batch.
func (r *reader) decode() (step, error) {
	for len(r.batch) < maxBatch {
		if r.w-r.r < wire.HeaderSize {
			return needMore, nil
		}
		f, sz, err := wire.DecodeHeader(r.mem.B[r.r:r.w])
		if err != nil {
			return needMore, err
		}
		if !f.Type.From(r.side()) {
			return needMore, fmt.Errorf("%w: %s", wire.ErrType, f.Type)
		}
		size := wire.HeaderSize + int(sz.Wire)
		if r.w-r.r < size {
			if size < bigFrame {
				return needMore, nil
			}
			r.r += wire.HeaderSize
			r.big, r.bigSizes = f, sz
			return needBig, nil
		}
		body := r.mem.B[r.r+wire.HeaderSize : r.r+size]
		r.r += size
		if err := r.add(&f, sz, body, nil); err != nil {
			return needMore, err
		}
	}
	return goOn, nil
}

// side tells which end of the session the peer is, as far as is known.
func (r *reader) side() wire.Side {
	switch sent := r.s.sentLead.Load(); {
	case r.gotLead && !sent:
		return wire.PrimarySide
	case sent && !r.gotLead:
		return wire.SecondarySide
	}
	return wire.AnySide
}

// add checks a frame's body and appends the frame to batch. body lies in own, whose reference add
// takes over, or, when own is nil, in memory that will be used again.
func (r *reader) add(f *wire.Frame, sz wire.Sizes, body []byte, own *buf.Buf) error {
	if err := sz.Verify(body); err != nil {
		own.Release()
		return fmt.Errorf("%s frame, seq %d: %w", f.Type, f.Seq, err)
	}
	rec := Received{Frame: *f}
	switch {
	case f.Type.CarriesMessage():
		m, err := wire.DecodeMessage(body)
		own.Release()
		if err != nil {
			return fmt.Errorf("%s frame: %w", f.Type, err)
		}
		rec.Frame.Msg = m
		r.gotLead = r.gotLead || f.Type == wire.Lead
	case f.Flags&wire.FlagCompressed != 0:
		rec.Frame.Flags &^= wire.FlagCompressed
		rec.Payload = buf.Get(int(sz.Raw))
		err := r.s.comp.Decompress(rec.Payload.B, body)
		own.Release()
		if err != nil {
			rec.Payload.Release()
			return fmt.Errorf("%s frame, seq %d: %w", f.Type, f.Seq, err)
		}
	case own != nil:
		rec.Payload = own
	case len(body) > 0:
		rec.Payload = buf.Get(len(body))
		copy(rec.Payload.B, body)
	}
	r.s.count.framesIn.Add(1)
	r.s.count.payloadIn.Add(uint64(f.Payload))
	r.batch = append(r.batch, rec)
	return nil
}

// deliver hands batch to the handler and empties it. It reports false when the session is closed.
func (r *reader) deliver() bool {
	closed := r.s.isClosed()
	if len(r.batch) > 0 {
		if closed {
			for i := range r.batch {
				r.batch[i].Payload.Release()
			}
		} else {
			r.s.handler.Frames(r.s, r.batch)
		}
		clear(r.batch)
		r.batch = r.batch[:0]
	}
	return !closed
}

// readBig reads the payload of big, past mem but for what is there, and adds the frame.
func (r *reader) readBig() error {
	b := buf.Get(int(r.bigSizes.Wire))
	n := copy(b.B, r.mem.B[r.r:r.w])
	r.r += n
	m, err := io.ReadFull(r.s.conn, b.B[n:])
	r.s.count.bytesIn.Add(uint64(m))
	if err != nil {
		b.Release()
		return r.ended(err)
	}
	return r.add(&r.big, r.bigSizes, b.B, b)
}

// fill reads once, at least one byte, behind what mem holds.
func (r *reader) fill() error {
	if r.r > 0 {
		r.w = copy(r.mem.B, r.mem.B[r.r:r.w])
		r.r = 0
	}
	n, err := r.s.conn.Read(r.mem.B[r.w:])
	r.w += n
	r.s.count.bytesIn.Add(uint64(n))
	if n > 0 {
		return nil // an error comes again with the next Read
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	if plainEnd(err) && r.w == 0 {
		return ErrPeerClosed
	}
	return r.ended(err)
}

// ended describes an error of the connection inside a frame.
func (r *reader) ended(err error) error {
	if plainEnd(err) {
		return fmt.Errorf("%w inside a frame", ErrPeerClosed)
	}
	return fmt.Errorf("read: %w", err)
}
