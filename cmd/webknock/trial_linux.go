package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"webknock/config"
	"webknock/httpd/admin"
	"webknock/internal/lastgood"
	"webknock/internal/setup"
)

// A trial is a start by webknock init that somebody has to confirm. It stands in a file
// below /run: /run/webknock is the daemon's, and goes with it.
type trial struct {
	Socket  string    `json:"socket"`  // of the daemon
	Session string    `json:"session"` // SSH_CONNECTION of webknock init; empty: none
	Until   time.Time `json:"until"`
	Units   bool      `json:"units"`  // of systemd, which webknock-trial.service looks after
	Result  string    `json:"result"` // empty: it is not over
	Text    string    `json:"text"`   // of the result, for people
}

const (
	trialFile = "/run/webknock-trial.json"

	trialConfirmed = "confirmed"
	trialUndone    = "undone"
)

func readTrial() (t trial, err error) {
	text, err := os.ReadFile(trialFile)
	if err == nil {
		err = json.Unmarshal(text, &t)
	}
	return t, err
}

func (t trial) write() error {
	text, err := json.Marshal(t)
	if err != nil {
		return err
	}
	temporary := trialFile + ".new"
	if err := os.WriteFile(temporary, append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, trialFile)
}

// trialSlack is how long after its time a trial may still end.
const trialSlack = 30 * time.Second

// pendingTrial returns the trial of the daemon at a socket, if one has not ended.
func pendingTrial(socket string) (trial, bool) {
	t, err := readTrial()
	return t, err == nil && t.Result == "" && t.Socket == socket && time.Now().Before(t.Until.Add(trialSlack))
}

// proves reports why a confirmation from a session does not show that a knock opens the
// door: a session that was up before lives on through a closed door.
func (t trial) proves(s setup.Session) error {
	switch {
	case s.Text == "":
		return errors.New("this is no SSH session, so it does not show that a knock lets you in (knock, log in by a new ssh, and confirm there; --anyway confirms without)")
	case s.Text == t.Session:
		return errors.New("this is the session in which webknock init ran, so it does not show that a knock lets you in (knock, log in by a new ssh, with -S none if you share connections, and confirm there; --anyway confirms without)")
	}
	return nil
}

// end waits until a trial is over. Without units nothing is left to do.
func (t trial) end(ctx context.Context, most time.Duration) (trial, error) {
	if !t.Units {
		t.Result, t.Text = trialConfirmed, "confirmed"
		t.write() // root's alone; its time ends anyway
		return t, nil
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for {
		now, err := readTrial()
		if err != nil || now.Result != "" {
			return now, err
		}
		if err := pause(ctx); err != nil {
			return now, err
		}
	}
}

// pause waits for a moment, or fails when ctx ends.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(200 * time.Millisecond):
		return nil
	}
}

const (
	daemonUnit = "webknock.service"
	guardUnit  = "webknock-guard.service"
	trialUnit  = "webknock-trial.service"

	runtimeUnits = "/run/systemd/system"
)

var (
	trialUnitFile = filepath.Join(runtimeUnits, trialUnit)
	trialDropIn   = filepath.Join(runtimeUnits, daemonUnit+".d", "zz-trial.conf")
)

func systemctl(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return strings.TrimSpace(string(out)), nil
}

// startable reports why systemd cannot start webknock under a trial.
func startable(ctx context.Context) error {
	for _, unit := range []string{daemonUnit, guardUnit} {
		load, err := systemctl(ctx, "show", "--property=LoadState", "--value", unit)
		if err != nil {
			return err
		}
		if load != "loaded" {
			return fmt.Errorf("%s is %s (install the package, or make install)", unit, load)
		}
	}
	active, err := systemctl(ctx, "show", "--property=ActiveState", "--value", daemonUnit)
	if err == nil && active != "inactive" && active != "failed" {
		err = fmt.Errorf("%s is %s already (webknock reload --confirm 2m tries a changed configuration)", daemonUnit, active)
	}
	return err
}

