package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"webknock/config"
	"webknock/internal/daemon"
)

func newServe(a *app) *cobra.Command {
	var dryRun bool
	var confirm time.Duration
	c := &cobra.Command{
		Use:   "serve",
		Short: "Receive knocks, keep doors, open them",
		Long: "serve is the daemon. SIGHUP makes it read its configuration again; SIGTERM and SIGINT\n" +
			"stop it, and leave the doors guarded.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return serve(c.Context(), a, dryRun, confirm, c.ErrOrStderr())
		},
	}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "touch no firewall: guard nothing, open nothing")
	c.Flags().Var((*trialTime)(&confirm), "confirm", "take the guard away again unless webknock confirm follows within `DURATION`")
	return c
}

// leaveRoom has the daemon take half of the processors at most, so that no flood
// of knocks takes them all from what is behind the doors, and since goroutines
// that wake each other across processors cost more than they gain
// (docs/performance.md). GOMAXPROCS in the environment says otherwise.
func leaveRoom() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(max(1, runtime.GOMAXPROCS(0)/2))
	}
}

func serve(ctx context.Context, a *app, dryRun bool, confirm time.Duration, stderr io.Writer) error {
	leaveRoom()
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	reload := make(chan struct{})
	go func() {
		for {
			select {
			case <-hangups:
			case <-ctx.Done():
				return
			}
			select {
			case reload <- struct{}{}:
			case <-ctx.Done():
				return
			}
		}
	}()
	cfg, err := config.Load(a.configFile)
	if err != nil {
		return err
	}
	level := new(slog.LevelVar)
	return daemon.Run(ctx, daemon.Options{
		ConfigFile: a.configFile,
		Socket:     a.socket,
		DryRun:     dryRun,
		Confirm:    confirm,
		Version:    version,
		Log:        newLogger(stderr, cfg.Log.Format, level),
		Level:      level,
	}, reload)
}
