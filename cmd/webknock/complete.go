package main

import (
	"strings"

	"github.com/spf13/cobra"

	"webknock/internal/client"
)

// A completer returns the words that a shell may complete, each with a tab and a
// description after it if that helps. It returns none where it cannot know.
type completer func(c *cobra.Command) []string

// An argument is what a shell completes: an argument of a command by its place, or
// the value of a flag.
type argument struct {
	command string // its path below webknock
	place   int    // of the argument, from 0
	flag    string // whose value it is; empty: it is no flag
	words   completer
}

// clientArguments are those of the commands that every system has.
var clientArguments = []argument{
	{command: "knock", words: profiles},
	{command: "connect", words: profiles},
	{command: "ssh-config", words: profiles},
	{command: "page", words: profiles},
	{command: "profile show", words: profiles},
	{command: "profile remove", words: profiles},
}

// setCompletions tells the command line how shells complete arguments. What has no
// rule is completed with nothing, or with files where the command takes one.
func setCompletions(root *cobra.Command, arguments []argument) {
	byCommand := map[*cobra.Command][]completer{}
	for _, a := range arguments {
		c, _, err := root.Find(strings.Fields(a.command))
		if err != nil || c == root {
			continue // a command that this system has not
		}
		if a.flag != "" {
			if c.Flags().Lookup(a.flag) != nil {
				c.RegisterFlagCompletionFunc(a.flag, func(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
					return a.words(c), cobra.ShellCompDirectiveNoFileComp
				})
			}
			continue
		}
		places := byCommand[c]
		for len(places) <= a.place {
			places = append(places, nil)
		}
		places[a.place] = a.words
		byCommand[c] = places
	}
	for c, places := range byCommand {
		c.ValidArgsFunction = func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) >= len(places) || places[len(args)] == nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return places[len(args)](c), cobra.ShellCompDirectiveNoFileComp
		}
	}
	root.RegisterFlagCompletionFunc("output", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return []string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp
	})
}

func profiles(*cobra.Command) []string {
	names, _ := client.List()
	return names
}
