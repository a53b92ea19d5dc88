package top

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"webknock/httpd/admin"
	"webknock/internal/tty"
)

// A model is all that is on the screen. It is changed only by Update.
type model struct {
	Options
	ctx  context.Context
	feed *feed

	width, height int
	now           time.Time // of the latest tick
	snapshot                // the latest; if the daemon has gone, that of before
	gone          error     // why the daemon does not answer; nil: it does
	goneAt        time.Time
	knocks        []admin.Event // newest first
	silent        error         // why the daemon tells of no knocks; nil: it does

	focus  pane
	zoomed bool              // the pane that has the focus fills the screen
	chosen [paneCount]string // the key of a row; empty or not there: the first
	filter string            // of clients
	typing bool              // the filter is being typed
	paused bool              // nothing moves
	held   held              // what has come meanwhile
	close  *admin.Grant      // the user is asked whether to close it
	note   string            // what has just been done
	noted  time.Time         // when that was
	page   *page             // lies over the panes
}

// held is what came while the screen was paused.
type held struct {
	snapshot *snapshotMsg
	knocks   knocksMsg
}

// A page is a text that lies over the panes.
type page struct {
	title  string
	lines  []string
	offset int // of the first line that is shown
}

func newModel(ctx context.Context, o Options) *model {
	return &model{Options: o, ctx: ctx, feed: newFeed(), width: 80, height: 24, now: time.Now()}
}

// Init implements tea.Model.
func (m *model) Init() tea.Cmd {
	return tea.Batch(ask(m.ctx, m.Daemon, false), m.feed.next(m.ctx), tick())
}

// Update implements tea.Model.
func (m *model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tickMsg:
		if !m.paused {
			m.now = time.Time(msg)
		}
		if time.Time(msg).Sub(m.noted) > noteTime {
			m.note = ""
		}
		return m, tick()
	case askMsg:
		return m, ask(m.ctx, m.Daemon, false)
	case snapshotMsg:
		if m.paused {
			m.held.snapshot = &msg
		} else {
			m.take(msg)
		}
		if !msg.last {
			return m, askLater(msg.took)
		}
	case knocksMsg:
		m.silent = msg.err
		if m.paused {
			m.held.add(msg)
		} else {
			m.addKnocks(msg)
		}
		return m, m.feed.next(m.ctx)
	case closedMsg:
		if msg.err != nil {
			m.say("not closed: " + tty.Clean(msg.err.Error()))
		} else {
			m.say(fmt.Sprintf("closed %s for %s", tty.Clean(msg.grant.Door), tty.Clean(msg.grant.Client)))
		}
		return m, ask(m.ctx, m.Daemon, true)
	case explainedMsg:
		m.page = &page{title: "explain " + msg.client.String(), lines: msg.lines}
		if msg.err != nil {
			m.page.lines = []string{msg.err.Error()}
		}
	case tea.KeyPressMsg:
		return m, m.key(msg.Key())
	case tea.PasteMsg:
		if m.typing {
			m.filter += filterText(msg.Content)
		}
	}
	return m, nil
}

// take puts what the daemon has answered on the screen.
func (m *model) take(s snapshotMsg) {
	if s.at.Before(m.at) { // overtaken
		return
	}
	if s.err != nil {
		if m.gone == nil {
			m.goneAt = m.now
		}
		m.gone = s.err
		return
	}
	if m.gone != nil {
		m.say("the daemon is back")
	}
	m.gone, m.snapshot = nil, s.snapshot
}

// noteTime is how long a note stays, if no key is pressed.
const noteTime = 5 * time.Second

// say shows a note in the last line.
func (m *model) say(note string) { m.note, m.noted = note, time.Now() }

func (h *held) add(msg knocksMsg) {
	h.knocks.skipped += msg.skipped
	h.knocks.knocks = append(h.knocks.knocks, msg.knocks...)
	if more := len(h.knocks.knocks) - keptKnocks; more > 0 {
		h.knocks.knocks = slices.Delete(h.knocks.knocks, 0, more)
		h.knocks.skipped += uint64(more)
	}
}

// addKnocks puts knocks above those of before.
func (m *model) addKnocks(msg knocksMsg) {
	added := slices.Clone(msg.knocks)
	slices.Reverse(added)
	if msg.skipped > 0 {
		added = append(added, admin.Event{Kind: admin.KindMissed, ID: fmt.Sprint("skipped ", m.now), Time: m.now, Missed: &msg.skipped})
	}
	m.knocks = append(added, m.knocks...)
	m.knocks = m.knocks[:min(len(m.knocks), keptKnocks)]
}

