package attach

import (
	"context"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/nbd/nbdtest"
)

// newPlainServer starts an NBD server that knows nothing of attachments.
func newPlainServer(tb testing.TB) Server {
	where := Server{"unix", filepath.Join(tb.TempDir(), "s")}
	l, err := net.Listen("unix", where.Addr)
	if err != nil {
		tb.Fatal(err)
	}
	srv := nbd.NewServer(nbd.Config{Logger: quiet}, nbdtest.Exports{"r0": {Name: "r0", Size: testSize, Features: nbd.FeaturesUsual, Backend: nbdtest.NewMemory(testSize)}})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := srv.Serve(ctx, l); err != nil {
			tb.Error(err)
		}
	})
	tb.Cleanup(func() { cancel(); wg.Wait() })
	return where
}
