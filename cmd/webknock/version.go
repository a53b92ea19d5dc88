package main

import (
	"fmt"
	"io"
	"runtime"

	"github.com/spf13/cobra"
)

func newVersion(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the version",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return printVersion(c.OutOrStdout(), a.output == "json")
		},
	}
}

func printVersion(w io.Writer, asJSON bool) error {
	if asJSON {
		return printJSON(w, map[string]string{"version": version, "go": runtime.Version()})
	}
	_, err := fmt.Fprintf(w, "webknock %s (%s)\n", version, runtime.Version())
	return err
}
