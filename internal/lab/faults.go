package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/lockstep-ha/lockstep/internal/control"
)

// Traffic is what of a node's packets is lost.
type Traffic int

// The values of Traffic.
const (
	BothWays Traffic = iota
	Sent             // what the node sends; it still hears the others
	Received         // what the others send to it; they still hear it
)

// Cut loses every packet from a to b and, unless oneWay, from b to a. Nobody is told: established
// connections stall. It works for nodes and for "client".
func (l *Lab) Cut(a, b string, oneWay bool) error {
	if a == b {
		return control.Usagef("there is no way from %s to itself to cut", a)
	}
	return l.changeNet("cut", []string{a, b}, func(n *Network) {
		n.lose(a, b)
		if !oneWay {
			n.lose(b, a)
		}
	})
}

// Isolate cuts name off from all others, the client among them.
func (l *Lab) Isolate(name string, what Traffic) error {
	return l.changeNet("isolate", []string{name}, func(n *Network) {
		for _, e := range l.endpoints() {
			if e.name == name {
				continue
			}
			if what != Received {
				n.lose(name, e.name)
			}
			if what != Sent {
				n.lose(e.name, name)
			}
		}
	})
}

// Link plugs the network cable of name in or pulls it. The node sees that its carrier is gone.
func (l *Lab) Link(name string, up bool) error {
	return l.changeNet("link", []string{name}, func(n *Network) {
		n.Unplugged = without(n.Unplugged, name)
		if !up {
			n.Unplugged = append(n.Unplugged, name)
		}
	})
}

// Heal mends what Cut, Isolate and Link broke: without a name everything, with one what concerns it,
// its link too, with two what is lost between them.
func (l *Lab) Heal(names ...string) error {
	if len(names) > 2 {
		return control.Usagef("heal takes no node, one, or two")
	}
	return l.changeNet("heal", names, func(n *Network) {
		n.Lost = slices.DeleteFunc(n.Lost, func(x Loss) bool {
			for _, name := range names {
				if x.From != name && x.To != name {
					return false
				}
			}
			return true
		})
		switch len(names) {
		case 0:
			n.Unplugged = nil
		case 1:
			n.Unplugged = without(n.Unplugged, names[0])
		}
	})
}

// lose notes that packets from a to b are lost.
func (n *Network) lose(a, b string) {
	if x := (Loss{a, b}); !slices.Contains(n.Lost, x) {
		n.Lost = append(n.Lost, x)
	}
}

func without(list []string, name string) []string {
	return slices.DeleteFunc(list, func(s string) bool { return s == name })
}

// changeNet changes what is broken and makes it so. It is written down first: what a command that
// was interrupted left undone, the next one does.
func (l *Lab) changeNet(what string, names []string, change func(n *Network)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, err := l.lock()
	if err != nil {
		return err
	}
	defer f.Close()
	if err := l.requireNet(what); err != nil {
		return err
	}
	for _, name := range names {
		if err := l.requireEnd(name); err != nil {
			return err
		}
	}
	change(l.state.Net)
	if err := writeState(&l.state); err != nil {
		return err
	}
	sw, err := routesOf(l.state.Net.ns(switchName))
	if err != nil {
		return err
	}
	defer sw.Close()
	return l.applyFaults(sw)
}

// requireEnd is the error for a name that is neither a node's nor the client's.
func (l *Lab) requireEnd(name string) error {
	if name == clientName {
		return nil
	}
	_, err := l.node(name)
	return err
}

// applyFaults breaks what shall be broken and nothing else.
func (l *Lab) applyFaults(sw *netlink.Handle) error {
	n := l.state.Net
	for _, e := range l.endpoints() {
		if slices.Contains(n.Off, e.name) {
			continue // it has no link; it gets its faults when it is started
		}
		port, err := sw.LinkByName(e.name)
		if err != nil {
			return fmt.Errorf("network of the lab: port of %s: %w", e.name, err)
		}
		set := sw.LinkSetUp
		if slices.Contains(n.Unplugged, e.name) {
			set = sw.LinkSetDown
		}
		if err := set(port); err != nil {
			return fmt.Errorf("network of the lab: port of %s: %w", e.name, err)
		}
		if err := l.applyLosses(e); err != nil {
			return fmt.Errorf("network of the lab: what %s sends: %w", e.name, err)
		}
	}
	return nil
}

