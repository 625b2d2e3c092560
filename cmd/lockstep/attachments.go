package main

import (
	"context"
	"fmt"
	"strconv"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/lockstep-ha/lockstep/internal/control"
)

// attachedResource is what attachments prints of one resource as JSON.
type attachedResource struct {
	Resource    string               `json:"resource"`
	Attachments []control.Attachment `json:"attachments"`
}

func (a *app) attachmentsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "attachments [NAME]",
		Short: "List the kernel devices that show a resource, on every host",
		Long: `Attachments lists what the cluster has recorded: which device on which host shows which resource.
A record stays when the host is silent or the primary moves; while an exclusive one is there, nobody
else is served. CONNECTED tells whether the primary has a connection of it now.`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeResources,
	}
	cmd.RunE = a.do(func(ctx context.Context, args []string) error {
		name := ""
		if len(args) > 0 {
			name = args[0]
		}
		st, err := a.client().Status(ctx, name)
		if err != nil {
			return err
		}
		if a.json {
			out := []attachedResource{}
			for _, r := range st.Resources {
				out = append(out, attachedResource{r.Name, r.Attachments})
			}
			return a.printJSON(out)
		}
		w := tabwriter.NewWriter(a.out, 0, 8, 2, ' ', 0)
		fmt.Fprintln(w, "RESOURCE\tNUMBER\tHOLDER\tDEVICE\tMODE\tCONNECTED")
		for _, r := range st.Resources {
			for _, x := range r.Attachments {
				fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", r.Name, x.Number, x.Holder, x.Device, modeText(x), connectedText(x))
			}
		}
		return w.Flush()
	})
	return a.remote(a.withJSON(cmd))
}

func modeText(x control.Attachment) string {
	if x.Shared {
		return "shared"
	}
	return "exclusive"
}

func connectedText(x control.Attachment) string {
	if x.Connected {
		return "yes"
	}
	return "no"
}

func (a *app) attachmentCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "attachment",
		Short: "End attachments whose holder does not",
		Args:  cobra.ArbitraryArgs,
		RunE:  a.group,
	}
	cmd.AddCommand(a.dropAttachmentCmd())
	return cmd
}

func (a *app) dropAttachmentCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drop NAME NUMBER",
		Short: "End an attachment, whatever its holder says",
		Long: `Drop makes the cluster forget an attachment, so that another host can attach the resource. Use it when
the holder is gone for good; one that lives detaches by itself, with lockstep detach.

If the holder lives all the same, it is served no more: its device fails with I/O errors, a filesystem on it
loses what it had not written back, and nothing that it sends later is applied. lockstep attachments NAME shows
the numbers.`,
		Example:           "  lockstep attachment drop r0 3",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeResources,
	}
	cmd.RunE = a.do(func(ctx context.Context, args []string) error {
		number, err := strconv.ParseUint(args[1], 10, 64)
		if err != nil || number == 0 {
			return control.Usagef("%q is no number of an attachment; lockstep attachments %s shows them", args[1], args[0])
		}
		// Where the primary carries it out, the holder is cut off when it returns.
		c, err := a.onPrimary(ctx, args[0])
		if err != nil {
			return err
		}
		if err := c.DropAttachment(ctx, args[0], number); err != nil {
			return err
		}
		return a.done("dropped attachment %d of %s; another host may attach it now", number, args[0])
	})
	return a.remote(a.withJSON(cmd))
}

// dropAll ends every attachment of a resource.
func dropAll(ctx context.Context, c *control.Client, resource string) error {
	st, err := c.Status(ctx, resource)
	if err != nil {
		return err
	}
	for _, r := range st.Resources {
		for _, x := range r.Attachments {
			if err := c.DropAttachment(ctx, resource, x.Number); err != nil {
				return err
			}
		}
	}
	return nil
}
