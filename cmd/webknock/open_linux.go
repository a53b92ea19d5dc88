package main

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"webknock/httpd/admin"
)

func newOpen(a *app) *cobra.Command {
	var ttl time.Duration
	c := &cobra.Command{
		Use:   "open DOOR ADDRESS",
		Short: "Let an address through a door",
		Args: func(c *cobra.Command, args []string) error {
			if err := cobra.ExactArgs(2)(c, args); err != nil {
				return err
			}
			if addr, err := netip.ParseAddr(args[1]); err != nil || addr.Zone() != "" {
				return fmt.Errorf("%q is not an IP address (like 192.0.2.7 or 2001:db8::7)", args[1])
			}
			return nil
		},
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
