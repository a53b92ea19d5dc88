//go:build !linux

package main

import (
	"io"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Off Linux the program is the client alone.
var serverCommands []func(*app) *cobra.Command

func (a *app) serverFlags(*pflag.FlagSet) {}

func (a *app) checkServerFlags() error { return nil }

func (a *app) serverArguments() []argument { return nil }

func serverProblem(error, *problem) (text string, ok bool) { return "", false }

func forJournal(_ io.Writer, text string) string { return text }
