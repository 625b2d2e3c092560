package peer

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/buf"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

// samples are payloads of lengths around every limit of the reader, some of which compress.
func samples() [][]byte {
	rng := rand.New(rand.NewPCG(3, 4))
	var out [][]byte
	for _, n := range []int{0, 1, 4096, bigFrame - wire.HeaderSize - 1, bigFrame - wire.HeaderSize, bigFrame,
		readSize - wire.HeaderSize, readSize, readSize + 1, wire.MaxPayload} {
		noise := make([]byte, n)
		for i := range noise {
			noise[i] = byte(rng.Uint32())
		}
		out = append(out, noise, bytes.Repeat([]byte{byte(n)}, n))
	}
	return out
}

func TestSession_FramesArriveInOrderAsTheyWereSent(t *testing.T) {
	for _, comp := range []wire.Compression{wire.NoCompression, wire.S2, wire.Zstd} {
		t.Run(comp.String(), func(t *testing.T) {
			_, b, sa, sb := pair(t, func(c *LinkConfig) { c.Compression = comp })
			if sa.Compression() != comp || sb.Protocol() != wire.Version || sa.Peer() != "b" || sb.Resource() != "r0" {
				t.Errorf("agreed on %s, protocol %d", sa.Compression(), sb.Protocol())
			}
			all := append(samples(), samples()...)
			for i, data := range all {
				sa.Send(writeFrame(uint64(i), len(data)), payload(data))
				if i%3 == 0 {
					sa.Flush()
				}
			}
			sa.Send(&wire.Frame{Type: wire.Lead, Msg: &wire.Message{Runs: make([]byte, wire.MaxRuns)}}, nil)
			sa.Flush()
			for i, data := range all {
				e := b.next("frame")
				want := *writeFrame(uint64(i), len(data))
				want.Payload = uint32(len(data))
				if e.frame != want || !bytes.Equal(e.data, data) {
					t.Fatalf("frame %d arrived as %s with %d bytes", i, &e.frame, len(e.data))
				}
			}
			if e := b.next("frame"); e.frame.Type != wire.Lead || len(e.frame.Msg.Runs) != wire.MaxRuns {
				t.Errorf("the message arrived as %s", &e.frame)
			}
			in, out := sb.Stats(), sa.Stats()
			for in.BytesIn > out.BytesOut { // what was written is counted afterwards
				runtime.Gosched()
				out = sa.Stats()
			}
			if in.FramesIn != out.FramesOut || in.PayloadIn != out.PayloadOut || in.BytesIn != out.BytesOut {
				t.Errorf("sent %+v, received %+v", out, in)
			}
			if shorter := out.BytesOut < out.PayloadOut*7/8; shorter != (comp != wire.NoCompression) {
				t.Errorf("%d bytes of data travelled as %d", out.PayloadOut, out.BytesOut)
			}
		})
	}
}

func TestSession_SlowPeerNeverBlocksSend(t *testing.T) {
	a, b := newNode(t, "a"), newNode(t, "b")
	gate := make(chan struct{})
	var got int
	done := make(chan struct{})
	const frames = 64
	b.frames = func(s *Session, batch []Received) {
		<-gate
		for _, r := range batch {
			r.Payload.Release()
			if got++; got == frames {
				close(done)
			}
		}
	}
	_, addr := accepting(t, b, nil)
	dialing(t, a, addr, nil)
	s := a.next("up").s
	for i := range frames {
		s.Send(writeFrame(uint64(i), wire.MaxPayload), buf.Get(wire.MaxPayload))
		s.Flush()
	}
	if s.Queued() == 0 {
		t.Error("64 MiB went to a peer that reads nothing")
	}
	close(gate)
	<-done
}

func TestSession_CloseWhileOthersSendGivesEveryPayloadBack(t *testing.T) {
	for range 20 {
		a, b, sa, _ := pair(t, nil)
		data := buf.Get(4096)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for i := range 200 {
					sa.Send(writeFrame(uint64(i), 4096), data.Retain())
					sa.Flush()
				}
			})
		}
		reason := errors.New("enough")
		sa.Close(reason)
		sa.Close(errors.New("second thoughts"))
		if e := a.next("down"); !errors.Is(e.err, reason) {
			t.Fatalf("down: %v", e.err)
		}
		wg.Wait()
		sa.Send(writeFrame(1, 4096), data.Retain())
		packed := sa.Pack(wire.Write, data.Retain())
		packed.Release()
		if sa.Queued() != 0 {
			t.Errorf("%d bytes queued in a closed session", sa.Queued())
		}
		for e := range b.events {
			if e.what == "down" {
				break
			}
		}
		data.Release()
		if !gone(data) {
			t.Fatal("a reference was kept")
		}
	}
}

// gone reports whether b has no references left: one more Release then panics.
func gone(b *buf.Buf) (yes bool) {
	defer func() { yes = recover() != nil }()
	b.Release()
	return
}

