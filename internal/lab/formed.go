package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
)

// A lab with TLS is formed as an operator forms a cluster, with the same commands: the first node by
// "cluster init", each further one with a token of its own by "cluster join", through the first. What the
// commands write is then changed where a lab differs: sockets, fences, and what Options.Configure wants.
//
// So the nodes are made one after the other, and the first runs before there is a second. A lab that was
// formed once is started like any other.

// clientDir holds the certificate of an NBD client, in a lab with TLS.
func (l *Lab) clientDir() string { return filepath.Join(l.state.Dir, "client") }

// form makes what there is not yet of a lab with TLS, and starts the nodes.
func (l *Lab) form(ctx context.Context, opts Options) error {
	for i := range l.state.Nodes {
		n := &l.state.Nodes[i]
		if err := l.enrol(ctx, n, opts); err != nil {
			return err
		}
		l.logf("starting node %s, log in %s", n.Name, n.Log)
		if err := l.start(n); err != nil {
			return err
		}
		if err := l.waitReady(ctx, n); err != nil {
			return err
		}
	}
	if err := l.waitVoters(ctx); err != nil {
		return err
	}
	first := &l.state.Nodes[0]
	if _, err := l.program(ctx, first, "", "--socket", first.ControlSocket, "cluster", "client-cert", "lab", "--out", l.clientDir()); err != nil {
		return err
	}
	return l.makeResource(ctx)
}

// enrol makes a node a member; the first one makes the cluster.
func (l *Lab) enrol(ctx context.Context, n *Node, opts Options) error {
	seat := []string{"--node", n.Name, "--listen", n.Listen, "--gossip", n.Gossip, "--data-dir", filepath.Join(l.state.Dir, n.Name, "data"), "--config", n.Config}
	if n.NBDListen != "" {
		seat = append(seat, "--nbd", n.NBDListen)
	}
	var err error
	if first := &l.state.Nodes[0]; n == first {
		l.logf("forming a cluster of %s", n.Name)
		_, err = l.program(ctx, n, "", append([]string{"cluster", "init", "--name", "lab"}, seat...)...)
	} else {
		grant, terr := control.NewClient(first.ControlSocket).Token(ctx, control.TokenRequest{Node: n.Name})
		if terr != nil {
			return fmt.Errorf("token for %s: %w", n.Name, terr)
		}
		if n.Witness {
			seat = append(seat, "--witness")
		}
		l.logf("letting %s join", n.Name)
		_, err = l.program(ctx, n, grant.Token, append([]string{"cluster", "join", first.Listen, "--token-file", "-"}, seat...)...)
	}
	if err != nil {
		return err
	}
	return l.adapt(n, opts)
}

// adapt changes a node's file where a lab differs from what the commands write.
func (l *Lab) adapt(n *Node, opts Options) error {
	file, err := config.Load(n.Config)
	if err != nil {
		return fmt.Errorf("node %s: %w", n.Name, err)
	}
	file.ControlSocket, file.NBDUnix = l.sockets(n.Name)
	if opts.Fence {
		l.addFence(&file)
	}
	if opts.Configure != nil {
		opts.Configure(&file)
	}
	if err := file.Validate(); err != nil {
		return fmt.Errorf("node %s: %w", n.Name, err)
	}
	if err := os.WriteFile(n.Config, file.Encode(), 0o600); err != nil {
		return fmt.Errorf("make lab: %w", err)
	}
	return nil
}

// waitVoters waits until every node votes: a new one is told what there is before it does.
func (l *Lab) waitVoters(ctx context.Context) error {
	first := &l.state.Nodes[0]
	last := errors.New("it was not asked yet")
	return l.poll(ctx, first, &last, func() bool {
		st, err := control.NewClient(first.ControlSocket).Status(ctx, "")
		votes := 0
		for _, v := range st.Nodes {
			if v.Voter {
				votes++
			}
		}
		if err == nil && votes < len(l.state.Nodes) {
			err = fmt.Errorf("%d of %d nodes vote", votes, len(l.state.Nodes))
		}
		if ctx.Err() == nil {
			last = err
		}
		return err == nil
	})
}

// program runs the program that nodes are made of, on the host of n, and returns what it printed.
func (l *Lab) program(ctx context.Context, n *Node, input string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, l.state.Command[0], args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errs
	start := cmd.Start
	if have, err := hasNS(n.Namespace); err != nil {
		return "", err
	} else if have {
		start = func() error { return inNS(n.Namespace, cmd.Start) }
	}
	err := start()
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return "", fmt.Errorf("lockstep %s: %w\n%s", strings.Join(args, " "), err, errs.Bytes())
	}
	return out.String(), nil
}

// hasNS reports whether ns is there to be entered. Before the first node is started none is, and nothing
// that runs then needs a network.
func hasNS(ns string) (bool, error) {
	if ns == "" {
		return false, nil
	}
	return nsExists(ns)
}

// unmake removes what a lab with TLS wrote whose ports were taken: its certificates name addresses.
func (l *Lab) unmake() error {
	var errs []error
	for _, n := range l.state.Nodes {
		errs = append(errs, os.RemoveAll(filepath.Join(l.state.Dir, n.Name, "data")))
		if err := os.Remove(n.Config); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
