package main

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
)

func TestTheJournalGetsPrioritiesAndNoTime(t *testing.T) {
	var out bytes.Buffer
	log := newLogger(&out, "journal", slog.LevelDebug)
	log.Debug("a")
	log.Info("grant opened", "door", "ssh", "client", "192.0.2.7")
	log.Warn("two\nlines", "error", errors.New("also\ntwo"))
	log.With("time", "noon").WithGroup("g").Error("failed", "msg", "", "level", slog.LevelInfo)
	want := "<7>a\n" +
		"<6>grant opened door=ssh client=192.0.2.7\n" +
		`<4>"two\nlines" error="also\ntwo"` + "\n" +
		`<3>failed time=noon g.msg="" g.level=INFO` + "\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
	out.Reset()
	newLogger(&out, "journal", slog.LevelWarn).Info("not this")
	if out.Len() > 0 {
		t.Errorf("below its level: %s", out.String())
	}
}

func TestTheAutoFormatIsJSONWithoutATerminal(t *testing.T) {
	t.Setenv("JOURNAL_STREAM", "1:2") // of somebody else's
	var out bytes.Buffer
	newLogger(&out, "auto", slog.LevelInfo).Info("a")
	if !strings.HasPrefix(out.String(), `{"time":`) {
		t.Errorf("got %s", out.String())
	}
	if isJournal(os.Stderr) {
		t.Error("standard error is not the journal")
	}
}
