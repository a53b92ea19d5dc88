package main

import (
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"webknock/httpd/admin"
	"webknock/internal/tty"
)

func newGrants(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "grants",
		Short: "Show who may pass which door, and for how long",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			list, err := a.api().Grants(c.Context())
			if err != nil {
				return err
			}
			if a.output == "json" {
				return printJSON(c.OutOrStdout(), list)
			}
			return printGrants(c.OutOrStdout(), list.Grants)
		},
	}
}

func printGrants(w io.Writer, grants []admin.Grant) error {
	var rows [][]string
	for _, g := range grants {
		rows = append(rows, []string{
			g.ID, g.Door, g.Client, tty.Seconds(g.Remaining), g.Sequence, g.User,
			strconv.FormatUint(g.Packets, 10), strconv.FormatUint(g.Bytes, 10),
		})
	}
	return printTable(w, "no grants", []string{"GRANT", "DOOR", "CLIENT", "REMAINING", "SEQUENCE", "USER", "PACKETS", "BYTES"}, rows)
}
