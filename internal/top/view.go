package top

import (
	"fmt"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"webknock/httpd/admin"
	"webknock/internal/tty"
)

// The least size at which all panes are shown. On smaller screens there is one at a time.
const (
	allPanesWidth  = 72
	allPanesHeight = 14 // without what is above and below the panes
)

// View implements tea.Model.
func (m *model) View() tea.View {
	v := tea.NewView(strings.Join(m.lines(), "\n"))
	v.AltScreen = true
	v.WindowTitle = "webknock top"
	return v
}

// lines returns the screen: as many lines as it has, none of them too wide.
func (m *model) lines() []string {
	lines := m.header()
	switch height := m.bodyHeight(); {
	case m.page != nil:
		lines = append(lines, m.pageLines(height)...)
	case m.zoomed || m.width < allPanesWidth || height < allPanesHeight:
		lines = append(lines, m.paneLines(m.focus, m.width, height)...)
	default:
		lines = append(lines, m.allPanes(height)...)
	}
	lines = append(lines, m.footer())
	if m.height < len(lines) {
		lines = lines[:max(0, m.height)]
	}
	for i, line := range lines {
		lines[i] = tty.Cut(line, m.width)
	}
	return lines
}

// bodyHeight is how many lines there are for the panes.
func (m *model) bodyHeight() int { return max(0, m.height-len(m.header())-1) }

// allPanes shows each pane: knocks above who is in, and the others in pairs below.
func (m *model) allPanes(height int) []string {
	low := min(max(3, height/5), 10)
	in := min(max(3, height/4), 20)
	lines := m.paneLines(knocksPane, m.width, height-in-2*low)
	lines = append(lines, m.paneLines(grantsPane, m.width, in)...)
	for _, pair := range [][2]pane{{clientsPane, doorsPane}, {bansPane, ratesPane}} {
		width := (m.width - 1) / 2
		left := m.paneLines(pair[0], width, low)
		right := m.paneLines(pair[1], m.width-1-width, low)
		for i := range left {
			lines = append(lines, strings.TrimRight(tty.Fit(left[i], width)+" "+right[i], " "))
		}
	}
	return lines
}

// paneLines shows a pane in so many lines, so that its chosen row is among them.
func (m *model) paneLines(p pane, width, height int) []string {
	if height <= 0 {
		return nil
	}
	focused := p == m.focus
	title, mark := m.title(p), "- "
	if focused {
		mark = "> "
	}
	title = tty.Cut(mark+title+" ", width)
	title += strings.Repeat("-", max(0, width-tty.Width(title)))
	if focused {
		title = m.Colours.Bold(title)
	} else {
		title = m.Colours.Dim(title)
	}
	lines := []string{title}
	rows := m.rows(p)
	switch {
	case len(rows) == 0:
		lines = append(lines, m.Colours.Dim("  "+m.nothing(p)))
	case height > 1:
		at := m.index(p, rows)
		first := max(0, at-(height-2))
		shown := rows[first:min(len(rows), first+height-1)]
		if focused { // it stands out as a whole
			shown[at-first].paint = nil
		}
		for i, line := range m.columns(shown, width-2) {
			if focused && first+i == at {
				line = "> " + m.Colours.Bold(line)
			} else {
				line = "  " + line
			}
			lines = append(lines, line)
		}
	}
	for len(lines) < height {
		lines = append(lines, "")
	}
	return lines[:height]
}

// nothing says that a pane has no rows.
func (m *model) nothing(p pane) string {
	if m.filter != "" && p != doorsPane && p != ratesPane {
		return "none that the filter lets through"
	}
	return [paneCount]string{"none since this began", "nobody", "nobody", "no doors", "nobody", "none"}[p]
}

