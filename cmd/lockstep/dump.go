package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/lockstep-ha/lockstep/internal/store"
)

func (a *app) dumpMetaCmd() *cobra.Command {
	return a.withJSON(&cobra.Command{
		Use:   "dump-meta FILE",
		Short: "Print the metadata file of a replica",
		Long: `Dump-meta decodes a metadata file and prints it. It never writes and needs no lock, so it can be used
on a replica that is in use; what it prints may then be torn.`,
		Args: cobra.ExactArgs(1),
		RunE: a.stream(func(_ context.Context, args []string) error {
			return store.Dump(args[0], a.out, a.json)
		}),
	})
}
