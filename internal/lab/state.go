package lab

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/lockstep-ha/lockstep/internal/config"
)

// State is what lab.json holds.
type State struct {
	Dir        string   `json:"dir"` // absolute
	Resource   string   `json:"resource"`
	SizeBytes  int64    `json:"size_bytes"`
	Command    []string `json:"command"`               // how a node is started, less --config FILE
	RuntimeDir string   `json:"runtime_dir,omitempty"` // of the sockets, where Dir is too long
	BootID     string   `json:"boot_id"`               // in which the processes were started
	Nodes      []Node   `json:"nodes"`
	Net        *Network `json:"net,omitempty"` // nil: the loopback interface
	TLS        bool     `json:"tls,omitempty"` // formed with certificates; see formed.go
}

// Node is one process of a lab and where to reach it.
type Node struct {
	Name      string `json:"name"`
	Witness   bool   `json:"witness"`
	PID       int    `json:"pid"`        // 0: not running, or ended by Kill or Down
	StartTime uint64 `json:"start_time"` // of the process, in clock ticks since boot
	// Boots is how often it was turned off; its processes then belong to another boot. See fence.go.
	Boots         int    `json:"boots,omitempty"`
	Config        string `json:"config"`
	Log           string `json:"log"`
	ControlSocket string `json:"control_socket"`
	Listen        string `json:"listen"`
	Gossip        string `json:"gossip"`
	Namespace     string `json:"namespace,omitempty"` // empty: the machine's own
	// The rest is empty for a witness.
	NBDUnixURI string `json:"nbd_unix_uri,omitempty"` // nbd+unix:///r0?socket=...
	NBDTCPURI  string `json:"nbd_tcp_uri,omitempty"`  // nbd://127.0.0.1:port/r0; with TLS nbds, and where a client's certificate is
	NBDListen  string `json:"nbd_listen,omitempty"`
	DataPath   string `json:"data_path,omitempty"`
	MetaPath   string `json:"meta_path,omitempty"`
}

// ErrNoLab means that a directory holds no lab.
var ErrNoLab = errors.New("there is no lab here")

const stateFile = "lab.json"

func readState(dir string) (State, error) {
	var st State
	b, err := os.ReadFile(filepath.Join(dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return st, fmt.Errorf("%s: %w", dir, ErrNoLab)
	}
	if err != nil {
		return st, fmt.Errorf("read lab: %w", err)
	}
	return parseState(dir, b)
}

// parseState decodes lab.json and checks what would be dangerous if it were wrong.
func parseState(dir string, b []byte) (State, error) {
	var st State
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&st); err != nil {
		return State{}, fmt.Errorf("lab in %s: %s does not parse: %w", dir, stateFile, err)
	}
	if len(st.Nodes) == 0 || len(st.Command) == 0 {
		return State{}, fmt.Errorf("lab in %s: %s names no nodes or no command", dir, stateFile)
	}
	for _, n := range st.Nodes {
		if err := config.CheckName("node", n.Name); err != nil {
			return State{}, fmt.Errorf("lab in %s: %w", dir, err)
		}
		if n.PID < 0 || n.PID == 1 {
			return State{}, fmt.Errorf("lab in %s: node %s has process id %d", dir, n.Name, n.PID)
		}
		ns := ""
		if st.Net != nil {
			ns = st.Net.ns(n.Name)
		}
		if n.Namespace != ns {
			return State{}, fmt.Errorf("lab in %s: node %s has namespace %q, not %q", dir, n.Name, n.Namespace, ns)
		}
	}
	if st.Net != nil && (st.Net.ID < 1 || st.Net.ID > netNumbers || st.Net.Owner == "") {
		return State{}, fmt.Errorf("lab in %s: network %d of owner %q", dir, st.Net.ID, st.Net.Owner)
	}
	return st, nil
}

// writeState replaces lab.json whole.
func writeState(st *State) error {
	b, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return fmt.Errorf("write lab: %w", err)
	}
	path := filepath.Join(st.Dir, stateFile)
	if err := os.WriteFile(path+".new", append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write lab: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write lab: %w", err)
	}
	return nil
}

// errBusy means that another process holds the lab's lock.
var errBusy = errors.New("another lab command is at work")

// lockFile is a lock that is held.
type lockFile struct{ *os.File }

// Close gives the lock back. To close the file is not enough: a process that another goroutine is just
// starting has a copy of the descriptor until it runs its own program.
func (f lockFile) Close() error {
	return errors.Join(unix.Flock(int(f.Fd()), unix.LOCK_UN), f.File.Close())
}

// lock takes the lab's lock; Close gives it back.
func lock(dir string) (io.Closer, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lab.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock lab: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lab in %s: %w", dir, errBusy)
		}
		return nil, fmt.Errorf("lock lab: %w", err)
	}
	return lockFile{f}, nil
}

// unixURI is the NBD URI of an export on a unix socket.
func unixURI(export, socket string) string {
	return "nbd+unix:///" + export + "?socket=" + (&url.URL{Path: socket}).EscapedPath()
}
