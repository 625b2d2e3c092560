package history

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/lockstep-ha/lockstep/tests/internal/ackload"
)

// Fill makes p, of one block, the bytes of a value.
func Fill(p []byte, block int64, v Value) { ackload.Payload(p, block, uint64(v)) }

// Values returns what each block of p holds; block is the first. Bytes that are no whole value of
// their block are Torn, and recorded as read at where.
func (h *History) Values(where string, block int64, p []byte, into []Value) []Value {
	for ; len(p) >= Block; p, block = p[Block:], block+1 {
		of, v, err := ackload.Parse(p[:Block])
		if err == nil && v != 0 && of != block {
			err = fmt.Errorf("it holds write %d of block %d", v, of)
		}
		if err != nil {
			h.Foreign(where, block, err)
			v = uint64(Torn)
		}
		into = append(into, Value(v))
	}
	return into
}

// Content takes what a file holds for a read of the whole device. Nobody may write to it meanwhile.
func (h *History) Content(where, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("content of %s: %w", where, err)
	}
	defer f.Close()
	h.mu.Lock()
	id := h.begin(op{kind: content, where: where, count: h.blocks})
	h.mu.Unlock()
	values := make([]Value, 0, h.blocks)
	buf := make([]byte, 256*Block)
	for int64(len(values)) < h.blocks {
		n, err := io.ReadFull(f, buf[:min(int64(len(buf)), (h.blocks-int64(len(values)))*Block)])
		if err != nil {
			return fmt.Errorf("content of %s: %w", where, errors.Join(err, fmt.Errorf("after %d blocks of %d", len(values), h.blocks)))
		}
		values = h.Values(where, int64(len(values)), buf[:n], values)
	}
	h.DoneRead(id, values)
	return nil
}
