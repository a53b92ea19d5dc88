// Package tty writes text for people at terminals: colours where they are wanted, texts
// that cannot change the terminal, columns that fit.
package tty

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/charmbracelet/x/ansi"
	"golang.org/x/term"
)

// IsTerminal reports whether a reader or writer is a terminal.
func IsTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Dumb reports whether the terminal, as TERM names it, cannot move its cursor.
func Dumb(getenv func(string) string) bool {
	name := getenv("TERM")
	return name == "" || name == "dumb"
}

// Colours says whether text may have colours. The zero value is without.
type Colours bool

// ColoursOf says whether what is written to out may have colours: only at a terminal, and
// not if NO_COLOR is set (https://no-color.org) or TERM is dumb.
func ColoursOf(out any, getenv func(string) string) Colours {
	return Colours(IsTerminal(out) && getenv("NO_COLOR") == "" && !Dumb(getenv))
}

// The ways in which text stands out. Each is of the 16 colours that the user's theme has.
func (c Colours) Bold(text string) string   { return c.paint("1", text) }
func (c Colours) Dim(text string) string    { return c.paint("2", text) }
func (c Colours) Red(text string) string    { return c.paint("1;31", text) }
func (c Colours) Green(text string) string  { return c.paint("32", text) }
func (c Colours) Yellow(text string) string { return c.paint("33", text) }
func (c Colours) Cyan(text string) string   { return c.paint("36", text) }

func (c Colours) paint(code, text string) string {
	if !c || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[m"
}

// Clean replaces what a terminal could take for an order, and what could hide or turn
// round a text: control and format characters, and bytes that are no UTF-8.
func Clean(text string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsGraphic(r) {
			return ' '
		}
		return r
	}, text)
}

// Width returns how many columns a text takes. It may have colours.
func Width(text string) int { return ansi.StringWidth(text) }

// Cut shortens a text to a number of columns. What is cut off is shown by "…".
func Cut(text string, width int) string {
	if width <= 0 {
		return ""
	}
	return ansi.Truncate(text, width, "…")
}

// Fit cuts a text, or fills it up with spaces, to exactly so many columns.
func Fit(text string, width int) string {
	text = Cut(text, width)
	return text + strings.Repeat(" ", max(0, width-Width(text)))
}

// Wrap splits a text at its spaces into lines of at most so many columns, where its words
// allow that.
func Wrap(text string, width int) (lines []string) {
	line := ""
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = word
		case Width(line)+1+Width(word) <= width:
			line += " " + word
		default:
			lines = append(lines, line)
			line = word
		}
	}
	return append(lines, line)
}

// minLast is how wide the last column of a table is at least.
const minLast = 24

// Table lays out rows in columns. The last column is wrapped, so that lines have at most
// so many columns, where its words and the other columns allow that.
func Table(rows [][]string, width int) []string {
	return slices.Concat(TableRows(rows, width)...)
}

// TableRows is Table with the lines of each row apart.
func TableRows(rows [][]string, width int) (all [][]string) {
	if len(rows) == 0 {
		return nil
	}
	last := len(rows[0]) - 1
	widths := make([]int, last)
	for _, row := range rows {
		for i := range last {
			widths[i] = max(widths[i], Width(row[i]))
		}
	}
	indent := 2 * last
	for _, w := range widths {
		indent += w
	}
	for _, row := range rows {
		var prefix strings.Builder
		for i, w := range widths {
			prefix.WriteString(Fit(row[i], w) + "  ")
		}
		before := prefix.String()
		var lines []string
		for _, part := range Wrap(row[last], max(width-indent, minLast)) {
			lines = append(lines, strings.TrimRight(before+part, " "))
			before = strings.Repeat(" ", indent)
		}
		all = append(all, lines)
	}
	return all
}

// Clock writes a time in the local zone, with its date unless that is the day of now.
func Clock(at, now time.Time) string {
	at = at.Local()
	if at.Format(time.DateOnly) == now.Local().Format(time.DateOnly) {
		return at.Format(time.TimeOnly)
	}
	return at.Format(time.DateTime)
}

// Bytes writes a number of bytes: 999 B, 1.2 kB, 35 MB.
func Bytes(n uint64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	value := float64(n)
	for _, unit := range []string{"kB", "MB", "GB", "TB", "PB"} {
		if value /= 1000; value < 9.95 {
			return fmt.Sprintf("%.1f %s", value, unit)
		} else if value < 999.5 {
			return fmt.Sprintf("%.0f %s", value, unit)
		}
	}
	return fmt.Sprintf("%.0f PB", value)
}

// Seconds is Left of a number of seconds.
func Seconds(s float64) string { return Left(time.Duration(s * float64(time.Second))) }

// Left writes a time that is left, in whole seconds, as Go does: 1m5s.
func Left(d time.Duration) string {
	return (max(0, d) + time.Second - 1).Truncate(time.Second).String()
}

// Long writes how long something has lasted, by its two greatest units: 3d 4h.
func Long(d time.Duration) string {
	units := []struct {
		name   string
		length time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}}
	for i, u := range units {
		if n := d / u.length; n > 0 && i+1 < len(units) {
			below := units[i+1]
			return fmt.Sprintf("%d%s %d%s", n, u.name, d%u.length/below.length, below.name)
		}
	}
	return fmt.Sprintf("%ds", max(0, d)/time.Second)
}
