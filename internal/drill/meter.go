package drill

import (
	"fmt"
	"sync"
	"time"
)

// meter measures how long nothing was acknowledged.
type meter struct {
	mu      sync.Mutex
	last    time.Time // of the newest acknowledgement, or of begin
	longest time.Duration
	acked   int64
	read    int64
	faults  []error // answers that must not come: errors, and wrong data
	count   int     // of faults; the first of them are kept
}

// maxFaults is how many faults are kept for people to read.
const maxFaults = 5

// begin starts a new window at now.
func (m *meter) begin(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last, m.longest = now, 0
}

// ack notes an answered request.
func (m *meter) ack(now time.Time, read bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.longest = max(m.longest, now.Sub(m.last))
	m.last = now
	m.acked++
	if read {
		m.read++
	}
}

// pause returns the longest time without an answer in this window, up to now.
func (m *meter) pause(now time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return max(m.longest, now.Sub(m.last))
}

func (m *meter) answered() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.acked
}

func (m *meter) fault(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.count++; len(m.faults) < maxFaults {
		m.faults = append(m.faults, fmt.Errorf(format, args...))
	}
}

// takeFaults returns the faults since the last call, and how many there were.
func (m *meter) takeFaults() (texts []string, n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range m.faults {
		texts = append(texts, f.Error())
	}
	n = m.count
	m.faults, m.count = nil, 0
	return texts, n
}
