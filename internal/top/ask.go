package top

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"time"

	tea "charm.land/bubbletea/v2"

	"webknock/httpd/admin"
)

const (
	askPause = time.Second // between an answer and the next question
	// askShare bounds what the screen costs the daemon: it asks again after so many times
	// as long as the answers took.
	askShare   = 10
	askTimeout = 10 * time.Second
)

// A snapshot is what the daemon has answered at one time.
type snapshot struct {
	at      time.Time
	status  admin.Status
	grants  []admin.Grant  // opened last first
	clients []admin.Client // knocked last first
	bans    []admin.Ban    // that end last first
	stats   admin.Stats
}

// snapshotMsg has a snapshot, or why there is none.
type snapshotMsg struct {
	snapshot
	took time.Duration
	err  error
	last bool // it is not the one that the next question follows
}

// askMsg says that it is time to ask again.
type askMsg struct{}

// ask asks the daemon for everything but knocks, and again and again from then on, or
// with last only now.
func ask(ctx context.Context, d Daemon, last bool) tea.Cmd {
	return func() tea.Msg {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		began := time.Now()
		s, err := read(ctx, d)
		s.at = time.Now()
		return snapshotMsg{s, s.at.Sub(began), err, last}
	}
}

func read(ctx context.Context, d Daemon) (s snapshot, err error) {
	if s.status, err = d.Status(ctx); err != nil {
		return s, err
	}
	if s.stats, err = d.Stats(ctx); err != nil {
		return s, err
	}
	grants, err := d.Grants(ctx)
	if err != nil {
		return s, err
	}
	s.grants = grants.Grants
	slices.SortStableFunc(s.grants, func(a, b admin.Grant) int {
		return cmp.Or(b.OpenedAt.Compare(a.OpenedAt), cmp.Compare(a.ID, b.ID))
	})
	if s.status.Clients > 0 {
		clients, err := d.Clients(ctx)
		if err != nil {
			return s, err
		}
		s.clients = clients.Clients
	}
	if s.status.Shield.Bans > 0 {
		bans, err := d.Bans(ctx)
		if err != nil {
			return s, err
		}
		s.bans = bans.Bans
		slices.SortStableFunc(s.bans, func(a, b admin.Ban) int {
			return cmp.Or(b.ExpiresAt.Compare(a.ExpiresAt), cmp.Compare(a.Client, b.Client))
		})
	}
	return s, nil
}

// askLater asks again after a pause.
func askLater(took time.Duration) tea.Cmd {
	return tea.Tick(max(askPause, askShare*took), func(time.Time) tea.Msg { return askMsg{} })
}

// tickMsg is the time, once a second.
type tickMsg time.Time

func tick() tea.Cmd { return tea.Every(time.Second, func(t time.Time) tea.Msg { return tickMsg(t) }) }

// closedMsg says what became of closing a grant.
type closedMsg struct {
	grant admin.Grant
	err   error
}

func closeGrant(ctx context.Context, d Daemon, g admin.Grant) tea.Cmd {
	return func() tea.Msg {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		return closedMsg{g, d.Close(ctx, g.ID)}
	}
}

// explainedMsg explains a client, or says why that cannot be.
type explainedMsg struct {
	client netip.Addr
	lines  []string
	err    error
}

func explain(ctx context.Context, f func(context.Context, netip.Addr) ([]string, error), client netip.Addr) tea.Cmd {
	return func() tea.Msg {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		lines, err := f(ctx, client)
		return explainedMsg{client, lines, err}
	}
}
