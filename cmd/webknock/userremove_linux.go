package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"webknock/config"
	"webknock/internal/atomicfile"
)

type removedUser struct {
	Name  string   `json:"name"`
	File  string   `json:"file"`
	Notes []string `json:"notes"` // what is left to be done, for people
}

func newUserRemove(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "remove NAME",
		Short: "Remove a user, and the secret",
		Long:  "remove takes a user out of the configuration and then removes the file with the secret.",
		Args:  userName,
		RunE: func(c *cobra.Command, args []string) error {
			name := args[0]
			data, err := os.ReadFile(a.configFile)
			if err != nil {
				return fmt.Errorf("read the configuration: %w (name it with --config)", err)
			}
			text, u, err := config.WithoutUser(a.configFile, data, name)
			var wrong config.Errors
			switch {
			case errors.Is(err, config.ErrByHand):
				return fmt.Errorf("%w (take %s out there, and then remove %s)", err, name, u.File)
			case errors.As(err, &wrong) && u.Name != "":
				return fmt.Errorf("without %s the configuration would have errors:\n%w", name, err)
			case err != nil:
				return err
			}
			if err := atomicfile.Replace(a.configFile, text); err != nil {
				return err
			}
			note := fmt.Sprintf("%s is none of the users of %s any more; %s", name, a.configFile, reloadHint)
			if err := os.Remove(u.File); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("%s, but the secret is still there: %w", note, err)
			}
			if a.output == "json" {
				return printJSON(c.OutOrStdout(), removedUser{u.Name, u.File, []string{note}})
			}
			fmt.Fprintln(c.ErrOrStderr(), note)
			return nil
		},
	}
}
