package main

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"webknock/config"
	"webknock/firewall"
	"webknock/internal/atomicfile"
	"webknock/internal/client"
	"webknock/internal/setup"
	"webknock/internal/suggest"
	"webknock/sequence"
)

func newEnroll(a *app) *cobra.Command {
	var user, file string
	var hosts []string
	c := &cobra.Command{
		Use:   "enroll SEQUENCE",
		Short: "Print the profile with which a client knocks a sequence",
		Long: "enroll makes a profile of the configuration and, where steps take one-time codes, of a user's\n" +
			"secret. Whoever has it can knock: hand it over by a way that nobody else reads.\n" +
			"It asks on standard input for the path of a step that the configuration has only as a hash or\n" +
			"as a regular expression.",
		Example: "  webknock enroll ssh --user alice --host https://home.example.org > home.yaml",
		Args: func(c *cobra.Command, args []string) error {
			if err := cobra.ExactArgs(1)(c, args); err != nil {
				return err
			}
			for _, h := range hosts {
				if _, err := client.ParseServer(h); err != nil {
					return fmt.Errorf("--host %q: %w", h, err)
				}
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			cfg, err := config.Load(a.configFile)
			if err != nil {
				return err
			}
			e := enrolment{cfg: cfg, in: bufio.NewReader(c.InOrStdin()), notes: c.ErrOrStderr()}
			draft, err := e.draft(args[0], user, hosts)
			if err != nil {
				return err
			}
			text, err := draft.Text()
			if err != nil {
				return err
			}
			if _, err := client.Parse("the profile", text); err != nil {
				return fmt.Errorf("no client could use it: %w", err)
			}
			switch {
			case file != "":
			case a.output == "json":
				return printJSON(c.OutOrStdout(), map[string]string{"sequence": args[0], "profile": string(text)})
			default:
				_, err = c.OutOrStdout().Write(text)
				return err
			}
			if err := atomicfile.Create(file, text, -1, -1); err != nil {
				return err
			}
			if a.output == "json" {
				return printJSON(c.OutOrStdout(), map[string]string{"sequence": args[0], "file": file})
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "the profile is in %s; on the client: webknock profile add NAME %s\n", file, file)
			return err
		},
	}
	c.Flags().StringVar(&user, "user", "", "the `USER` whose secret the profile holds (default: the only one that the sequence admits)")
	c.Flags().StringArrayVar(&hosts, "host", nil, "`URL` at which clients reach this server, like https://home.example.org; may be repeated (default: by the configuration, and the host's name or the address of this SSH session)")
	c.Flags().StringVar(&file, "file", "", "write the profile to a new `FILE` that only its owner can read")
	return c
}

// An enrolment makes a profile.
type enrolment struct {
	cfg   *config.Config
	in    *bufio.Reader
	notes io.Writer
}

func (e enrolment) note(format string, args ...any) {
	fmt.Fprintf(e.notes, "webknock: "+format+"\n", args...)
}

func (e enrolment) draft(name, user string, hosts []string) (d client.Draft, err error) {
	i := slices.IndexFunc(e.cfg.Sequences, func(s config.Sequence) bool { return s.Name == name })
	if i < 0 {
		var known []string
		for _, s := range e.cfg.Sequences {
			known = append(known, s.Name)
		}
		if best := suggest.Closest(name, known); best != "" {
			return d, fmt.Errorf("there is no sequence %q (did you mean %s?)", name, best)
		}
		return d, fmt.Errorf("there is no sequence %q (%s)", name, cmp.Or(strings.Join(known, ", "), "the configuration has none"))
	}
	seq := e.cfg.Sequences[i]
	if d.Servers = hosts; len(hosts) == 0 {
		if d.Servers, err = e.servers(seq); err != nil {
			return d, err
		}
		e.note("clients are to reach this server as %s (--host URL says otherwise)", strings.Join(d.Servers, " and "))
	}
	if err := e.user(seq, user, &d); err != nil {
		return d, err
	}
	for n, s := range seq.Steps {
		step, err := e.step(n, s)
		if err != nil {
			return d, err
		}
		d.Steps = append(d.Steps, client.NewStep(step))
	}
	server, err := client.ParseServer(d.Servers[0])
	if err != nil {
		return d, err
	}
	d.Wait = e.wait(seq, server.Host)
	return d, nil
}

// reachedAs guesses how clients reach this host. A name without a dot, like vps1, is
// hardly known elsewhere: then clients use the address at which the administrator has
// reached it.
func reachedAs(name string, session setup.Session) string {
	if strings.Contains(name, ".") {
		return name
	}
	return session.Server.Addr().String()
}

// servers returns the URLs of the listeners, https if one has TLS.
func (e enrolment) servers(seq config.Sequence) ([]string, error) {
	encrypted := slices.ContainsFunc(e.cfg.Listeners, func(l config.Listener) bool { return l.TLS != nil })
	name, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("find this host's name: %w (say it with --host URL)", err)
	}
	if s, ok := setup.CurrentSession(); ok {
		name = reachedAs(name, s)
	}
	for _, l := range e.cfg.Listeners {
		if encrypted && l.TLS == nil {
			continue
		}
		host, port, err := net.SplitHostPort(l.Address)
		if err != nil || port == "0" {
			continue // a socket of systemd, which may have any port
		}
		if host == "" || host == "0.0.0.0" || host == "::" {
			host = name
		}
		scheme := "http"
		if l.TLS != nil {
			scheme = "https"
			switch {
			case l.TLS.ACME != nil && len(l.TLS.ACME.Domains) > 0:
				host = l.TLS.ACME.Domains[0]
			case len(l.TLS.ServerNames) > 0:
				host = l.TLS.ServerNames[0]
			}
		}
		s, err := client.ParseServer(scheme + "://" + net.JoinHostPort(host, port))
		if err != nil {
			return nil, err
		}
		return []string{s.String()}, nil
	}
	return nil, errors.New("the configuration does not say at which port clients reach this server (say it with --host URL)")
}

