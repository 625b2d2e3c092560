package transport

import (
	"errors"
	"time"
)

// quiet is how long refusals of one kind stay out of the log after one was written, so that a
// port scan, or one node with a wrong key, cannot fill it.
const quiet = time.Second

// refusals counts, by kind, what was not logged.
type refusals struct {
	last   [len(kinds) + 1]time.Time
	hidden [len(kinds) + 1]int
}

var kinds = [...]error{ErrKey, ErrCluster, ErrVersion, ErrNode, ErrService, ErrProtocol, ErrClosed, ErrCertificate, ErrProtection}

func kindOf(err error) int {
	for i, k := range kinds {
		if errors.Is(err, k) {
			return i
		}
	}
	return len(kinds)
}

// refusal logs that a connection was refused. claimed is the name that the other end gave, which
// it did not prove; "" if it gave none.
func (t *Transport) refusal(remote, claimed string, err error) {
	k, now := kindOf(err), time.Now()
	t.mu.Lock()
	if now.Sub(t.refused.last[k]) < quiet {
		t.refused.hidden[k]++
		t.mu.Unlock()
		return
	}
	hidden := t.refused.hidden[k]
	t.refused.last[k], t.refused.hidden[k] = now, 0
	t.mu.Unlock()
	t.log.Warn("connection refused", "remote", remote, "claimed_node", claimed, "error", err, "not_logged_before", hidden)
}
