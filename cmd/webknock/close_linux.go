package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"

	"github.com/spf13/cobra"

	"webknock/httpd/admin"
	"webknock/internal/suggest"
)

func newClose(a *app) *cobra.Command {
	var door string
	var client scope
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
			var closed admin.GrantList
			var failed error
			for _, g := range list.Grants {
				if !(all || g.Door == door || c.Flags().Changed("client") && overlap(g.Client, client) || len(args) > 0 && g.ID == args[0]) {
					continue
				}
				err := a.api().Close(c.Context(), g.ID)
				var problem *admin.Problem
				if errors.As(err, &problem) && problem.Status == http.StatusNotFound {
					continue // it has run out meanwhile
				}
				if err != nil {
					failed = errors.Join(failed, err)
					continue
				}
				closed.Grants = append(closed.Grants, g)
			}
			if len(closed.Grants) == 0 && failed == nil {
				if err := a.nothingToClose(c.Context(), args, door); err != nil {
					return err
				}
			}
			if a.output == "json" {
				return errors.Join(failed, printJSON(c.OutOrStdout(), closed))
			}
			if len(closed.Grants) > 0 { // else the list looks like one of grants that run
				fmt.Fprintln(c.OutOrStdout(), "closed:")
			}
			return errors.Join(failed, printGrants(c.OutOrStdout(), closed.Grants))
		},
	}
	c.Flags().StringVar(&door, "door", "", "all grants of a `DOOR`")
	c.Flags().Var(&client, "client", "all grants for an `ADDRESS`, or in a prefix")
	c.Flags().BoolVar(&all, "all", false, "all grants")
	return c
}

// nothingToClose says what is wrong with what was asked to be closed, if there was
// nothing. That a door has no grants, or a client, or that there are none at all,
// is what was asked for.
func (a *app) nothingToClose(ctx context.Context, args []string, door string) error {
	if len(args) > 0 {
		return fmt.Errorf("there is no grant %q (webknock grants lists them)", args[0])
	}
	if door == "" {
		return nil
	}
	s, err := a.api().Status(ctx)
	if err != nil {
		return err
	}
	var names []string
	for _, d := range s.Doors {
		names = append(names, d.Name)
	}
	if slices.Contains(names, door) {
		return nil
	}
	hint := suggest.DidYouMean(door, names)
	if hint == "" {
		hint = " (webknock status lists them)"
	}
	return fmt.Errorf("there is no door %q%s", door, hint)
}

// scope is a flag that holds an address or a prefix.
type scope struct{ netip.Prefix }

func (s *scope) String() string { return "" }
func (s *scope) Type() string   { return "ADDRESS" }

func (s *scope) Set(text string) (err error) {
	s.Prefix, err = admin.ParseScope(text)
	return err
}

// overlap reports whether the client of a grant, an address or a prefix, has
// an address in common with a scope.
func overlap(granted string, s scope) bool {
	p, err := admin.ParseScope(granted)
	return err == nil && p.Overlaps(s.Prefix)
}
