package top

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"webknock/httpd/admin"
	"webknock/internal/tty"
)

// A pane is a list on the screen.
type pane int

// The panes, in the order of the tab key.
const (
	knocksPane pane = iota
	grantsPane
	clientsPane
	doorsPane
	bansPane
	ratesPane
	paneCount
)

// A row is a line of a pane.
type row struct {
	key    string // names what it is about, while the screen is shown
	cells  []string
	paint  func(string) string // of the cell whose number is painted; nil: none is
	at     int                 // that is painted
	client netip.Prefix        // that it is about; invalid: none
	grant  *admin.Grant        // that it is about, if it is about one
}

// maxRows is how many rows of a pane can be looked at. The filter finds others.
const maxRows = 1000

// title returns what stands above a pane.
func (m *model) title(p pane) string {
	switch p {
	case knocksPane:
		if m.silent != nil && m.gone == nil {
			return "KNOCKS ARE NOT TOLD: " + tty.Clean(m.silent.Error())
		}
		return "KNOCKS"
	case grantsPane:
		return "WHO IS IN " + howMany(m, m.grants, func(g admin.Grant) string { return g.Client })
	case clientsPane:
		return "ON THE WAY " + howMany(m, m.clients, func(c admin.Client) string { return c.Client })
	case doorsPane:
		return fmt.Sprintf("DOORS %d", len(m.status.Doors))
	case bansPane:
		return "BANNED " + howMany(m, m.bans, func(b admin.Ban) string { return b.Client })
	}
	return "KNOCKS: THIS MINUTE, LAST, HOUR"
}

// howMany says how many there are, and how many of them the filter lets through.
func howMany[T any](m *model, all []T, client func(T) string) string {
	if m.filter == "" {
		return strconv.Itoa(len(all))
	}
	shown := 0
	for _, one := range all {
		if m.shows(client(one)) {
			shown++
		}
	}
	return fmt.Sprintf("%d of %d", shown, len(all))
}

// rows returns the lines of a pane that the filter lets through.
func (m *model) rows(p pane) []row {
	switch p {
	case knocksPane:
		return m.knockRows()
	case grantsPane:
		return m.grantRows()
	case clientsPane:
		return m.clientRows()
	case doorsPane:
		return m.doorRows()
	case bansPane:
		return m.banRows()
	}
	return m.rateRows()
}

func (m *model) knockRows() (rows []row) {
	for _, e := range m.knocks {
		clock := e.Time.Local().Format(time.TimeOnly)
		if e.Kind == admin.KindMissed {
			what := "knocks missing"
			if e.Missed != nil {
				what = fmt.Sprintf("%d knocks missing", *e.Missed)
			}
			if m.filter == "" {
				rows = append(rows, row{key: e.ID, cells: []string{clock, "-", "-", "-", what}})
			}
			continue
		}
		if !m.shows(e.Client) {
			continue
		}
		what := e.Reason
		switch {
		case e.Outcome == "matched" || e.Outcome == "completed":
			what = fmt.Sprintf("%s %d/%d", e.Sequence, e.Step, e.Steps)
		case e.Sequence != "":
			what = e.Sequence + ": " + what
		}
		rows = append(rows, row{
			key: e.ID, cells: []string{clock, e.Client, e.Listener, e.Outcome, what}, at: 3, paint: m.outcomePaint(e.Outcome), client: clientOf(e.Client),
		})
	}
	return rows
}

func (m *model) outcomePaint(outcome string) func(string) string {
	switch outcome {
	case "completed":
		return m.Colours.Green
	case "matched":
		return m.Colours.Cyan
	case "wrong_code", "banned", "untracked":
		return m.Colours.Yellow
	}
	return nil
}

