package main

import (
	"errors"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"webknock/internal/command"
	"webknock/internal/confine"
	"webknock/internal/seam/wire"
)

func newRun(*app) *cobra.Command {
	return &cobra.Command{
		Use:    "run",
		Short:  "The part of serve that runs commands; serve starts it",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE:   func(*cobra.Command, []string) error { return serveCommands() },
	}
}

var errRunByHand = errors.New("run is a part of webknock serve, which starts it (webknock serve)")

// serveCommands runs commands until the keeper is gone. Signals are for the keeper; those
// of a terminal reach both. They are not ignored: a command would inherit that.
func serveCommands() error {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	conn, err := keeperSocket(errRunByHand)
	if err != nil {
		return err
	}
	command.Isolate()
	if err := confine.WriteLine(conn, confine.CommandsSelf()); err != nil {
		return err
	}
	err = wire.ServeCommands(conn, command.NewDirect())
	if errors.Is(err, wire.ErrGone) {
		return nil
	}
	return err
}
