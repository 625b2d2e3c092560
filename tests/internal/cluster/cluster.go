package cluster

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/lab"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

// MiB is 1,048,576 bytes.
const MiB = 1 << 20

// Options of Up. The zero value is two data nodes and a witness, with r0 of 256 MiB.
type Options struct {
	SizeBytes int64 // of r0; 0: 256 MiB
	DataNodes int   // 0: 2
	NoWitness bool
	Netns     bool               // each node in a network namespace; needs root
	TLS       bool               // formed with certificates
	Configure func(*config.Node) // changes a node's file; nil: nothing
	Command   []string           // starts a node; nil: the program with "node"
}

// Cluster is a lab that belongs to a test.
type Cluster struct {
	t   testing.TB
	Lab *lab.Lab
	Dir string

	mu   sync.Mutex
	down map[string]bool // nodes that the test itself has ended
}

// Up starts a cluster and returns when r0 is UpToDate on all data nodes and n1 is primary.
func Up(t testing.TB, opts Options) *Cluster {
	t.Helper()
	c := &Cluster{t: t, Dir: ShmDir(t), down: map[string]bool{}}
	if opts.DataNodes == 0 {
		opts.DataNodes = 2
	}
	if opts.Command == nil {
		opts.Command = []string{Binary(t), "node"}
	}
	ctx, cancel := context.WithTimeout(context.Background(), proc.Limit)
	defer cancel()
	l, err := lab.Up(ctx, lab.Options{
		Dir: c.Dir, SizeBytes: opts.SizeBytes, DataNodes: opts.DataNodes, Witness: !opts.NoWitness, Netns: opts.Netns, TLS: opts.TLS,
		Command: opts.Command, Configure: opts.Configure,
	})
	c.Lab = l
	if err != nil {
		c.keepLogs()
		t.Fatalf("start a cluster: %v", err)
	}
	t.Cleanup(c.end)
	return c
}

