package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"webknock/internal/confine"
	"webknock/internal/front"
	"webknock/internal/seam"
	"webknock/internal/seam/wire"
	"webknock/internal/supervise"
)

func newFront(*app) *cobra.Command {
	var debug bool
	c := &cobra.Command{
		Use:    "front",
		Short:  "The part of serve that talks to strangers; serve starts it",
		Hidden: true,
		RunE: func(c *cobra.Command, args []string) error {
			return serveFront(c.Context(), args, debug)
		},
	}
	c.Flags().BoolVar(&debug, "debug", false, "log what is for debugging too")
	return c
}

// seamDescriptor is the socket to the keeper.
const seamDescriptor = 3

var errByHand = errors.New("front is a part of webknock serve, which starts it (webknock serve)")

// serveFront is the front until its keeper tells it to stop, or is gone. Signals are
// for the keeper; those of a terminal reach both.
func serveFront(ctx context.Context, args []string, debug bool) error {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	credentials, err := unix.GetsockoptUcred(seamDescriptor, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || int(credentials.Pid) != os.Getppid() {
		return errByHand
	}
	needs, err := supervise.ParseNeeds(args)
	if err != nil {
		return err
	}
	unix.CloseOnExec(seamDescriptor)
	file := os.NewFile(seamDescriptor, "seam")
	conn, err := net.FileConn(file)
	if err != nil {
		return err
	}
	file.Close()
	if err := confine.Self(needs).Write(conn); err != nil {
		return err
	}
	level := slog.LevelInfo
	if debug {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	socket := conn.(*net.UnixConn)
	return wire.ServeFront(context.WithoutCancel(ctx), socket, func(k seam.Keeper) seam.Front {
		return front.New(front.Options{Keeper: anything(k, socket, log), Log: log})
	})
}
