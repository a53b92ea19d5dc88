package main

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"webknock/internal/suggest"
)

// app is what the commands share: the common flags.
type app struct {
	configFile string
	socket     string
	output     string
}

// newRoot returns the command line. AsJSON says in what form --version prints.
func newRoot(stdout, stderr io.Writer, asJSON bool) *cobra.Command {
	a := new(app)
	root := &cobra.Command{
		Use:           "webknock",
		Short:         "Port knocking over HTTP",
		Long:          "webknock opens firewall doors to clients that request the right web addresses in the right order.",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(c, args[0])
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error {
			return errors.New("which command? (webknock --help lists them)")
		},
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if a.output != "table" && a.output != "json" {
				return errors.New("--output is table or json")
			}
			return a.checkServerFlags()
		},
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	flags := root.PersistentFlags()
	a.serverFlags(flags)
	flags.StringVarP(&a.output, "output", "o", "table", "`FORMAT` of what is printed: table or json")
	for _, command := range append(slices.Clone(serverCommands), newKnock, newConnect, newSSHConfig, newProfile, newPage, newVersion) {
		c := command(a)
		for _, c := range append(c.Commands(), c) {
			markFailures(c)
		}
		root.AddCommand(c)
	}
	var text strings.Builder
	printVersion(&text, asJSON) // cannot fail
	root.SetVersionTemplate(strings.ReplaceAll(text.String(), "{{", "{ {"))
	root.SetFlagErrorFunc(suggestFlag)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		switch c.Name() {
		case "help":
			c.Args = func(_ *cobra.Command, args []string) error {
				if found, _, err := root.Find(args); len(args) > 0 && (err != nil || found == root) {
					return unknownCommand(root, strings.Join(args, " "))
				}
				return nil
			}
		case "completion":
			c.Args = func(c *cobra.Command, args []string) error {
				if len(args) > 0 {
					return unknownCommand(c, args[0])
				}
				return nil
			}
			c.RunE = func(c *cobra.Command, args []string) error {
				return errors.New("which shell? (bash, zsh, fish or powershell)")
			}
			for _, shell := range c.Commands() {
				shell.Args = func(*cobra.Command, []string) error {
					if asJSON {
						return errors.New("completion prints a script for a shell (without --output json)")
					}
					return nil
				}
			}
		}
	}
	setGroups(root)
	setCompletions(root, append(a.serverArguments(), clientArguments...))
	setVersion(root)
	return root
}

// setVersion gives a command and all below it the flag --version.
func setVersion(c *cobra.Command) {
	c.Version = version
	for _, below := range c.Commands() {
		setVersion(below)
	}
}

// unknownCommand is the error for a command that there is not below c.
func unknownCommand(c *cobra.Command, name string) error {
	var names []string
	for _, below := range c.Commands() {
		names = append(names, below.Name())
	}
	hint := suggest.DidYouMean(name, names)
	if hint == "" {
		hint = " (" + c.CommandPath() + " --help lists them)"
	}
	return fmt.Errorf("unknown command %q%s", name, hint)
}

var unknownFlag = regexp.MustCompile(`^unknown flag: --(.+)$`)

// suggestFlag adds the most similar flag to the error of an unknown flag.
func suggestFlag(c *cobra.Command, err error) error {
	m := unknownFlag.FindStringSubmatch(err.Error())
	if m == nil {
		return err
	}
	var names []string
	c.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	hint := suggest.Closest(m[1], names)
	if hint == "" {
		return fmt.Errorf("%w (%s --help lists them)", err, c.CommandPath())
	}
	return fmt.Errorf("%w (did you mean --%s?)", err, hint)
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
