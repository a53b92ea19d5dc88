package main

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"webknock/internal/top"
	"webknock/internal/tty"
)

func newTop(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "top",
		Short: "Show live who knocks, who is in and who is on the way",
		Long: "top fills the terminal with what happens: knocks as they come and what each did, who may pass\n" +
			"which door and for how long, clients in progress, doors, bans, knocks a minute, and problems.\n\n" +
			"Keys: q quits, p pauses; tab, left and right choose a pane, up and down a row in it, and enter\n" +
			"has the pane fill the screen. / shows only some clients, by a part of the address or a network;\n" +
			"esc shows all. x closes the chosen grant, e explains what became of the chosen client's knocks.",
		Args: func(c *cobra.Command, args []string) error {
			if err := cobra.NoArgs(c, args); err != nil {
				return err
			}
			if a.output == "json" {
				return errors.New("top is for people at a terminal (webknock events --follow --output json prints what happens)")
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error {
			in, out := c.InOrStdin(), c.OutOrStdout()
			if !tty.IsTerminal(in) || !tty.IsTerminal(out) || tty.Dumb(os.Getenv) {
				return errors.New("top needs a terminal that it can draw on (webknock status prints the same once, webknock events --follow what happens)")
			}
			api := a.api()
			if _, err := api.Status(c.Context()); err != nil {
				return err
			}
			return top.Run(c.Context(), top.Options{
				Daemon: api,
				Explain: func(ctx context.Context, client netip.Addr) ([]string, error) {
					e, err := api.Explain(ctx, client, false)
					if err != nil {
						return nil, err
					}
					var text strings.Builder
					err = printExplanation(&text, e, time.Now())
					return strings.Split(strings.TrimSpace(text.String()), "\n"), err
				},
				Colours: tty.ColoursOf(out, os.Getenv),
				In:      in,
				Out:     out,
			})
		},
	}
}
