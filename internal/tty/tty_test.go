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

func TestTimeLeftIsRoundedUp(t *testing.T) {
	for s, want := range map[float64]string{0: "0s", 0.2: "1s", 29.5: "30s", 30: "30s", 61: "1m1s"} {
		if got := Seconds(s); got != want {
			t.Errorf("Seconds(%v) = %s, want %s", s, got, want)
		}
	}
}

func TestBytesAreWrittenAsPeopleReadThem(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0 B", 999: "999 B", 1000: "1.0 kB", 1250: "1.2 kB", 9949: "9.9 kB", 9950: "10 kB", 12345: "12 kB", 999499: "999 kB", 999500: "1.0 MB",
		35e6: "35 MB", 2e9: "2.0 GB", 1 << 63: "9223 PB",
	} {
		if got := Bytes(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

func TestATimeHasItsDateUnlessItIsToday(t *testing.T) {
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.Local)
	for d, want := range map[time.Duration]string{0: "12:00:00", 11 * time.Hour: "23:00:00", 13 * time.Hour: "2026-02-01 01:00:00", -24 * time.Hour: "2026-01-30 12:00:00"} {
		if got := Clock(now.Add(d), now); got != want {
			t.Errorf("Clock after %v is %s, want %s", d, got, want)
		}
	}
}
