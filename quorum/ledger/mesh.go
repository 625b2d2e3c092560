package ledger

import (
	"bufio"
	"context"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/lockstep-ha/lockstep/quorum/voter"
)

// mesh keeps a link to each other node and carries frames over them. Which way a frame goes is
// the Router's business; the mesh is the lock around it, and its Links.
type mesh struct {
	self string // node name
	dial func(ctx context.Context, addr, node string) (net.Conn, error)
	ping time.Duration
	log  *slog.Logger

	// deliver takes a frame for this node; it must not block. answer answers an ask.
	deliver func(peer string, f voter.Frame)
	answer  func(ctx context.Context, peer string, ask []byte) ([]byte, error)
	// noted takes a note; lost hears that a connection with peer ended. Neither may block.
	noted func(peer string, body []byte)
	lost  func(peer string)

	wg sync.WaitGroup // running links

	mu     sync.Mutex
	ctx    context.Context // of Run: links run under it. Kept only because links come and go
	links  map[string]*link
	names  []string // of links, sorted
	router *voter.Router
	heard  map[string]time.Time // when the node last sent anything; absent since a connection with it ended
}

var _ voter.Net = (*mesh)(nil)

// start lets the mesh run links until ctx ends.
func (m *mesh) start(ctx context.Context) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ctx = ctx
}

// connect makes the links be exactly those to addrs, node name to address. Before start it does
// nothing.
func (m *mesh) connect(addrs map[string]string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx == nil {
		return
	}
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
		l.heard, l.lost = func() { m.hear(name) }, func() { m.lose(name) }
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

// hear notes that something came from node.
func (m *mesh) hear(node string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heard[node] = time.Now()
}

// lose forgets when node was heard: a connection that ended says more than silence does. A node that
// lives is heard again within a ping, over the other connection.
func (m *mesh) lose(node string) {
	m.mu.Lock()
	delete(m.heard, node)
	m.mu.Unlock()
	m.lost(node)
}

// sinceHeard returns how long ago node was heard; below 0: not since a connection with it ended.
func (m *mesh) sinceHeard(node string) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at, ok := m.heard[node]; ok {
		return time.Since(at)
	}
	return -1
}

// Learn, Up, Send and SendNode make the mesh a voter.Net.

// Learn notes that voter is on node.
func (m *mesh) Learn(voter uint64, node string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.router.Learn(voter, node)
}

// Up reports whether the direct link to node works.
func (m *mesh) Up(node string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.router.Up(node)
}

// Send sends a frame of this node to a voter; see voter.Net.
func (m *mesh) Send(to uint64, f []byte, everyWay bool) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.router.Send(to, f, everyWay)
}

// SendNode sends a frame to a node, directly.
func (m *mesh) SendNode(node string, f []byte) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.router.SendNode(node, f)
}

// meshLinks is the mesh as the Router sees it, which is called with the lock held.
type meshLinks struct{ m *mesh }

func (l meshLinks) Names() []string { return l.m.names }

func (l meshLinks) Up(node string) bool {
	k := l.m.links[node]
	return k != nil && k.up()
}

func (l meshLinks) Send(node string, f []byte) bool {
	k := l.m.links[node]
	return k != nil && k.send(f)
}

// serve handles one accepted connection until it fails or ctx ends.
func (m *mesh) serve(ctx context.Context, conn net.Conn, peer string) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	m.mu.Lock()
	if back := m.links[peer]; back != nil {
		back.reachable()
	}
	m.mu.Unlock()
	r := bufio.NewReaderSize(conn, 16<<10)
	for {
		f, err := voter.ReadFrame(r)
		if err == nil {
			err = m.receive(ctx, conn, peer, f)
		}
		if err != nil {
			m.log.Debug("ledger connection ended", "peer", peer, "error", err)
			m.lose(peer)
			return
		}
	}
}

func (m *mesh) receive(ctx context.Context, conn net.Conn, peer string, f voter.Frame) error {
	m.hear(peer)
	if f.Addressed() {
		m.mu.Lock()
		mine := m.router.Arrived(peer, f)
		m.mu.Unlock()
		if mine {
			m.deliver(peer, f)
		}
		return nil
	}
	var reply []byte
	switch f.Kind {
	case voter.FrameNote:
		m.noted(peer, f.Body)
		return nil
	case voter.FramePing:
		reply = voter.NewFrame(voter.FramePong, f.Body)
	case voter.FrameAsk:
		b, err := m.answer(ctx, peer, f.Body)
		if err != nil {
			return err
		}
		reply = voter.NewFrame(voter.FrameAnswer, b)
	default:
		return voter.ErrFrame
	}
	if err := conn.SetWriteDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return err
	}
	_, err := conn.Write(reply)
	return err
}
