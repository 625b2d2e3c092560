package lab

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/lockstep-ha/lockstep/internal/config"
)

// maxSocketPath is the longest path of a unix socket, in bytes.
const maxSocketPath = 107

// claimAndLayout is layout for a lab that may need a network. The claims are locked until lab.json
// stands, as a claim without one is taken for a leftover.
func (l *Lab) claimAndLayout(opts Options, held *ports) error {
	if !opts.Netns {
		return l.layout(opts, held)
	}
	boot, err := bootID()
	if err != nil {
		return err
	}
	release, err := lockClaims()
	if err != nil {
		return err
	}
	defer release()
	l.state.Net = &Network{Owner: rand.Text()}
	if err := l.claimAny(boot); err != nil {
		return err
	}
	if err := l.layout(opts, held); err != nil {
		return errors.Join(err, os.Remove(claimPath(l.state.Net.ID)))
	}
	return nil
}

// layout makes the directories and files of a new lab, on ports that held keeps.
func (l *Lab) layout(opts Options, held *ports) error {
	names := make([]string, 0, opts.DataNodes+1)
	for i := range opts.DataNodes {
		names = append(names, fmt.Sprintf("n%d", i+1))
	}
	if opts.Witness {
		names = append(names, "w")
	}
	if err := l.chooseRuntimeDir(names); err != nil {
		return err
	}
	key := config.NewKey()
	files := make([]config.Node, 0, len(names))
	var peers []config.Peer
	for i, name := range names {
		at, err := l.addresses(i, held)
		if err != nil {
			return err
		}
		file, node := l.place(name, i >= opts.DataNodes, at)
		file.Key = key
		files = append(files, file)
		l.state.Nodes = append(l.state.Nodes, node)
		peers = append(peers, config.Peer{Name: name, Addr: file.Listen, Gossip: file.GossipListen, Witness: file.Witness})
	}
	for i := range files {
		if err := os.MkdirAll(filepath.Join(l.state.Dir, names[i]), 0o700); err != nil {
			return fmt.Errorf("make lab: %w", err)
		}
		if opts.TLS {
			continue // the commands that form it make the files, and the data directories
		}
		file := &files[i]
		file.Nodes = peers
		if opts.Fence {
			l.addFence(file)
		}
		if opts.Configure != nil {
			opts.Configure(file)
		}
		if err := file.Validate(); err != nil {
			return fmt.Errorf("node %s: %w", file.Name, err)
		}
		if err := os.MkdirAll(file.DataDir, 0o700); err != nil {
			return fmt.Errorf("make lab: %w", err)
		}
		if err := os.WriteFile(l.state.Nodes[i].Config, file.Encode(), 0o600); err != nil {
			return fmt.Errorf("make lab: %w", err)
		}
	}
	if opts.Fence {
		if err := l.writeFence(); err != nil {
			return err
		}
	}
	return writeState(&l.state)
}

// addresses are where a node listens.
type addresses struct{ listen, gossip, nbd string }

// addresses chooses those of the node with an index: ports that held keeps, or the usual ports of an
// address of its own.
func (l *Lab) addresses(index int, held *ports) (a addresses, err error) {
	if n := l.state.Net; n != nil {
		ip := n.ip(hostOf(index)).String()
		at := func(port int) string { return net.JoinHostPort(ip, strconv.Itoa(port)) }
		return addresses{at(netPort), at(gossipPort), at(nbdPort)}, nil
	}
	if a.listen, err = held.tcp(); err != nil {
		return a, err
	}
	if a.gossip, err = held.both(); err != nil {
		return a, err
	}
	a.nbd, err = held.tcp()
	return a, err
}

