package ackload

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/lockstep-ha/lockstep/tests/internal/nbdclient"
	"github.com/lockstep-ha/lockstep/tests/internal/need"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

func payload(block int64, counter uint64) []byte {
	p := make([]byte, Block)
	if counter != 0 {
		Payload(p, block, counter)
	}
	return p
}

func TestJudge(t *testing.T) {
	l := New(8)
	a := l.begin(0) // answered, then overwritten by b
	l.end(0, a, nil)
	b := l.begin(0)
	l.end(0, b, nil)
	c := l.begin(0) // in flight for ever
	d, e := l.begin(1), l.begin(1)
	l.end(1, e, nil) // both in flight at once: either may be the last
	l.end(1, d, nil)
	f := l.begin(2)
	l.end(2, f, errors.New("EIO")) // may have happened
	g := l.begin(3)
	l.end(3, g, nil)

	for _, tc := range []struct {
		name  string
		block int64
		p     []byte
		ok    bool
	}{
		{"last acknowledged", 0, payload(0, b), true},
		{"in flight after it", 0, payload(0, c), true},
		{"overwritten", 0, payload(0, a), false},
		{"zeros after an acknowledgement", 0, payload(0, 0), false},
		{"first of two at once", 1, payload(1, d), true},
		{"second of two at once", 1, payload(1, e), true},
		{"failed", 2, payload(2, f), true},
		{"zeros before any acknowledgement", 2, payload(2, 0), true},
		{"another block's", 3, payload(0, b), false},
		{"never submitted", 3, payload(3, 999), false},
		{"never written", 4, payload(4, 0), true},
		{"torn", 3, append(payload(3, g)[:2048], make([]byte, 2048)...), false},
		{"garbage", 4, append([]byte{1}, make([]byte, Block-1)...), false},
	} {
		if err := l.judge(tc.block, tc.p); (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func TestRun_AgainstAnHonestServer_CheckFindsNothing_AndFindsALostWrite(t *testing.T) {
	need.Tool(t, "nbdkit", "nbdkit")
	sock := filepath.Join(t.TempDir(), "s")
	proc.Start(t, "nbdkit", "-f", "-U", sock, "memory", "1M").WaitForSocket(t, sock)
	c, err := nbdclient.Dial(t.Context(), "nbd+unix:///?socket="+sock)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	l := New(256)
	stop := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.Run(c, 16, 1, stop)
	}()
	proc.Eventually(t, "writes", func() error {
		if l.Acked() < 2000 {
			return errors.New("too few")
		}
		return nil
	})
	close(stop)
	<-ended
	if err := l.Check(c); err != nil {
		t.Fatal(err)
	}
	if len(l.Failed()) != 0 {
		t.Fatal(l.Failed())
	}
	if err := c.ZeroAt(0, Block); err != nil {
		t.Fatal(err)
	}
	if err := l.Check(c); err == nil {
		t.Fatal("a block that lost its write passed")
	}
}
