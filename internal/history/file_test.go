package history

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"webknock/firewall"
	"webknock/internal/atomicfile"
	"webknock/internal/store"
)

// file is a store whose writes can be made to fail.
type file struct {
	*store.Store
	mu     sync.Mutex
	fail   error
	during func() // is called while a write is under way
}

func (f *file) Update(do func(*store.Tx) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return f.fail
	}
	if f.during != nil {
		f.during()
	}
	return f.Store.Update(do)
}

func (f *file) failWith(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = err
}

func newFile(t testing.TB) *file {
	t.Helper()
	dir := atomicfile.NewDir(t.TempDir())
	s := store.New(dir)
	t.Cleanup(func() { s.Close(); dir.Close() })
	return &file{Store: s}
}

// newLog returns a log that does not run: write writes.
func newLog(f *file, limits Limits, boot Boot) *Log {
	return NewLog(f, limits, boot, slog.New(slog.DiscardHandler))
}

// start returns a log that runs until the test ends or stop is called.
func start(t *testing.T, f *file, limits Limits) (l *Log, stop func()) {
	l = newLog(f, limits, booted)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { l.Run(ctx) })
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(stop)
	return l, stop
}

func mustWrite(t testing.TB, l *Log) {
	t.Helper()
	if err := l.write(); err != nil {
		t.Fatal(err)
	}
}

func grant(id, user, client string, opened time.Time) firewall.Grant {
	p := netip.MustParsePrefix(client)
	return firewall.Grant{ID: id, Door: "ssh", Client: p, Sequence: "seq", User: user, Opened: opened, Expires: opened.Add(time.Hour)}
}

// list returns what a query finds, a line for each entry.
func list(t testing.TB, r Reader, f Filter) (lines []string, page Page) {
	t.Helper()
	if f.Limit == 0 {
		f.Limit = 1000
	}
	page, err := Query(r, f)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range page.Entries {
		line := fmt.Sprint(e.Event, " ", e.Time.UTC().Format("15:04:05"))
		for _, field := range []string{e.Client, e.User, e.Grant, e.Reason} {
			if field != "" {
				line += " " + field
			}
		}
		if e.Traffic != nil {
			line += fmt.Sprintf(" %d/%d", e.Traffic.Packets, e.Traffic.Bytes)
		}
		lines = append(lines, line)
	}
	return lines, page
}

func mustList(t testing.TB, r Reader, f Filter, want ...string) Page {
	t.Helper()
	got, page := list(t, r, f)
	if !slices.Equal(got, want) {
		t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
	return page
}
