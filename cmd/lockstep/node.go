package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/node"
)

func (a *app) nodeCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "node --config FILE",
		Short: "Run a node in the foreground",
		Long: `Node runs the daemon until it gets SIGINT or SIGTERM; a second signal ends it at once. It logs to
standard error and tells systemd (Type=notify) when it is ready and when it stops. Every fault of
FILE is reported at once, with its line.`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(a.nodeRemoveCmd(), a.nodeReplaceCmd())
	path := cmd.Flags().String("config", "", "node `FILE` (required)")
	_ = cmd.MarkFlagFilename("config", "toml")
	cmd.RunE = a.stream(func(ctx context.Context, _ []string) error {
		if *path == "" {
			return control.Usagef("node needs --config FILE")
		}
		cfg, err := config.Load(*path)
		if err != nil {
			return err
		}
		var level slog.Level
		if err := level.UnmarshalText([]byte(cfg.LogLevel)); err != nil {
			return fmt.Errorf("log_level: %w", err)
		}
		logger := slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: level}))
		if cfg.Witness && os.Getenv("GOMAXPROCS") == "" {
			runtime.GOMAXPROCS(1) // it has little to do, and a second thread only to be woken
		}
		node.EnterWritePath(cfg, logger)
		notify := func(state string) {
			// Without systemd there is nobody to notify, which is no error.
			if _, err := daemon.SdNotify(false, state); err != nil {
				logger.Warn("systemd was not notified", "state", state, "error", err)
			}
		}
		defer context.AfterFunc(ctx, func() { notify(daemon.SdNotifyStopping) })()
		return node.Run(ctx, cfg, logger, func() { notify(daemon.SdNotifyReady) })
	})
	return cmd
}
