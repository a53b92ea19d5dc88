package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"webknock/config"
	"webknock/firewall"
	"webknock/firewall/nft"
	"webknock/httpd/admin"
	"webknock/internal/atomicfile"
	"webknock/internal/keeper"
	"webknock/internal/lastgood"
)

type guarded struct {
	Result string `json:"result"`
	Doors  int    `json:"doors"`
	Daemon bool   `json:"daemon"` // a running daemon guards them
}

func newGuard(a *app) *cobra.Command {
	var print bool
	c := &cobra.Command{
		Use:   "guard",
		Short: "Close all doors, without a daemon",
		Long: "guard puts up what keeps the doors closed, and exits: for a unit that runs at boot, before\n" +
			"the network and after nftables.service, so that no door is open until the daemon starts.\n" +
			"Grants that run go on. Where a daemon runs it leaves the doors to that. With --print it\n" +
			"writes the guard as a file for nft instead.\n\n" +
			"If the configuration does not load, or its trial was undone, guard puts up the guard that was\n" +
			"in force last, unless somebody took that away by webknock unguard, and exits 1.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, broken := config.Load(a.configFile)
			if print {
				if broken != nil {
					return broken
				}
				var ruleset strings.Builder
				if err := nft.Print(&ruleset, cfg.Firewall.Table, cfg.Firewall.Guard); err != nil {
					return err
				}
				return a.done(c.OutOrStdout(), strings.TrimSuffix(ruleset.String(), "\n"), map[string]string{"ruleset": ruleset.String()})
			}
			if broken == nil {
				broken = keeper.Undone(cfg)
			}
			if errors.Is(broken, keeper.ErrUndone) {
				// Its trial may still be running, which is not an error.
				if s, err := a.api().Status(c.Context()); err == nil && s.ConfirmBy != nil && s.Firewall.Guarded {
					broken = nil
				}
			}
			if broken != nil {
				return guardLastGood(c, a, broken)
			}
			by, err := guard(c.Context(), a, cfg.State, cfg.Firewall.Table, cfg.Firewall.Guard)
			if err != nil {
				return err
			}
			return a.done(c.OutOrStdout(), fmt.Sprintf("%d doors are guarded%s", len(cfg.Doors), by), guarded{"guarded", len(cfg.Doors), by != ""})
		},
	}
	c.Flags().BoolVar(&print, "print", false, "write the guard as a file for nft(8)")
	return c
}

// guardLastGood puts up the guard that was in force last, since the file is
// broken, and says so in its error.
func guardLastGood(c *cobra.Command, a *app, broken error) error {
	last, err := lastgood.ReadGuard(a.stateDir())
	switch {
	case err != nil:
		return fmt.Errorf("%w\nnor can the last good guard be read, and the firewall is as it was: %w", broken, err)
	case last == nil:
		return fmt.Errorf("%w\nno last good guard is kept in %s, and the firewall is as it was", broken, a.stateDir())
	case !last.TakenAway.IsZero():
		return fmt.Errorf("%w\nthe last good guard was taken away on purpose (%s), and the firewall is as it was", broken, last.TakenAway.Local().Format(time.DateTime))
	case last.Backend != config.BackendNFTables:
		return fmt.Errorf("%w\nwhat was in force last guards nothing (firewall.backend: %s), and the firewall is as it was", broken, last.Backend)
	}
	by, err := guard(c.Context(), a, a.stateDir(), last.Table, last.Guard)
	if err != nil {
		return fmt.Errorf("%w\nnor can the last good guard be put up: %w", broken, err)
	}
	if by == "" {
		by = ", by the last good guard"
	}
	return fmt.Errorf("%w\n%d doors are guarded%s", broken, len(last.Guard.Doors), by)
}

// guard puts a guard up, or leaves that to a daemon that runs, and then says so.
func guard(ctx context.Context, a *app, state, table string, g firewall.Guard) (by string, err error) {
	// A daemon would take what is put there beside it for a change of
	// somebody else's, and put its own guard back.
	s, err := a.api().Status(ctx)
	switch {
	case errors.Is(err, admin.ErrNoDaemon), err == nil && s.Firewall.Backend != config.BackendNFTables:
	case err != nil:
		return "", err
	case !s.Firewall.Guarded:
		return "", errors.New("a daemon runs whose guard was taken away (webknock reload puts it back)")
	default:
		return ", by the running daemon", nil
	}
	return "", withTable(ctx, state, table, func(b *nft.Backend) error { return b.Guard(ctx, g, nil) })
}

// withTable calls do while it holds the lock of a table, so that no daemon can change the
// table meanwhile.
func withTable(ctx context.Context, state, table string, do func(*nft.Backend) error) error {
	lock, err := nft.LockTable(ctx, table, slog.Default())
	if err != nil {
		return err
	}
	defer lock.Close()
	lock.Stopping()
	dir := atomicfile.NewDir(state)
	defer dir.Close()
	backend, err := nft.New(nft.Options{Table: table, Log: slog.Default(), Sessions: sessionsIn(dir)})
	if err != nil {
		return err
	}
	defer backend.Close()
	return do(backend)
}
