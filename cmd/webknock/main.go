// Webknock is port knocking over HTTP: webknock serve is the daemon, and the
// other commands talk to it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// version is stamped by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// run carries out a command line and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot(stdout, stderr)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	fmt.Fprintf(stderr, "webknock: %v\n", err)
	var failed failure
	if errors.As(err, &failed) {
		return exitFailed
	}
	return exitUsage // cobra's own errors
}

// failure is an error of a command that was used rightly.
type failure struct{ error }

func (f failure) Unwrap() error { return f.error }
