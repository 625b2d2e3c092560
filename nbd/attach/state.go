package attach

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lockstep-ha/lockstep/nbd"
)

// DefaultDir is where relays keep their state. It is gone after a boot of the host, and so are devices.
const DefaultDir = "/run/lockstep/attach"

// Spec is what an operator asks for.
type Spec struct {
	Resource    string        `json:"resource"`
	Device      string        `json:"device"` // /dev/nbdX
	Connections int           `json:"connections"`
	ReadOnly    bool          `json:"read_only"`
	Shared      bool          `json:"shared"`
	Servers     []string      `json:"servers,omitempty"` // none: the local node is asked
	Socket      string        `json:"socket,omitempty"`  // control socket of the local node
	TLSDir      string        `json:"tls_dir,omitempty"`
	Deadline    time.Duration `json:"deadline_ns"`          // 0: never
	BlockSize   uint32        `json:"block_size,omitempty"` // bytes; 0: the export's
	Holder      string        `json:"holder,omitempty"`     // who holds it, for people; "": this host
	Wait        time.Duration `json:"wait_ns,omitempty"`    // for a primary, at first; 0: for ever
	Dir         string        `json:"dir"`                  // of the state
}

// Limits of a Spec.
const (
	MaxConnections  = 16
	DefaultDeadline = 10 * time.Minute
)

var devicePath = regexp.MustCompile(`^/dev/nbd(0|[1-9][0-9]{0,4})$`)

// Index returns the number in /dev/nbdX.
func (s *Spec) Index() (uint32, error) {
	m := devicePath.FindStringSubmatch(s.Device)
	if m == nil {
		return 0, fmt.Errorf("%q: %w: want /dev/nbd0, or another number", s.Device, ErrNoDevice)
	}
	n, err := strconv.ParseUint(m[1], 10, 32)
	return uint32(n), err
}

// Validate lists what is wrong with s.
func (s *Spec) Validate() error {
	var faults []error
	if s.Resource == "" {
		faults = append(faults, errors.New("no resource is named"))
	}
	if _, err := s.Index(); err != nil {
		faults = append(faults, err)
	}
	if s.Connections < 1 || s.Connections > MaxConnections {
		faults = append(faults, fmt.Errorf("%d connections, want 1 to %d", s.Connections, MaxConnections))
	}
	if s.Deadline < 0 {
		faults = append(faults, fmt.Errorf("a deadline of %v", s.Deadline))
	}
	switch s.BlockSize {
	case 0, 512, 1024, 2048, 4096:
	default:
		faults = append(faults, fmt.Errorf("a block size of %d, want 512, 1024, 2048 or 4096", s.BlockSize))
	}
	if _, err := ParseServers(s.Servers); err != nil {
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

// name is what files of the device are called.
func (s *Spec) name() string { return strings.TrimPrefix(s.Device, "/dev/") }

// State is what a relay has to know to take its device up again.
type State struct {
	Version    int    `json:"version"`
	Spec       Spec   `json:"spec"`
	Key        string `json:"key"` // a secret: who has it can take the attachment over
	Boot       string `json:"boot"`
	Number     uint64 `json:"registration"`
	Size       int64  `json:"size_bytes"`
	Flags      uint16 `json:"flags"`
	Configured bool   `json:"configured"` // the kernel has the device
	Ended      string `json:"ended,omitempty"`
}

const stateVersion = 1

// newState returns the state of a device that is attached anew.
func newState(spec Spec, boot string) State {
	var k nbd.Key
	_, _ = rand.Read(k[:]) // it cannot fail
	return State{Version: stateVersion, Spec: spec, Key: hex.EncodeToString(k[:]), Boot: boot}
}

func (s *State) key() (k nbd.Key, err error) {
	b, err := hex.DecodeString(s.Key)
	if err != nil || len(b) != len(k) {
		return k, errors.New("the key in the state file does not parse")
	}
	copy(k[:], b)
	return k, nil
}

// backend identifies the device to the kernel, which shows it to everybody: it tells that the device is
// ours without telling the key.
func (s *State) backend() string {
	h := sha256.Sum256([]byte("lockstep attachment " + s.Key))
	return "lockstep:" + s.Spec.Resource + ":" + hex.EncodeToString(h[:8])
}

func statePath(dir, name string) string { return filepath.Join(dir, name+".json") }

// LoadState reads the state of a device; the error is os.ErrNotExist when there is none.
func LoadState(dir, name string) (State, error) {
	var s State
	b, err := os.ReadFile(statePath(dir, name))
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("state of %s: %w", name, err)
	}
	if s.Version != stateVersion {
		return s, fmt.Errorf("state of %s: version %d, want %d", name, s.Version, stateVersion)
	}
	return s, nil
}

// save makes the state file hold s, whole or not at all. It is on a file system in memory, and of no use
// after a crash of the host: it is not synced.
func (s *State) save() error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	path := statePath(s.Spec.Dir, s.Spec.name())
	tmp := path + ".new"
	if err := os.WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	return nil
}

// remove forgets the device.
func (s *State) remove() error { return os.Remove(statePath(s.Spec.Dir, s.Spec.name())) }

// ErrAttached means that a relay for the device runs.
var ErrAttached = errors.New("a relay for the device runs already")

// lockWait is how long a relay waits for a lock: Running holds it for a moment.
const lockWait = 200 * time.Millisecond

// lock makes this process the only one that works on a device, until it ends or the file is closed.
func lock(dir, name string) (*os.File, error) {
	for end := time.Now().Add(lockWait); ; time.Sleep(lockWait / 20) {
		f, err := tryLock(dir, name)
		if !errors.Is(err, ErrAttached) || time.Now().After(end) {
			return f, err
		}
	}
}

// Running reports whether a relay works on a device. One that has made none yet does not answer Query.
func Running(dir, device string) (bool, error) {
	f, err := tryLock(dir, filepath.Base(device))
	if errors.Is(err, ErrAttached) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return false, f.Close()
}

func tryLock(dir, name string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, name+".lock"), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("/dev/%s: %w", name, ErrAttached)
		}
		return nil, err
	}
	return f, nil
}

// bootID names the present boot of this host.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}
