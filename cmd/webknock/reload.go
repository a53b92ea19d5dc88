package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newReload(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Have the daemon read its configuration again",
		Long:  "reload changes the configuration as a whole or, if it has errors, not at all.",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := a.api().Reload(c.Context()); err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), "reloaded")
			return nil
		},
	}
}
