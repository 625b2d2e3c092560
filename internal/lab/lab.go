package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
)

// TermTimeout is how long Down waits after SIGTERM before it sends SIGKILL.
const TermTimeout = 10 * time.Second

// Lab is a cluster of processes. Its methods may be used by several goroutines; those that start
// or stop processes take turns.
type Lab struct {
	logf        func(format string, args ...any)
	termTimeout time.Duration // TermTimeout but in tests

	mu       sync.Mutex // guards what follows, and is held while processes start and stop
	state    State
	children map[string]*child // started by this process, by node
	reapers  sync.WaitGroup
}

// child is a process that this process started and must therefore wait for.
type child struct {
	cmd  *exec.Cmd
	done chan struct{} // closed after the process was waited for
}

// Open takes up the lab in dir. ErrNoLab: there is none.
func Open(dir string) (*Lab, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	st, err := readState(dir)
	if err != nil {
		return nil, err
	}
	return newLab(st, nil), nil
}

func newLab(st State, logf func(string, ...any)) *Lab {
	if logf == nil {
		logf = func(string, ...any) {}
	}
	return &Lab{state: st, logf: logf, termTimeout: TermTimeout, children: map[string]*child{}}
}

// State returns a copy of what lab.json holds.
func (l *Lab) State() State {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := l.state
	st.Nodes = append([]Node(nil), st.Nodes...)
	if st.Net != nil {
		n := *st.Net
		n.Lost, n.Unplugged, n.Off = slices.Clone(n.Lost), slices.Clone(n.Unplugged), slices.Clone(n.Off)
		st.Net = &n
	}
	return st
}

// Node returns the node of that name.
func (l *Lab) Node(name string) (Node, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := l.node(name)
	if err != nil {
		return Node{}, err
	}
	return *n, nil
}

// node returns the node of that name, to be changed under l.mu.
func (l *Lab) node(name string) (*Node, error) {
	for i := range l.state.Nodes {
		if l.state.Nodes[i].Name == name {
			return &l.state.Nodes[i], nil
		}
	}
	return nil, control.Errorf(control.CodeNotFound, "the lab has no node %s", name)
}

// Running reports whether the process of a node runs.
func (l *Lab) Running(name string) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := l.node(name)
	if err != nil {
		return false, err
	}
	p, err := l.open(n)
	if errors.Is(err, errGone) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	p.close()
	return true, nil
}

// Live is State with the process ids of those nodes as 0 whose process has ended by itself.
func (l *Lab) Live() (State, error) {
	st := l.State()
	for i := range st.Nodes {
		up, err := l.Running(st.Nodes[i].Name)
		if err != nil {
			return State{}, err
		}
		if !up {
			st.Nodes[i].PID, st.Nodes[i].StartTime = 0, 0
		}
	}
	return st, nil
}

// open returns the process of n, or errGone.
func (l *Lab) open(n *Node) (process, error) {
	boot, err := bootID()
	if err != nil {
		return process{}, err
	}
	if boot != l.state.BootID {
		return process{}, errGone
	}
	return openProcess(n.PID, n.StartTime)
}

// Client returns a client of the control socket of a node. It panics for a node that the lab does
// not have.
func (l *Lab) Client(name string) *control.Client {
	n, err := l.Node(name)
	if err != nil {
		panic("lab: " + err.Error())
	}
	return control.NewClient(n.ControlSocket)
}

// Kill sends sig to a node. For SIGKILL and SIGTERM it waits for the end of the process.
func (l *Lab) Kill(ctx context.Context, name string, sig syscall.Signal) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, err := l.lock()
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := l.node(name)
	if err != nil {
		return err
	}
	err = l.kill(ctx, n, sig)
	if errors.Is(err, errGone) {
		return control.Errorf(control.CodeFailed, "node %s is not running", name).
			WithHint("lockstep lab start %s --dir %s", name, l.state.Dir)
	}
	return err
}

// kill is Kill under l.mu and the lock.
func (l *Lab) kill(ctx context.Context, n *Node, sig syscall.Signal) error {
	p, err := l.open(n)
	if err != nil {
		return err
	}
	defer p.close()
	if err := p.signal(sig); err != nil {
		return fmt.Errorf("signal node %s: %w", n.Name, err)
	}
	if sig != syscall.SIGKILL && sig != syscall.SIGTERM {
		return nil
	}
	return l.waitEnd(ctx, n, p)
}

// waitEnd waits for the end of n's process and notes it.
func (l *Lab) waitEnd(ctx context.Context, n *Node, p process) error {
	if err := p.wait(ctx); err != nil {
		return fmt.Errorf("wait for the end of node %s: %w", n.Name, err)
	}
	if c := l.children[n.Name]; c != nil {
		<-c.done
		delete(l.children, n.Name)
	}
	n.PID, n.StartTime = 0, 0
	return writeState(&l.state)
}