// user puts the user and the secret into a draft, if the sequence needs them.
func (e enrolment) user(seq config.Sequence, name string, d *client.Draft) error {
	oneTime := slices.ContainsFunc(seq.Steps, func(s sequence.Step) bool { return s.Trigger.Variable() != "" })
	if !oneTime {
		if name != "" {
			return fmt.Errorf("sequence %s has no one-time step, so it needs no user (leave --user out)", seq.Name)
		}
		return nil
	}
	var admitted []config.User
	for _, u := range e.cfg.Users {
		if seq.Admits(u.Name) && (name == "" || u.Name == name) {
			admitted = append(admitted, u)
		}
	}
	switch {
	case len(admitted) == 1:
		d.User = admitted[0].Name
		d.Secret = base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(admitted[0].Secret)
		return nil
	case name != "":
		return fmt.Errorf("%s is not a user that sequence %s admits (webknock user list shows them)", name, seq.Name)
	case len(admitted) == 0:
		return fmt.Errorf("no user may use sequence %s yet (webknock user add NAME makes one)", seq.Name)
	}
	return fmt.Errorf("sequence %s admits several users (say which with --user)", seq.Name)
}

// step returns what a client requests for a step.
func (e enrolment) step(n int, step sequence.Step) (client.Step, error) {
	s := client.Step{Method: step.Method, Host: step.Host, Query: step.Query}
	switch t := step.Trigger.(type) {
	case sequence.Exact:
		s.Path = string(t)
	case sequence.Template:
		s.Path = string(t)
	case sequence.Hash:
		path, err := e.ask(n, "which the configuration has only as a hash")
		if err != nil {
			return s, err
		}
		if sum := sha256.Sum256([]byte(path)); hex.EncodeToString(sum[:]) != string(t) {
			return s, fmt.Errorf("step %d: that is not the path of the hash", n+1)
		}
		s.Path = path
	case sequence.Regex:
		path, err := e.ask(n, "which the configuration has only as a regular expression")
		if err != nil {
			return s, err
		}
		if !regexp.MustCompile(string(t)).MatchString(path) { // compiled when the file was loaded
			return s, fmt.Errorf("step %d: that path does not match the regular expression", n+1)
		}
		s.Path = path
	}
	return s, nil
}

// ask reads the path of a step.
func (e enrolment) ask(n int, why string) (string, error) {
	e.note("the path of step %d, %s:", n+1, why)
	line, err := e.in.ReadString('\n')
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return "", errors.Join(fmt.Errorf("step %d: no path was given on standard input", n+1), ignoreEOF(err))
	}
	return line, nil
}

// wait returns a port that answers once the sequence has opened its doors, or
// nothing if there is none that a client could try.
func (e enrolment) wait(seq config.Sequence, host string) string {
	for _, name := range seq.Opens {
		door := e.cfg.Firewall.Guard.Door(name)
		if door == nil {
			continue
		}
		for _, p := range door.Ports {
			if p.Protocol == firewall.TCP && p.First == p.Last {
				return net.JoinHostPort(host, strconv.Itoa(int(p.First)))
			}
		}
	}
	return ""
}