// key does what a key asks for.
func (m *model) key(k tea.Key) tea.Cmd {
	name := k.Keystroke()
	if name == "ctrl+c" {
		return tea.Quit
	}
	if name == "ctrl+z" {
		return tea.Suspend
	}
	m.note = ""
	switch {
	case m.close != nil:
		return m.answer(name)
	case m.typing:
		m.edit(name, k.Text)
		return nil
	case m.page != nil:
		m.turn(name)
		return nil
	}
	switch name {
	case "q":
		return tea.Quit
	case "p", "space":
		m.pause()
	case "tab", "right":
		m.focus = (m.focus + 1) % paneCount
	case "shift+tab", "left":
		m.focus = (m.focus + paneCount - 1) % paneCount
	case "up", "k":
		m.move(-1)
	case "down", "j":
		m.move(1)
	case "pgup":
		m.move(-10)
	case "pgdown":
		m.move(10)
	case "home", "g":
		m.chosen[m.focus] = ""
	case "end", "G", "shift+g":
		m.move(len(m.rows(m.focus)))
	case "enter", "z":
		m.zoomed = !m.zoomed
	case "/":
		m.typing = true
	case "esc":
		m.filter, m.zoomed = "", false
	case "x":
		m.askToClose()
	case "e":
		return m.explainChosen()
	}
	return nil
}

func (m *model) pause() {
	if m.paused = !m.paused; m.paused {
		return
	}
	m.now = time.Now()
	if m.held.snapshot != nil {
		m.take(*m.held.snapshot)
	}
	m.addKnocks(m.held.knocks)
	m.held = held{}
}

// move chooses the row that is so many further down.
func (m *model) move(by int) {
	rows := m.rows(m.focus)
	if len(rows) == 0 {
		return
	}
	to := min(max(0, m.index(m.focus, rows)+by), len(rows)-1)
	m.chosen[m.focus] = rows[to].key
	if to == 0 {
		m.chosen[m.focus] = "" // whatever comes first from now on
	}
}

// index returns which row of a pane is chosen. If the chosen one has gone it is the first.
func (m *model) index(p pane, rows []row) int {
	return max(0, slices.IndexFunc(rows, func(r row) bool { return r.key == m.chosen[p] }))
}

// current returns the row that is chosen.
func (m *model) current() (row, bool) {
	rows := m.rows(m.focus)
	if len(rows) == 0 {
		return row{}, false
	}
	return rows[m.index(m.focus, rows)], true
}

func (m *model) askToClose() {
	r, ok := m.current()
	if m.focus != grantsPane || !ok {
		m.say("choose a grant first: tab to WHO IS IN, then up and down")
		return
	}
	m.chosen[grantsPane] = r.key
	m.close = r.grant
}

// answer takes the answer to whether a grant is to be closed.
func (m *model) answer(name string) tea.Cmd {
	g := *m.close
	switch name {
	case "y", "shift+y":
		m.close = nil
		m.say("closing " + tty.Clean(g.ID))
		return closeGrant(m.ctx, m.Daemon, g)
	case "n", "shift+n", "esc", "q":
		m.close = nil
		m.say("nothing was closed")
	}
	return nil
}

func (m *model) explainChosen() tea.Cmd {
	r, ok := m.current()
	if !ok || !r.client.IsValid() {
		m.say("choose a client first: tab to a pane with addresses, then up and down")
		return nil
	}
	m.say("asking about " + r.client.Addr().String())
	return explain(m.ctx, m.Explain, r.client.Addr())
}

// edit changes the filter.
func (m *model) edit(name, text string) {
	switch name {
	case "enter", "tab":
		m.typing = false
	case "esc":
		m.typing, m.filter = false, ""
	case "backspace":
		m.filter = m.filter[:max(0, len(m.filter)-1)]
	case "ctrl+u":
		m.filter = ""
	default:
		m.filter += filterText(text)
	}
	m.filter = m.filter[:min(len(m.filter), maxFilter)]
}

const maxFilter = len("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128")

// filterText returns what of a text can be a part of an address.
func filterText(text string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("0123456789abcdef.:/", r) {
			return r
		}
		return -1
	}, strings.ToLower(text))
}

// turn does what a key asks for while there is a page.
func (m *model) turn(name string) {
	last := max(0, len(m.page.lines)-m.bodyHeight()+1)
	switch name {
	case "esc", "q", "e", "enter":
		m.page = nil
		return
	case "up", "k":
		m.page.offset--
	case "down", "j":
		m.page.offset++
	case "pgup":
		m.page.offset -= 10
	case "pgdown", "space":
		m.page.offset += 10
	}
	m.page.offset = min(max(0, m.page.offset), last)
}

// shows reports whether the filter lets a client through. A network is looked for by the
// addresses that it has in common with the client, anything else as a part of the text.
func (m *model) shows(client string) bool {
	if network, err := netip.ParsePrefix(m.filter); err == nil {
		p, err := admin.ParseScope(client)
		return err == nil && p.Overlaps(network)
	}
	return strings.Contains(client, m.filter)
}
