package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"webknock/internal/setup"
)

func newConfirm(a *app) *cobra.Command {
	var anyway bool
	c := &cobra.Command{
		Use:   "confirm",
		Short: "Confirm a start or a reload that would be undone otherwise",
		Long: "confirm ends a trial. The one of webknock init is confirmed from a new SSH session, which\n" +
			"shows that a knock lets you in.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			api := a.api()
			trial, pending := pendingTrial(api.Socket)
			if pending && !anyway {
				session, _ := setup.CurrentSession()
				if err := trial.proves(session); err != nil {
					return err
				}
			}
			if err := api.Confirm(c.Context()); err != nil {
				return err
			}
			text := "confirmed"
			if pending {
				trial, err := trial.end(c.Context(), confirmWait)
				if err != nil {
					return fmt.Errorf("confirmed, but webknock-trial.service has not enabled the units yet: %w (systemctl status webknock-trial; systemctl enable webknock-guard webknock)", err)
				}
				if text = trial.Text; trial.Result != trialConfirmed {
					return errors.New(text)
				}
			}
			return a.done(c.OutOrStdout(), text, result{"confirmed"})
		},
	}
	c.Flags().BoolVar(&anyway, "anyway", false, "confirm a start by webknock init without a new session")
	return c
}

// confirmWait is how long confirm waits until the units are enabled.
const confirmWait = 30 * time.Second
