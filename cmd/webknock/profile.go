package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"webknock/internal/client"
	"webknock/internal/tty"
)

func newProfile(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "profile",
		Short: "Add, list, show and remove what is needed to knock somewhere",
		Args: func(*cobra.Command, []string) error {
			return errors.New("do what with profiles? (profile add, list, show or remove)")
		},
		Run: func(*cobra.Command, []string) {}, // never: no arguments are right
	}
	c.AddCommand(newProfileAdd(a), newProfileList(a), newProfileShow(a), newProfileRemove(a))
	return c
}

// maxProfile is the size of the largest profile, in bytes.
const maxProfile = 1 << 20

func newProfileAdd(a *app) *cobra.Command {
	var replace bool
	c := &cobra.Command{
		Use:   "add NAME [FILE]",
		Short: "Keep a profile under a name",
		Long: "add reads a profile from a file or from standard input, as webknock enroll prints it on the\n" +
			"server, and keeps it in a file of its own that nobody else can read.",
		Example: "  ssh root@home.example.org webknock enroll ssh --user alice | webknock profile add home",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			var in io.Reader = c.InOrStdin()
			if len(args) == 2 {
				f, err := os.Open(args[1])
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			} else if tty.IsTerminal(in) {
				fmt.Fprintln(c.ErrOrStderr(), "Paste the profile, then press Ctrl-D.")
			}
			text, err := io.ReadAll(io.LimitReader(in, maxProfile+1))
			if err != nil {
				return err
			}
			if len(text) > maxProfile {
				return fmt.Errorf("the profile is larger than %d bytes", maxProfile)
			}
			path, err := client.Save(args[0], text, replace)
			if err != nil {
				return err
			}
			if a.output == "json" {
				return printJSON(c.OutOrStdout(), map[string]string{"name": args[0], "file": path})
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "profile %s is kept in %s; try: webknock knock %s\n", args[0], path, args[0])
			return err
		},
	}
	c.Flags().BoolVar(&replace, "replace", false, "replace a profile of that name")
	return c
}

type listedProfile struct {
	Name    string   `json:"name"`
	Servers []string `json:"servers"`
	Steps   int      `json:"steps"`
	Wait    string   `json:"wait,omitempty"`
	Error   string   `json:"error,omitempty"`
}

func listed(name string) listedProfile {
	l := listedProfile{Name: name, Servers: []string{}}
	p, err := client.Load(name)
	if err != nil {
		l.Error = err.Error()
		return l
	}
	for _, s := range p.Servers {
		l.Servers = append(l.Servers, s.String())
	}
	l.Steps, l.Wait = len(p.Steps), p.Wait
	return l
}

func newProfileList(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Show the profiles",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			names, err := client.List()
			if err != nil {
				return err
			}
			list := []listedProfile{}
			var rows [][]string
			for _, name := range names {
				l := listed(name)
				list = append(list, l)
				steps := fmt.Sprint(l.Steps)
				if l.Error != "" {
					steps = "broken: webknock profile show " + name
				}
				rows = append(rows, []string{l.Name, strings.Join(l.Servers, " "), steps, l.Wait})
			}
			if a.output == "json" {
				return printJSON(c.OutOrStdout(), map[string]any{"profiles": list})
			}
			return printTable(c.OutOrStdout(), "no profiles (webknock profile add makes one)", []string{"NAME", "SERVERS", "STEPS", "WAITS FOR"}, rows)
		},
	}
}

func newProfileShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME",
		Short: "Show a profile, without its secrets",
		Long:  "show prints servers and what a profile waits for. The secret and the paths are in its file alone.",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			p, err := client.Load(args[0])
			if err != nil {
				return err
			}
			if a.output == "json" {
				return printJSON(c.OutOrStdout(), listed(args[0]))
			}
			path, err := client.ProfilePath(args[0])
			if err != nil {
				return err
			}
			var b bytes.Buffer
			row := func(key, value string) {
				if value != "" {
					fmt.Fprintf(&b, "%-8s %s\n", key, value)
				}
			}
			row("file", path)
			for _, s := range p.Servers {
				row("server", s.String())
			}
			row("steps", fmt.Sprint(len(p.Steps)))
			row("user", p.User)
			if p.Secret != nil {
				row("secret", "(in the file)")
			}
			row("doors", strings.Join(p.Doors, " "))
			if p.TTL > 0 {
				row("ttl", p.TTL.String())
			}
			if p.Address.IsValid() {
				row("address", p.Address.String())
			}
			row("wait", p.Wait)
			row("family", string(p.Family))
			row("proxy", p.Proxy.String())
			_, err = b.WriteTo(c.OutOrStdout())
			return err
		},
	}
}

func newProfileRemove(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "remove NAME",
		Short: "Delete a profile",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := client.Remove(args[0]); err != nil {
				return err
			}
			if a.output == "json" {
				return printJSON(c.OutOrStdout(), map[string]string{"removed": args[0]})
			}
			_, err := fmt.Fprintf(c.OutOrStdout(), "profile %s is removed\n", args[0])
			return err
		},
	}
}
