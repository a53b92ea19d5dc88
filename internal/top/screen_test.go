package top

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"

	"webknock/httpd/admin"
)

// A fake is a daemon with one answer. It closes what it is asked to.
type fake struct {
	snapshot
	err    error
	closed []string
	follow func(context.Context, admin.EventQuery, func(admin.Event) error) error
}

func (f *fake) Status(context.Context) (admin.Status, error) { return f.status, f.err }
func (f *fake) Clients(context.Context) (admin.ClientList, error) {
	return admin.ClientList{Clients: f.clients}, nil
}
func (f *fake) Grants(context.Context) (admin.GrantList, error) {
	return admin.GrantList{Grants: f.grants}, nil
}
func (f *fake) Bans(context.Context) (admin.BanList, error) { return admin.BanList{Bans: f.bans}, nil }
func (f *fake) Stats(context.Context) (admin.Stats, error)  { return f.stats, nil }
func (f *fake) Close(_ context.Context, id string) error {
	f.closed = append(f.closed, id)
	if id == "gone" {
		return errors.New("no such grant")
	}
	return nil
}

func (f *fake) Follow(ctx context.Context, q admin.EventQuery, show func(admin.Event) error, _ func(error)) error {
	return f.follow(ctx, q, show)
}

// busy is a daemon in which there is something of everything.
func busy() snapshot {
	s := snapshot{at: noon, status: admin.Status{
		Version: "1.0", State: admin.OK, StartedAt: noon.Add(-3*time.Hour - 4*time.Minute), Firewall: admin.Firewall{Guarded: true}, Clients: 2, Grants: 2, Shield: admin.Shield{Bans: 1},
		Doors: admin.List[admin.Door]{{Name: "ssh", Ports: admin.List[string]{"22/tcp"}, Grants: 2, MaxGrants: 2, TTL: 30}, {Name: "vpn", Ports: admin.List[string]{"51820/udp"}, MaxGrants: 1024, TTL: 3600}},
	}}
	s.grants = []admin.Grant{
		{ID: "b", Door: "ssh", Client: "2001:db8:1:2:3:4:5:6", Sequence: "ssh", OpenedAt: noon.Add(-10 * time.Second), ExpiresAt: noon.Add(20 * time.Second), Remaining: 20, Bytes: 123456},
		{ID: "a", Door: "ssh", Client: "192.0.2.7", User: "alice", OpenedAt: noon.Add(-25 * time.Second), ExpiresAt: noon.Add(5 * time.Second), Remaining: 5},
	}
	s.clients = []admin.Client{{Client: "192.0.2.9", Sequence: "ssh", Step: 2, Steps: 3, ExpiresAt: noon.Add(9 * time.Second)}, {Client: "2001:db8:1:2:3:4:5:6", Sequence: "long-sequence", Step: 1, Steps: 3, ExpiresAt: noon.Add(8 * time.Second)}}
	s.bans = []admin.Ban{{Client: "192.0.2.66", ExpiresAt: noon.Add(time.Hour), Remaining: 3600}}
	s.stats.Minutes = make(admin.List[admin.Span], 60)
	s.stats.Minutes[58].Knocks = map[string]uint64{"missed": 40, "completed": 2, "prefetch": 0}
	s.stats.Minutes[59].Knocks = map[string]uint64{"missed": 12, "wrong_code": 1}
	return s
}

func someKnocks() []admin.Event {
	return []admin.Event{ // oldest first
		{ID: "r-1", Kind: "knock", Time: noon.Add(-4 * time.Second), Client: "192.0.2.9", Listener: ":8080", Outcome: "matched", Sequence: "ssh", Step: 2, Steps: 3, Reason: "matched step 2 of 3"},
		{ID: "r-2", Kind: "knock", Time: noon.Add(-3 * time.Second), Client: "192.0.2.99", Listener: ":8080", Outcome: "missed", Reason: "matches no step"},
		{ID: "r-3", Kind: admin.KindMissed, Time: noon.Add(-2 * time.Second)},
		{ID: "r-4", Kind: "knock", Time: noon.Add(-time.Second), Client: "2001:db8:1:2:3:4:5:6", Listener: "127.0.0.1:8443", Outcome: "completed", Sequence: "ssh", Step: 3, Steps: 3, Reason: "matched step 3 of 3"},
	}
}

