package ledger

import (
	"bufio"
	"context"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"
)

// maxRelays is how many other nodes get a copy of a frame that cannot go directly.
const maxRelays = 2

// mesh carries frames between voters: directly where it can, through others where it must.
type mesh struct {
	self string // node name
	dial func(ctx context.Context, addr, node string) (net.Conn, error)
	ping time.Duration
	log  *slog.Logger

	// deliver takes a frame for this node; it must not block. answer answers an ask.
	deliver func(peer string, f frame)
	answer  func(ctx context.Context, peer string, ask []byte) ([]byte, error)
	voter   uint64 // of this node

	wg sync.WaitGroup // running links

	mu    sync.Mutex
	ctx   context.Context // of Run: links run under it. Kept only because links come and go
	links map[string]*link
	names []string          // of links, sorted
	nodes map[uint64]string // voter id -> node name, from the state and from what was heard
}

// start lets the mesh run links until ctx ends.
func (m *mesh) start(ctx context.Context) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ctx = ctx
}

// connect makes the links be exactly those to addrs, node name to address.
func (m *mesh) connect(addrs map[string]string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, l := range m.links {
		if addrs[name] != l.addr {
			l.stop()
			delete(m.links, name)
		}
	}
	for name, addr := range addrs {
		if name == m.self || m.links[name] != nil {
			continue
		}
		l := newLink(name, addr, m.ping, m.dial)
		ctx, stop := context.WithCancel(m.ctx)
		l.stop = stop
		m.links[name] = l
		m.wg.Go(func() { defer stop(); l.run(ctx) })
	}
	m.names = m.names[:0]
	for name := range m.links {
		m.names = append(m.names, name)
	}
	slices.Sort(m.names)
}

// learn notes that voter is on node. What the replicated state says (sure) wins over what a
// connection said.
func (m *mesh) learn(voter uint64, node string, sure bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.nodes[voter]; sure || !known && len(m.nodes) < 1024 {
		m.nodes[voter] = node
	}
}

// up reports whether the direct link to node works.
func (m *mesh) up(node string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.links[node]
	return l != nil && l.up()
}

// upVoter is up for the node of a voter.
func (m *mesh) upVoter(voter uint64) bool {
	m.mu.Lock()
	node := m.nodes[voter]
	m.mu.Unlock()
	return m.up(node)
}

// send sends a frame of this node to a voter, and returns how many copies were handed to links.
// 0 means that certainly nothing was sent. With everyWay, it goes through others even if the
// direct link seems to work.
func (m *mesh) send(to uint64, f []byte, everyWay bool) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	node, known := m.nodes[to]
	copies := 0
	if direct := m.links[node]; direct != nil {
		healthy := direct.up()
		if direct.send(f) {
			copies++
			if healthy && !everyWay {
				return copies
			}
		}
	}
	if !known {
		return copies
	}
	relays := 0
	for _, name := range m.names {
		if l := m.links[name]; name != node && relays < maxRelays && l.up() && l.send(f) {
			relays++
		}
	}
	return copies + relays
}

// pass sends on a frame that another node could not send directly. It makes one hop only.
func (m *mesh) pass(f frame) {
	e := f.envelope()
	if e.hops != 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if l := m.links[m.nodes[e.to]]; l != nil && l.up() {
		l.send(f.passedOn())
	}
}

// serve handles one accepted connection until it fails or ctx ends.
func (m *mesh) serve(ctx context.Context, conn net.Conn, peer string) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	r := bufio.NewReaderSize(conn, 16<<10)
	for {
		f, err := readFrame(r)
		if err != nil {
			m.log.Debug("ledger connection ended", "peer", peer, "error", err)
			return
		}
		if err := m.receive(ctx, conn, peer, f); err != nil {
			m.log.Debug("ledger connection ended", "peer", peer, "error", err)
			return
		}
	}
}

func (m *mesh) receive(ctx context.Context, conn net.Conn, peer string, f frame) error {
	if f.addressed() {
		e := f.envelope()
		if e.hops == 0 {
			m.learn(e.from, peer, false)
		}
		if e.to == m.voter {
			m.deliver(peer, f)
		} else {
			m.pass(f)
		}
		return nil
	}
	var reply []byte
	switch f.kind {
	case framePing:
		reply = pingFrame(framePong, f.body)
	case frameAsk:
		b, err := m.answer(ctx, peer, f.body)
		if err != nil {
			return err
		}
		reply = seal(append(appendFrame(nil, frameAnswer), b...))
	default:
		return errFrame
	}
	if err := conn.SetWriteDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return err
	}
	_, err := conn.Write(reply)
	return err
}
