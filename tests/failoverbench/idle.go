package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"time"
)

// tick is the unit of processor times in /proc: USER_HZ, which is 100 on every architecture that
// Linux has for Go.
const tick = 10 * time.Millisecond

// idleResult is the processor time of a lab that does nothing.
type idleResult struct {
	Percent float64            `json:"percent"` // of one core, all nodes together
	Nodes   map[string]float64 `json:"nodes"`
	For     time.Duration      `json:"for_ns"`
}

// idle watches a lab for a while in which nobody asks it for anything.
func idle(ctx context.Context, o options) (*idleResult, error) {
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
	nodes := r.lab.State().Nodes
	before := map[string]time.Duration{}
	for _, n := range nodes {
		if before[n.Name], err = used(n.PID); err != nil {
			return nil, err
		}
	}
	at := time.Now()
	timer := time.NewTimer(o.idle)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	res := &idleResult{Nodes: map[string]float64{}, For: time.Since(at)}
	for _, n := range nodes {
		now, err := used(n.PID)
		if err != nil {
			return nil, err
		}
		share := 100 * float64(now-before[n.Name]) / float64(res.For)
		res.Nodes[n.Name] = share
		res.Percent += share
	}
	return res, nil
}

// used returns the processor time of a process since its start.
func used(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may hold spaces; fields 14 and 15 are user and system time.
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	var total int64
	for _, i := range []int{14 - 3, 15 - 3} {
		n, err := strconv.ParseInt(string(fields[i]), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
		}
		total += n
	}
	return time.Duration(total) * tick, nil
}