// started returns a screen of 80 by 24 that has got its first answers.
func started(t *testing.T) (*model, *fake) {
	t.Helper()
	local := time.Local
	time.Local = time.UTC
	t.Cleanup(func() { time.Local = local })
	d := &fake{snapshot: busy()}
	m := newModel(t.Context(), Options{Daemon: d, Explain: func(_ context.Context, client netip.Addr) ([]string, error) {
		return []string{"advice for " + client.String()}, nil
	}})
	m.now = noon
	m.Update(tea.WindowSizeMsg{Width: 80, Height: 24})
	m.Update(snapshotMsg{snapshot: busy()})
	m.Update(knocksMsg{knocks: someKnocks()})
	return m, d
}

// press presses keys, and does what that asks for.
func press(t *testing.T, m *model, keys ...string) {
	t.Helper()
	codes := map[string]rune{"tab": tea.KeyTab, "up": tea.KeyUp, "down": tea.KeyDown, "left": tea.KeyLeft, "right": tea.KeyRight, "enter": tea.KeyEnter, "esc": tea.KeyEscape, "backspace": tea.KeyBackspace, "end": tea.KeyEnd, "home": tea.KeyHome}
	for _, key := range keys {
		msg := tea.KeyPressMsg{Text: key, Code: rune(key[0])}
		if code, ok := codes[key]; ok {
			msg = tea.KeyPressMsg{Code: code}
		}
		if _, cmd := m.Update(msg); cmd != nil {
			m.Update(cmd())
		}
	}
}

func screen(m *model) string { return "\n" + strings.Join(m.lines(), "\n") + "\n" }

// below returns what is below the first line of a screen.
func below(screen string) string {
	_, rest, _ := strings.Cut(screen[1:], "\n")
	return rest
}

func mustShow(t *testing.T, m *model, want string) {
	t.Helper()
	if got := screen(m); !strings.Contains(got, want) {
		t.Errorf("no %q on the screen:%s", want, got)
	}
}

func mustNotShow(t *testing.T, m *model, unwanted string) {
	t.Helper()
	if got := screen(m); strings.Contains(got, unwanted) {
		t.Errorf("%q is on the screen:%s", unwanted, got)
	}
}

const wholeScreen = `
webknock 1.0  ok  guarded  up 3h 4m  13 knocks this minute              12:00:00
> KNOCKS -----------------------------------------------------------------------
> 11:59:59 2001:db8:1:2:3:4:5:6 127.0.0.1:8443 completed ssh 3/3
  11:59:58 -                    -              -         knocks missing
  11:59:57 192.0.2.99           :8080          missed    matches no step
  11:59:56 192.0.2.9            :8080          matched   ssh 2/3




- WHO IS IN 2 ------------------------------------------------------------------
  20s ######.. ssh 2001:db8:1:2:3:4:5:6 [ssh] until 12:00:20, 123 kB
  5s  ##...... ssh 192.0.2.7            alice until 12:00:05, 0 B


- ON THE WAY 2 ------------------------ - DOORS 2 ------------------------------
  9s 2/3 ssh           192.0.2.9          ssh 2/2 full 30s    22/tcp
  8s 1/3 long-sequence 2001:db8:1:2:3:…   vpn 0/1024   1h0m0s 51820/udp

- BANNED 1 ---------------------------- - KNOCKS: THIS MINUTE, LAST, HOUR ------
  1h0m0s 192.0.2.66                       completed       0      2      2
                                          missed         12     40     52
                                          wrong_code      1      0      1
q quit  p pause  tab pane  up/down row  enter zoom  / filter  x close  e explain
`
