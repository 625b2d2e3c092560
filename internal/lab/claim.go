package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lockstep-ha/lockstep/internal/control"
)

// A lab with namespaces claims a number from 1 to 254, the x of its network 10.x.0.0/24 and of the
// names of its namespaces, with a file. What bears that number belongs to whom the file names and is
// touched by nobody else. The files lie in a place that a reboot empties, as it does away with the
// namespaces; where it does not, the boot id tells.
//
//	/run/lockstep-lab/lock   held while files are looked at and written
//	/run/lockstep-lab/7      claim, JSON
const claimDir = "/run/lockstep-lab"

// netNumbers is how many networks there are, numbered from 1.
const netNumbers = 254

// claim says whose a number is.
type claim struct {
	Owner string `json:"owner"` // of Network
	Dir   string `json:"dir"`   // of the lab
	Boot  string `json:"boot"`
}

func claimPath(id int) string { return filepath.Join(claimDir, strconv.Itoa(id)) }

// lockClaims waits for the lock of all claims and returns what gives it back. It is held for
// milliseconds only, and the kernel gives it back for a holder that dies.
func lockClaims() (release func(), err error) {
	if err := os.MkdirAll(claimDir, 0o755); err != nil {
		return nil, fmt.Errorf("claim a network: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(claimDir, "lock"), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("claim a network: %w", err)
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err == nil {
			return func() { lockFile{f}.Close() }, nil
		}
		if !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("claim a network: %w", err)
		}
	}
}

// readClaim returns the claim of a number. ok is false where there is none.
func readClaim(id int) (c claim, ok bool, err error) {
	b, err := os.ReadFile(claimPath(id))
	if errors.Is(err, fs.ErrNotExist) {
		return claim{}, false, nil
	}
	if err != nil {
		return claim{}, false, fmt.Errorf("read claim: %w", err)
	}
	if err := json.Unmarshal(b, &c); err != nil || c.Owner == "" {
		return claim{}, false, fmt.Errorf("read claim: %s does not parse", claimPath(id))
	}
	return c, true, nil
}

// writeClaim claims a number. Caller holds the lock.
func writeClaim(id int, c claim) error {
	b, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("claim a network: %w", err)
	}
	next := filepath.Join(claimDir, "new")
	if err := os.WriteFile(next, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("claim a network: %w", err)
	}
	if err := os.Rename(next, claimPath(id)); err != nil {
		return fmt.Errorf("claim a network: %w", err)
	}
	return nil
}

// claimAny gives the lab a network that nobody has. The number follows from the directory, so that
// a lab that is made again has its old addresses, unless they are taken. Caller holds the lock.
func (l *Lab) claimAny(boot string) error {
	l.sweep(boot)
	h := fnv.New32a()
	h.Write([]byte(l.state.Dir))
	first := int(h.Sum32() % netNumbers)
	for i := range netNumbers {
		id := 1 + (first+i)%netNumbers
		free, err := numberFree(id)
		if err != nil {
			return err
		}
		if free {
			l.state.Net.ID = id
			return writeClaim(id, claim{Owner: l.state.Net.Owner, Dir: l.state.Dir, Boot: boot})
		}
	}
	return control.Errorf(control.CodeFailed, "all %d networks for labs are in use", netNumbers).WithHint("ls %s; ip netns list", claimDir)
}

// claimAgain makes sure that the lab's network is its own. Caller does not hold the lock.
func (l *Lab) claimAgain() error {
	boot, err := bootID()
	if err != nil {
		return err
	}
	release, err := lockClaims()
	if err != nil {
		return err
	}
	defer release()
	id := l.state.Net.ID
	want := claim{Owner: l.state.Net.Owner, Dir: l.state.Dir, Boot: boot}
	c, ok, err := readClaim(id)
	if err != nil || ok && c == want {
		return err
	}
	if ok && c.Owner != want.Owner {
		l.sweep(boot)
		if c, ok, err = readClaim(id); err != nil {
			return err
		}
	}
	if ok && c.Owner != want.Owner {
		return control.Errorf(control.CodeExists, "network 10.%d.0.0/24, which this lab has its addresses in, is in use by the lab in %s", id, c.Dir).
			WithHint("lockstep lab down --dir %s", c.Dir)
	}
	return writeClaim(id, want)
}

// ownsNet reports whether the lab's claim stands, in this boot.
func (l *Lab) ownsNet() (bool, error) {
	boot, err := bootID()
	if err != nil {
		return false, err
	}
	c, ok, err := readClaim(l.state.Net.ID)
	return ok && c.Owner == l.state.Net.Owner && c.Boot == boot, err
}

// sweep removes what labs left behind that are no more: their lab.json is gone or another's. It
// ends no process; where one still runs it says so and leaves all as it is. Caller holds the lock.
func (l *Lab) sweep(boot string) {
	for id := 1; id <= netNumbers; id++ {
		c, ok, err := readClaim(id)
		if err != nil {
			l.logf("%v", err)
		}
		if !ok || c.Owner == l.state.Net.Owner {
			continue
		}
		st, err := readState(c.Dir)
		alive := err == nil && st.Net != nil && st.Net.Owner == c.Owner
		unsure := err != nil && !errors.Is(err, ErrNoLab)
		if c.Boot == boot && (alive || unsure) {
			continue
		}
		if err := removeLeftover(id); err != nil {
			l.logf("network 10.%d.0.0/24 is left over from a lab in %s: %v", id, c.Dir, err)
			continue
		}
		l.logf("removed network 10.%d.0.0/24, left over from a lab in %s", id, c.Dir)
	}
}

// removeLeftover removes the namespaces of a number, and its claim, if no process is in them.
func removeLeftover(id int) error {
	names, err := namespacesOf(id)
	if err != nil {
		return err
	}
	for _, ns := range names {
		if pids, err := processesIn(ns); err != nil || len(pids) > 0 {
			return errors.Join(err, fmt.Errorf("processes %v still run in namespace %s; end them", pids, ns))
		}
	}
	for _, ns := range names {
		if err := removeNS(ns); err != nil {
			return err
		}
	}
	return os.Remove(claimPath(id))
}

// namespacesOf lists the namespaces whose names bear a number.
func namespacesOf(id int) ([]string, error) {
	entries, err := os.ReadDir(nsDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), nsPrefix(id)) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// numberFree reports whether nobody claims a number, nothing bears it, and this machine has no
// address in its network. The last would do no harm, as a lab sees nothing of the machine's
// networks, but would lead people astray.
func numberFree(id int) (bool, error) {
	if _, err := os.Lstat(claimPath(id)); !errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	names, err := namespacesOf(id)
	if err != nil || len(names) > 0 {
		return false, err
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false, fmt.Errorf("list the addresses of this machine: %w", err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if ip := n.IP.To4(); ip != nil && ip[0] == 10 && int(ip[1]) == id {
				return false, nil
			}
		}
	}
	return true, nil
}
