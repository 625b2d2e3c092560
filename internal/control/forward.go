package control

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/lockstep-ha/lockstep/internal/config"
)

// forward hands r to node and its answer back, byte by byte. The parameter node stays in the
// request, so that the other side refuses what reached the wrong node.
func (s *Server) forward(w http.ResponseWriter, r *http.Request, node string, forward Forwarder) {
	if err := config.CheckName("node", node); err != nil {
		writeError(w, Usagef("%v", err))
		return
	}
	if forward == nil {
		writeError(w, Usagef("node %s was asked for what is meant for node %s", s.opts.Node, node))
		return
	}
	hc, err := forward(node)
	if err != nil {
		e := AsError(err)
		if e.Code == CodeFailed {
			e.Code = CodeUnreachable
		}
		writeError(w, e)
		return
	}
	// The watch starts when the node has the request, ends a call that it does not answer, and is
	// wound up again by each piece of a stream.
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	idle := time.AfterFunc(s.opts.CallTimeout+readTimeout, cancel)
	defer idle.Stop()
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(readTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	_ = rc.SetReadDeadline(time.Time{})
	if err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			writeError(w, Errorf(CodeTooLarge, "the request is longer than %d bytes", maxBody))
			return
		}
		writeError(w, Usagef("read the request: %v", err))
		return
	}
	resp, err := send(ctx, hc, r.Method, r.URL.RequestURI(), r.Header.Get("Content-Type"), body)
	if err != nil {
		e := AsError(err)
		e.Message = "node " + node + ": " + e.Message
		writeError(w, e)
		return
	}
	defer resp.Body.Close()
	w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
	w.WriteHeader(resp.StatusCode)
	buf := make([]byte, 32<<10)
	for {
		n, err := resp.Body.Read(buf)
		idle.Reset(streamSilence)
		_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, werr := w.Write(buf[:n]); werr != nil || rc.Flush() != nil {
			return
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			panic(http.ErrAbortHandler) // the reader must see that the answer is not whole
		}
	}
}