// columns lays out rows, whose last cell gets what is left of the width.
func (m *model) columns(rows []row, width int) (lines []string) {
	var widths []int
	for i := range rows {
		cells := make([]string, len(rows[i].cells))
		for j, cell := range rows[i].cells {
			cells[j] = tty.Clean(cell)
			if j == len(widths) {
				widths = append(widths, 0)
			}
			widths[j] = max(widths[j], tty.Width(cells[j]))
		}
		rows[i].cells = cells
	}
	for _, r := range rows {
		var line strings.Builder
		for j, cell := range r.cells {
			if j < len(r.cells)-1 {
				cell = tty.Fit(cell, widths[j]) + " "
			}
			if r.paint != nil && j == r.at {
				cell = r.paint(cell)
			}
			line.WriteString(cell)
		}
		lines = append(lines, tty.Cut(strings.TrimRight(line.String(), " "), width))
	}
	return lines
}

// header says how the daemon is, and what is wrong.
func (m *model) header() []string {
	s := m.status
	state := m.Colours.Green(s.State)
	guard := "guarded"
	switch {
	case m.gone != nil:
		state = m.Colours.Red("gone")
	case s.State == "":
		state = "asking"
	case s.State != admin.OK:
		state = m.Colours.Red(tty.Clean(s.State))
	}
	if !s.Firewall.Guarded {
		guard = m.Colours.Yellow("not guarded")
	}
	parts := []string{m.Colours.Bold("webknock " + tty.Clean(s.Version)), state}
	if s.State != "" && m.gone == nil {
		parts = append(parts, guard)
	}
	switch {
	case m.paused:
		parts = append(parts, m.Colours.Yellow(fmt.Sprintf("paused, %d knocks wait", len(m.held.knocks.knocks))))
	case s.State != "" && m.gone == nil:
		parts = append(parts, "up "+tty.Long(m.now.Sub(s.StartedAt)), fmt.Sprintf("%d knocks this minute", m.knocksNow()))
	}
	line := strings.Join(parts, "  ")
	clock := m.now.Local().Format(time.TimeOnly)
	lines := []string{tty.Fit(line, max(0, m.width-len(clock)-1)) + " " + clock}
	return append(lines, m.alerts()...)
}

// alerts says what is wrong, in three lines at most.
func (m *model) alerts() (lines []string) {
	red := func(text string) {
		lines = append(lines, m.Colours.Red(tty.Cut("! "+tty.Clean(text), m.width)))
	}
	if m.gone != nil {
		red(fmt.Sprintf("gone since %s, below is what was before: %v", m.goneAt.Local().Format(time.TimeOnly), m.gone))
		return lines
	}
	if by := m.status.ConfirmBy; by != nil {
		red(fmt.Sprintf("undone in %s unless webknock confirm follows", tty.Left(by.Sub(m.now))))
	}
	if problems := m.status.Problems; len(problems) > 0 {
		what, todo := tty.Problem(problems[0])
		if more := len(problems) - 1; more > 0 {
			todo += fmt.Sprintf(" (and %d more: webknock status)", more)
		}
		red(what)
		lines = append(lines, tty.Cut("  "+tty.Clean(todo), m.width))
	}
	return lines
}

// footer has the question that is open, what the last key has done, or the keys.
func (m *model) footer() string {
	switch {
	case m.close != nil:
		return m.Colours.Yellow(fmt.Sprintf("close %s for %s? y/n", tty.Clean(m.close.Door), tty.Clean(m.close.Client)))
	case m.typing:
		return "show only clients with: " + m.filter + "_  (enter: done, esc: all)"
	case m.page != nil:
		return "up/down scroll  esc back"
	case m.note != "":
		return m.note
	case m.filter != "":
		return "only clients with " + m.filter + " (esc: all)  " + keys
	}
	return keys
}

const keys = "q quit  p pause  tab pane  up/down row  enter zoom  / filter  x close  e explain"

// pageLines shows a text in so many lines.
func (m *model) pageLines(height int) []string {
	lines := []string{m.Colours.Bold(tty.Cut("> "+m.page.title, m.width))}
	for _, line := range m.page.lines[min(m.page.offset, len(m.page.lines)):] {
		lines = append(lines, tty.Clean(line))
	}
	for len(lines) < height {
		lines = append(lines, "")
	}
	return lines[:max(0, height)]
}
