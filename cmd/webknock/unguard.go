package main

import (
	"context"
	"errors"
	"log/slog"

	"github.com/spf13/cobra"

	"webknock/config"
	"webknock/firewall/nft"
	"webknock/httpd/admin"
	"webknock/internal/durable"
)

func newUnguard(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "unguard",
		Short: "Take the guard away: all doors are open",
		Long: "unguard takes the guard away, through the running daemon, which leaves it so until it is\n" +
			"told to reload, or by itself if no daemon runs.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			err := a.api().Unguard(c.Context())
			if errors.Is(err, admin.ErrNoDaemon) {
				err = unguard(c.Context(), a.configFile)
			}
			if err != nil {
				return err
			}
			return a.done(c.OutOrStdout(), "the guard is gone: doors are as open as the other rules of this host leave them", result{"unguarded"})
		},
	}
}

// sessionsIn keeps in a directory which sessions were up before the guard.
func sessionsIn(state *durable.Dir) nft.Store {
	return durable.File{Dir: state, Name: nft.SessionsFile, Max: nft.MaxSessionsFile}
}

// unguard removes the table without a daemon.
func unguard(ctx context.Context, configFile string) error {
	cfg, err := config.Load(configFile)
	if err != nil {
		return err
	}
	lock, err := nft.LockTable(ctx, cfg.Firewall.Table, slog.Default())
	if err != nil {
		return err
	}
	defer lock.Close()
	lock.Stopping()
	state := durable.NewDir(cfg.State)
	defer state.Close()
	backend, err := nft.New(nft.Options{Table: cfg.Firewall.Table, Log: slog.Default(), Sessions: sessionsIn(state)})
	if err != nil {
		return err
	}
	defer backend.Close()
	return backend.Unguard(ctx)
}
