package history

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/lockstep-ha/lockstep/tests/internal/ackload"
)

// Fill makes p, of one block, the bytes of a value.
func Fill(p []byte, block int64, v Value) { ackload.Payload(p, block, uint64(v)) }

// Values appends to into what each block of p holds; block is the first. The error says why a block is Torn or
// Foreign, of the first that is.
func Values(block int64, p []byte, into []Value) (values []Value, odd error) {
	for ; len(p) >= Block; p, block = p[Block:], block+1 {
		of, v, err := ackload.Parse(p[:Block])
		value := Value(v)
		switch {
		case err != nil:
			value = Torn
		case v != 0 && of != block:
			value, err = Foreign, fmt.Errorf("it holds write %d of block %d", v, of)
		}
		if err != nil && odd == nil {
			odd = fmt.Errorf("block %d: %w", block, err)
		}
		into = append(into, value)
	}
	return into, odd
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
	values, odd := make([]Value, 0, h.blocks), error(nil)
	buf := make([]byte, 256*Block)
	for int64(len(values)) < h.blocks {
		n, err := io.ReadFull(f, buf[:min(int64(len(buf)), (h.blocks-int64(len(values)))*Block)])
		if err != nil {
			return fmt.Errorf("content of %s: %w", where, errors.Join(err, fmt.Errorf("after %d blocks of %d", len(values), h.blocks)))
		}
		var bad error
		values, bad = Values(int64(len(values)), buf[:n], values)
		odd = cmp.Or(odd, bad)
	}
	h.DoneRead(id, values, odd)
	return nil
}
