package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/lockstep-ha/lockstep/internal/config"
)

// maxSocketPath is the longest path of a unix socket, in bytes.
const maxSocketPath = 107

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
		file, node, err := l.place(name, i >= opts.DataNodes, held)
		if err != nil {
			return err
		}
		file.Key = key
		files = append(files, file)
		l.state.Nodes = append(l.state.Nodes, node)
		peers = append(peers, config.Peer{Name: name, Addr: file.Listen, Gossip: file.GossipListen, Witness: file.Witness})
	}
	for i := range files {
		file := &files[i]
		file.Nodes = peers
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
	return writeState(&l.state)
}

// place decides where everything of one node is.
func (l *Lab) place(name string, witness bool, held *ports) (config.Node, Node, error) {
	dir := filepath.Join(l.state.Dir, name)
	file := config.DefaultNode()
	file.Name, file.Cluster, file.Witness = name, "lab", witness
	file.DataDir = filepath.Join(dir, "data")
	file.ControlSocket, file.NBDUnix = l.sockets(name)
	var err error
	if file.Listen, err = held.tcp(); err != nil {
		return file, Node{}, err
	}
	if file.GossipListen, err = held.both(); err != nil {
		return file, Node{}, err
	}
	node := Node{
		Name: name, Witness: witness,
		Config:        filepath.Join(dir, "node.toml"),
		Log:           filepath.Join(dir, "log"),
		ControlSocket: file.ControlSocket, Listen: file.Listen, Gossip: file.GossipListen,
	}
	if !witness {
		if file.NBDListen, err = held.tcp(); err != nil {
			return file, Node{}, err
		}
		node.NBDUnixURI = unixURI(l.state.Resource, file.NBDUnix)
		node.NBDTCPURI = "nbd://" + file.NBDListen + "/" + l.state.Resource
		node.DataPath = filepath.Join(dir, l.state.Resource+".img")
		node.MetaPath = filepath.Join(dir, l.state.Resource+".meta")
	}
	return file, node, nil
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
