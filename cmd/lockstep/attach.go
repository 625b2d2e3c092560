package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/pki"
	"github.com/lockstep-ha/lockstep/internal/writepath"
	"github.com/lockstep-ha/lockstep/nbd/attach"
)

// discoverTime bounds how long one node is asked where it takes clients.
const discoverTime = 1500 * time.Millisecond

func (a *app) attachCmds() []*cobra.Command {
	return []*cobra.Command{a.attachCmd(), a.detachCmd(), a.relayCmd()}
}

func (a *app) attachCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "attach NAME DEVICE",
		Short: "Make a resource a block device of this host",
		Long: `Attach makes the resource NAME the block device DEVICE, /dev/nbd0 or another of the kernel's NBD devices, and
starts a relay for it, a small process that stays. Whoever is primary serves it: through switchovers, failovers
and restarts of the daemon requests wait and go on, and nobody who uses the device sees an error. The attachment
is recorded in the cluster, so that no second host uses the resource meanwhile, unless all of them say --shared.

When a relay has died, the same command starts another, which takes the device up where it stands. Where no
--servers are given, the node at --socket is asked for them. As root; needs the kernel's nbd module.`,
		Args:              cobra.MaximumNArgs(2),
		ValidArgsFunction: a.completeResources,
	}
	var spec attach.Spec
	f := cmd.Flags()
	f.IntVar(&spec.Connections, "connections", 1, "`NUMBER` of sockets between the kernel and the relay")
	f.BoolVar(&spec.ReadOnly, "read-only", false, "a device that cannot be written to")
	f.BoolVar(&spec.Shared, "shared", false, "let other hosts attach it too; what uses it has to be made for that")
	f.StringSliceVar(&spec.Servers, "servers", nil, "`ADDRESSES` of nodes: host:port, or the path of a socket (default: ask the local node)")
	f.DurationVar(&spec.Deadline, "deadline", attach.DefaultDeadline, "without a primary for so long, requests fail; 0: they wait for ever")
	f.Uint32Var(&spec.BlockSize, "block-size", 0, "logical block of the device in `BYTES`, 512 to 4096 (default: what the export prefers)")
	f.StringVar(&spec.TLSDir, "tls", "", "`DIR` with the certificates to connect with (default: those of the local node, where it asks for TLS)")
	f.StringVar(&spec.Dir, "state-dir", attach.DefaultDir, "`DIR` of the relays' state and logs")
	f.StringVar(&spec.Holder, "holder", "", "`NAME` to be recorded as the holder (default: the name of this host)")
	hideFlag(cmd, "holder")
	list := f.Bool("list", false, "show what is attached on this host, instead")
	foreground := f.Bool("foreground", false, "be the relay, for systemd (Type=notify), instead of starting one")
	cmd.RunE = a.stream(func(ctx context.Context, args []string) error {
		if *list {
			if len(args) > 0 {
				return control.Usagef("attach --list takes no arguments")
			}
			return a.listAttached(ctx, spec.Dir)
		}
		if len(args) != 2 {
			return control.Usagef("attach needs a resource and a device, for example: lockstep attach r0 /dev/nbd0")
		}
		spec.Resource, spec.Device, spec.Socket, spec.Wait = args[0], args[1], a.socket, a.timeout
		if err := spec.Validate(); err != nil {
			return control.Usagef("%v", err)
		}
		return attachError(a.attach(ctx, spec, *foreground))
	})
	return hideNode(a.remote(a.withJSON(cmd)))
}

// hideNode hides --node from a command that is about this host.
func hideNode(cmd *cobra.Command) *cobra.Command {
	hideFlag(cmd, "node")
	return cmd
}

func hideFlag(cmd *cobra.Command, name string) {
	if err := cmd.Flags().MarkHidden(name); err != nil {
		panic(err)
	}
}

func (a *app) attach(ctx context.Context, spec attach.Spec, foreground bool) error {
	if st, err := attach.Query(ctx, spec.Dir, spec.Device); err == nil {
		if st.Resource != spec.Resource || st.ReadOnly != spec.ReadOnly || st.Shared != spec.Shared || foreground {
			return fmt.Errorf("%s: %w: it is attached to %s (process %d)", spec.Device, attach.ErrAttached, st.Resource, st.PID)
		}
		return a.attached(st)
	}
	if len(spec.Servers) == 0 {
		if err := a.localNode(ctx, &spec); err != nil {
			return err
		}
	}
	if foreground {
		log := slog.New(slog.NewTextHandler(a.err, nil))
		return serveRelay(ctx, spec, log, func(st attach.Status) {
			// Without systemd there is nobody to notify, which is no error.
			if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
				log.Warn("systemd was not notified", "error", err)
			}
			log.Info("device ready", "device", st.Device, "resource", st.Resource, "state", st.State)
		})
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	st, err := attach.Start(ctx, spec, []string{self, "relay"})
	if err != nil {
		return err
	}
	return a.attached(st)
}

// attached prints the device, for scripts alone on its line.
func (a *app) attached(st attach.Status) error {
	if a.json {
		return a.printJSON(st)
	}
	_, err := fmt.Fprintln(a.out, st.Device)
	return err
}

