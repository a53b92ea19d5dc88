package main

import (
	"errors"
	"net/netip"

	"github.com/spf13/cobra"

	"webknock/httpd/admin"
)

func newClose(a *app) *cobra.Command {
	var door, client string
	var all bool
	c := &cobra.Command{
		Use:   "close (GRANT | --door DOOR | --client ADDRESS | --all)",
		Short: "End grants before their time",
		Args: func(c *cobra.Command, args []string) error {
			chosen := len(args)
			for _, flag := range []string{"door", "client", "all"} {
				if c.Flags().Changed(flag) {
					chosen++
				}
			}
			if chosen != 1 {
				return errors.New("close takes exactly one of GRANT, --door DOOR, --client ADDRESS and --all")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			list, err := a.api().Grants(c.Context())
			if err != nil {
				return err
			}
			closed := admin.GrantList{Grants: []admin.Grant{}}
			var failed error
			for _, g := range list.Grants {
				if !(all || g.Door == door || client != "" && covers(g.Client, client) || len(args) > 0 && g.ID == args[0]) {
					continue
				}
				if err := a.api().Close(c.Context(), g.ID); err != nil {
					failed = errors.Join(failed, err)
					continue
				}
				closed.Grants = append(closed.Grants, g)
			}
			if len(closed.Grants) == 0 && failed == nil {
				return errors.New("no such grant (webknock grants lists them)")
			}
			if a.output == "json" {
				return errors.Join(failed, printJSON(c.OutOrStdout(), closed))
			}
			return errors.Join(failed, printGrants(c.OutOrStdout(), closed.Grants))
		},
	}
	c.Flags().StringVar(&door, "door", "", "all grants of a `DOOR`")
	c.Flags().StringVar(&client, "client", "", "all grants that cover an `ADDRESS`")
	c.Flags().BoolVar(&all, "all", false, "all grants")
	return c
}

// covers reports whether the client of a grant, an address or a prefix, covers
// an address.
func covers(granted, address string) bool {
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return granted == address
	}
	if p, err := netip.ParsePrefix(granted); err == nil {
		return p.Contains(addr.Unmap())
	}
	g, err := netip.ParseAddr(granted)
	return err == nil && g == addr.Unmap()
}
