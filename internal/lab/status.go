package lab

import (
	"errors"
	"fmt"
	"slices"
)

// Status is what of a lab runs and what is broken.
type Status struct {
	Dir     string       `json:"dir"`
	Network string       `json:"network"` // 10.x.0.0/24, or loopback
	Nodes   []NodeStatus `json:"nodes"`
	Lost    []Loss       `json:"lost"` // in order of their being cut
}

// NodeStatus is one node of Status, or the client of a lab with namespaces, which has no process.
type NodeStatus struct {
	Name    string  `json:"name"`
	Addr    string  `json:"addr,omitempty"` // in a lab with namespaces
	Process Process `json:"process,omitempty"`
	PID     int     `json:"pid,omitempty"`
	Link    Link    `json:"link,omitempty"` // in a lab with namespaces
}

// Process is what a node's process does.
type Process string

// The values of Process.
const (
	ProcessRunning Process = "running"
	ProcessPaused  Process = "paused"
	ProcessStopped Process = "stopped" // there is none
)

// Link is how an endpoint hangs on the network.
type Link string

// The values of Link.
const (
	LinkUp   Link = "up"
	LinkDown Link = "down"
	LinkOff  Link = "off" // the host is off, or the whole lab is down
)

// Status looks at the lab as it is now, whoever changed it.
func (l *Lab) Status() (Status, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	st, err := readState(l.state.Dir)
	if err != nil {
		return Status{}, err
	}
	l.state = st
	out := Status{Dir: st.Dir, Network: "loopback", Lost: []Loss{}}
	for i := range st.Nodes {
		n := NodeStatus{Name: st.Nodes[i].Name}
		if n.Process, err = l.process(&st.Nodes[i]); err != nil {
			return Status{}, err
		}
		if n.Process != ProcessStopped {
			n.PID = st.Nodes[i].PID
		}
		out.Nodes = append(out.Nodes, n)
	}
	if st.Net == nil {
		return out, nil
	}
	out.Network = fmt.Sprintf("10.%d.0.0/24", st.Net.ID)
	out.Lost = append(out.Lost, st.Net.Lost...)
	out.Nodes = append(out.Nodes, NodeStatus{Name: clientName})
	for i, e := range l.endpoints() {
		n := &out.Nodes[i]
		n.Addr = st.Net.ip(e.host).String()
		if n.Link, err = l.link(e.name); err != nil {
			return Status{}, err
		}
	}
	return out, nil
}

// process tells what n's process does. Caller holds mu.
func (l *Lab) process(n *Node) (Process, error) {
	p, err := l.open(n)
	if errors.Is(err, errGone) {
		return ProcessStopped, nil
	}
	if err != nil {
		return "", err
	}
	defer p.close()
	state, err := processState(n.PID)
	switch {
	case err != nil:
		return ProcessStopped, nil // it ended meanwhile
	case state == stateStopped:
		return ProcessPaused, nil
	}
	return ProcessRunning, nil
}

// link tells how an endpoint hangs on the network. Caller holds mu.
func (l *Lab) link(name string) (Link, error) {
	owns, err := l.ownsNet()
	if err != nil {
		return "", err
	}
	have := false
	if owns {
		if have, err = nsExists(l.state.Net.ns(name)); err != nil {
			return "", err
		}
	}
	switch {
	case !have:
		return LinkOff, nil
	case slices.Contains(l.state.Net.Unplugged, name):
		return LinkDown, nil
	}
	return LinkUp, nil
}
