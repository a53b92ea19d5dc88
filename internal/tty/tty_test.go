package tty

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestCleanLeavesNothingThatATerminalObeys(t *testing.T) {
	for _, text := range []string{"\x1b[2J", "\x9b2J", "\u009b2J", "a\rb\nc\td\x07", "\x00\x7f", "\u202etxt", "\u200b", "\u2028", "\xff", "\ue000"} {
		got := Clean(text)
		for _, r := range got {
			if r < ' ' || r > '~' {
				t.Errorf("Clean(%q) has %q", text, r)
			}
		}
	}
	if text := "192.0.2.7, 2001:db8::/64, größer"; Clean(text) != text {
		t.Errorf("Clean(%q) is %q", text, Clean(text))
	}
}

func TestColoursOnlyWhereTheyAreWanted(t *testing.T) {
	file, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if ColoursOf(file, func(string) string { return "xterm" }) {
		t.Error("a file has colours")
	}
	if got := Colours(false).Red("x"); got != "x" {
		t.Errorf("without colours: %q", got)
	}
	if got := Colours(true).Red("x"); got != "\x1b[1;31mx\x1b[m" {
		t.Errorf("with colours: %q", got)
	}
}

func TestFitTakesExactlyItsColumns(t *testing.T) {
	for _, tt := range []struct {
		text  string
		width int
		want  string
	}{
		{"abc", 5, "abc  "},
		{"abcdef", 4, "abc…"},
		{"abc", 0, ""},
		{"日本語", 4, "日… "},
		{Colours(true).Red("abcdef"), 4, "\x1b[1;31mabc…\x1b[m"},
	} {
		if got := Fit(tt.text, tt.width); got != tt.want || Width(got) != tt.width {
			t.Errorf("Fit(%q, %d) is %q, want %q", tt.text, tt.width, got, tt.want)
		}
	}
}

func TestTheLastColumnOfATableIsWrapped(t *testing.T) {
	got := Table([][]string{{"A", "B"}, {"long", strings.Repeat("word ", 10)}}, 40)
	want := []string{"A     B", "long  word word word word word word word", "      word word word"}
	if !slices.Equal(got, want) {
		t.Errorf("table %q, want %q", got, want)
	}
}

func TestDurations(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m 1s", 3*time.Hour + time.Second: "3h 0m", 50 * time.Hour: "2d 2h", -time.Hour: "0s"} {
		if got := Long(d); got != want {
			t.Errorf("Long(%v) is %s, want %s", d, got, want)
		}
	}
	for d, want := range map[time.Duration]string{-time.Second: "0s", time.Millisecond: "1s", 65 * time.Second: "1m5s"} {
		if got := Left(d); got != want {
			t.Errorf("Left(%v) is %s, want %s", d, got, want)
		}
	}
}