func (m *model) grantRows() (rows []row) {
	for _, g := range m.grants {
		if !m.shows(g.Client) {
			continue
		} else if len(rows) == maxRows {
			break
		}
		left := m.left(g.Remaining)
		r := row{
			key: g.ID, grant: &g, client: clientOf(g.Client), at: 1,
			cells: []string{tty.Left(left), bar(left, g.ExpiresAt.Sub(g.OpenedAt)), g.Door, g.Client, admin.Whose(g.User, g.Sequence), "until " + tty.Clock(g.ExpiresAt, m.now) + ", " + tty.Bytes(g.Bytes)},
		}
		if left < 10*time.Second {
			r.paint = m.Colours.Yellow
		} else {
			r.paint = m.Colours.Green
		}
		rows = append(rows, r)
	}
	return rows
}

// left returns what is left now of so many seconds at the time of the snapshot.
func (m *model) left(seconds float64) time.Duration {
	return max(0, time.Duration(seconds*float64(time.Second))-max(0, m.now.Sub(m.at)))
}

// bar draws what is left of a time.
func bar(left, whole time.Duration) string {
	const length = 8
	full := length
	if whole > 0 {
		full = min(length, int((left*length+whole-1)/whole))
	}
	return strings.Repeat("#", full) + strings.Repeat(".", length-full)
}

func (m *model) clientRows() (rows []row) {
	for _, c := range m.clients {
		if len(rows) == maxRows {
			break
		} else if m.shows(c.Client) {
			rows = append(rows, row{
				key: c.Client + " " + c.Sequence, client: clientOf(c.Client),
				cells: []string{tty.Left(c.ExpiresAt.Sub(m.now)), fmt.Sprintf("%d/%d", c.Step, c.Steps), c.Sequence, c.Client},
			})
		}
	}
	return rows
}

func (m *model) doorRows() (rows []row) {
	for _, d := range m.status.Doors {
		r := row{
			key:   d.Name,
			cells: []string{d.Name, fmt.Sprintf("%d/%d", d.Grants, d.MaxGrants), tty.Seconds(d.TTL), strings.Join(d.Ports, " ")}, at: 1,
		}
		if d.Grants >= d.MaxGrants {
			r.cells[1] += " full"
			r.paint = m.Colours.Yellow
		}
		rows = append(rows, r)
	}
	return rows
}

func (m *model) banRows() (rows []row) {
	for _, b := range m.bans {
		if len(rows) == maxRows {
			break
		} else if m.shows(b.Client) {
			rows = append(rows, row{key: b.Client, client: clientOf(b.Client), cells: []string{tty.Left(m.left(b.Remaining)), b.Client}})
		}
	}
	return rows
}

// outcomes are those of knocks, the most telling first.
var outcomes = []string{"completed", "matched", "missed", "wrong_code", "replayed", "banned", "malformed", "ignored", "prefetch", "untracked"}

func (m *model) rateRows() (rows []row) {
	minutes := m.stats.Minutes
	if len(minutes) < 2 {
		return nil
	}
	this, last := minutes[len(minutes)-1], minutes[len(minutes)-2]
	hour := map[string]uint64{}
	for _, span := range minutes {
		for outcome, n := range span.Knocks {
			hour[outcome] += n
		}
	}
	names := slices.Clone(outcomes)
	for _, other := range slices.Sorted(maps.Keys(hour)) {
		if !slices.Contains(names, other) {
			names = append(names, other)
		}
	}
	for _, outcome := range names {
		if hour[outcome] > 0 {
			count := func(n uint64) string { return fmt.Sprintf("%6d", n) }
			rows = append(rows, row{
				key: outcome, at: 0, paint: m.outcomePaint(outcome),
				cells: []string{fmt.Sprintf("%-10s", outcome), count(this.Knocks[outcome]), count(last.Knocks[outcome]), count(hour[outcome])},
			})
		}
	}
	return rows
}

// knocksNow returns how many knocks came in this minute.
func (m *model) knocksNow() (sum uint64) {
	if minutes := m.stats.Minutes; len(minutes) > 0 {
		for _, n := range minutes[len(minutes)-1].Knocks {
			sum += n
		}
	}
	return sum
}

// clientOf reads a client as the daemon writes it.
func clientOf(text string) netip.Prefix {
	p, err := admin.ParseScope(text)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
