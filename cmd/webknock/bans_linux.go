package main

import (
	"errors"

	"github.com/spf13/cobra"

	"webknock/httpd/admin"
	"webknock/internal/tty"
)

func newBans(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "bans",
		Short: "Show who is kept from the listeners",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			list, err := a.api().Bans(c.Context())
			if err != nil {
				return err
			}
			if a.output == "json" {
				return printJSON(c.OutOrStdout(), list)
			}
			var rows [][]string
			for _, b := range list.Bans {
				rows = append(rows, []string{b.Client, tty.Seconds(b.Remaining)})
			}
			return printTable(c.OutOrStdout(), "no bans", []string{"CLIENT", "REMAINING"}, rows)
		},
	}
}

func newUnban(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "unban ADDRESS",
		Short: "Lift a ban",
		Args: func(c *cobra.Command, args []string) error {
			if err := cobra.ExactArgs(1)(c, args); err != nil {
				return err
			}
			if _, err := admin.ParseScope(args[0]); err != nil {
				return errors.New("not an address (like 192.0.2.7, or 2001:db8::/64 as bans has it)")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.api().Unban(c.Context(), args[0]); err != nil {
				return err
			}
			return a.done(c.OutOrStdout(), "lifted", result{"lifted"})
		},
	}
}
