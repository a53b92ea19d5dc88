package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

func newVersion(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the version",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if a.output == "json" {
				return printJSON(c.OutOrStdout(), map[string]string{"version": version, "go": runtime.Version()})
			}
			fmt.Fprintf(c.OutOrStdout(), "webknock %s (%s)\n", version, runtime.Version())
			return nil
		},
	}
}
