package main

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"webknock/internal/client"
)

func newConnect(a *app) *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "connect PROFILE HOST PORT",
		Short: "Knock if need be, and pass a connection on (OpenSSH's ProxyCommand)",
		Long: "connect tries the port first and knocks only if it does not answer. As soon as the port answers\n" +
			"it passes standard input and output on, until the connection ends. It prints nothing else.",
		Example: "  ssh -o 'ProxyCommand webknock connect home %h %p' home.example.org",
		Args:    cobra.ExactArgs(3),
		RunE: func(c *cobra.Command, args []string) error {
			p, err := client.Load(args[0])
			if err != nil {
				return err
			}
			conn, err := client.Connect(c.Context(), p, args[1], args[2], client.Options{Timeout: timeout})
			if err != nil {
				return err
			}
			defer context.AfterFunc(c.Context(), func() { conn.Close() })()
			err = client.Pipe(conn, c.InOrStdin(), c.OutOrStdout())
			if c.Context().Err() != nil {
				return errors.New("interrupted")
			}
			return err
		},
	}
	c.Flags().DurationVar(&timeout, "timeout", defaultPatience, "how long it may take until the port answers")
	return c
}

func newSSHConfig(a *app) *cobra.Command {
	var name string
	c := &cobra.Command{
		Use:   "ssh-config PROFILE",
		Short: "Print the lines for ~/.ssh/config that knock before ssh connects",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			p, err := client.Load(args[0])
			if err != nil {
				return err
			}
			if name == "" {
				name = p.Name
			}
			var lines strings.Builder
			if err := client.SSHConfig(&lines, p, args[0], name); err != nil {
				return err
			}
			if a.output == "json" {
				return printJSON(c.OutOrStdout(), map[string]string{"ssh_config": lines.String()})
			}
			_, err = io.WriteString(c.OutOrStdout(), lines.String())
			return err
		},
	}
	c.Flags().StringVar(&name, "name", "", "the `HOST` that is given to ssh (default: the profile's name)")
	return c
}
