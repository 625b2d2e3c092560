package userdev

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/nbd/attach"
	"github.com/lockstep-ha/lockstep/nbd/nbdtest"
	"github.com/lockstep-ha/lockstep/tests/internal/nbdclient"
)

// A client is led to the relay's socket, and its goodbye ends the device.
func TestKernel_HandsOnWhatAClientSays(t *testing.T) {
	const size = 1 << 20
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[0]), "relay")
	relay, err := net.FileConn(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Close()
	k := NewKernel(filepath.Join(t.TempDir(), "s"))
	const flags = 1 | 1<<2 | 1<<3                                                                                                  // HAS_FLAGS, SEND_FLUSH, SEND_FUA
	err = k.Connect(attach.ConnectRequest{Size: size, BlockSize: 4096, Flags: flags | 1<<8, Backend: "b", Sockets: []int{fds[1]}}) // 1<<8: CAN_MULTI_CONN
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fds[1])
	export := &nbd.Export{Name: "r0", Size: size, Features: nbd.FeatureFlush | nbd.FeatureFUA, Backend: nbdtest.NewMemory(size)}
	ended := make(chan error, 1)
	go func() {
		ended <- nbd.ServeTransmission(context.Background(), relay, export, nbd.Config{Logger: slog.New(slog.DiscardHandler)}, nil)
	}()
	c, err := nbdclient.Dial(t.Context(), k.URI())
	if err != nil {
		t.Fatal(err)
	}
	if c.Size() != size || c.PreferredBlock() != 4096 || c.Flags() != flags {
		t.Errorf("size %d, block %d, flags %v", c.Size(), c.PreferredBlock(), c.Flags())
	}
	want, got := bytes.Repeat([]byte{7}, 4096), make([]byte, 4096)
	if err := c.WriteFUA(want, 8192); err != nil {
		t.Fatal(err)
	}
	if err := c.ReadAt(got, 8192); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read back %v, %v", got[:8], err)
	}
	if _, connected, _ := k.Backend(0); !connected {
		t.Error("the device is in use and said not to be connected")
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("the relay's end: %v", err)
	}
	if err := k.Disconnect(0); err != nil {
		t.Error(err)
	}
	if id, connected, _ := k.Backend(0); connected {
		t.Errorf("%q is still connected", id)
	}
}
