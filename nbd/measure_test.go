//go:build measure

package nbd_test

import (
	"context"
	"net"
	"os"
	"os/signal"
	"testing"

	"github.com/lockstep-ha/lockstep/nbd"
)

// TestServeMemory_ForMeasurements serves a device in memory as "m" on the unix socket named by
// LOCKSTEP_NBD_SOCKET until it is interrupted, for fio and others to be pointed at. With
// -cpuprofile it shows where the time goes. It is built with the tag measure only.
func TestServeMemory_ForMeasurements(t *testing.T) {
	path := os.Getenv("LOCKSTEP_NBD_SOCKET")
	if path == "" {
		t.Fatal("LOCKSTEP_NBD_SOCKET is not set")
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
