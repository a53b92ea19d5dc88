package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"webknock/internal/tty"
)

func newClients(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "clients",
		Short: "Show who is on the way through a sequence",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			list, err := a.api().Clients(c.Context())
			if err != nil {
				return err
			}
			if a.output == "json" {
				return printJSON(c.OutOrStdout(), list)
			}
			var rows [][]string
			for _, p := range list.Clients {
				rows = append(rows, []string{
					p.Client, p.Sequence, fmt.Sprintf("%d of %d", p.Step, p.Steps), tty.Left(time.Until(p.ExpiresAt)),
				})
			}
			return printTable(c.OutOrStdout(), "no clients in progress", []string{"CLIENT", "SEQUENCE", "STEP", "EXPIRES IN"}, rows)
		},
	}
}
