package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"webknock/internal/client"
	"webknock/internal/tty"
)

// defaultPatience is how long a knock may take, waiting included.
const defaultPatience = 10 * time.Second

func newKnock(a *app) *cobra.Command {
	var (
		wait           string
		timeout        time.Duration
		ipv4, ipv6     bool
		watch          bool
		ttl            time.Duration
		fromURLs       *client.Profile
		profileOptions func(*client.Profile)
	)
	c := &cobra.Command{
		Use:   "knock (PROFILE | URL…)",
		Short: "Knock, and wait until the door is open",
		Long: "knock requests the paths of a profile, or the given URLs in their order, each over a new\n" +
			"connection, over IPv4 and IPv6. A reset, silence and any answer look the same to it: what tells\n" +
			"that a door has opened is the port that --wait names, or the profile.\n\n" +
			"It exits with 0 if that port answers (or, without one, if every knock was delivered), with 1 if not.",
		Example: "  webknock knock home\n" +
			"  webknock knock http://home.example.org/a http://home.example.org/b --wait home.example.org:22\n" +
			"  webknock knock home --watch",
		Args: func(c *cobra.Command, args []string) error {
			if err := cobra.MinimumNArgs(1)(c, args); err != nil {
				return errors.New("knock where? (the name of a profile, or URLs)")
			}
			if ipv4 && ipv6 {
				return errors.New("-4 and -6 exclude each other (both families are the default)")
			}
			if timeout < time.Second {
				return errors.New("--timeout is at least 1s")
			}
			var err error
			if strings.Contains(args[0], "://") {
				fromURLs, err = profileOf(args)
			} else if len(args) > 1 {
				err = errors.New("one profile at a time (several servers are several servers of one profile)")
			}
			if err == nil && wait != "" {
				err = client.CheckWait(wait)
			}
			return err
		},
		RunE: func(c *cobra.Command, args []string) error {
			p := fromURLs
			if p == nil {
				var err error
				if p, err = client.Load(args[0]); err != nil {
					return err
				}
			}
			profileOptions(p)
			o := client.Options{Timeout: timeout}
			if stderr := c.ErrOrStderr(); a.output != "json" && tty.IsTerminal(stderr) {
				o.Progress = func(line string) { fmt.Fprintln(stderr, line) }
			}
			if watch {
				return a.watch(c, p, o, ttl)
			}
			result, err := client.Knock(c.Context(), p, o)
			if err != nil {
				return err
			}
			return a.printResult(c.OutOrStdout(), result)
		},
	}
	c.Flags().StringVar(&wait, "wait", "", "wait until `HOST:PORT` answers (default: what the profile waits for)")
	c.Flags().DurationVar(&timeout, "timeout", defaultPatience, "how long all of it may take")
	c.Flags().BoolVarP(&ipv4, "ipv4", "4", false, "knock over IPv4 only")
	c.Flags().BoolVarP(&ipv6, "ipv6", "6", false, "knock over IPv6 only")
	c.Flags().BoolVar(&watch, "watch", false, "knock again at half of the grant's time, and when this machine's address changes")
	c.Flags().DurationVar(&ttl, "ttl", 0, "with --watch: how long a grant lasts (default: the profile's ttl, or 30s)")
	profileOptions = func(p *client.Profile) {
		if wait != "" {
			p.Wait = wait
		}
		if ipv4 {
			p.Family = client.IPv4
		}
		if ipv6 {
			p.Family = client.IPv6
		}
	}
	return c
}

// profileOf returns the profile that URLs are: their paths are the steps.
func profileOf(urls []string) (*client.Profile, error) {
	p := &client.Profile{Family: client.Both, Proxy: client.ProxyEnv}
	for _, text := range urls {
		u, err := url.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("%q is not a URL (write http://home.example.org/a)", text)
		}
		server, err := client.ParseServer(u.Scheme + "://" + u.Host)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", text, err)
		}
		if len(p.Servers) == 0 {
			p.Servers = []client.Server{server}
		} else if p.Servers[0] != server {
			return nil, fmt.Errorf("%s and %s are two servers (the URLs are the steps at one; a profile may have several servers)", p.Servers[0], server)
		}
		step := client.Step{Path: u.Path}
		if step.Path == "" {
			step.Path = "/"
		}
		if strings.Contains(step.Path, "{") {
			return nil, errors.New("a one-time step needs the user's secret (put both into a profile: webknock enroll on the server prints one)")
		}
		for k, v := range u.Query() {
			if step.Query == nil {
				step.Query = map[string]string{}
			}
			step.Query[k] = v[0]
		}
		p.Steps = append(p.Steps, step)
	}
	return p, nil
}

// watch knocks again and again until the command is interrupted.
func (a *app) watch(c *cobra.Command, p *client.Profile, o client.Options, ttl time.Duration) error {
	out := c.OutOrStdout()
	client.Watch(c.Context(), p, o, ttl, func(r client.Result, err error) {
		switch {
		case c.Context().Err() != nil:
		case err != nil:
			fmt.Fprintf(c.ErrOrStderr(), "webknock: %v\n", err)
		case a.output == "json":
			json.NewEncoder(out).Encode(r)
		default:
			state := "knocked"
			if r.Wait != "" {
				state = r.Wait + map[bool]string{true: " is open", false: " does not answer"}[r.Open]
			} else if !r.Open {
				state = "the knocks were not delivered"
			}
			fmt.Fprintf(out, "%s  %s\n", time.Now().Format(time.TimeOnly), state)
			for _, advice := range r.Advice {
				fmt.Fprintln(c.ErrOrStderr(), "  - "+advice)
			}
		}
	})
	if errors.Is(context.Cause(c.Context()), context.Canceled) {
		return nil
	}
	return c.Context().Err()
}

// printResult writes what a round of knocks came to: what each server made of
// them, over each address.
func (a *app) printResult(out io.Writer, r client.Result) error {
	if a.output == "json" {
		if err := printJSON(out, r); err != nil {
			return err
		}
	} else if err := printKnocks(out, r); err != nil {
		return err
	}
	if !r.Open {
		return &client.NotOpenError{Result: r}
	}
	return nil
}

func printKnocks(out io.Writer, r client.Result) error {
	var rows [][]string
	for i := 0; i < len(r.Knocks); {
		first := r.Knocks[i]
		end := i
		for end < len(r.Knocks) && r.Knocks[end].Server == first.Server && r.Knocks[end].Address == first.Address {
			end++
		}
		var outcomes []string
		for _, s := range r.Knocks[i:end] {
			o := string(s.Outcome)
			if s.Status > 0 {
				o = fmt.Sprint(s.Status)
			}
			outcomes = append(outcomes, o)
		}
		over := first.Address
		if first.Proxy {
			over = "proxy"
		}
		rows = append(rows, []string{first.Server, over, strings.Join(outcomes, ", ")})
		i = end
	}
	if err := printTable(out, "no knock was made", []string{"SERVER", "OVER", "KNOCKS"}, rows); err != nil {
		return err
	}
	if r.Open && r.Wait != "" {
		_, err := fmt.Fprintf(out, "%s is open (%s)\n", r.Wait, r.Address)
		return err
	}
	return nil
}
