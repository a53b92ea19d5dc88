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
	return &cobra.Command{
		Use:    "front",
		Short:  "The part of serve that talks to strangers; serve starts it",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE:   func(c *cobra.Command, _ []string) error { return serveFront(c.Context()) },
	}
}

// seamDescriptor is the socket to the keeper.
const seamDescriptor = 3

var errByHand = errors.New("front is a part of webknock serve, which starts it (webknock serve)")

// serveFront is the front until its keeper tells it to stop, or is gone. Signals are
// for the keeper; those of a terminal reach both.
func serveFront(ctx context.Context) error {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	credentials, err := unix.GetsockoptUcred(seamDescriptor, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || int(credentials.Pid) != os.Getppid() {
		return errByHand
	}
	unix.CloseOnExec(seamDescriptor)
	file := os.NewFile(seamDescriptor, "seam")
	conn, err := net.FileConn(file)
	if err != nil {
		return err
	}
	file.Close()
	var orders supervise.Orders
	if err := confine.ReadLine(conn, &orders); err != nil {
		return err
	}
	if err := confine.WriteLine(conn, confine.Self(orders.Needs)); err != nil {
		return err
	}
	level := slog.LevelInfo
	if orders.Debug {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	socket := conn.(*net.UnixConn)
	return wire.ServeFront(context.WithoutCancel(ctx), socket, func(k seam.Keeper) seam.Front {
		return front.New(front.Options{Keeper: anything(k, socket, log), Log: log})
	})
}