// localNode checks that the local node can be asked for servers, and takes over how it serves clients.
func (a *app) localNode(ctx context.Context, spec *attach.Spec) error {
	ctx, cancel := context.WithTimeout(ctx, control.DefaultCallTimeout)
	defer cancel()
	st, err := control.NewClient(spec.Socket).Status(ctx, spec.Resource)
	if errors.Is(err, control.ErrUnreachable) {
		return control.Errorf(control.CodeUnreachable, "no node answers at %s to say where the resource is served: %v", spec.Socket, err).
			WithHint("give the addresses of the nodes: lockstep attach %s %s --servers HOST:PORT,HOST:PORT", spec.Resource, spec.Device)
	}
	if err != nil {
		return err
	}
	dir := filepath.Join(filepath.Dir(spec.Socket), "pki")
	if spec.TLSDir == "" && len(st.Resources) > 0 && st.Resources[0].NBD.TLS != "" {
		if _, err := os.Stat(filepath.Join(dir, identityFile)); err == nil {
			spec.TLSDir = dir
		}
	}
	return nil
}

// identityFile is in the directory of a node's certificate.
const identityFile = "identity.pem"

// relayCmd is what attach starts.
func (a *app) relayCmd() *cobra.Command {
	return &cobra.Command{
		Use: "relay", Short: "Serve a device of this host (started by attach)", Hidden: true, Args: cobra.NoArgs,
		RunE: a.stream(func(ctx context.Context, _ []string) error {
			log := slog.New(slog.NewTextHandler(a.err, nil))
			return attach.Child(ctx, a.in, func(ctx context.Context, spec attach.Spec, ready func(attach.Status)) error {
				return serveRelay(ctx, spec, log, ready)
			})
		}),
	}
}

// serveRelay is a relay's whole life. It stands in the write path of its own host: what it cannot be
// protected against there it says, and serves all the same.
func serveRelay(ctx context.Context, spec attach.Spec, log *slog.Logger, ready func(attach.Status)) error {
	for _, l := range writepath.Enter(writepath.All()) {
		log.Warn("not protected under memory pressure", "what", l.What, "err", l.Err, "next", l.Next)
	}
	return attach.Serve(ctx, spec, attachEnv(spec, log), ready)
}

// attachEnv wires a relay to this host.
func attachEnv(spec attach.Spec, log *slog.Logger) attach.Env {
	env := attach.Env{Kernel: attach.LinuxKernel{}, Logger: log, Claim: attach.Claim}
	if len(spec.Servers) == 0 && spec.Socket != "" {
		env.Discover = func(ctx context.Context) ([]attach.Server, error) { return discover(ctx, spec.Socket, spec.Resource) }
	}
	if spec.TLSDir != "" {
		env.TLS = func() (*tls.Config, error) { return clientTLS(spec.TLSDir) }
	}
	return env
}

// clientTLS reads certificates anew for each connection: they are renewed while a relay runs.
func clientTLS(dir string) (*tls.Config, error) {
	open := func() (*pki.Identity, error) { return pki.OpenClient(dir, time.Now) }
	if _, err := os.Stat(filepath.Join(dir, identityFile)); err == nil {
		open = func() (*pki.Identity, error) { return pki.Open(pki.Config{Dir: dir, Clock: time.Now}) }
	}
	id, err := open()
	if err != nil {
		return nil, err
	}
	return id.ClientConfig(pki.KindNBD, ""), nil
}

// discover asks the local node, and through it the others that hold the resource, where they take
// clients. The local one is reached through its unix socket.
func discover(ctx context.Context, socket, resource string) ([]attach.Server, error) {
	c := control.NewClient(socket)
	one := func(c *control.Client) (control.Status, *control.Resource, error) {
		ctx, cancel := context.WithTimeout(ctx, discoverTime)
		defer cancel()
		st, err := c.Status(ctx, resource)
		if err != nil || len(st.Resources) == 0 {
			return st, nil, err
		}
		return st, &st.Resources[0], nil
	}
	st, res, err := one(c)
	if err != nil || res == nil {
		return nil, err
	}
	var out []attach.Server
	if res.NBD.Unix != "" {
		out = append(out, attach.Server{Network: "unix", Addr: res.NBD.Unix})
	}
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, r := range res.Replicas {
		if r.Node == st.Node {
			continue
		}
		asking.Go(func() {
			if _, res, err := one(c.On(r.Node)); err == nil && res != nil && res.NBD.Reach != "" {
				mu.Lock()
				defer mu.Unlock()
				out = append(out, attach.Server{Network: "tcp", Addr: res.NBD.Reach})
			}
		})
	}
	asking.Wait()
	return out, nil
}

