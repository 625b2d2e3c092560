package nbd_test

import (
	"context"
	"net"
	"path/filepath"
	"testing"

	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/nbd/nbdtest"
)

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
