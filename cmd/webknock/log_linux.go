package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"webknock/httpd/admin"
	"webknock/internal/keeper"
	"webknock/internal/store"
	"webknock/internal/tty"
)

const (
	logLimit       = 100
	logFollowLimit = 10 // with --follow, if no limit is given
	followInterval = time.Second
)

func newLog(a *app) *cobra.Command {
	var q admin.HistoryQuery
	var client scope
	var since string
	var limit int
	var follow bool
	c := &cobra.Command{
		Use:   "log",
		Short: "Show who came in, and what else has happened",
		Long: "Show the history: who came in, by which door, as whom, how long and how it ended; bans, reloads, repairs, and what " +
			"administrators did. The latest comes last. With --output json each entry is one line.",
		Args: cobra.NoArgs,
		PreRunE: func(c *cobra.Command, _ []string) (err error) {
			if q.Events, err = admin.ParseHistoryEvents(q.Events); err != nil {
				return fmt.Errorf("--%w", err)
			}
			if limit < 0 {
				return errors.New("--limit: not a number of entries (like 100, or 0 for all)")
			}
			if since != "" {
				if q.Since, err = admin.ParseSince(since, time.Now()); err != nil {
					return fmt.Errorf("--since: %w", err)
				}
			}
			if !c.Flags().Changed("limit") && follow && since == "" {
				limit = logFollowLimit
			}
			q.Client = client.Prefix
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error {
			entries, last, err := a.latest(c.Context(), q, limit)
			if err != nil {
				return err
			}
			out := logWriter{w: c.OutOrStdout(), asJSON: a.output == "json", now: time.Now}
			if err := out.write(entries); err != nil || !follow {
				if err == nil && len(entries) == 0 && !out.asJSON {
					_, err = fmt.Fprintln(out.w, "no entries")
				}
				return err
			}
			return a.followLog(c.Context(), q, last, &out, c.ErrOrStderr())
		},
	}
	c.Flags().StringVar(&q.User, "user", "", "only entries of a `USER`")
	c.Flags().StringVar(&q.Door, "door", "", "only entries of a `DOOR`")
	c.Flags().Var(&client, "client", "only entries of an `ADDRESS`, or of a prefix")
	c.Flags().StringSliceVar(&q.Events, "event", nil, "only entries of an `EVENT`, or of several: "+strings.Join(admin.HistoryEvents, ", "))
	c.Flags().StringVar(&since, "since", "", "only entries of the latest `DURATION` (like 24h), or since a time (like 2026-01-31T15:04:05Z)")
	c.Flags().IntVar(&limit, "limit", logLimit, "at most so many entries, the latest; 0: all")
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on, and show what happens as it does")
	return c
}

// history asks the daemon or, if none runs, reads its store.
func (a *app) history(ctx context.Context, q admin.HistoryQuery) (admin.HistoryList, error) {
	list, err := a.api().History(ctx, q)
	if !errors.Is(err, admin.ErrNoDaemon) {
		return list, err
	}
	list, readErr := keeper.ReadHistory(store.NewReader(a.stateDir()), q)
	if readErr != nil {
		return list, fmt.Errorf("%w; and without it: %w", err, readErr)
	}
	return list, nil
}

// latest returns the latest entries, at most limit (0: all), the oldest first, and the
// id of the latest of all.
func (a *app) latest(ctx context.Context, q admin.HistoryQuery, limit int) (entries []admin.HistoryEntry, last uint64, err error) {
	for {
		q.Limit = admin.MaxHistoryLimit
		if limit > 0 {
			q.Limit = min(q.Limit, limit-len(entries))
		}
		list, err := a.history(ctx, q)
		if err != nil {
			return nil, 0, err
		}
		entries = append(entries, list.Entries...)
		last = max(last, list.Last)
		if list.Next == nil || limit > 0 && len(entries) >= limit {
			slices.Reverse(entries)
			return entries, last, nil
		}
		q.Cursor = *list.Next
	}
}

// followLog shows new entries until ctx is done. It outlives the daemon.
func (a *app) followLog(ctx context.Context, q admin.HistoryQuery, last uint64, out *logWriter, stderr io.Writer) error {
	failing := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(followInterval):
		}
		q.After = last
		entries, newest, err := a.latest(ctx, q, 0)
		var refused *admin.Problem
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &refused) && refused.Status < 500:
			return err
		case err != nil:
			if !failing {
				fmt.Fprintf(stderr, "webknock: %v; waiting\n", err)
			}
			failing = true
			continue
		}
		failing = false
		if newest < last { // another file is in its place
			newest = 0
		}
		last = newest
		if err := out.write(entries); err != nil {
			return err
		}
	}
}

