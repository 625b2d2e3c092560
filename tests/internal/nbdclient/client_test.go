package nbdclient

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/lockstep-ha/lockstep/tests/internal/need"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

// serve starts nbdkit with the given plugin and returns its URI.
func serve(t *testing.T, plugin ...string) string {
	t.Helper()
	need.Tool(t, "nbdkit", "nbdkit")
	sock := filepath.Join(t.TempDir(), "s")
	p := proc.Start(t, "nbdkit", append([]string{"-f", "-U", sock}, plugin...)...)
	p.WaitForSocket(t, sock)
	return "nbd+unix:///?socket=" + sock
}

func dial(t *testing.T, uri string) *Client {
	t.Helper()
	c, err := Dial(t.Context(), uri)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestClient_ReadsBackWhatItWrote(t *testing.T) {
	c := dial(t, serve(t, "memory", "1M"))
	if c.Size() != 1<<20 {
		t.Fatalf("size is %d", c.Size())
	}
	if c.Flags()&(SendFlush|SendFUA|SendTrim|SendZeroes) != SendFlush|SendFUA|SendTrim|SendZeroes {
		t.Fatalf("flags are %#x", c.Flags())
	}
	want := bytes.Repeat([]byte("lockstep"), 1024)
	for _, err := range []error{
		c.WriteAt(want, 4096), c.WriteFUA(want[:512], 512), c.Sync(), c.TrimAt(4096, 4096), c.ZeroAt(8192, 512),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	got := make([]byte, 8192)
	if err := c.ReadAt(got, 4096); err != nil {
		t.Fatal(err)
	}
	clear(want[:4096+512])
	if !bytes.Equal(got, want) {
		t.Fatal("read back something else")
	}
}

func TestClient_ManyInFlight_EachGetsItsOwnAnswer(t *testing.T) {
	c := dial(t, serve(t, "memory", "16M"))
	var wg sync.WaitGroup
	for i := range 1024 {
		wg.Add(1)
		data := bytes.Repeat([]byte{byte(i), byte(i >> 8)}, 2048)
		go c.Write(data, int64(i)*4096, false, func(err error) {
			if err != nil {
				t.Error(err)
			}
			wg.Done()
		})
	}
	wg.Wait()
	for range 64 {
		i := rand.IntN(1024)
		got := make([]byte, 4096)
		if err := c.ReadAt(got, int64(i)*4096); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, bytes.Repeat([]byte{byte(i), byte(i >> 8)}, 2048)) {
			t.Fatalf("block %d holds another block's data", i)
		}
	}
}

func TestClient_ServerError_ComesAsErrno(t *testing.T) {
	c := dial(t, serve(t, "--filter=error", "memory", "1M", "error-pwrite=ENOSPC", "error-pwrite-rate=1"))
	if err := c.WriteAt(make([]byte, 512), 0); !errors.Is(err, ENOSPC) {
		t.Fatalf("got %v", err)
	}
	if err := c.ReadAt(make([]byte, 512), 0); err != nil {
		t.Fatalf("the connection did not survive an error reply: %v", err)
	}
}

func TestClient_ConnectionCut_EveryCommandEndsAsLost(t *testing.T) {
	ours, theirs := net.Pipe()
	go func() {
		// A server that grants the export and then only listens.
		theirs.Write(append([]byte("NBDMAGICIHAVEOPT"), 0, 3))
		buf := make([]byte, 4+16+4+2+2) // client flags, option head, name length, count, one info
		readFull(theirs, buf)
		info := append(replyHead(repInfo, 12), 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 1)
		theirs.Write(append(info, replyHead(repAck, 0)...))
		readFull(theirs, make([]byte, 3*28))
		theirs.Close()
	}()
	c, err := New(context.Background(), ours, "")
	if err != nil {
		t.Fatal(err)
	}
	ch := make(chan error, 3)
	for range 3 {
		c.Flush(func(err error) { ch <- err })
	}
	for range 3 {
		if err := <-ch; !errors.Is(err, ErrLost) {
			t.Fatalf("got %v", err)
		}
	}
	if err := c.Sync(); !errors.Is(err, ErrLost) {
		t.Fatalf("a command after the cut: %v", err)
	}
	c.Close()
}

func TestClient_ExportRefused_SaysWhy(t *testing.T) {
	need.Tool(t, "qemu-nbd", "qemu-utils")
	sock := filepath.Join(t.TempDir(), "s")
	img := proc.SparseFile(t, 1<<20)
	p := proc.Start(t, "qemu-nbd", "-f", "raw", "-t", "-e", "4", "-x", "present", "-k", sock, img)
	p.WaitForSocket(t, sock)
	_, err := Dial(t.Context(), "nbd+unix:///absent?socket="+sock)
	var refused *Refused
	if !errors.As(err, &refused) || !strings.Contains(refused.Message, "absent") {
		t.Fatalf("got %v", err)
	}
}

func TestParseURI(t *testing.T) {
	for _, c := range []struct{ uri, network, addr, export string }{
		{"nbd://127.0.0.1:99/r0", "tcp", "127.0.0.1:99", "r0"},
		{"nbd://localhost", "tcp", "localhost:10809", ""},
		{"nbd+unix:///r0?socket=/a/b", "unix", "/a/b", "r0"},
	} {
		n, a, e, err := ParseURI(c.uri)
		if err != nil || n != c.network || a != c.addr || e != c.export {
			t.Errorf("%s: %s %s %s %v", c.uri, n, a, e, err)
		}
	}
	for _, bad := range []string{"", "http://x/", "nbd+unix:///r0", "nbd://[::1"} {
		if _, _, _, err := ParseURI(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func replyHead(kind uint32, length byte) []byte {
	h := []byte{0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9, 0, 0, 0, optGo, 0, 0, 0, byte(kind), 0, 0, 0, length}
	return h
}

func readFull(c net.Conn, p []byte) {
	for len(p) > 0 {
		n, err := c.Read(p)
		if err != nil {
			return
		}
		p = p[n:]
	}
}
