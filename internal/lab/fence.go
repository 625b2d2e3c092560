package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
)

// A lab with fences has a fence agent, a script D/fence-agent that runs "lockstep lab fence-agent" and
// is the device of every node. It turns a node off for certain: off kills its process with SIGKILL, and
// in a lab with namespaces takes its link first, as a power failure would. What it answers is looked up, not
// remembered.
//
// One thing differs from a machine: all nodes of a lab share the boot of the machine they are on, and a
// proof is about a boot. So the lab counts how often a node was turned off, and the node adds that number
// to its boot id. Whoever is killed without the agent is in the same boot when it is started again, as a
// daemon is that crashes.

// fenceScript is the agent's name in the lab's directory, and fenceDevice that of the device.
const (
	fenceScript = "fence-agent"
	fenceDevice = "lab"
)

// fencePatience bounds how long the agent waits for another lab command to end.
const fencePatience = 15 * time.Second

// Exit codes of a fence agent.
const (
	fenceDone = 0 // also status: it is on
	fenceBad  = 1
	fenceOff  = 2 // status: it is off
)

// addFence gives a node's file the lab's fence agent, for every other node.
func (l *Lab) addFence(file *config.Node) {
	file.Fences = []config.Fence{{
		Name: fenceDevice, Agent: filepath.Join(l.state.Dir, fenceScript), Timeout: 20 * time.Second, Retries: 1,
		Options: []config.FenceOption{{Name: "dir", Value: l.state.Dir}},
	}}
	for _, n := range l.state.Nodes {
		file.Fencing.Nodes = append(file.Fencing.Nodes, config.FenceNode{Node: n.Name, Levels: [][]string{{fenceDevice}}})
	}
	slices.SortFunc(file.Fencing.Nodes, func(a, b config.FenceNode) int { return strings.Compare(a.Node, b.Node) })
}

// writeFence makes the agent: the program that starts the nodes, in another role.
func (l *Lab) writeFence() error {
	text := "#!/bin/sh\nexec '" + strings.ReplaceAll(l.state.Command[0], "'", `'\''`) + "' lab fence-agent\n"
	if err := os.WriteFile(filepath.Join(l.state.Dir, fenceScript), []byte(text), 0o700); err != nil {
		return fmt.Errorf("make lab: %w", err)
	}
	return nil
}

// fenceMetadata is what the agent says about itself.
const fenceMetadata = `<?xml version="1.0" ?>
<resource-agent name="fence_lockstep_lab" shortdesc="Fence agent for the nodes of a lab">
  <parameters>
    <parameter name="action" required="1"><content type="string" default="off"/></parameter>
    <parameter name="port" required="1"><content type="string"/><shortdesc lang="en">node of the lab</shortdesc></parameter>
    <parameter name="dir" required="1"><content type="string"/><shortdesc lang="en">directory of the lab</shortdesc></parameter>
  </parameters>
  <actions>
    <action name="off"/><action name="on" automatic="0"/><action name="status"/><action name="list"/><action name="monitor"/><action name="metadata"/>
  </actions>
</resource-agent>
`

// FenceAgent is one run of the agent: key=value lines on in, an exit code.
func FenceAgent(ctx context.Context, in io.Reader, out, errs io.Writer) int {
	args := map[string]string{}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		key, value, ok := strings.Cut(strings.TrimSpace(lines.Text()), "=")
		if ok && !strings.HasPrefix(key, "#") {
			args[strings.TrimSpace(key)] = strings.TrimSpace(value)
		}
	}
	if args["action"] == "metadata" {
		fmt.Fprint(out, fenceMetadata)
		return fenceDone
	}
	code, err := fenceAct(ctx, args, out)
	if err == nil {
		err = lines.Err()
	}
	if err != nil {
		fmt.Fprintf(errs, "fence-agent: %v\n", err)
		return fenceBad
	}
	return code
}

// fenceAct carries one action out.
func fenceAct(ctx context.Context, args map[string]string, out io.Writer) (int, error) {
	if args["dir"] == "" {
		return fenceBad, errors.New("the option dir is missing: the directory of the lab")
	}
	l, err := Open(args["dir"])
	if err != nil {
		return fenceBad, err
	}
	action, node := args["action"], args["port"]
	switch action {
	case "monitor":
		return fenceDone, nil
	case "list":
		for _, n := range l.State().Nodes {
			fmt.Fprintf(out, "%s,%s\n", n.Name, n.Name)
		}
		return fenceDone, nil
	}
	if node == "" {
		return fenceBad, errors.New("the option port is missing: a node of the lab")
	}
	switch action {
	case "off":
		err = l.patiently(ctx, func() error { return l.off(ctx, node) })
	case "on":
		err = l.patiently(ctx, func() error { return l.on(ctx, node) })
	case "status":
	default:
		return fenceBad, fmt.Errorf("there is no action %q", action)
	}
	if err != nil {
		return fenceBad, err
	}
	return l.power(node, action, out)
}

// power looks whether a node is on, and whether that is what the action was for.
func (l *Lab) power(node, action string, out io.Writer) (int, error) {
	on, err := l.Running(node)
	switch {
	case err != nil:
		return fenceBad, err
	case action == "status" && on:
		fmt.Fprintln(out, "Status: ON")
		return fenceDone, nil
	case action == "status":
		fmt.Fprintln(out, "Status: OFF")
		return fenceOff, nil
	case on != (action == "on"):
		return fenceBad, fmt.Errorf("%s was turned %s, and is not", node, action)
	}
	fmt.Fprintf(out, "Success: Powered %s\n", strings.ToUpper(action))
	return fenceDone, nil
}

// off kills a node; one that is off already stays so. The new boot comes first: whoever starts the node
// right after it was killed has to find it.
func (l *Lab) off(ctx context.Context, node string) error {
	if err := l.nextBoot(node); err != nil {
		return err
	}
	if st := l.State(); st.Net != nil {
		if slices.Contains(st.Net.Off, node) {
			return nil // and power looks whether that is so
		}
		return l.KillHost(ctx, node)
	}
	err := l.Kill(ctx, node, syscall.SIGKILL)
	if on, rerr := l.Running(node); rerr == nil && !on && !errors.Is(err, errBusy) && !errors.Is(err, control.ErrNotFound) {
		return nil
	}
	return err
}

// nextBoot has the next process of a node belong to another boot.
func (l *Lab) nextBoot(node string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, err := l.lock()
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := l.node(node)
	if err != nil {
		return err
	}
	n.Boots++
	return writeState(&l.state)
}

// on starts a node that is off.
func (l *Lab) on(ctx context.Context, node string) error {
	if on, err := l.Running(node); err != nil || on {
		return err
	}
	return l.Start(ctx, node)
}

// patiently does f again while another lab command is at work.
func (l *Lab) patiently(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, fencePatience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if !errors.Is(err, errBusy) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}