// ShmDir makes a directory on tmpfs, removed at the end of the test. Its path is short, so that
// unix sockets fit.
func ShmDir(t testing.TB) string {
	t.Helper()
	base := "/dev/shm"
	if st, err := os.Stat(base); err != nil || !st.IsDir() {
		base = ""
	}
	dir, err := os.MkdirTemp(base, "lockstep-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// end checks what must be true at the end of every test, and stops the cluster.
func (c *Cluster) end() {
	for _, n := range c.Lab.State().Nodes {
		running, err := c.Lab.Running(n.Name)
		if err != nil {
			c.t.Errorf("node %s: %v", n.Name, err)
		} else if !running && !c.isDown(n.Name) {
			c.t.Errorf("node %s ended although nobody asked it to", n.Name)
		}
	}
	if c.t.Failed() {
		c.keepLogs() // before the nodes stop: it asks them for their status
	}
	failedBefore := c.t.Failed()
	ctx, cancel := context.WithTimeout(context.Background(), proc.Limit)
	defer cancel()
	// One after another, so that each finds the others to take its leave of.
	for _, n := range c.Lab.State().Nodes {
		if running, err := c.Lab.Running(n.Name); err == nil && running {
			if err := c.Lab.Kill(ctx, n.Name, syscall.SIGCONT); err != nil {
				c.t.Errorf("wake node %s: %v", n.Name, err)
			}
			if err := c.Lab.Kill(ctx, n.Name, syscall.SIGTERM); err != nil {
				c.t.Errorf("stop node %s: %v", n.Name, err)
			}
		}
	}
	if err := c.Lab.Down(ctx); err != nil {
		c.t.Errorf("stop the cluster: %v", err)
	}
	for _, n := range c.Lab.State().Nodes {
		c.checkLog(n)
	}
	if c.t.Failed() && !failedBefore {
		c.keepLogs()
	}
}

// checkLog fails the test when a log tells of a crash.
func (c *Cluster) checkLog(n lab.Node) {
	b, err := os.ReadFile(n.Log)
	if err != nil {
		c.t.Errorf("log of node %s: %v", n.Name, err)
		return
	}
	text := string(b)
	for _, sign := range []string{"\npanic: ", "fatal error: ", "WARNING: DATA RACE", "goroutine 1 ["} {
		if i := strings.Index("\n"+text, sign); i >= 0 {
			c.t.Errorf("node %s crashed; from its log:\n%s", n.Name, text[max(0, i-1):min(len(text), i+3000)])
			return
		}
	}
}

func (c *Cluster) isDown(node string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.down[node]
}

// keepLogs copies what explains a failure out of the cluster's directory and says where to.
func (c *Cluster) keepLogs() {
	base := os.Getenv("LOCKSTEP_LOGS")
	if base == "" {
		base = filepath.Join(os.TempDir(), "lockstep-failed")
	}
	dir := filepath.Join(base, strings.NewReplacer("/", "_", " ", "_").Replace(c.t.Name()))
	for _, n := range c.Lab.State().Nodes {
		to := filepath.Join(dir, n.Name)
		if err := os.MkdirAll(to, 0o755); err != nil {
			c.t.Logf("keep logs: %v", err)
			return
		}
		for _, path := range []string{n.Log, n.Config} {
			if b, err := os.ReadFile(path); err == nil {
				os.WriteFile(filepath.Join(to, filepath.Base(path)), b, 0o600)
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2e9)
		if st, err := c.Lab.Client(n.Name).Status(ctx, ""); err == nil {
			b, _ := json.MarshalIndent(st, "", "  ")
			os.WriteFile(filepath.Join(to, "status.json"), b, 0o600)
		}
		cancel()
	}
	c.t.Logf("logs are kept in %s", dir)
}

// DataNodes returns the names of the nodes with a replica.
func (c *Cluster) DataNodes() []string {
	var out []string
	for _, n := range c.Lab.State().Nodes {
		if !n.Witness {
			out = append(out, n.Name)
		}
	}
	return out
}

// Node returns a node's entry of the lab.
func (c *Cluster) Node(name string) lab.Node {
	c.t.Helper()
	n, err := c.Lab.Node(name)
	if err != nil {
		c.t.Fatal(err)
	}
	return n
}

// URI returns the NBD URI of r0 on a node's unix socket.
func (c *Cluster) URI(node string) string { return c.Node(node).NBDUnixURI }

// URIOf returns the NBD URI of another resource on a node's unix socket.
func (c *Cluster) URIOf(node, resource string) string {
	return strings.Replace(c.URI(node), ":///r0?", ":///"+resource+"?", 1)
}

// TCP returns the NBD URI of r0 on a node's TCP port.
func (c *Cluster) TCP(node string) string { return c.Node(node).NBDTCPURI }

// Data returns the path of a node's backing file of r0.
func (c *Cluster) Data(node string) string { return c.Node(node).DataPath }

// Kill ends a node with SIGKILL and returns when it is gone.
func (c *Cluster) Kill(node string) { c.Signal(node, syscall.SIGKILL) }

// Signal sends sig to a node; for SIGKILL and SIGTERM it returns when the node is gone.
func (c *Cluster) Signal(node string, sig syscall.Signal) {
	c.t.Helper()
	if sig == syscall.SIGKILL || sig == syscall.SIGTERM {
		c.mu.Lock()
		c.down[node] = true
		c.mu.Unlock()
	}
	ctx, cancel := context.WithTimeout(context.Background(), proc.Limit)
	defer cancel()
	if err := c.Lab.Kill(ctx, node, sig); err != nil {
		c.t.Fatalf("%v to %s: %v", sig, node, err)
	}
}

// Start starts a node that was killed and returns when it answers.
func (c *Cluster) Start(node string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), proc.Limit)
	defer cancel()
	if err := c.Lab.Start(ctx, node); err != nil {
		c.t.Fatalf("start %s: %v", node, err)
	}
	c.mu.Lock()
	delete(c.down, node)
	c.mu.Unlock()
}

// StartUnready starts a node that was killed and does not wait until it has a quorum.
func (c *Cluster) StartUnready(node string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := c.Lab.Start(ctx, node); err != nil && ctx.Err() == nil {
		c.t.Fatalf("start %s: %v", node, err)
	}
	c.mu.Lock()
	delete(c.down, node)
	c.mu.Unlock()
}

// CLI runs the program with the control socket of node, whatever its exit code.
func (c *Cluster) CLI(node string, args ...string) Result {
	c.t.Helper()
	return CLI(c.t, append([]string{"--socket", c.Node(node).ControlSocket}, args...)...)
}

// MustCLI is CLI for a command that has to succeed. It returns its standard output.
func (c *Cluster) MustCLI(node string, args ...string) string {
	c.t.Helper()
	return MustCLI(c.t, append([]string{"--socket", c.Node(node).ControlSocket}, args...)...)
}

// Replica returns the replica of node in r.
func Replica(r control.Resource, node string) (control.Replica, bool) {
	i := slices.IndexFunc(r.Replicas, func(p control.Replica) bool { return p.Node == node })
	if i < 0 {
		return control.Replica{}, false
	}
	return r.Replicas[i], true
}

// Files are the paths of a replica.
type Files struct{ Data, Meta string }

// Files returns the paths of r0's replica on a node.
func (c *Cluster) Files(node string) Files {
	n := c.Node(node)
	return Files{Data: n.DataPath, Meta: n.MetaPath}
}