// applyLosses makes those unreachable, and only those, whom nothing of e shall reach.
func (l *Lab) applyLosses(e endpoint) error {
	n := l.state.Net
	h, err := routesOf(n.ns(e.name))
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(linkName)
	if err != nil {
		return err
	}
	known, err := h.NeighList(link.Attrs().Index, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, to := range l.endpoints() {
		lost := slices.Contains(n.Lost, Loss{e.name, to.name})
		i := slices.IndexFunc(known, func(k netlink.Neigh) bool {
			return k.IP.Equal(n.ip(to.host)) && bytes.Equal(k.HardwareAddr, n.nowhere())
		})
		if lost == (i >= 0) {
			continue
		}
		entry := &netlink.Neigh{
			LinkIndex: link.Attrs().Index, Family: netlink.FAMILY_V4, State: netlink.NUD_PERMANENT,
			IP: n.ip(to.host), HardwareAddr: n.nowhere(),
		}
		set := h.NeighSet
		if !lost {
			set = h.NeighDel // ARP finds the true address again
		}
		if err := set(entry); err != nil {
			return fmt.Errorf("to %s: %w", to.name, err)
		}
	}
	return nil
}

// KillHost takes a node away as a power failure would: first its link goes, then the process. No
// peer gets a FIN or a reset, neither now nor when the node is started again, as that gives it a new
// namespace that knows nothing of its old connections. What the node had written and not synced is
// not lost: the page cache is the machine's. Only the simulator loses that.
func (l *Lab) KillHost(ctx context.Context, name string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, err := l.lock()
	if err != nil {
		return err
	}
	defer f.Close()
	node, err := l.node(name)
	if err != nil {
		return err
	}
	if err := l.requireNet("kill --host"); err != nil {
		return err
	}
	n := l.state.Net
	n.Off = append(without(n.Off, name), name)
	if err := writeState(&l.state); err != nil {
		return err
	}
	sw, err := routesOf(n.ns(switchName))
	if err != nil {
		return err
	}
	defer sw.Close()
	if err := unplug(sw, name); err != nil {
		return fmt.Errorf("network of the lab: unplug %s: %w", name, err)
	}
	if err := l.kill(ctx, node, syscall.SIGKILL); ignoreGone(err) != nil {
		return err
	}
	return removeNS(n.ns(name))
}

// Pause stops a node's process and returns when it stands still. Its connections stay, and its
// kernel goes on acknowledging what arrives.
func (l *Lab) Pause(ctx context.Context, name string) error {
	if err := l.Kill(ctx, name, syscall.SIGSTOP); err != nil {
		return err
	}
	n, err := l.Node(name)
	if err != nil {
		return err
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		state, err := processState(n.PID)
		if err != nil {
			return fmt.Errorf("pause node %s: %w", name, err)
		}
		if state == stateStopped {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("pause node %s: %w", name, ctx.Err())
		case <-tick.C:
		}
	}
}

// Resume lets a paused node go on.
func (l *Lab) Resume(ctx context.Context, name string) error {
	return l.Kill(ctx, name, syscall.SIGCONT)
}

// PauseFor pauses a node for d. When ctx ends before, the node goes on at once.
func (l *Lab) PauseFor(ctx context.Context, name string, d time.Duration) error {
	if err := l.Pause(ctx, name); err != nil {
		return err
	}
	end := time.NewTimer(d)
	defer end.Stop()
	var early error
	select {
	case <-end.C:
	case <-ctx.Done():
		early = fmt.Errorf("node %s goes on early: %w", name, ctx.Err())
	}
	return errors.Join(early, l.Resume(context.WithoutCancel(ctx), name))
}
