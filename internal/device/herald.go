package device

import (
	"sync"

	"github.com/lockstep-ha/lockstep/replication"
)

// maxNotices is the number of notices that wait for a slow listener; above it the oldest is
// forgotten.
const maxNotices = 1024

// herald tells the surroundings what happened, from a goroutine of its own: those who learn it
// hold the device's mutex, and the surroundings may call back into the device.
type herald struct {
	mu      sync.Mutex
	more    sync.Cond // L is &mu
	notices []replication.Notice
	lost    uint64 // notices forgotten
	closing bool   // clients are to be closed
	// sessions are to be closed up to these numbers; at most one entry for each client of the core
	sessions map[replication.ClientID]uint64
	stopped  bool
}

func (h *herald) init() { h.more.L = &h.mu }

func (h *herald) notice(n replication.Notice) {
	h.mu.Lock()
	if len(h.notices) == maxNotices {
		h.notices = append(h.notices[:0], h.notices[1:]...)
		h.lost++
	}
	h.notices = append(h.notices, n)
	h.mu.Unlock()
	h.more.Signal()
}

// closeClients asks for the clients to be closed. Asking twice before it is done is asking once.
func (h *herald) closeClients() {
	h.mu.Lock()
	h.closing = true
	h.mu.Unlock()
	h.more.Signal()
}

// closeClient asks for the sessions of one client to be closed, up to a number.
func (h *herald) closeClient(client replication.ClientID, upTo uint64) {
	h.mu.Lock()
	if h.sessions == nil {
		h.sessions = map[replication.ClientID]uint64{}
	}
	h.sessions[client] = max(h.sessions[client], upTo)
	h.mu.Unlock()
	h.more.Signal()
}

func (h *herald) stop() {
	h.mu.Lock()
	h.stopped = true
	h.mu.Unlock()
	h.more.Signal()
}

// forgotten is the number of notices that a slow listener missed.
func (h *herald) forgotten() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lost
}

// run tells until stop, and then what is left. Clients are closed before notices are told, since
// they must not wait for a listener.
func (h *herald) run(to Deps) {
	for {
		h.mu.Lock()
		for !h.closing && len(h.sessions) == 0 && len(h.notices) == 0 && !h.stopped {
			h.more.Wait()
		}
		closing, sessions, list, stopped := h.closing, h.sessions, h.notices, h.stopped
		h.closing, h.sessions, h.notices = false, nil, nil
		h.mu.Unlock()
		if closing && to.OnCloseClients != nil {
			to.OnCloseClients()
		}
		for client, upTo := range sessions {
			if to.OnCloseClient != nil {
				to.OnCloseClient(client, upTo)
			}
		}
		for _, n := range list {
			if to.OnNotice != nil {
				to.OnNotice(n)
			}
		}
		if stopped && !closing && len(sessions) == 0 && len(list) == 0 {
			return
		}
	}
}
