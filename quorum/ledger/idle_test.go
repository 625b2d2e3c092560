package ledger

import (
	"syscall"
	"testing"
	"time"
)

// BenchmarkIdle_ThreeNodes reports what three idle ledgers with the default settings cost
// together, in percent of one core. Run it with -benchtime=10s; one op is 100 ms.
func BenchmarkIdle_ThreeNodes(b *testing.B) {
	c := newCluster(b, func(cfg *Config) { cfg.TickInterval = 0 }, "A", "B", "W")
	c.start("A", "B", "W")
	c.leader("A", "B", "W")
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	before := cpuTime(b)
	b.ResetTimer()
	for range b.N {
		<-tick.C
	}
	b.StopTimer()
	b.ReportMetric(100*(cpuTime(b)-before).Seconds()/b.Elapsed().Seconds(), "%core")
}

// BenchmarkPropose_ThreeNodes is one command at a time, fsyncs included.
func BenchmarkPropose_ThreeNodes(b *testing.B) {
	c := newCluster(b, func(cfg *Config) { cfg.TickInterval = 0 }, "A", "B", "W")
	c.start("A", "B", "W")
	c.leader("A", "B", "W")
	c.create("A", "r0", 1)
	for i := 0; b.Loop(); i++ {
		if res := c.propose("A", errText(uint64(i), c.nodes["A"].State().Find("r0"))); res.Err() != nil {
			b.Fatal(res.Err())
		}
	}
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
