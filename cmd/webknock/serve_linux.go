package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/spf13/cobra"

	"webknock/internal/confine"
	"webknock/internal/keeper"
	"webknock/internal/seam"
	"webknock/internal/supervise"
	"webknock/internal/tty"
)

func newServe(a *app) *cobra.Command {
	var o keeper.Options
	c := &cobra.Command{
		Use:   "serve",
		Short: "Receive knocks, keep doors, open them",
		Long: "serve is the daemon. SIGHUP makes it read its configuration again; SIGTERM and SIGINT\n" +
			"stop it, and leave the doors guarded. If the configuration cannot be put in force, the one\n" +
			"that was in force last runs, and the status is degraded and says why.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			err := serve(c.Context(), a, o, c.ErrOrStderr())
			if err != nil && !tty.IsTerminal(c.ErrOrStderr()) {
				err = oneLine{err} // a service manager tries for ever
			}
			return err
		},
	}
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "touch no firewall: guard nothing, open nothing")
	c.Flags().BoolVar(&o.Strict, "strict", false, "fail if the configuration cannot be put in force, though another was")
	c.Flags().Var((*trialTime)(&o.Confirm), "confirm", "take the guard away again unless webknock confirm follows within `DURATION`\n"+
		"(also WEBKNOCK_CONFIRM; what was confirmed starts without)")
	return c
}

// standingTrial is how long a trial by WEBKNOCK_CONFIRM lasts if its value is
// none: a typo there must not keep anybody out, nor do without a trial.
const standingTrial = 2 * time.Minute

// standing returns how long the environment has every start wait for a
// confirmation; 0: not at all.
func standing(log *slog.Logger) (d time.Duration) {
	text := os.Getenv("WEBKNOCK_CONFIRM")
	if text == "" {
		return 0
	}
	if err := (*trialTime)(&d).Set(text); err != nil {
		log.Error("WEBKNOCK_CONFIRM is "+err.Error(), "value", text, "instead", standingTrial)
		return standingTrial
	}
	return d
}

// oneLine is an error whose text is a single line.
type oneLine struct{ error }

func (e oneLine) Unwrap() error { return e.error }
func (e oneLine) Error() string { return strings.ReplaceAll(e.error.Error(), "\n", "; ") }

// leaveRoom has the daemon take half of the processors at most, so that no flood
// of knocks takes them all from what is behind the doors, and since goroutines
// that wake each other across processors cost more than they gain
// (docs/performance.md). GOMAXPROCS in the environment says otherwise.
func leaveRoom() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(max(1, runtime.GOMAXPROCS(0)/2))
	}
}

func serve(ctx context.Context, a *app, o keeper.Options, stderr io.Writer) error {
	leaveRoom()
	kept := confine.Reserve() // before a thread of NewStarter has others
	starter := supervise.NewStarter()
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	reload := make(chan struct{})
	go func() {
		for {
			select {
			case <-hangups:
			case <-ctx.Done():
				return
			}
			select {
			case reload <- struct{}{}:
			case <-ctx.Done():
				return
			}
		}
	}()
	start, err := keeper.Choose(a.configFile, o.Strict, o.DryRun)
	if err != nil {
		return err
	}
	o.ConfigFile, o.Start, o.Socket, o.Version = a.configFile, start, a.socket, version
	o.Level = new(slog.LevelVar)
	o.Log = newLogger(stderr, start.Config.Log.Format, o.Level)
	if o.Confirm == 0 {
		o.Confirm = standing(o.Log)
		o.Standing = o.Confirm > 0
	}
	sockets, err := activation.ListenersWithNames()
	if err != nil {
		return fmt.Errorf("take sockets from systemd: %w", err)
	}
	o.Sockets = sockets
	o.Front = func(f keeper.FrontOptions) seam.Front {
		return supervise.New(supervise.Options{Start: starter.Start, Tell: f.Tell, Bans: f.Bans, Keeper: f.Keeper, Log: f.Log})
	}
	if kept != nil {
		o.Log.Warn("the keeper can use the capabilities that are for commands", "error", kept)
	}
	o.Commands = func(c keeper.CommandsOptions) keeper.Executor {
		return supervise.NewCommands(supervise.CommandsOptions{Start: supervise.StartCommands, Tell: c.Tell, Log: c.Log})
	}
	return keeper.Run(ctx, o, reload)
}
