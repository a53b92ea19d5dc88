// Webknock is port knocking over HTTP: webknock serve is the daemon, and the
// other commands talk to it.
package main

import (
	"context"
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
	asJSON := wantsJSON(args)
	root := newRoot(stdout, stderr, asJSON)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil {
		report(stderr, err, asJSON)
	}
	return exitCode(err)
}
