package node

import (
	"context"
	"net"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/control"
)

// piped is a dialAsker whose connections are served by reply.
func piped(t *testing.T, reply func(context.Context, question) answer) dialAsker {
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait)
	return dialAsker{dial: func(ctx context.Context, node, service string) (net.Conn, error) {
		a, b := net.Pipe()
		serving.Go(func() {
			if err := serveNode(context.WithoutCancel(ctx), b, reply); err != nil {
				t.Logf("serve: %v", err)
			}
		})
		return a, nil
	}}
}

func TestNeighbour_QuestionAndAnswerTravelWhole(t *testing.T) {
	asked := question{Op: "grow", Resource: "r0", ID: 1<<63 + 1, Size: 1 << 40, Node: "n1", Blob: []byte{0, 255}}
	ask := piped(t, func(_ context.Context, q question) answer {
		if !reflect.DeepEqual(q, asked) {
			t.Errorf("got %+v", q)
		}
		return answer{Error: refusedf("no").WithHint("yes"), View: &view{Node: "n2", Process: 1<<64 - 1}}
	})
	a, err := ask.ask(t.Context(), "n2", asked)
	if err != nil || a.View.Process != 1<<64-1 || a.Error.Code != control.CodeRefused || a.Error.Hint != "yes" {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestNeighbour_SilentNodeIsGivenUpWithTheContext(t *testing.T) {
	never := make(chan struct{})
	ask := piped(t, func(context.Context, question) answer { <-never; return answer{} })
	t.Cleanup(func() { close(never) }) // before the wait for the serving side
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ask.ask(ctx, "n2", question{Op: "view"}); err == nil {
		t.Error("an answer came")
	}
}

func TestReply_NamesakeAndUnknownQuestionAreRefused(t *testing.T) {
	c := newFakeCluster(t, "n1", "n2", "w")
	c.create("n1", "n2")
	id := c.record("r0").ID
	for _, q := range []question{{Op: "view", Resource: "r0", ID: id + 1}, {Op: "view", Resource: "r9", ID: id}, {Op: "dance", Resource: "r0", ID: id}} {
		if a := c.nodes["n1"].reply(t.Context(), q); a.Error == nil {
			t.Errorf("%+v was answered", q)
		}
	}
	if a := c.nodes["n1"].reply(t.Context(), question{Op: "view"}); a.Error != nil || a.View.Node != "n1" {
		t.Errorf("%+v", a)
	}
}

func FuzzDecodeQuestion(f *testing.F) {
	for _, s := range []string{`{"op":"view","resource":"r0","id":1}`, `{"op":"view"}{}`, `{"oop":1}`, "", "null", `{"id":-1}`, strings.Repeat("[", 1000)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := decodeQuestion(b)
		if err == nil && len(b) < len(q.Op) {
			t.Errorf("%q gave %+v", b, q)
		}
	})
}
