package watchdog

import (
	"fmt"
	"sync"
	"time"
)

// Permit is leave to go on, which somebody else gives and which runs out. It is for a Must.
type Permit struct {
	lease time.Duration

	mu    sync.Mutex
	since time.Duration // when the question was asked that was answered with leave
	given bool
}

// NewPermit makes a Permit that was never given.
func NewPermit(lease time.Duration) *Permit { return &Permit{lease: lease} }

// Lease is how long leave lasts.
func (p *Permit) Lease() time.Duration { return p.lease }

// Renew notes leave. asked is the moment just before the question was asked, on the Dog's clock: the
// answer may have lain around for any time. An older question than the last takes nothing back.
func (p *Permit) Renew(asked time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.given || asked > p.since {
		p.since, p.given = asked, true
	}
}

// Healthy is the Must.
func (p *Permit) Healthy(now time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch age := now - p.since; {
	case !p.given:
		return fmt.Errorf("the cluster never gave leave to go on")
	case age > p.lease:
		return fmt.Errorf("the cluster last gave leave to go on %v ago, which is more than %v", age, p.lease)
	}
	return nil
}
