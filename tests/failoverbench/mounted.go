package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/history"
	"github.com/lockstep-ha/lockstep/tests/internal/nbdclient"
	"github.com/lockstep-ha/lockstep/tests/internal/synced"
	"github.com/lockstep-ha/lockstep/tests/internal/userdev"
)

// mounted is an ext4 on the resource, by way of a relay, with files that are synced one after the other.
type mounted struct {
	fs     *userdev.FileSystem // nil: unmounted
	series synced.Series
	begun  time.Time
	stop   atomic.Bool
	ended  chan error // of the writer, once

	mu    sync.Mutex
	acked []time.Duration // when each step was synced
}

var _ progress = (*mounted)(nil)

// servers are where the relay finds the primary.
func (r *rig) servers() (uris []string) {
	for _, n := range r.lab.State().Nodes {
		if !n.Witness {
			uris = append(uris, n.NBDUnixURI)
		}
	}
	return uris
}

// attach has a relay of this process attach the resource, with its files in a new directory.
func (r *rig) attach(ctx context.Context) (dir string, d *userdev.Device, err error) {
	if dir, err = os.MkdirTemp(r.dir, "relay"); err != nil {
		return "", nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return "", nil, err
	}
	d, err = userdev.Attach(ctx, dir, resource, r.servers(), log)
	return dir, d, err
}

// mount makes a file system on the resource and starts to write to it.
func mount(ctx context.Context, r *rig) (*mounted, error) {
	dir, d, err := r.attach(ctx)
	if err != nil {
		return nil, err
	}
	fs, err := userdev.Mount(ctx, dir, d)
	if err != nil {
		d.Stop()
		return nil, err
	}
	m := &mounted{fs: fs, series: synced.Series{Dir: fs.Dir, Run: 1, Keep: 256}, begun: time.Now(), ended: make(chan error, 1)}
	go func() {
		m.ended <- m.series.Write(func(int, time.Duration) bool {
			m.mu.Lock()
			m.acked = append(m.acked, m.Now())
			m.mu.Unlock()
			time.Sleep(4 * time.Millisecond) // the load is light: see doc.go
			return !m.stop.Load()
		})
	}()
	return m, nil
}

func (m *mounted) Now() time.Duration { return time.Since(m.begun) }

func (m *mounted) Acked() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.acked)
}

func (m *mounted) LongestGap(from, to time.Duration) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return history.LongestGap(m.acked, from, to)
}

// judge ends the writer and says what the checks found.
func (m *mounted) judge(ctx context.Context, r *rig) (string, error) {
	m.stop.Store(true)
	if err := <-m.ended; err != nil {
		return "AN ERROR IN THE FILE SYSTEM", err
	}
	if err := errors.Join(m.fs.Again(), m.series.Verify(m.Acked())); err != nil {
		return "DATA LOST", err
	}
	fs := m.fs
	m.fs = nil
	if err := fs.Unmount(); err != nil {
		return "NOT UNMOUNTED", err
	}
	if _, err := r.settled(ctx); err != nil {
		return "REPLICAS OUT OF SYNC", err
	}
	first := ""
	for _, n := range r.lab.State().Nodes {
		if n.Witness {
			continue
		}
		if out, err := exec.CommandContext(ctx, "e2fsck", "-fn", n.DataPath).CombinedOutput(); err != nil {
			return "FILE SYSTEM DAMAGED", fmt.Errorf("%s: %w: %s", n.Name, err, out)
		}
		if first == "" {
			first = n.DataPath
		}
		if err := cluster.SameContent(first, n.DataPath); err != nil {
			return "REPLICAS DIFFER", err
		}
	}
	return fmt.Sprintf("right: %d steps synced", m.Acked()), nil
}

// close ends what a failure has left.
func (m *mounted) close() {
	m.stop.Store(true)
	if m.fs != nil {
		m.fs.Kill()
		m.fs = nil
	}
}

// attachTarget is how long it should take at most until a device can be used.
const attachTarget = 200 * time.Millisecond

// attachTimes measures how long it takes from the start of a relay until a read of its device is answered.
func attachTimes(ctx context.Context, o options) (times []time.Duration, err error) {
	r, err := up(ctx, o, false)
	if err != nil {
		return nil, err
	}
	defer r.close()
	wait, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if _, err := r.settled(wait); err != nil {
		return nil, err
	}
	for range o.runs {
		took, err := r.attachOnce(ctx)
		if err != nil {
			return times, errors.Join(err, r.keep())
		}
		times = append(times, took)
	}
	return times, nil
}

func (r *rig) attachOnce(ctx context.Context) (took time.Duration, err error) {
	begun := time.Now()
	_, d, err := r.attach(ctx)
	if err != nil {
		return 0, err
	}
	c, err := nbdclient.Dial(ctx, d.Kernel.URI())
	if err == nil {
		err = c.ReadAt(make([]byte, 4096), 0)
		took = time.Since(begun)
	}
	if err != nil {
		d.Stop()
		return 0, err
	}
	return took, errors.Join(c.Close(), d.Wait()) // its goodbye ends the attachment
}
