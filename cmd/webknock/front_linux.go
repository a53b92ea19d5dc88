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

// keeperSocket returns the socket to the keeper, which nothing that is executed inherits,
// or byHand if it was not the keeper that has started this process.
func keeperSocket(byHand error) (*net.UnixConn, error) {
	credentials, err := unix.GetsockoptUcred(seamDescriptor, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || int(credentials.Pid) != os.Getppid() {
		return nil, byHand
	}
	unix.CloseOnExec(seamDescriptor)
	file := os.NewFile(seamDescriptor, "seam")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

// serveFront is the front until its keeper tells it to stop, or is gone. Signals are
// for the keeper; those of a terminal reach both.
func serveFront(ctx context.Context) error {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	conn, err := keeperSocket(errByHand)
	if err != nil {
		return err
	}
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
	return wire.ServeFront(context.WithoutCancel(ctx), conn, func(k seam.Keeper) seam.Front {
		return front.New(front.Options{Keeper: anything(k, conn, log), Log: log})
	})
}