// place decides where everything of one node is.
func (l *Lab) place(name string, witness bool, at addresses) (config.Node, Node) {
	dir := filepath.Join(l.state.Dir, name)
	file := config.DefaultNode()
	file.Name, file.Cluster, file.Witness = name, "lab", witness
	file.DataDir = filepath.Join(dir, "data")
	file.ControlSocket, file.NBDUnix = l.sockets(name)
	file.Listen, file.GossipListen = at.listen, at.gossip
	file.Memory = config.Memory{} // several daemons on one host, whose file systems lie elsewhere
	node := Node{
		Name: name, Witness: witness,
		Config:        filepath.Join(dir, "node.toml"),
		Log:           filepath.Join(dir, "log"),
		ControlSocket: file.ControlSocket, Listen: file.Listen, Gossip: file.GossipListen,
	}
	if l.state.Net != nil {
		node.Namespace = l.state.Net.ns(name)
		file.AllowNetwork = true // nobody is on that network but the lab
	}
	if !witness {
		file.NBDListen = at.nbd
		node.NBDUnixURI = unixURI(l.state.Resource, file.NBDUnix)
		node.NBDListen = file.NBDListen
		node.NBDTCPURI = "nbd://" + file.NBDListen + "/" + l.state.Resource
		if l.state.TLS {
			node.NBDTCPURI = "nbds://" + file.NBDListen + "/" + l.state.Resource + "?tls-certificates=" + l.clientDir()
		}
		node.DataPath = filepath.Join(dir, l.state.Resource+".img")
		node.MetaPath = filepath.Join(dir, l.state.Resource+".meta")
	}
	return file, node
}

// sockets returns the paths of a node's control socket and NBD socket.
func (l *Lab) sockets(name string) (ctl, nbd string) {
	dir := l.state.Dir
	if l.state.RuntimeDir != "" {
		dir = l.state.RuntimeDir
	}
	return filepath.Join(dir, name, "control.sock"), filepath.Join(dir, name, "nbd.sock")
}

// runtimePrefix begins the name of every directory that is made for sockets.
const runtimePrefix = "lockstep-lab-"

// chooseRuntimeDir makes a directory for the sockets where the lab's own is too long.
func (l *Lab) chooseRuntimeDir(names []string) error {
	if l.longestSocket(names) <= maxSocketPath {
		return nil
	}
	dir, err := os.MkdirTemp("", runtimePrefix)
	if err != nil {
		return fmt.Errorf("make lab: %w", err)
	}
	l.state.RuntimeDir = dir
	if n := l.longestSocket(names); n > maxSocketPath {
		os.Remove(dir)
		return fmt.Errorf("make lab: a socket in %s would have a path of %d bytes, at most %d are possible; choose a shorter --dir or TMPDIR", dir, n, maxSocketPath)
	}
	return l.makeRuntimeDir(names)
}

// longestSocket returns the length of the longest path of a socket, in bytes.
func (l *Lab) longestSocket(names []string) int {
	longest := 0
	for _, name := range names {
		ctl, nbd := l.sockets(name)
		longest = max(longest, len(ctl), len(nbd))
	}
	return longest
}

// makeRuntimeDir makes the directories of the sockets, if there is a directory for them. The place
// is open to other users, so what is there already must be ours alone.
func (l *Lab) makeRuntimeDir(names []string) error {
	dir := l.state.RuntimeDir
	if dir == "" {
		return nil
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make lab: %w", err)
	}
	st, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("make lab: %w", err)
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !st.IsDir() || st.Mode().Perm() != 0o700 || !ok || int(sys.Uid) != os.Geteuid() {
		return fmt.Errorf("make lab: %s is not a directory of mode 0700 that belongs to this user", dir)
	}
	for _, name := range names {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make lab: %w", err)
		}
	}
	return nil
}

// removeRuntimeDir removes what makeRuntimeDir made.
func (l *Lab) removeRuntimeDir() error {
	dir := l.state.RuntimeDir
	if dir == "" || !strings.HasPrefix(filepath.Base(dir), runtimePrefix) {
		return nil
	}
	return os.RemoveAll(dir)
}
