package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/deploy"
)

func (a *app) installFilesCmd() *cobra.Command {
	var o deploy.Options
	cmd := &cobra.Command{
		Use:   "install-files [FILE...]",
		Short: "Write the systemd units, the udev rule and the OCF agent",
		Long: `Install-files writes what a host needs beside this program, all of which the program carries:

  lockstep-node.service     the daemon
  lockstep-attach@.service  one attached device: lockstep-attach@r0:nbd0
  61-lockstep.rules         stable names of attached devices: /dev/lockstep/r0
  device                    ocf:lockstep:device, for clusters in which Pacemaker decides

They go below /usr/lib; what you change with systemctl edit, below /etc, stays. Nothing is started.

--strict adds strict.conf, which takes from the daemon what it can do without where it starts no services.
--print shows the files, or those that are named, and writes nothing.`,
		Args: cobra.ArbitraryArgs,
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"lockstep-node.service", "strict.conf", "lockstep-attach@.service", "61-lockstep.rules", "device"}, cobra.ShellCompDirectiveNoFileComp
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Root, "root", "/", "`DIR` that stands for /, for packages and images")
	f.StringVar(&o.Program, "program", "", "`PATH` of lockstep on the host (default: of this program)")
	f.StringVar(&o.Config, "config", "/var/lib/lockstep/node.toml", "node `FILE` on the host")
	f.BoolVar(&o.Strict, "strict", false, "the daemon starts no services: take from it what it can do without")
	print := f.Bool("print", false, "show the files and write nothing")
	_ = cmd.MarkFlagDirname("root")
	cmd.RunE = a.do(func(_ context.Context, names []string) error {
		if o.Program == "" {
			exe, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program: %w; name it with --program", err)
			}
			o.Program = exe
		}
		if *print {
			return a.printFiles(o, names)
		}
		if len(names) > 0 {
			return control.Usagef("files are named only with --print; without it all are written")
		}
		return a.installFiles(o)
	})
	return cmd
}

// installFiles writes the files and says what to do next.
func (a *app) installFiles(o deploy.Options) error {
	files, err := deploy.Install(o)
	for _, f := range files {
		fmt.Fprintln(a.out, f.Path)
	}
	if err != nil {
		return err
	}
	if o.Root != "/" {
		return nil
	}
	_, err = fmt.Fprint(a.out, "next: systemctl daemon-reload; udevadm control --reload; systemctl enable --now lockstep-node.service\n")
	return err
}

// printFiles shows the files of these names, all of them if there is none.
func (a *app) printFiles(o deploy.Options, names []string) error {
	o.Strict = o.Strict || len(names) > 0
	files, err := deploy.Files(o)
	if err != nil {
		return err
	}
	byName := map[string]deploy.File{}
	var all []string
	for _, f := range files {
		byName[f.Name] = f
		all = append(all, f.Name)
	}
	if len(names) == 0 {
		names = all
	}
	for _, n := range names {
		f, ok := byName[n]
		if !ok {
			return control.Usagef("there is no file %s; these are: %s", n, strings.Join(all, ", "))
		}
		if len(names) > 1 {
			fmt.Fprintf(a.out, "==> %s <==\n", f.Path)
		}
		if _, err := fmt.Fprint(a.out, f.Text); err != nil {
			return err
		}
	}
	return nil
}