func TestSession_FaultyFrameEndsItAfterTheGoodOnesAndSaysWhy(t *testing.T) {
	flip := func(at int) func([]byte) []byte {
		return func(b []byte) []byte { b[at] ^= 1; return b }
	}
	for name, c := range map[string]struct {
		spoil func([]byte) []byte
		want  error
	}{
		"header noise":  {flip(20), wire.ErrChecksum},
		"payload noise": {flip(wire.HeaderSize), wire.ErrChecksum},
		"magic":         {flip(0), wire.ErrMagic},
		"version":       {flip(4), wire.ErrVersion},
		"wrong side": {func([]byte) []byte {
			return encode(wire.Frame{Type: wire.Ack}, nil)
		}, wire.ErrType},
		"message": {func([]byte) []byte {
			return encode(wire.Frame{Type: wire.Lead}, []byte(`{"x":1}`))
		}, wire.ErrMalformed},
		"not agreed compression": {func([]byte) []byte {
			f := wire.Frame{Type: wire.Write, Flags: wire.FlagCompressed, Extent: bitmap.Extent{Len: 9}, Payload: 9}
			return append(wire.AppendHeader(nil, &f, []byte("xx")), "xx"...)
		}, wire.ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			b := newNode(t, "b")
			l, addr := accepting(t, b, nil)
			p := rawUp(t, addr)
			data := []byte("data")
			stream := encode(wire.Frame{Type: wire.Lead}, []byte("{}"))
			stream = append(stream, encode(*writeFrame(1, 4), data)...)
			stream = append(stream, c.spoil(encode(*writeFrame(2, 4), data))...)
			stream = append(stream, encode(*writeFrame(3, 4), data)...)
			p.write(stream)
			b.next("up")
			b.next("frame")
			if e := b.next("frame"); e.frame.Seq != 1 {
				t.Errorf("frame %s", &e.frame)
			}
			reason := p.refusal()
			_ = p.conn.Close()
			e := b.next("down")
			if !errors.Is(e.err, c.want) || reason != e.err.Error() {
				t.Errorf("down: %v; the peer was told %q", e.err, reason)
			}
			word := wire.Reason(c.want)
			if n := l.Stats().Total.Refused()[word]; n != 1 {
				t.Errorf("%s counted %d times", word, n)
			}
		})
	}
}

func TestSession_BigPayloadWithNoiseIsRefused(t *testing.T) {
	b := newNode(t, "b")
	_, addr := accepting(t, b, nil)
	p := rawUp(t, addr)
	frame := encode(*writeFrame(1, wire.MaxPayload), make([]byte, wire.MaxPayload))
	frame[len(frame)-1] ^= 1
	p.write(frame)
	p.refusal()
	b.next("up")
	if e := b.next("down"); !errors.Is(e.err, wire.ErrChecksum) {
		t.Errorf("down: %v", e.err)
	}
}

func TestSession_CutInsideAFrameDeliversNothingOfIt(t *testing.T) {
	whole := encode(*writeFrame(1, 200), make([]byte, 200))
	big := encode(*writeFrame(2, wire.MaxPayload), make([]byte, wire.MaxPayload))
	b := newNode(t, "b")
	_, addr := accepting(t, b, nil)
	stream := append(bytes.Clone(whole), big...)
	for _, cut := range []int{0, 1, wire.HeaderSize - 1, wire.HeaderSize, len(whole) - 1, len(whole), len(whole) + 1,
		len(whole) + wire.HeaderSize, len(whole) + wire.HeaderSize + 1, len(whole) + readSize, len(stream) - 1} {
		p := rawUp(t, addr)
		p.write(stream[:cut])
		_ = p.conn.Close()
		b.next("up")
		if cut >= len(whole) {
			b.next("frame")
		}
		e := b.next("down")
		inside := cut != 0 && cut != len(whole)
		if !errors.Is(e.err, ErrPeerClosed) || strings.Contains(e.err.Error(), "inside") != inside {
			t.Errorf("cut at %d: %v", cut, e.err)
		}
	}
}

func TestSession_RefuseFrameIsReadThoughThePeerIsSending(t *testing.T) {
	for range 20 {
		a, b := newNode(t, "a"), newNode(t, "b")
		flowing := make(chan struct{})
		var once sync.Once
		a.frames = func(_ *Session, batch []Received) {
			for _, r := range batch {
				r.Payload.Release()
			}
			once.Do(func() { close(flowing) })
		}
		_, addr := accepting(t, b, nil)
		dialing(t, a, addr, nil)
		sa, sb := a.next("up").s, b.next("up").s
		var wg sync.WaitGroup
		stop := make(chan struct{})
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if sb.Queued() < 1<<20 {
					sb.Send(writeFrame(1, 4096), buf.Get(4096))
					sb.Flush()
				}
			}
		})
		<-flowing
		sa.Send(&wire.Frame{Type: wire.Refuse, Msg: &wire.Message{Reason: "sizes differ"}}, nil)
		sa.Flush()
		sa.Close(errors.New("sizes differ"))
		if e := b.next("frame"); e.frame.Type != wire.Refuse || e.frame.Msg.Reason != "sizes differ" {
			t.Errorf("arrived: %s", &e.frame)
		}
		sb.Close(errors.New("refused"))
		close(stop)
		wg.Wait()
		b.next("down")
	}
}

func TestSession_MessageThatIsTooLongEndsIt(t *testing.T) {
	a, b, sa, _ := pair(t, nil)
	sa.Send(&wire.Frame{Type: wire.Lead, Msg: &wire.Message{Runs: make([]byte, wire.MaxMsg)}}, nil)
	if e := a.next("down"); !errors.Is(e.err, wire.ErrTooLong) {
		t.Errorf("down: %v", e.err)
	}
	b.next("down")
}

func TestSession_WrongSideIsJudgedByWhoLeads(t *testing.T) {
	s := &Session{}
	r := &reader{s: s}
	for _, c := range []struct {
		sent, got bool
		want      wire.Side
	}{
		{false, false, wire.AnySide}, {false, true, wire.PrimarySide},
		{true, false, wire.SecondarySide}, {true, true, wire.AnySide},
	} {
		s.sentLead.Store(c.sent)
		r.gotLead = c.got
		if got := r.side(); got != c.want {
			t.Errorf("sent %v, got %v: %d, want %d", c.sent, c.got, got, c.want)
		}
	}
}
