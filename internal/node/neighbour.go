package node

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
)

// serviceNode is the transport service by which daemons ask each other what no operator asks.
// One connection carries one question and one answer, each a line of JSON:
//
//	op           the answer
//	view         what this node knows of its own replica; it asks nobody else
//	grow         the backing holds Size bytes, the new ones zero; the record is unchanged
//	invalidate   (to the primary) the replica on Node is being copied anew
//	admit, renew, certify   see admitter
//
// The other services do not do: replication speaks only between open replicas, and the control
// API would let two nodes that disagree ask each other in turn.
const serviceNode = "node"

const (
	maxLine   = 1 << 20          // bytes of a question or an answer
	askWithin = 10 * time.Second // for the whole of one question, on the answering side
	viewTime  = 500 * time.Millisecond
)

// question is what one daemon asks another.
type question struct {
	Op       string `json:"op"`
	Resource string `json:"resource"`
	ID       uint64 `json:"id"` // of the resource: a namesake is another one
	Size     int64  `json:"size,omitempty"`
	Node     string `json:"node,omitempty"`
	// Version, of a view: answer when the replica has been told the record of that version.
	Version uint64 `json:"version,omitempty"`
	Blob    []byte `json:"blob,omitempty"` // of a question about certificates; see admitter
}

// answer is what comes back; Error nil means done.
type answer struct {
	Error *control.Error `json:"error,omitempty"`
	View  *view          `json:"view,omitempty"`
	Blob  []byte         `json:"blob,omitempty"` // see question.Blob
}

// view is what a node knows of its own replica of a resource.
type view struct {
	Node    string `json:"node"`
	Process uint64 `json:"process"`
	Open    bool   `json:"open"`  // the rest below is known
	Epoch   uint64 `json:"epoch"` // highest that the replica has accepted
	State   string `json:"state"` // disk state
	Unclean bool   `json:"unclean"`
	Hangs   bool   `json:"hangs,omitempty"` // Failed because the disk hangs: what it holds may be whole
	Role    string `json:"role"`
	// Lineage is the replica's history: generations, oldest first.
	Lineage []uint64 `json:"lineage,omitempty"`
	// Resource is the node's own status of it, without advice.
	Resource control.Resource `json:"resource"`
}

// asker asks another node. An error means that the node was not reached, or has not answered.
type asker interface {
	ask(ctx context.Context, node string, q question) (answer, error)
}

// dialAsker asks over the transport.
type dialAsker struct {
	dial func(ctx context.Context, node, service string) (net.Conn, error)
}

func (d dialAsker) ask(ctx context.Context, node string, q question) (answer, error) {
	conn, err := d.dial(ctx, node, serviceNode)
	if err != nil {
		return answer{}, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := writeLine(conn, q); err != nil {
		return answer{}, fmt.Errorf("ask node %s: %w", node, errors.Join(context.Cause(ctx), err))
	}
	line, err := readLine(conn)
	if err != nil {
		return answer{}, fmt.Errorf("ask node %s: %w", node, errors.Join(context.Cause(ctx), err))
	}
	var a answer
	if err := json.Unmarshal(line, &a); err != nil {
		return answer{}, fmt.Errorf("answer of node %s: %w", node, err)
	}
	return a, nil
}

// serveNode answers the one question of conn, which it closes.
func serveNode(ctx context.Context, conn net.Conn, reply func(context.Context, question) answer) error {
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	line, err := readLine(conn)
	if err != nil {
		return fmt.Errorf("question of another node: %w", err)
	}
	q, err := decodeQuestion(line)
	if err != nil {
		return err
	}
	return writeLine(conn, reply(ctx, q))
}

func writeLine(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("node: encode %T: %v", v, err))
	}
	if len(b) >= maxLine {
		return fmt.Errorf("%d bytes are more than a line holds", len(b))
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// readLine returns one line of at most maxLine bytes.
func readLine(r io.Reader) ([]byte, error) {
	return bufio.NewReader(io.LimitReader(r, maxLine)).ReadBytes('\n')
}

// decodeQuestion refuses fields that this version does not know: half an understood question is
// none. Answers may have more fields than the reader knows, facts that it cannot use.
func decodeQuestion(line []byte) (question, error) {
	var q question
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&q); err != nil {
		return q, fmt.Errorf("question of another node: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return q, errors.New("question of another node: data after the object")
	}
	return q, nil
}
