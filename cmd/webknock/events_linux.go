package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"webknock/httpd/admin"
	"webknock/internal/tty"
)

func newEvents(a *app) *cobra.Command {
	var follow bool
	var after string
	var clients []string
	var q admin.EventQuery
	c := &cobra.Command{
		Use:   "events",
		Short: "Show what happens: knocks, completions, grants, bans, repairs",
		Long: "events shows the latest events that the daemon keeps in memory. With --follow it shows what\n" +
			"happens from now on, until it is interrupted, and goes on with the next daemon after a restart.\n" +
			"Knocks are kept only while somebody follows them. With --after it begins behind an event. The\n" +
			"other flags let through what has one of the values named; they can be repeated.",
		Args: func(c *cobra.Command, args []string) (err error) {
			if err := cobra.NoArgs(c, args); err != nil {
				return err
			}
			if after != "" {
				if q.After, err = admin.ParseEventID(after); err != nil {
					return fmt.Errorf("--after: %w", err)
				}
			}
			for _, text := range clients {
				p, err := admin.ParseScope(text)
				if err != nil {
					return fmt.Errorf("--client: %q is %w", text, err)
				}
				q.Clients = append(q.Clients, p)
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error {
			out := c.OutOrStdout()
			show := func(e admin.Event) error {
				if a.output == "json" {
					return json.NewEncoder(out).Encode(e)
				}
				_, err := fmt.Fprintln(out, eventLine(e, time.Now()))
				return err
			}
			if q.Once = !follow; q.Once {
				return showEvents(c.Context(), a, q, show, out)
			}
			err := a.api().Follow(c.Context(), q, show, func(err error) {
				fmt.Fprintf(c.ErrOrStderr(), "webknock: %v; waiting for the next daemon\n", err)
			})
			if errors.Is(err, context.Canceled) { // the user has seen enough
				return nil
			}
			return err
		},
	}
	flags := c.Flags()
	flags.BoolVarP(&follow, "follow", "f", false, "show what happens from now on")
	flags.StringSliceVar(&q.Kinds, "kind", nil, "only events of this `KIND` (knock, completion, grant.opened …; grant: all of grants)")
	flags.StringSliceVar(&clients, "client", nil, "only events about this `ADDRESS` or network")
	flags.StringSliceVar(&q.Sequences, "sequence", nil, "only events of this `SEQUENCE`")
	flags.StringSliceVar(&q.Doors, "door", nil, "only events of this `DOOR`")
	flags.StringVar(&after, "after", "", "only events behind the one of this `ID`, as --output json prints it")
	return c
}

// showEvents shows what the daemon keeps.
func showEvents(ctx context.Context, a *app, q admin.EventQuery, show func(admin.Event) error, out io.Writer) error {
	shown := false
	_, err := a.api().Events(ctx, q, func(e admin.Event) error {
		shown = true
		return show(e)
	})
	if err == nil && !shown && a.output != "json" {
		_, err = fmt.Fprintln(out, "no events")
	}
	return err
}

// eventLine writes an event on a line for people: when, what, who, and the rest.
func eventLine(e admin.Event, now time.Time) string {
	line := fmt.Sprintf("%s  %-14s  %-15s  %s", tty.Clock(e.Time, now), e.Kind, cmp.Or(e.Client, "-"), strings.Join(eventDetails(e), ", "))
	return strings.TrimRight(tty.Clean(line), " ")
}

// eventDetails says what an event has beside its time, kind and client.
func eventDetails(e admin.Event) (parts []string) {
	add := func(format string, value ...any) { parts = append(parts, fmt.Sprintf(format, value...)) }
	switch e.Kind {
	case admin.KindMissed:
		if e.Missed == nil {
			add("some events are missing here")
		} else {
			add("%d events are missing here", *e.Missed)
		}
	case "degraded":
		if len(e.Problems) == 0 {
			add("all is well again")
		}
		parts = append(parts, e.Problems...)
	case "knock":
		switch {
		case strings.HasPrefix(e.Reason, e.Outcome): // matched step 2 of 3
			add("%s", e.Reason)
		case e.Reason != "":
			add("%s: %s", e.Outcome, e.Reason)
		case e.Step > 0:
			add("%s: step %d of %d", e.Outcome, e.Step, e.Steps)
		default:
			add("%s", e.Outcome)
		}
		if e.Sequence != "" {
			add("sequence %s", e.Sequence)
		}
	default:
		parts = append(parts, otherDetails(e)...)
	}
	return parts
}

func otherDetails(e admin.Event) (parts []string) {
	add := func(format string, value ...any) { parts = append(parts, fmt.Sprintf(format, value...)) }
	if e.Program != "" {
		add("%s %s", e.Program, e.Result)
	} else if e.Result != "" {
		add("%s", e.Result)
	}
	if e.Door != "" && e.Kind != "admin" { // whose reason has it
		add("door %s", e.Door)
	}
	if len(e.Doors) > 0 {
		add("doors %s", strings.Join(e.Doors, " "))
	}
	if !e.ExpiresAt.IsZero() && e.Kind != "grant.closed" {
		add("until %s", tty.Clock(e.ExpiresAt, e.Time))
	}
	if e.Kind == "completion" {
		add("sequence %s", e.Sequence)
	}
	switch { // one of them is enough on a line
	case e.Reason != "":
		add("%s", e.Reason)
	case e.User != "":
		add("by %s", e.User)
	case e.Sequence != "" && e.Kind != "completion":
		add("sequence %s", e.Sequence)
	}
	if e.UID != nil {
		add("uid %d", *e.UID)
	}
	if e.Address != "" {
		add("for %s", e.Address)
	}
	if e.Message != "" {
		add("%s", e.Message)
	}
	return parts
}
