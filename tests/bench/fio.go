package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"time"
)

// job is one way of using a device.
type job struct {
	name  string
	write bool
	flush bool
	args  []string
}

var jobs = []job{
	{name: "w4k-qd1", write: true, args: []string{"--rw=randwrite", "--bs=4k", "--iodepth=1"}},
	{name: "w4k-qd32", write: true, args: []string{"--rw=randwrite", "--bs=4k", "--iodepth=32"}},
	{name: "w1m-qd8", write: true, args: []string{"--rw=write", "--bs=1m", "--iodepth=8"}},
	{name: "w4k-qd1-flush", write: true, flush: true, args: []string{"--rw=randwrite", "--bs=4k", "--iodepth=1", "--fsync=1"}},
	{name: "r4k-qd1", args: []string{"--rw=randread", "--bs=4k", "--iodepth=1"}},
	{name: "r4k-qd32", args: []string{"--rw=randread", "--bs=4k", "--iodepth=32"}},
}

// measure is the result of one fio run. Latencies are completion latencies in microseconds.
type measure struct {
	IOPS  float64 `json:"iops"`
	MBs   float64 `json:"mb_per_s"`
	P50us float64 `json:"p50_us"`
	P99us float64 `json:"p99_us"`
	Flush float64 `json:"flush_p50_us,omitempty"`
}

func (m measure) brief(err error) string {
	if err != nil {
		return "FAILED: " + err.Error()
	}
	return fmt.Sprintf("%.0f IOPS, p50 %.0f us, p99 %.0f us", m.IOPS, m.P50us, m.P99us)
}

// fioSide is one direction of a fio job in its JSON output.
type fioSide struct {
	IOs  int64   `json:"total_ios"`
	IOPS float64 `json:"iops"`
	BW   float64 `json:"bw_bytes"`
	Clat fioLat  `json:"clat_ns"`
}

type fioLat struct {
	Percentile map[string]float64 `json:"percentile"`
}

func (l fioLat) us(p string) float64 { return l.Percentile[p] / 1000 }

// fio runs one job on one server.
func fio(ctx context.Context, s *server, j job, o options) (measure, error) {
	limit := time.Duration(o.runtime+30) * time.Second
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	args := append([]string{
		"--name=x", "--ioengine=nbd", "--uri=" + s.uri, fmt.Sprintf("--size=%dm", o.sizeMiB),
		fmt.Sprintf("--runtime=%d", o.runtime), "--time_based", "--ramp_time=0.5", "--norandommap",
		"--randrepeat=0", "--group_reporting", "--output-format=json",
	}, j.args...)
	out, err := exec.CommandContext(ctx, "fio", args...).Output()
	if err != nil {
		return measure{}, fmt.Errorf("fio: %w: %s", err, tail(out))
	}
	var parsed struct {
		Jobs []struct {
			Error       int
			Read, Write fioSide
			Sync        struct {
				Lat fioLat `json:"lat_ns"`
			}
		}
	}
	if err := json.Unmarshal(out[max(0, bytes.IndexByte(out, '{')):], &parsed); err != nil {
		return measure{}, fmt.Errorf("fio: %w: %s", err, tail(out))
	}
	if len(parsed.Jobs) != 1 || parsed.Jobs[0].Error != 0 {
		return measure{}, fmt.Errorf("fio reports an error: %s", tail(out))
	}
	side := parsed.Jobs[0].Read
	if j.write {
		side = parsed.Jobs[0].Write
	}
	if side.IOs == 0 {
		return measure{}, fmt.Errorf("fio did nothing: %s", tail(out))
	}
	m := measure{IOPS: side.IOPS, MBs: side.BW / 1e6, P50us: side.Clat.us("50.000000"), P99us: side.Clat.us("99.000000")}
	if j.flush {
		m.Flush = parsed.Jobs[0].Sync.Lat.us("50.000000")
	}
	return m, nil
}

func tail(b []byte) []byte { return bytes.TrimSpace(b[max(0, len(b)-200):]) }
