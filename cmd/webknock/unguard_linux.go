package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"webknock/config"
	"webknock/firewall/nft"
	"webknock/httpd/admin"
	"webknock/internal/atomicfile"
	"webknock/internal/lastgood"
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
				err = unguard(c.Context(), a, c.ErrOrStderr())
			}
			if err != nil {
				return err
			}
			return a.done(c.OutOrStdout(), "the guard is gone: doors are as open as the other rules of this host leave them", result{"unguarded"})
		},
	}
}

// sessionsIn keeps in a directory which sessions were up before the guard.
func sessionsIn(state *atomicfile.Dir) nft.Store {
	return atomicfile.File{Dir: state, Name: nft.SessionsFile, Max: nft.MaxSessionsFile}
}

// unguard removes the table without a daemon: the one of the guard that was in
// force last and, should that be another, the one that the file names. It
// remembers that the guard was taken away on purpose.
func unguard(ctx context.Context, a *app, stderr io.Writer) error {
	state := a.stateDir()
	last, err := lastgood.ReadGuard(state)
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		fmt.Fprintf(stderr, "warning: the last good guard cannot be read: %v\n", err)
	}
	table := config.Peek(a.configFile).Table
	if last != nil && last.Table != table {
		if err := removeTable(ctx, state, last.Table); err != nil {
			return err
		}
	}
	if err := removeTable(ctx, state, table); err != nil {
		return err
	}
	if last == nil {
		return nil
	}
	dir := atomicfile.NewDir(state)
	defer dir.Close()
	if err := lastgood.MarkGuard(dir, time.Now()); err != nil {
		fmt.Fprintf(stderr, "warning: webknock guard may put the last good guard up again, since it cannot be remembered that it was taken away: %v\n", err)
	}
	return nil
}

func removeTable(ctx context.Context, state, table string) error {
	return withTable(ctx, state, table, func(b *nft.Backend) error { return b.Unguard(ctx) })
}
