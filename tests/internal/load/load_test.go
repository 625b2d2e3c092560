package load

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/tests/internal/history"
	"github.com/lockstep-ha/lockstep/tests/internal/need"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

const blocks = 1024

// serve starts a server of an image, which other servers may serve too.
func serve(t *testing.T, name, image string) (Server, *proc.Proc) {
	t.Helper()
	need.Tool(t, "nbdkit", "nbdkit")
	sock := filepath.Join(t.TempDir(), name)
	p := proc.Start(t, "nbdkit", "-f", "-U", sock, "file", image)
	p.WaitForSocket(t, sock)
	return Server{Name: name, URI: "nbd+unix:///?socket=" + sock}, p
}

// acked returns when so many more writes were acknowledged.
func acked(t *testing.T, h *history.History, more int) {
	t.Helper()
	want := h.Acked() + more
	proc.Eventually(t, "acknowledged writes", func() error {
		if n := h.Acked(); n < want {
			return fmt.Errorf("%d of %d", n, want)
		}
		return nil
	})
}

// verdict is what both checkers say.
func verdict(t *testing.T, h *history.History) error {
	t.Helper()
	undecided, err := h.Linearizable(30 * time.Second)
	if undecided > 0 {
		t.Errorf("%d blocks were left undecided", undecided)
	}
	return errors.Join(h.Direct(), err)
}

func TestLoad_ServerEnds_MovesToTheOther_AndTheHistoryIsRight(t *testing.T) {
	image := proc.SparseFile(t, blocks*history.Block)
	a, pa := serve(t, "a", image)
	h := history.New(blocks)
	l := Start(Options{Servers: []Server{{Name: "nobody", URI: "nbd+unix:///?socket=/nowhere"}, a}, Pinned: []Server{a}, History: h, Hot: 64})
	acked(t, h, 500)
	b, _ := serve(t, "b", image)
	l.Stop()
	l = Start(Options{Servers: []Server{a, b}, Pinned: []Server{a, b}, History: h, Hot: 64, Pause: time.Millisecond})
	acked(t, h, 200)
	syscall.Kill(pa.Cmd.Process.Pid, syscall.SIGKILL)
	acked(t, h, 500)
	l.Stop()
	if l.Moves() < 8 {
		t.Errorf("4 connections were made %d times in all", l.Moves())
	}
	if err := h.Content("image", image); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(append(h.Errors(), verdict(t, h))...); err != nil {
		t.Error(err)
	}
	if h.Answered("a", 0) == 0 || h.Answered("b", 0) == 0 {
		t.Error("a server answered nothing")
	}
	t.Log(h.Counts())
}

func TestLoad_ServerIsSilent_MovesOnlyWhenAnotherGrants(t *testing.T) {
	image := proc.SparseFile(t, blocks*history.Block)
	a, pa := serve(t, "a", image)
	sock := filepath.Join(t.TempDir(), "b")
	h := history.New(blocks)
	l := Start(Options{Servers: []Server{a, {Name: "b", URI: "nbd+unix:///?socket=" + sock}}, History: h, Hot: 64})
	defer l.Stop()
	acked(t, h, 200)
	syscall.Kill(pa.Cmd.Process.Pid, syscall.SIGSTOP)
	paused := h.Now()
	proc.Eventually(t, "a silence", func() error {
		if h.Now()-paused < 3*stallAfter {
			return errors.New("too early")
		}
		return nil
	})
	if l.Moves() != 4 {
		t.Errorf("connections moved although there was nowhere to go: %d", l.Moves())
	}
	p := proc.Start(t, "nbdkit", "-f", "-U", sock, "file", image)
	p.WaitForSocket(t, sock)
	acked(t, h, 200)
	if gap := h.LongestGap(paused, h.Now()); gap < 3*stallAfter {
		t.Errorf("the longest gap is %v", gap)
	}
	syscall.Kill(pa.Cmd.Process.Pid, syscall.SIGCONT)
	acked(t, h, 200)
	l.Stop()
	if err := verdict(t, h); err != nil {
		t.Error(err)
	}
}

func TestLoad_ServersThatDiffer_AreFound(t *testing.T) {
	image, other := proc.SparseFile(t, blocks*history.Block), proc.SparseFile(t, blocks*history.Block)
	a, pa := serve(t, "a", image)
	b, _ := serve(t, "b", other)
	h := history.New(blocks)
	l := Start(Options{Servers: []Server{a}, History: h, Hot: 64})
	acked(t, h, 500)
	l.Stop()
	syscall.Kill(pa.Cmd.Process.Pid, syscall.SIGKILL)
	l = Start(Options{Servers: []Server{b}, History: h, Hot: 64})
	acked(t, h, 100)
	l.Stop()
	if h.Direct() == nil {
		t.Error("Direct takes two devices for one")
	}
	if _, err := h.Linearizable(30 * time.Second); err == nil {
		t.Error("Linearizable takes two devices for one")
	}
}

func TestLoad_ErrorAnswers_AreKept(t *testing.T) {
	need.Tool(t, "nbdkit", "nbdkit")
	sock := filepath.Join(t.TempDir(), "s")
	p := proc.Start(t, "nbdkit", "-f", "-U", sock, "--filter=error", "memory", fmt.Sprint(blocks*history.Block), "error-pwrite=EIO", "error-pwrite-rate=10%")
	p.WaitForSocket(t, sock)
	h := history.New(blocks)
	l := Start(Options{Servers: []Server{{Name: "s", URI: "nbd+unix:///?socket=" + sock}}, History: h, Hot: 64})
	acked(t, h, 500)
	l.Stop()
	if len(h.Errors()) == 0 {
		t.Error("errors were not kept")
	}
	if err := verdict(t, h); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(sock); err != nil || !p.Running() {
		t.Errorf("the server is gone: %v", err)
	}
}
