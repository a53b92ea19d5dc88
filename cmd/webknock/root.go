package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"webknock/config"
	"webknock/httpd/admin"
)

// app is what the commands share: the common flags.
type app struct {
	configFile string
	socket     string
	output     string
}

const (
	defaultConfig = "/etc/webknock/webknock.yaml"
	defaultSocket = "/run/webknock/webknock.sock"
)

func newRoot(stdout, stderr io.Writer) *cobra.Command {
	a := new(app)
	root := &cobra.Command{
		Use:           "webknock",
		Short:         "Port knocking over HTTP",
		Long:          "webknock opens firewall doors to clients that request the right paths in the right order.",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return errors.New("which command? (webknock --help lists them)")
		},
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if a.output != "table" && a.output != "json" {
				return errors.New(`--output is table or json`)
			}
			return nil
		},
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	flags := root.PersistentFlags()
	flags.StringVar(&a.configFile, "config", cmp.Or(os.Getenv("WEBKNOCK_CONFIG"), defaultConfig), "configuration `FILE`")
	flags.StringVar(&a.socket, "socket", "", "admin socket `PATH` (default "+defaultSocket+", or as WEBKNOCK_SOCKET or the configuration has it)")
	flags.StringVarP(&a.output, "output", "o", "table", "`FORMAT` of what is printed: table or json")
	for _, command := range []func(*app) *cobra.Command{
		newServe, newCheck, newStatus, newClients, newGrants, newOpen, newClose, newReload, newBans, newUnban, newConfirm, newGuard, newDoctor, newUnguard, newUser, newHash, newVersion,
	} {
		c := command(a)
		for _, c := range append(c.Commands(), c) {
			markFailures(c)
		}
		root.AddCommand(c)
	}
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		switch c.Name() {
		case "help":
			c.Args = func(_ *cobra.Command, args []string) error {
				if found, _, err := root.Find(args); len(args) > 0 && (err != nil || found == root) {
					return fmt.Errorf("unknown command %q", strings.Join(args, " "))
				}
				return nil
			}
		case "completion":
			c.RunE = func(c *cobra.Command, args []string) error {
				return errors.New("which shell? (bash, zsh, fish or powershell)")
			}
		}
	}
	return root
}

// markFailures makes each error of a command's work a failure, so that it is none
// of usage.
func markFailures(c *cobra.Command) {
	if do := c.RunE; do != nil {
		c.RunE = func(c *cobra.Command, args []string) error {
			if err := do(c, args); err != nil {
				return failure{err}
			}
			return nil
		}
	}
}

// api returns the client of the running daemon. It finds the socket although
// the configuration has errors.
func (a *app) api() admin.API {
	return admin.API{Socket: cmp.Or(a.socket, os.Getenv("WEBKNOCK_SOCKET"), os.Getenv("WEBKNOCK_ADMIN_SOCKET"), config.Peek(a.configFile).Socket)}
}
