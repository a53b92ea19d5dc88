package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"webknock/config"
)

func newCheck(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Check the configuration file",
		Long:  "check prints all that is wrong with the configuration file, each with the place where it stands.",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := config.Load(a.configFile)
			if err != nil {
				return err
			}
			for _, warning := range cfg.Warnings {
				fmt.Fprintf(c.ErrOrStderr(), "warning: %s\n", warning)
			}
			fmt.Fprintf(c.OutOrStdout(), "%s is right (doors: %d, sequences: %d)\n", a.configFile, len(cfg.Doors), len(cfg.Sequences))
			return nil
		},
	}
}
