package peer

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"testing"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

// streamConn gives a stream out in chunks, then its end.
type streamConn struct {
	net.Conn
	left  []byte
	chunk int // bytes a Read returns at most
}

func (c *streamConn) Read(b []byte) (int, error) {
	if len(c.left) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), c.chunk)], c.left)
	c.left = c.left[n:]
	return n, nil
}

// readAll passes stream through a reader and returns a line for each frame, and how it ended.
func readAll(t testing.TB, stream []byte, chunk int, comp wire.Compression) ([]string, error) {
	n := newNode(t, "b")
	var got []string
	n.frames = func(_ *Session, batch []Received) {
		for _, r := range batch {
			line := r.String()
			if r.Payload != nil {
				line += " " + string(r.Payload.B[:min(8, len(r.Payload.B))])
				r.Payload.Release()
			}
			got = append(got, line)
		}
	}
	s := &Session{conn: &streamConn{left: stream, chunk: chunk}, handler: n, comp: comp}
	n.open = s
	r := newReader(s)
	defer r.free()
	err := r.run()
	if len(r.batch) != 0 {
		t.Errorf("%d frames were left in the batch", len(r.batch))
	}
	return got, err
}

func TestReader_ChunksOfTheStreamMakeNoDifference(t *testing.T) {
	var stream []byte
	for i, data := range samples() {
		stream = append(stream, encode(*writeFrame(uint64(i), len(data)), data)...)
		stream = append(stream, encode(wire.Frame{Type: wire.Flush, Seq: uint64(i)}, nil)...)
	}
	for range 3 * maxBatch {
		stream = append(stream, encode(wire.Frame{Type: wire.Beacon}, nil)...)
	}
	want, _ := readAll(t, stream, len(stream), wire.NoCompression)
	if len(want) != 2*len(samples())+3*maxBatch {
		t.Fatalf("%d frames", len(want))
	}
	for _, chunk := range []int{79, 80, 81, 4096, bigFrame, readSize - 1, readSize, readSize + 1} {
		got, err := readAll(t, stream, chunk, wire.NoCompression)
		if !slices.Equal(got, want) || !errors.Is(err, ErrPeerClosed) {
			t.Errorf("chunks of %d: %d frames, %v", chunk, len(got), err)
		}
	}
}

func FuzzReader(f *testing.F) {
	write := encode(*writeFrame(1, 3), []byte("abc"))
	lead := encode(wire.Frame{Type: wire.Lead}, []byte(`{"version":1}`))
	zeros := make([]byte, 4096)
	packed := make([]byte, wire.CompressBound(len(zeros)))
	n, _ := wire.S2.Compress(packed, zeros)
	small := append(wire.AppendHeader(nil, &wire.Frame{
		Type: wire.Copy, Flags: wire.FlagCompressed, Extent: bitmap.Extent{Len: 4096}, Payload: 4096,
	}, packed[:n]), packed[:n]...)
	f.Add(bytes.Join([][]byte{lead, write, small}, nil), uint16(7))
	f.Add(bytes.Join([][]byte{write, lead[:50]}, nil), uint16(1))
	f.Fuzz(func(t *testing.T, stream []byte, chunk uint16) {
		whole, err1 := readAll(t, stream, len(stream)+1, wire.S2)
		parts, err2 := readAll(t, stream, int(chunk)+1, wire.S2)
		if !slices.Equal(whole, parts) || wire.Reason(err1) != wire.Reason(err2) || err1 == nil {
			t.Fatalf("at once %d frames, %v; in parts %d frames, %v", len(whole), err1, len(parts), err2)
		}
	})
}
