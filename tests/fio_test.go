package tests

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/need"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

// verifyArgs is a fio job that writes 4 disjoint ranges on 4 connections, in pieces of 512 B to
// 1 MiB, and checks every one of them. perJob is in MiB.
func verifyArgs(perJob int) []string {
	return []string{
		"--rw=randwrite", "--bsrange=512-1m", "--blockalign=512", "--numjobs=4", "--iodepth=8",
		fmt.Sprintf("--size=%dm", perJob), fmt.Sprintf("--offset_increment=%dm", perJob),
		"--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--verify_dump=0", "--verify_state_save=0",
	}
}

// fioRun is a fio that runs beside the test.
type fioRun struct {
	t    testing.TB
	p    *proc.Proc
	json string
}

// startFio starts fio with one job, called x, and further arguments.
func startFio(t testing.TB, uri string, args ...string) *fioRun {
	t.Helper()
	need.Tool(t, "fio", "fio")
	f := &fioRun{t: t, json: filepath.Join(t.TempDir(), "fio.json")}
	args = append([]string{
		"--output=" + f.json, "--output-format=json", "--group_reporting", "--randrepeat=1",
		"--name=x", "--ioengine=nbd", "--uri=" + uri,
	}, args...)
	f.p = proc.Start(t, "fio", args...)
	return f
}

// fioTotals is what fio did, over all its jobs.
type fioTotals struct{ reads, writes, trims int64 }

// wait returns what fio did and fails the test on an error, of I/O or of verification.
func (f *fioRun) wait() fioTotals {
	f.t.Helper()
	out, err := f.p.Wait(f.t)
	if err != nil {
		f.t.Fatalf("fio: %v\n%s", err, out)
	}
	b, err := os.ReadFile(f.json)
	if err != nil {
		f.t.Fatal(err)
	}
	var res struct {
		Jobs []struct {
			Error             int
			Read, Write, Trim struct {
				TotalIOs int64 `json:"total_ios"`
			}
		}
	}
	text := string(b)
	if err := json.Unmarshal([]byte(text[max(0, strings.Index(text, "{")):]), &res); err != nil {
		f.t.Fatalf("%v in %s", err, text)
	}
	var sum fioTotals
	for _, j := range res.Jobs {
		if j.Error != 0 {
			f.t.Fatalf("fio reports error %d\n%s", j.Error, out)
		}
		sum.reads += j.Read.TotalIOs
		sum.writes += j.Write.TotalIOs
		sum.trims += j.Trim.TotalIOs
	}
	if sum.writes+sum.trims == 0 {
		f.t.Fatalf("fio did nothing\n%s", out)
	}
	return sum
}

func TestFio_VerifiedRandomWrites_WithTrimsBeside_OnFourConnections(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 256 * cluster.MiB})
	uri := c.URI("n1")
	verified := startFio(t, uri, append(verifyArgs(40), "--fsync=32")...)
	// Trims and writes race in a range of their own: fio cannot verify what it trims itself.
	raced := []string{"--bs=64k", "--numjobs=2", "--iodepth=8", "--offset=160m", "--size=96m", "--norandommap", "--io_size=192m"}
	trimmed := startFio(t, c.TCP("n1"), append(raced, "--rw=randtrim")...)
	written := startFio(t, c.TCP("n1"), append(raced, "--rw=randwrite")...)
	if sum := verified.wait(); sum.reads == 0 {
		t.Error("fio verified nothing")
	}
	written.wait()
	if sum := trimmed.wait(); sum.trims == 0 {
		t.Error("fio trimmed nothing")
	}
	c.Identical("n1")
}

func TestFio_VerifiedSmallWrites_DeepQueue(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 128 * cluster.MiB})
	startFio(t, c.URI("n1"), "--rw=randrw", "--bs=4k", "--numjobs=4", "--iodepth=32", "--size=16m",
		"--offset_increment=32m", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--verify_dump=0", "--verify_state_save=0").wait()
	c.Identical("n1")
}
