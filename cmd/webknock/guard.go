package main

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"webknock/config"
	"webknock/firewall/nft"
	"webknock/httpd/admin"
	"webknock/internal/durable"
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
			"writes the guard as a file for nft instead.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := config.Load(a.configFile)
			if err != nil {
				return err
			}
			if print {
				var ruleset strings.Builder
				if err := nft.Print(&ruleset, cfg.Firewall.Table, cfg.Firewall.Guard); err != nil {
					return err
				}
				return a.done(c.OutOrStdout(), strings.TrimSuffix(ruleset.String(), "\n"), map[string]string{"ruleset": ruleset.String()})
			}
			// A daemon would take what is put there beside it for a change of
			// somebody else's, and put its own guard back.
			s, err := a.api().Status(c.Context())
			switch {
			case errors.Is(err, admin.ErrNoDaemon), err == nil && s.Firewall.Backend != config.BackendNFTables:
			case err != nil:
				return err
			case !s.Firewall.Guarded:
				return errors.New("a daemon runs whose guard was taken away (webknock reload puts it back)")
			default:
				return a.done(c.OutOrStdout(), fmt.Sprintf("%d doors are guarded, by the running daemon", len(s.Doors)), guarded{"guarded", len(s.Doors), true})
			}
			lock, err := nft.LockTable(c.Context(), cfg.Firewall.Table, slog.Default())
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
			if err := backend.Guard(c.Context(), cfg.Firewall.Guard, nil); err != nil {
				return err
			}
			return a.done(c.OutOrStdout(), fmt.Sprintf("%d doors are guarded", len(cfg.Doors)), guarded{"guarded", len(cfg.Doors), false})
		},
	}
	c.Flags().BoolVar(&print, "print", false, "write the guard as a file for nft(8)")
	return c
}
