package fencing

import (
	"slices"
	"sync"
	"time"
)

// Attempt is one try of one device.
type Attempt struct {
	Node, Boot       string
	Resource, Reason string
	Device           string
	Level, Try       int    // both from 1; level 0: not part of a fence
	Action           string // off or on
	Begun, Ended     time.Time
	Failure          string // "": it succeeded
	Text             string // what the device proved
	Output           string // the end of what its program printed, without secrets
}

// history remembers the last attempts. When it is full, the oldest is forgotten.
type history struct {
	mu    sync.Mutex
	limit int
	list  []Attempt
}

func (h *history) add(a Attempt) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.list) >= h.limit {
		h.list = slices.Delete(h.list, 0, len(h.list)-h.limit+1)
	}
	h.list = append(h.list, a)
}

func (h *history) all() []Attempt {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.list)
}
