package main

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/services/service"
)

// servicesHelp is the part of the help of resource set that is about services.
const servicesHelp = `What follows the primary: it is started on promotion, in the order below, and stopped in reverse before the
role is given up. What is given replaces all that there was.

  --attach /dev/nbd0                                the resource as a block device; connections=, deadline=
  --mount /srv/data,opt=noatime                     device=, unless one is attached; fsck=none, preen or
                                                    force-check; users=kill or spare
  --vip 10.0.0.10/24,dev=eth0                       without dev=, the interface that has the network
  --unit postgresql.service                         of systemd; it must not be enabled
  --ocf heartbeat:IPaddr2,ip=10.0.0.11              a resource agent with its parameters
  --exec /usr/local/bin/hook,arg=x                  a program that is called with start, stop or monitor
  --no-services                                     nothing

Each also takes start-timeout=, stop-timeout=, monitor-timeout=, monitor-interval= and start-order= (1 to
1000; 5, 10, 20, 30, 40 and 50 unless said otherwise). A comma in a value is written as \,`

// servicesFlags adds the flags for services. The returned function reads them: nil if none was given.
func servicesFlags(f *pflag.FlagSet) func() (*[]service.Spec, error) {
	texts := map[service.Kind]*[]string{}
	for kind, help := range map[service.Kind]string{
		service.KindAttach: "the resource as a block device: `DEVICE[,...]`", service.KindMount: "a file system: `DIR[,device=PATH,...]`",
		service.KindVIP:  "an address: `ADDRESS/LENGTH[,...]`",
		service.KindUnit: "a unit of systemd: `NAME[,...]`", service.KindOCF: "a resource agent: `PROVIDER:TYPE[,...]`",
		service.KindExec: "a program of yours: `PATH[,...]`",
	} {
		texts[kind] = f.StringArray(string(kind), nil, "follows the primary, "+help)
	}
	none := f.Bool("no-services", false, "nothing follows the primary any more")
	return func() (*[]service.Spec, error) {
		all := []service.Spec{}
		for _, kind := range service.Kinds {
			for _, text := range *texts[kind] {
				s, err := service.Parse(kind, text)
				if err != nil {
					return nil, control.Usagef("%v", err)
				}
				all = append(all, s)
			}
		}
		all = service.WithDevices(all)
		if err := service.ValidateAll(all); err != nil {
			return nil, control.Usagef("%v", err)
		}
		switch {
		case *none && len(all) > 0:
			return nil, control.Usagef("--no-services and --%s say two things", all[0].Kind)
		case !*none && len(all) == 0:
			return nil, nil
		}
		return &all, nil
	}
}

func (a *app) clearCmd() *cobra.Command {
	return a.remote(a.withJSON(&cobra.Command{
		Use:   "clear NAME",
		Short: "Let services that failed be tried again",
		Long: `Clear forgets that the services of a resource failed, on all nodes. A node where they failed is not tried
again before that, or before ten minutes have passed there.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeResources,
		RunE: a.do(func(ctx context.Context, args []string) error {
			if err := a.client().ClearServices(ctx, args[0]); err != nil {
				return err
			}
			return a.done("the services of %s are tried again", args[0])
		}),
	}))
}

// renderServices writes one line for each service on the answering node.
func renderServices(b *bytes.Buffer, s *control.Services, p painter) {
	if s == nil {
		return
	}
	for _, v := range s.List {
		colour := map[string]string{"running": colourGood, "stuck": colourBad, "unclear": colourWarn}[v.State]
		fmt.Fprintf(b, "  service %s %s for %v", v.Name, p.paint(colour, v.State), v.For.Round(time.Second))
		if v.Fault != "" {
			fmt.Fprintf(b, " (%s)", v.Fault)
		}
		b.WriteByte('\n')
	}
}