// A logWriter writes entries as JSON lines or as a table that grows.
type logWriter struct {
	w      io.Writer
	asJSON bool
	now    func() time.Time
	widths []int // of the columns; nil: nothing was written
}

func (l *logWriter) write(entries []admin.HistoryEntry) error {
	if l.asJSON {
		for _, e := range entries {
			if err := json.NewEncoder(l.w).Encode(e); err != nil {
				return err
			}
		}
		return nil
	}
	var rows [][]string
	if l.widths == nil && len(entries) > 0 {
		head := []string{"TIME", "EVENT", "WHO", "CLIENT", "DOOR", "WHAT"}
		l.widths = make([]int, len(head))
		rows = append(rows, head)
	}
	for _, e := range entries {
		rows = append(rows, l.row(e))
	}
	for _, row := range rows {
		for i, cell := range row {
			l.widths[i] = max(l.widths[i], tty.Width(cell))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(tty.Fit(cell, l.widths[i]) + " ")
			if i == len(row)-2 { // what follows has spaces of its own
				line.WriteString(" ")
			}
		}
		if _, err := fmt.Fprintln(l.w, strings.TrimRight(line.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

// row returns the cells of an entry.
func (l *logWriter) row(e admin.HistoryEntry) []string {
	who := ""
	switch {
	case e.UID != nil:
		who = fmt.Sprintf("uid %d", *e.UID)
	case e.User+e.Sequence+e.Grant != "":
		who = admin.Whose(e.User, e.Sequence)
	}
	row := []string{l.clock(e.Time), e.Event, who, e.Client, e.Door, l.what(e)}
	for i, cell := range row {
		if row[i] = tty.Clean(cell); cell == "" && i < len(row)-1 {
			row[i] = "-"
		}
	}
	return row
}

// shortEnds makes room in 80 columns for how a grant has ended.
var shortEnds = strings.NewReplacer("closed by an administrator", "by hand", "ended while webknock did not run", "while webknock was off", "closed ", "", "ended ", "")

// what returns what else there is to say of an entry.
func (l *logWriter) what(e admin.HistoryEntry) string {
	var what []string
	if e.OpenedAt != nil && e.ClosedAt != nil {
		what = append(what, e.ClosedAt.Sub(*e.OpenedAt).Round(time.Second).String())
	}
	if e.Bytes != nil {
		what = append(what, tty.Bytes(*e.Bytes))
	}
	reason := e.Reason
	if e.Event == "closed" {
		reason = shortEnds.Replace(reason)
	}
	if e.Event == "reload" && reason == "" {
		reason = "done"
	}
	if reason != "" {
		what = append(what, reason)
	}
	if e.ExpiresAt != nil && e.ClosedAt == nil {
		what = append(what, "until "+tty.Clock(*e.ExpiresAt, e.Time))
	}
	return strings.Join(what, ", ")
}

// clock writes a time in the local zone, as journalctl(1) does, and with its year if it
// is long ago.
func (l *logWriter) clock(t time.Time) string {
	if l.now().Sub(t).Abs() > 180*24*time.Hour {
		return t.Local().Format("2006-01-02 15:04")
	}
	return t.Local().Format(time.Stamp)
}
