package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// line is one object of a stream. One field is set, or none in a heartbeat.
type line struct {
	Event    *Event         `json:"event,omitempty"`
	Result   *VerifyResult  `json:"result,omitempty"`
	Resolved *ResolveResult `json:"resolved,omitempty"`
	GivenUp  *GivenUp       `json:"given_up,omitempty"`
	Link     *LinkReport    `json:"link,omitempty"`
	Error    *Error         `json:"error,omitempty"`
	End      bool           `json:"end,omitempty"`
}

// maxLine is the longest line that a reader takes, in bytes.
const maxLine = 16 << 20

// stream writes lines as an answer. A goroutine of its own writes the heartbeats; finish ends it.
type stream struct {
	ctx    context.Context // ends when the reader is gone; given to the Backend
	cancel context.CancelFunc
	beats  sync.WaitGroup

	mu sync.Mutex // guards what follows
	w  http.ResponseWriter
	rc *http.ResponseController
}

// startStream sends the header of a stream and starts its heartbeats.
func startStream(ctx context.Context, w http.ResponseWriter) *stream {
	st := &stream{w: w, rc: http.NewResponseController(w)}
	st.ctx, st.cancel = context.WithCancel(ctx)
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	if st.write(line{}) != nil {
		st.cancel()
	}
	st.beats.Go(func() {
		tick := time.NewTicker(heartbeat)
		defer tick.Stop()
		for {
			select {
			case <-st.ctx.Done():
				return
			case <-tick.C:
				if st.write(line{}) != nil {
					st.cancel()
					return
				}
			}
		}
	})
	return st
}

// write sends one line and returns when the kernel has it. A reader that takes nothing for
// writeTimeout loses its stream.
func (st *stream) write(l line) error {
	b, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("encode stream line: %w", err)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	_ = st.rc.SetWriteDeadline(time.Now().Add(writeTimeout)) // see writeJSON
	if _, err := st.w.Write(append(b, '\n')); err != nil {
		return err
	}
	return st.rc.Flush()
}

// finish ends the heartbeats and sends the last line. A reader that is gone misses nothing it
// waits for.
func (st *stream) finish(last line) {
	st.cancel()
	st.beats.Wait()
	_ = st.write(last)
}

// errCut means that a stream ended before its last line.
var errCut = errors.New("the answer was cut off")

// readStream calls fn for each line that is no heartbeat, until fn says that it was the last.
// It resets idle at each line, so that silence beyond streamSilence ends the request.
func readStream(body io.Reader, idle *time.Timer, fn func(line) (last bool, err error)) error {
	sc := bufio.NewScanner(body)
	sc.Buffer(make([]byte, 0, 4096), maxLine)
	for sc.Scan() {
		idle.Reset(streamSilence)
		var l line
		if err := json.Unmarshal(sc.Bytes(), &l); err != nil {
			return fmt.Errorf("line of a stream does not parse: %w", err)
		}
		if l == (line{}) {
			continue
		}
		if last, err := fn(l); last || err != nil {
			return err
		}
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("%w: %w", errCut, err)
	}
	return errCut
}
