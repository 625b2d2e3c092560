package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// extra is what is measured of Lockstep alone.
type extra struct {
	RSS           []nodeRSS `json:"rss"`
	OutageSeconds int       `json:"outage_s"`
	ResyncBytes   int64     `json:"resync_bytes"`   // dirty when the secondary came back
	ResyncSeconds float64   `json:"resync_seconds"` // of the resync itself, by the primary's events
}

type nodeRSS struct {
	Node string  `json:"node"`
	MiB  float64 `json:"mib"`
}

// alone measures memory and resync on a fresh cluster.
func alone(ctx context.Context, o options, dir string) (*extra, error) {
	if !chosen(o.entries, "lockstep") {
		return nil, nil
	}
	sub := filepath.Join(dir, "alone")
	if err := os.Mkdir(sub, 0o700); err != nil {
		return nil, err
	}
	s, err := startLockstep(ctx, o, sub)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	x := &extra{OutageSeconds: o.outage}
	full := job{name: "window", write: true, args: []string{"--rw=randwrite", "--bs=1m", "--iodepth=32"}}
	if _, err := fio(ctx, s, full, o); err != nil {
		return nil, err
	}
	for _, n := range s.lab.Nodes {
		if n.NBDUnixURI == "" {
			continue
		}
		mib, err := rss(n.PID)
		if err != nil {
			return nil, err
		}
		x.RSS = append(x.RSS, nodeRSS{n.Name, mib})
	}
	if o.outage > 0 {
		return x, x.resync(ctx, o, s, filepath.Join(sub, "lab"))
	}
	return x, nil
}

// rss returns the largest resident memory that a process has had, in MiB.
func rss(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for _, line := range strings.Split(string(b), "\n") {
		if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(v, "kB")), 64)
			return kib / 1024, err
		}
	}
	return 0, errors.New("no VmHWM in the status of a process")
}

// replicaStatus is the part of `lockstep status --json` that is read here.
type replicaStatus struct {
	Resources []struct {
		Replicas []struct {
			Node   string `json:"node"`
			Dirty  int64  `json:"dirty_bytes"`
			InSync bool   `json:"in_sync"`
		} `json:"replicas"`
	} `json:"resources"`
}

// resync takes the secondary away under load, brings it back, and times it while the client idles.
func (x *extra) resync(ctx context.Context, o options, s *server, lab string) error {
	if _, err := lockstep(ctx, o, "lab", "kill", "n2", "--dir", lab); err != nil {
		return err
	}
	away := o
	away.runtime = o.outage
	if _, err := fio(ctx, s, jobs[1], away); err != nil {
		return fmt.Errorf("writes while the secondary is away: %w", err)
	}
	if _, err := lockstep(ctx, o, "lab", "start", "n2", "--dir", lab); err != nil {
		return err
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		left, inSync, err := s.second(ctx, o)
		if err != nil {
			return err
		}
		if inSync && left == 0 {
			return x.lastResync(ctx, o, s)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// lastResync takes the amount and the time of the resync that ended last.
func (x *extra) lastResync(ctx context.Context, o options, s *server) error {
	out, err := lockstep(ctx, o, "events", "--socket", s.lab.Nodes[0].Socket, "--json")
	if err != nil {
		return err
	}
	var begun time.Time
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var ev struct {
			Time  time.Time         `json:"time"`
			Kind  string            `json:"kind"`
			Attrs map[string]string `json:"attrs"`
		}
		if err := dec.Decode(&ev); err != nil {
			if x.ResyncBytes == 0 {
				return fmt.Errorf("no event tells of a resync: %w", err)
			}
			return nil
		}
		switch ev.Kind {
		case "resync_started":
			begun = ev.Time
		case "resync_done":
			if x.ResyncBytes, err = strconv.ParseInt(ev.Attrs["bytes"], 10, 64); err != nil {
				return err
			}
			x.ResyncSeconds = ev.Time.Sub(begun).Seconds()
		}
	}
}

// second asks the primary about its secondary.
func (s *server) second(ctx context.Context, o options) (dirty int64, inSync bool, err error) {
	out, err := lockstep(ctx, o, "--socket", s.lab.Nodes[0].Socket, "status", "r0", "--json")
	if err != nil {
		return 0, false, err
	}
	var st replicaStatus
	if err := json.Unmarshal(out, &st); err != nil {
		return 0, false, err
	}
	for _, r := range st.Resources {
		for _, p := range r.Replicas {
			if p.Node == "n2" {
				return p.Dirty, p.InSync, nil
			}
		}
	}
	return 0, false, errors.New("the status does not name n2")
}
