package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"webknock/config"
)

func newUser(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "user",
		Short: "Add, list and remove the users of one-time steps",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(c, args[0])
			}
			return errors.New("do what with users? (user add, user list or user remove)")
		},
		Run: func(*cobra.Command, []string) {}, // never: no arguments are right
	}
	c.AddCommand(newUserAdd(a), newUserList(a), newUserRemove(a))
	return c
}

// userName checks the arguments of a command that takes the name of a user.
func userName(c *cobra.Command, args []string) error {
	if err := cobra.ExactArgs(1)(c, args); err != nil {
		return err
	}
	if !config.IsName(args[0]) {
		return fmt.Errorf("%q is not a valid name (%s)", args[0], config.NameRule)
	}
	return nil
}

// reloadHint is what remains to be done when the users have changed.
const reloadHint = "webknock reload makes it take effect"

type listedUser struct {
	Name      string   `json:"name"`
	File      string   `json:"file"`
	Sequences []string `json:"sequences"`
}

func newUserList(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Show the users, and the sequences whose one-time steps they may use",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := config.Load(a.configFile)
			if err != nil {
				return err
			}
			list := []listedUser{}
			var rows [][]string
			for _, u := range cfg.Users {
				l := listedUser{u.Name, u.File, []string{}}
				for _, s := range cfg.Sequences {
					if s.Admits(u.Name) {
						l.Sequences = append(l.Sequences, s.Name)
					}
				}
				list = append(list, l)
				rows = append(rows, []string{l.Name, l.File, strings.Join(l.Sequences, " ")})
			}
			if a.output == "json" {
				return printJSON(c.OutOrStdout(), map[string]any{"users": list})
			}
			return printTable(c.OutOrStdout(), "no users", []string{"NAME", "FILE", "SEQUENCES"}, rows)
		},
	}
}