func (a *app) detachCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "detach DEVICE",
		Short: "Take a block device away that attach has made",
		Long: `Detach makes what was written to DEVICE stable, takes the device away, and ends the attachment that is
recorded in the cluster. It refuses while the device is mounted or otherwise taken.

With --force it does not ask who uses the device: they get I/O errors, and what they have not flushed is lost.
When no relay runs, the attachment that it left is ended.`,
		Args: cobra.ExactArgs(1),
	}
	f := cmd.Flags()
	force := f.Bool("force", false, "also when the device is in use, or no relay runs")
	dir := f.String("state-dir", attach.DefaultDir, "`DIR` of the relays' state and logs")
	cmd.RunE = a.do(func(ctx context.Context, args []string) error {
		spec := attach.Spec{Device: args[0]}
		if _, err := spec.Index(); err != nil {
			return control.Usagef("%v", err)
		}
		if err := attachError(a.detach(ctx, *dir, args[0], *force)); err != nil {
			return err
		}
		return a.done("detached %s", args[0])
	})
	return hideNode(a.remote(a.withJSON(cmd)))
}

func (a *app) detach(ctx context.Context, dir, device string, force bool) error {
	limit := time.Duration(0)
	if end, ok := ctx.Deadline(); ok {
		limit = max(time.Until(end)-time.Second, time.Second)
	}
	err := attach.Detach(ctx, dir, device, force, limit)
	if !errors.Is(err, attach.ErrNoRelay) {
		return err
	}
	st, err := attach.LoadState(dir, filepath.Base(device))
	if errors.Is(err, os.ErrNotExist) {
		return control.Errorf(control.CodeNotFound, "nothing is attached to %s by lockstep", device).WithHint("lockstep attach --list")
	}
	if err != nil {
		return err
	}
	if st.Spec.Socket == "" {
		st.Spec.Socket = a.socket
	}
	return attach.Remove(ctx, dir, device, force, attachEnv(st.Spec, slog.New(slog.NewTextHandler(a.err, nil))))
}

func (a *app) listAttached(ctx context.Context, dir string) error {
	list, err := attach.List(ctx, dir)
	if err != nil {
		return err
	}
	if a.json {
		if list == nil {
			list = []attach.Status{}
		}
		return a.printJSON(list)
	}
	var b bytes.Buffer
	for _, st := range list {
		fmt.Fprintf(&b, "%s %s %s size:%v", st.Device, st.Resource, st.State, config.Size(st.SizeBytes))
		if st.State == attach.StateServing {
			fmt.Fprintf(&b, " server:%s", st.Server)
		}
		if st.PID != 0 {
			fmt.Fprintf(&b, " unfinished:%d sessions:%d sent-again:%d pid:%d", st.Unfinished, st.Sessions, st.Resent, st.PID)
		}
		for _, w := range []struct {
			on   bool
			word string
		}{{st.ReadOnly, "read-only"}, {st.Shared, "shared"}} {
			if w.on {
				b.WriteString(" " + w.word)
			}
		}
		b.WriteByte('\n')
		if st.Cause != "" {
			since := ""
			if st.AwaySeconds > 0 {
				since = fmt.Sprintf(" (for %v)", short(time.Duration(st.AwaySeconds*float64(time.Second))))
			}
			fmt.Fprintf(&b, "  ! %s%s\n", st.Cause, since)
		}
	}
	_, err = a.out.Write(b.Bytes())
	return err
}

// freeDevices names some devices that the kernel says are not in use.
func freeDevices() string {
	all, err := attach.LinuxKernel{}.Connected()
	if err != nil {
		return ""
	}
	var free []string
	for _, i := range slices.Sorted(maps.Keys(all)) {
		if !all[i] && len(free) < 3 {
			free = append(free, fmt.Sprintf("/dev/nbd%d", i))
		}
	}
	if len(free) == 0 {
		return ""
	}
	return "; free are " + strings.Join(free, ", ")
}

// attachError gives errors of package attach a code, and a hint where there is one.
func attachError(err error) error {
	var known *control.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	for _, c := range []struct {
		is   error
		code control.Code
		hint string
	}{
		{attach.ErrNoModule, control.CodeUnsupported, "modprobe nbd"},
		{attach.ErrNotAllowed, control.CodeRefused, "try again as root"},
		{attach.ErrNoDevice, control.CodeNotFound, "ls /dev/nbd*, and modprobe nbd nbds_max=N for more of them"},
		{attach.ErrAttached, control.CodeExists, "lockstep attach --list"},
		{attach.ErrBusy, control.CodeBusy, "lockstep attach --list" + freeDevices()},
		{attach.ErrHeld, control.CodeRefused, "detach it there first"},
		{attach.ErrUnknown, control.CodeNotFound, "lockstep status"},
		{attach.ErrNeedsTLS, control.CodeRefused, "give the directory that lockstep cluster client-cert has written: --tls DIR"},
		{attach.ErrNotLockstep, control.CodeUnsupported, "see whether --servers names nodes of the cluster"},
		{attach.ErrSuperseded, control.CodeRefused, "lockstep attach --list"},
		{context.DeadlineExceeded, control.CodeUnreachable, "lockstep status"},
	} {
		if errors.Is(err, c.is) {
			return control.Errorf(c.code, "%v", err).WithHint("%s", c.hint)
		}
	}
	return err
}
