package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"webknock/config"
)

// checked is what check tells programs.
type checked struct {
	File      string   `json:"file"`
	Valid     bool     `json:"valid"`
	Doors     int      `json:"doors"`
	Sequences int      `json:"sequences"`
	Errors    []detail `json:"errors"`
	Warnings  []detail `json:"warnings"`
}

func newCheck(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check the configuration file",
		Long: "check prints all that is wrong with a configuration file, each with the place where it stands,\n" +
			"and warns of what is rarely meant. It checks FILE, or else the file of --config.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			file := a.configFile
			if len(args) > 0 {
				file = args[0]
			}
			cfg, err := config.Load(file)
			var wrong config.Errors
			if a.output == "json" && (err == nil || errors.As(err, &wrong)) {
				report := checked{File: file, Valid: err == nil, Errors: details(wrong), Warnings: []detail{}}
				if cfg != nil {
					report.Doors, report.Sequences, report.Warnings = len(cfg.Doors), len(cfg.Sequences), details(cfg.Warnings)
				}
				return errors.Join(printJSON(c.OutOrStdout(), report), err)
			}
			if err != nil {
				return err
			}
			for _, warning := range cfg.Warnings {
				fmt.Fprintf(c.ErrOrStderr(), "warning: %v\n", warning)
			}
			fmt.Fprintf(c.OutOrStdout(), "%s is right (doors: %d, sequences: %d)\n", file, len(cfg.Doors), len(cfg.Sequences))
			return nil
		},
	}
}
