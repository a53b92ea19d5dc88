package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"webknock/internal/tty"

	"github.com/coreos/go-systemd/v22/journal"
)

// newLogger logs in a format of the configuration: text, json or journal. With
// auto that is text on a terminal, journal where systemd's journal reads w, and
// JSON otherwise.
func newLogger(w io.Writer, format string, level slog.Leveler) *slog.Logger {
	if format == "auto" {
		switch {
		case tty.IsTerminal(w):
			format = "text"
		case isJournal(w):
			format = "journal"
		}
	}
	options := &slog.HandlerOptions{Level: level}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, options))
	case "journal":
		return slog.New(newJournalHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}

// isJournal reports whether w is this process's standard error, and systemd has
// connected that to its journal, as JOURNAL_STREAM says (systemd.exec(5)).
func isJournal(w io.Writer) bool {
	if w != os.Stderr {
		return false
	}
	ok, err := journal.StderrIsJournalStream()
	return ok && err == nil
}

// A journalHandler writes a line of text for the journal, which adds the time
// itself and takes the priority from the front of the line (sd-daemon(3)):
//
//	<6>grant opened door=ssh client=192.0.2.7
type journalHandler struct {
	out        *journalLines
	attributes slog.Handler // writes them to out.line, and nothing else
}

type journalLines struct {
	mu   sync.Mutex
	w    io.Writer
	line bytes.Buffer
}

func newJournalHandler(w io.Writer, options *slog.HandlerOptions) *journalHandler {
	out := &journalLines{w: w}
	return &journalHandler{out, slog.NewTextHandler(&out.line, &slog.HandlerOptions{
		Level: options.Level,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			_, isLevel := a.Value.Any().(slog.Level)
			if len(groups) == 0 && (a.Key == slog.LevelKey && isLevel || a.Key == slog.MessageKey && a.Value.String() == "") {
				return slog.Attr{}
			}
			return a
		},
	})}
}

func (h *journalHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.attributes.Enabled(ctx, level)
}

func (h *journalHandler) WithAttrs(attributes []slog.Attr) slog.Handler {
	return &journalHandler{h.out, h.attributes.WithAttrs(attributes)}
}

func (h *journalHandler) WithGroup(name string) slog.Handler {
	return &journalHandler{h.out, h.attributes.WithGroup(name)}
}

func (h *journalHandler) Handle(ctx context.Context, r slog.Record) error {
	message := r.Message
	if strings.ContainsFunc(message, unicode.IsControl) { // one record is one line
		message = strconv.Quote(message)
	}
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	h.out.line.Reset()
	fmt.Fprintf(&h.out.line, "<%d>%s ", priority(r.Level), message)
	r.Time, r.Message = time.Time{}, "" // only the attributes are left
	if err := h.attributes.Handle(ctx, r); err != nil {
		return err
	}
	line := bytes.TrimRight(h.out.line.Bytes(), " \n")
	_, err := h.out.w.Write(append(line, '\n'))
	return err
}

// priority returns a level as syslog(3) numbers it.
func priority(level slog.Level) journal.Priority {
	switch {
	case level >= slog.LevelError:
		return journal.PriErr
	case level >= slog.LevelWarn:
		return journal.PriWarning
	case level >= slog.LevelInfo:
		return journal.PriInfo
	}
	return journal.PriDebug
}

// forJournal returns the error that ends a command with its priority before each
// line, if w is the journal.
func forJournal(w io.Writer, text string) string {
	if !isJournal(w) {
		return text
	}
	prefix := fmt.Sprintf("<%d>", journal.PriErr)
	return prefix + strings.ReplaceAll(text, "\n", "\n"+prefix)
}
