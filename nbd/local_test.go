package nbd_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/nbd/nbdtest"
)

// local serves b on one end of a pipe without a negotiation, and returns the other end, what
// ServeTransmission will return, and when ended is called.
func local(ctx context.Context, t *testing.T, b nbd.Backend) (*nbdtest.Client, <-chan error, <-chan *nbd.Conn) {
	ours, theirs := net.Pipe()
	t.Cleanup(func() { theirs.Close() })
	exp := &nbd.Export{Name: "r0", Size: 1 << 20, Features: nbd.FeaturesUsual, Backend: b}
	done, ended := make(chan error, 1), make(chan *nbd.Conn, 1)
	go func() {
		done <- nbd.ServeTransmission(ctx, ours, exp, nbd.Config{}, func(c *nbd.Conn) { ended <- c })
	}()
	return nbdtest.Over(t, theirs), done, ended
}

func TestServeTransmission_ServesFromTheFirstByte_UntilGoodbye(t *testing.T) {
	m := nbdtest.NewMemory(1 << 20)
	c, done, ended := local(t.Context(), t, m)
	if errno, _ := c.Do(nbdtest.Command{Type: nbdtest.CmdWrite, Cookie: 1, Off: 512, Len: 3}, []byte("abc")); errno != 0 {
		t.Fatalf("errno %d", errno)
	}
	if _, data := c.Do(nbdtest.Command{Type: nbdtest.CmdRead, Cookie: 2, Off: 512, Len: 3}, nil); string(data) != "abc" {
		t.Errorf("read %q", data)
	}
	c.Send(nbdtest.Command{Type: nbdtest.CmdDisc}, nil)
	if err := <-done; err != nil {
		t.Errorf("a goodbye returns %v", err)
	}
	<-ended
}

func TestServeTransmission_ClosedWithoutGoodbye_ReturnsEOF(t *testing.T) {
	c, done, _ := local(t.Context(), t, nbdtest.NewMemory(1<<20))
	c.Write([]byte{0x25, 0x60}) // half a header
	c.Conn.Close()
	if err := <-done; err != io.EOF {
		t.Errorf("%v", err)
	}
}

// holder keeps every request.
type holder chan *nbd.Request

func (h holder) Submit(batch []*nbd.Request) {
	for _, r := range batch {
		h <- r
	}
}

func TestServeTransmission_EndedIsCalledBeforeTheLastReply(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	h := make(holder, 1)
	c, done, ended := local(ctx, t, h)
	c.Send(nbdtest.Command{Type: nbdtest.CmdFlush, Cookie: 1}, nil)
	r := <-h
	why := errors.New("enough")
	cancel(why)
	if conn := <-ended; conn != r.Conn() {
		t.Error("ended is told another connection")
	}
	select {
	case err := <-done:
		t.Fatalf("returned %v with a request open", err)
	default:
	}
	r.Reply(nil) // to nobody
	if err := <-done; !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
}