// Start starts a node that is not running and waits until it is ready. Where no majority of the
// nodes runs yet it only waits for an answer: a cluster that is down is started node by node.
func (l *Lab) Start(ctx context.Context, name string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, err := l.lock()
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := l.node(name)
	if err != nil {
		return err
	}
	if p, err := l.open(n); err == nil {
		p.close()
		return control.Errorf(control.CodeFailed, "node %s runs already, as process %d", name, n.PID)
	} else if !errors.Is(err, errGone) {
		return err
	}
	if err := l.start(n); err != nil {
		return err
	}
	if 2*l.running() > len(l.state.Nodes) {
		return l.waitReady(ctx, n)
	}
	return l.waitAnswer(ctx, n)
}

// running counts the nodes that run. Caller holds mu.
func (l *Lab) running() (count int) {
	for i := range l.state.Nodes {
		if p, err := l.open(&l.state.Nodes[i]); err == nil {
			p.close()
			count++
		}
	}
	return count
}

// start starts n's process and notes it.
func (l *Lab) start(n *Node) error {
	boot, err := bootID()
	if err != nil {
		return err
	}
	if boot != l.state.BootID {
		for i := range l.state.Nodes { // none of them has survived
			l.state.Nodes[i].PID, l.state.Nodes[i].StartTime = 0, 0
		}
		l.state.BootID = boot
	}
	if l.state.Net != nil {
		l.state.Net.Off = without(l.state.Net.Off, n.Name)
		if err := l.raiseNet(); err != nil {
			return err
		}
	}
	argv := append(append([]string(nil), l.state.Command...), "--config", n.Config)
	cmd, err := spawn(argv, n.Log, n.Namespace, n.Boots)
	if err != nil {
		return fmt.Errorf("node %s: %w", n.Name, err)
	}
	c := &child{cmd: cmd, done: make(chan struct{})}
	// The process is not waited for yet, so its id cannot be another's.
	start, serr := startTime(cmd.Process.Pid)
	l.children[n.Name] = c
	l.reapers.Go(func() {
		_ = cmd.Wait() // how it ended stands in its log
		close(c.done)
	})
	n.PID, n.StartTime = cmd.Process.Pid, start
	if serr != nil {
		n.PID, n.StartTime = 0, 0
		return l.died(n)
	}
	return writeState(&l.state)
}

// died is the error of a node that ended by itself.
func (l *Lab) died(n *Node) error {
	return fmt.Errorf("node %s ended by itself; the end of %s:\n%s", n.Name, n.Log, tail(n.Log, 2000))
}

// Down stops every node: SIGTERM, and SIGKILL for those still there after TermTimeout. Data and
// logs stay; namespaces go, with all that was broken in them. It returns after every process has
// ended.
func (l *Lab) Down(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, err := l.lock()
	if err != nil {
		return err
	}
	defer f.Close()
	return l.down(ctx)
}

func (l *Lab) down(ctx context.Context) error {
	term, cancel := context.WithTimeout(ctx, l.termTimeout)
	defer cancel()
	var errs []error
	procs := make([]process, len(l.state.Nodes))
	for i := range l.state.Nodes {
		n := &l.state.Nodes[i]
		p, err := l.open(n)
		if err != nil {
			if !errors.Is(err, errGone) {
				errs = append(errs, err)
			}
			n.PID, n.StartTime = 0, 0
			procs[i].fd = -1
			continue
		}
		procs[i] = p
		defer p.close()
		// A stopped process does not see SIGTERM; SIGCONT lets it.
		errs = append(errs, ignoreGone(p.signal(syscall.SIGTERM)), ignoreGone(p.signal(syscall.SIGCONT)))
	}
	for i := range l.state.Nodes {
		n, p := &l.state.Nodes[i], procs[i]
		if p.fd < 0 {
			continue
		}
		err := l.waitEnd(term, n, p)
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			l.logf("node %s does not stop within %v: killed", n.Name, l.termTimeout)
			errs = append(errs, ignoreGone(p.signal(syscall.SIGKILL)))
			err = l.waitEnd(ctx, n, p)
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("stop lab: %w", err)
	}
	l.reapers.Wait()
	if err := l.removeRuntimeDir(); err != nil {
		return fmt.Errorf("stop lab: %w", err)
	}
	if l.state.Net != nil {
		if err := l.removeNet(); err != nil {
			return fmt.Errorf("stop lab: %w", err)
		}
	}
	return writeState(&l.state)
}

func ignoreGone(err error) error {
	if errors.Is(err, errGone) {
		return nil
	}
	return err
}

// lock takes the lab's lock and reads its state anew: another process may have changed it.
func (l *Lab) lock() (io.Closer, error) {
	f, err := lock(l.state.Dir)
	if err != nil {
		return nil, err
	}
	st, err := readState(l.state.Dir)
	if err != nil {
		f.Close()
		return nil, err
	}
	l.state = st
	return f, nil
}

// tail returns up to the last n bytes of a file, or why it cannot.
func tail(path string, n int64) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > n {
		if _, err := f.Seek(-n, io.SeekEnd); err != nil {
			return err.Error()
		}
	}
	b, err := io.ReadAll(io.LimitReader(f, n))
	if err != nil {
		return err.Error()
	}
	return string(b)
}
