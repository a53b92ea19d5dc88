package main

import (
	"strings"
	"testing"
	"time"

	"webknock/httpd/admin"
)

func TestTheLogIsATableThatGrows(t *testing.T) {
	local := time.Local
	time.Local = time.UTC
	t.Cleanup(func() { time.Local = local })
	now := time.Date(2030, 1, 2, 12, 0, 0, 0, time.UTC)
	tomorrow := now.Add(24 * time.Hour)
	var text strings.Builder
	l := logWriter{w: &text, now: func() time.Time { return now }}
	for _, entries := range [][]admin.HistoryEntry{
		{}, {{Time: now, Event: "repair", Reason: "a\x1b[31m\nb"}},
		{{Time: now.Add(time.Second), Event: "opened", User: "alexandra", Client: "2001:db8::7", Door: "ssh", ExpiresAt: &tomorrow}, {Time: now.Add(-181 * 24 * time.Hour), Event: "lost"}},
	} {
		if err := l.write(entries); err != nil {
			t.Fatal(err)
		}
	}
	want := `TIME            EVENT  WHO CLIENT DOOR  WHAT
Jan  2 12:00:00 repair -   -      -     a [31m b
Jan  2 12:00:01  opened alexandra 2001:db8::7 ssh   until 2030-01-03 12:00:00
2029-07-05 12:00 lost   -         -           -
`
	if text.String() != want {
		t.Errorf("got\n%s\nwant\n%s", text.String(), want)
	}
}
