package main

import (
	"time"

	"github.com/spf13/cobra"

	"webknock/httpd/admin"
)

func newOpen(a *app) *cobra.Command {
	var ttl time.Duration
	c := &cobra.Command{
		Use:   "open DOOR ADDRESS",
		Short: "Let an address through a door",
		Args:  cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			r := admin.OpenRequest{Door: args[0], Client: args[1]}
			if c.Flags().Changed("for") {
				r.TTL = ttl.String()
			}
			grant, err := a.api().Open(c.Context(), r)
			if err != nil {
				return err
			}
			if a.output == "json" {
				return printJSON(c.OutOrStdout(), grant)
			}
			return printGrants(c.OutOrStdout(), []admin.Grant{grant})
		},
	}
	c.Flags().DurationVar(&ttl, "for", 0, "how long, like 5m, up to the door's max_ttl (default the door's ttl)")
	return c
}