// startOnTrial has systemd start webknock, so that it is undone unless somebody
// confirms. It starts the unit that looks after the trial first: whatever becomes of
// this process then, the trial ends. If it fails, all is as it was before.
func startOnTrial(ctx context.Context, a *app, last time.Duration, session setup.Session) (t trial, err error) {
	program, err := os.Executable()
	if err != nil {
		return t, err
	}
	t = trial{Socket: a.api().Socket, Session: session.Text, Until: time.Now().Add(last), Units: true}
	defer func() {
		if err != nil {
			ctx := context.WithoutCancel(ctx)
			_, stopped := systemctl(ctx, "stop", trialUnit)
			err = errors.Join(err, stopped, undoTrial(ctx, a), os.Remove(trialFile))
		}
	}()
	if err = t.write(); err != nil {
		return t, err
	}
	if err = os.MkdirAll(filepath.Dir(trialDropIn), 0o755); err != nil {
		return t, err
	}
	if err = os.WriteFile(trialDropIn, fmt.Appendf(nil, "# webknock init has made this, and takes it away again\n[Service]\nEnvironment=WEBKNOCK_CONFIRM=%v\n", last), 0o644); err != nil {
		return t, err
	}
	unit := fmt.Sprintf("[Unit]\nDescription=webknock, trial of a start\n\n[Service]\nType=exec\nExecStart=%s trial\nRestart=on-failure\n", program)
	if err = os.WriteFile(trialUnitFile, []byte(unit), 0o644); err != nil {
		return t, err
	}
	a.forgetUndone() // somebody asks for it
	for _, args := range [][]string{{"daemon-reload"}, {"start", trialUnit}, {"start", daemonUnit}} {
		if _, err = systemctl(ctx, args...); err != nil {
			return t, fmt.Errorf("%w (journalctl -u webknock)", err)
		}
	}
	s, err := a.api().Status(ctx)
	switch {
	case err != nil:
		return t, err
	case s.ConfirmBy != nil:
		t.Until = *s.ConfirmBy
	case s.State != admin.OK:
		return t, fmt.Errorf("webknock does not run as configured: %s", strings.Join(s.Problems, "; "))
	}
	return t, nil
}

// undoTrial stops the daemon, takes the guard away, and removes what is below /run.
func undoTrial(ctx context.Context, a *app) error {
	_, err := systemctl(ctx, "stop", daemonUnit)
	if err == nil {
		err = unguard(ctx, a, os.Stderr)
	}
	return errors.Join(err, removeTrialUnits(ctx))
}

func removeTrialUnits(ctx context.Context) error {
	for _, file := range []string{trialDropIn, trialUnitFile} {
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	os.Remove(filepath.Dir(trialDropIn)) // if nothing else is there
	_, err := systemctl(ctx, "daemon-reload")
	return err
}

func newTrial(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    "trial",
		Short:  "The unit that enables what init has started, or undoes it; init starts it",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			t, err := readTrial()
			if err != nil {
				return fmt.Errorf("%w (webknock init --start begins a trial)", err)
			}
			ctx := c.Context()
			cfg, err := config.Load(a.configFile)
			if err != nil {
				return err
			}
			confirmed, err := watchTrial(ctx, a, t, cfg)
			if err != nil {
				return err
			}
			if confirmed {
				t.Result, t.Text = trialConfirmed, "confirmed: webknock and its guard are enabled, and start with this host"
				_, err = systemctl(ctx, "enable", "--quiet", guardUnit, daemonUnit)
				if err == nil {
					_, err = systemctl(ctx, "start", guardUnit)
				}
				if err != nil {
					return err // systemd tries again
				}
				err = removeTrialUnits(ctx)
			} else {
				t.Result, t.Text = trialUndone, fmt.Sprintf("nobody has confirmed, and all is undone: the guard is gone, webknock is stopped; %s stays (webknock init --start tries it again)", a.configFile)
				err = undoTrial(ctx, a)
			}
			if err != nil {
				return err
			}
			return t.write()
		},
	}
}

// inForce reports whether a configuration is kept as the last good one: it was
// confirmed, or needs no confirmation. The daemon keeps it before it answers who has
// confirmed.
func inForce(cfg *config.Config) bool {
	last, err := lastgood.ReadConfig(cfg.State)
	return err == nil && last != nil && last.Source.Hash() == cfg.Source.Hash()
}

// watchTrial waits until a configuration is confirmed, and reports whether it is.
func watchTrial(ctx context.Context, a *app, t trial, cfg *config.Config) (bool, error) {
	seen := false
	for {
		s, err := a.api().Status(ctx)
		switch {
		case ctx.Err() != nil:
			return false, ctx.Err()
		case err == nil && s.Firewall.Guarded && s.ConfirmBy == nil && inForce(cfg):
			return true, nil
		case time.Now().After(t.Until.Add(trialSlack)), err == nil && seen && !s.Firewall.Guarded:
			return false, nil
		case err != nil && seen:
			if state, err := systemctl(ctx, "show", "--property=ActiveState", "--value", daemonUnit); err == nil && (state == "inactive" || state == "failed") {
				return false, nil // somebody has stopped it
			}
		case err == nil:
			seen = true
		}
		if err := pause(ctx); err != nil {
			return false, err
		}
	}
}
