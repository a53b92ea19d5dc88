package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"webknock/config"
	"webknock/httpd/admin"
	"webknock/internal/atomicfile"
	"webknock/internal/lastgood"
)

func newReload(a *app) *cobra.Command {
	var confirm time.Duration
	c := &cobra.Command{
		Use:   "reload",
		Short: "Have the daemon read its configuration again",
		Long:  "reload changes the configuration as a whole or, if it has errors, not at all.",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var r admin.ReloadRequest
			if confirm > 0 {
				r.Confirm = confirm.String()
			}
			err := a.api().Reload(c.Context(), r)
			if errors.Is(err, admin.ErrNoDaemon) && a.forgetUndone() {
				return fmt.Errorf("%w; the configuration, whose trial was undone, may be tried again at the next start", err)
			}
			if err != nil {
				return err
			}
			text := "reloaded"
			if confirm > 0 {
				text = fmt.Sprintf("reloaded; without webknock confirm within %v the old configuration comes back", confirm)
			}
			return a.done(c.OutOrStdout(), text, reloaded{"reloaded", confirm.Seconds()})
		},
	}
	c.Flags().Var((*trialTime)(&confirm), "confirm", "put the old configuration back unless webknock confirm follows within `DURATION`")
	return c
}

type reloaded struct {
	Result        string  `json:"result"`
	ConfirmWithin float64 `json:"confirm_within,omitempty"` // seconds
}

// forgetUndone lets a start put the file in force although nobody has confirmed
// it, since a reload was asked for. It reports whether it was undone.
func (a *app) forgetUndone() bool {
	cfg, err := config.Load(a.configFile)
	if err != nil {
		return false
	}
	trials, err := lastgood.ReadTrials(cfg.State)
	if err != nil || !trials.Forget(cfg.Source.Hash()) {
		return false
	}
	dir := atomicfile.NewDir(cfg.State)
	defer dir.Close()
	return lastgood.WriteTrials(dir, trials) == nil
}

// trialTime is a flag that holds how long to wait for a confirmation.
type trialTime time.Duration

func (t *trialTime) String() string { return "" }
func (t *trialTime) Type() string   { return "duration" }

func (t *trialTime) Set(text string) error {
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Second || d > 24*time.Hour {
		return errors.New("not a duration from 1s to 24h (like 2m)")
	}
	*t = trialTime(d)
	return nil
}
