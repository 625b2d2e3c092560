package nbd_test

import (
	"context"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"testing"

	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/nbd/nbdtest"
)

// TestServeMemory_ForMeasurements serves a device in memory as "m" on the unix socket named by
// LOCKSTEP_NBD_SOCKET until it is interrupted, for fio and others to be pointed at. With
// -cpuprofile it shows where the time goes.
func TestServeMemory_ForMeasurements(t *testing.T) {
	path := os.Getenv("LOCKSTEP_NBD_SOCKET")
	if path == "" {
		t.Skip("LOCKSTEP_NBD_SOCKET is not set")
	}
	os.Remove(path)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := nbd.NewServer(nbd.Config{}, memoryExports(1<<30)).Serve(ctx, l); err != nil {
		t.Fatal(err)
	}
}

func memoryExports(size int64) nbdtest.Exports {
	return nbdtest.Exports{"m": {
		Name:     "m",
		Size:     size,
		Features: nbd.FeaturesUsual,
		Backend:  nbdtest.NewMemory(size),
	}}
}

// serve starts a server of ex on a unix socket and stops it with the test.
func serve(tb testing.TB, cfg nbd.Config, ex nbd.Exports) (*nbd.Server, net.Addr) {
	tb.Helper()
	l, err := net.Listen("unix", filepath.Join(tb.TempDir(), "nbd"))
	if err != nil {
		tb.Fatal(err)
	}
	s := nbd.NewServer(cfg, ex)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("Serve: %v", err)
		}
	})
	return s, l.Addr()
}
