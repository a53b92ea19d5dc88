package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"webknock/firewall"
	"webknock/internal/atomicfile"
	"webknock/internal/store"
)

// A life is a journal that runs, until it is killed or stopped.
type life struct {
	*Journal
	runner *Runner
	dir    *atomicfile.Dir
	cancel context.CancelFunc
	ended  sync.WaitGroup

	stopFile context.CancelFunc
	filed    sync.WaitGroup
}

// begin starts a journal, at a path. Commands append a line to the file out.
// Every write goes through a disk, if one is given.
func begin(t *testing.T, path, out string, count int, disk func(write func() error) error) *life {
	t.Helper()
	l := &life{runner: NewRunner(slog.New(slog.DiscardHandler)), dir: atomicfile.NewDir(filepath.Dir(path))}
	var err error
	l.Journal, err = OpenJournal(store.New(l.dir), l.runner, func(sequence string) (all []Command) {
		for i := range count {
			if sequence == "ssh" {
				all = append(all, Command{Argv: []string{"/bin/sh", "-c", fmt.Sprintf("echo $WEBKNOCK_GRANT %d $WEBKNOCK_REASON >> %s", i, out)}, Timeout: time.Minute})
			}
		}
		return all
	}, true, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if write := l.write; disk != nil {
		l.write = func(records map[string][]byte) error { return disk(func() error { return write(records) }) }
	}
	var ctx context.Context
	ctx, l.cancel = context.WithCancel(t.Context())
	var files context.Context
	files, l.stopFile = context.WithCancel(context.Background())
	l.filed.Go(func() { l.file.Run(files) })
	l.ended.Go(func() { l.Run(ctx) })
	t.Cleanup(l.stop)
	return l
}

// stop ends a journal when its commands have.
func (l *life) stop() {
	l.cancel()
	l.ended.Wait()
	l.runner.running.Wait()
	l.stopFile()
	l.filed.Wait()
	l.file.Close()
	l.dir.Close()
}

// settled waits until nothing is due and everything is written.
func (l *life) settled() {
	for {
		l.mu.Lock()
		done := !l.dirty && len(l.due) == 0
		l.mu.Unlock()
		if done {
			return
		}
		runtime.Gosched()
	}
}

func grant(id string) firewall.Grant {
	return firewall.Grant{ID: id, Door: "ssh", Client: netip.MustParsePrefix("192.0.2.7/32"), Sequence: "ssh", Expires: time.Now().Add(time.Minute)}
}

func lines(t *testing.T, file string) map[string]int {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	count := map[string]int{}
	for line := range strings.Lines(string(data)) {
		count[strings.TrimSpace(line)]++
	}
	return count
}

func TestTheEndOfAGrantRunsItsCommandsOnce(t *testing.T) {
	dir := t.TempDir()
	path, out := filepath.Join(dir, "state", "commands.json"), filepath.Join(dir, "out")
	l := begin(t, path, out, 2, nil)
	l.Settle()
	for i := range 20 {
		l.Began(grant(fmt.Sprint("g", i)))
	}
	other := grant("other")
	other.Sequence = "none"
	l.Began(other)
	for i := range 20 {
		l.Ended(grant(fmt.Sprint("g", i)), "closed")
		l.Ended(grant(fmt.Sprint("g", i)), "closed")
		l.Began(grant(fmt.Sprint("g", i))) // the firewall is behind
		l.Ended(grant(fmt.Sprint("g", i)), "expired")
	}
	l.Ended(other, "closed")
	l.settled()
	l.stop()
	got := lines(t, out)
	for i := range 20 {
		for n := range 2 {
			if line := fmt.Sprintf("g%d %d closed", i, n); got[line] != 1 {
				t.Errorf("%q is there %d times", line, got[line])
			}
		}
	}
	if len(got) != 40 {
		t.Errorf("%d lines: %v", len(got), got)
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("state directory: %v, %v", info, err)
	}
	again := begin(t, path, out, 2, nil)
	again.Began(grant("g3")) // still behind
	again.Settle()
	again.settled()
	again.stop()
	if again := lines(t, out); len(again) != 40 {
		t.Errorf("after a restart %d lines: %v", len(again), again)
	}
}

func TestCommandsForGrantsThatExpiredMeanwhileRunAtTheNextStart(t *testing.T) {
	dir := t.TempDir()
	path, out := filepath.Join(dir, "commands.json"), filepath.Join(dir, "out")
	l := begin(t, path, out, 1, nil)
	l.Settle()
	for _, id := range []string{"runs", "gone"} {
		l.Began(grant(id))
	}
	unknown := grant("unknown")
	unknown.Sequence = "ssh"
	l.settled()
	l.stop()
	l = begin(t, path, out, 1, nil)
	l.Began(grant("runs"))
	l.Began(unknown)
	l.Settle()
	l.settled()
	l.Ended(grant("runs"), "closed")
	l.Ended(unknown, "closed")
	l.settled()
	l.stop()
	if got := lines(t, out); len(got) != 3 || got["gone 0 expired"] != 1 || got["runs 0 closed"] != 1 || got["unknown 0 closed"] != 1 {
		t.Errorf("ran %v", got)
	}
	// Of a sequence that has none any more.
	l = begin(t, path, out, 1, nil)
	l.Settle()
	l.Began(grant("late"))
	l.settled()
	l.stop()
	l = begin(t, path, out, 0, nil)
	l.Settle()
	l.settled()
	l.stop()
	l = begin(t, path, out, 1, nil)
	l.Settle()
	l.settled()
	l.stop()
	if got := lines(t, out); len(got) != 3 {
		t.Errorf("ran %v", got)
	}
}

// Whatever write a kill comes before or after, a command starts once, or, if
// its start was written down and the kill came between, never.
func TestAKillAtAnyWriteStartsNothingTwice(t *testing.T) {
	for _, written := range []bool{false, true} {
		for at := range 5 {
			dir := t.TempDir()
			path, out := filepath.Join(dir, "commands.json"), filepath.Join(dir, "out")
			writes, dead := 0, make(chan struct{})
			l := begin(t, path, out, 2, func(write func() error) error {
				writes++
				if writes <= at {
					return write()
				}
				if writes == at+1 {
					if written {
						if err := write(); err != nil {
							t.Error(err)
						}
					}
					close(dead)
				}
				return errors.New("dead")
			})
			l.Settle()
			l.Began(grant("g"))
			killed := func() bool {
				for {
					select {
					case <-dead:
						return true
					default:
					}
					l.mu.Lock()
					done := !l.dirty && len(l.due) == 0
					l.mu.Unlock()
					if done {
						return false
					}
					runtime.Gosched()
				}
			}
			if !killed() {
				l.Ended(grant("g"), "closed")
				killed()
			}
			l.stop()
			before := lines(t, out)
			again := begin(t, path, out, 2, nil)
			again.Settle()
			again.settled()
			again.stop()
			after := lines(t, out)
			if known := at > 0; known && !written && len(after) != 2 {
				t.Errorf("killed before write %d: %v", at+1, after)
			}
			for line, n := range after {
				if n != 1 || before[line] > n {
					t.Errorf("killed at write %d (written: %v): %q %d times", at+1, written, line, n)
				}
			}
		}
	}
}

func TestCommandsWaitUntilTheJournalCanBeWritten(t *testing.T) {
	dir := t.TempDir()
	path, out := filepath.Join(dir, "commands.json"), filepath.Join(dir, "out")
	var mu sync.Mutex
	full := errors.New("no space left on device")
	l := begin(t, path, out, 1, func(write func() error) error {
		mu.Lock()
		defer mu.Unlock()
		if full != nil {
			return full
		}
		return write()
	})
	l.Settle()
	l.Began(grant("g"))
	l.Ended(grant("g"), "closed")
	for l.Problem() == nil {
		runtime.Gosched()
	}
	if err := l.Problem(); !errors.Is(err, full) {
		t.Errorf("problem %v", err)
	}
	if got := lines(t, out); len(got) != 0 {
		t.Errorf("ran %v though its start is not written down", got)
	}
	mu.Lock()
	full = nil
	mu.Unlock()
	l.settled()
	if err := l.Problem(); err != nil {
		t.Error(err)
	}
	l.stop()
	if got := lines(t, out); got["g 0 closed"] != 1 {
		t.Errorf("ran %v", got)
	}
}

func TestAJournalThatCannotBeReadIsSetAside(t *testing.T) {
	for _, content := range []string{"{", "[]", `{"version":1,"grants":[{}]}`, `{"version":1,"grants":[null]}`, `{"version":2}`, "\x00"} {
		dir := t.TempDir()
		path := filepath.Join(dir, "commands.json")
		for _, name := range []string{path, filepath.Join(dir, ".commands.json-1")} {
			if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		l := begin(t, path, filepath.Join(dir, "out"), 1, nil)
		l.Settle()
		l.Began(grant("g"))
		l.settled()
		l.stop()
		if aside, err := os.ReadFile(path + ".corrupt"); err != nil || string(aside) != content {
			t.Errorf("%q: aside is %q, %v", content, aside, err)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
			t.Errorf("%q: %v, %v", content, entries, err)
		}
	}
}

func TestTwoDaemonsDoNotShareAJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "webknock.db")
	first := begin(t, path, "", 1, nil)
	first.Began(grant("g"))
	for written := false; !written; {
		data, _ := os.ReadFile(path)
		written = strings.Contains(string(data), `"g"`)
	}
	if _, err := OpenJournal(store.New(atomicfile.NewDir(filepath.Dir(path))), first.runner, nil, true, first.log); err == nil || !strings.Contains(err.Error(), "another webknock") {
		t.Errorf("a second one: %v", err)
	}
	if got, err := os.ReadFile(path); err != nil || !strings.Contains(string(got), `"g"`) {
		t.Errorf("the journal has lost the grant, %v", err)
	}
	first.stop()
	begin(t, path, "", 1, nil)
}

func TestTheFileOfTheVersionBeforeIsTakenOver(t *testing.T) {
	dir := t.TempDir()
	path, out := filepath.Join(dir, "commands.json"), filepath.Join(dir, "out")
	old := `{"version":1,"grants":[` +
		`{"grant":"gone","door":"ssh","client":"192.0.2.7/32","sequence":"ssh","expires":"2026-01-02T03:04:05Z"},` +
		`{"grant":"half","door":"ssh","client":"192.0.2.8/32","sequence":"ssh","expires":"2026-01-02T03:04:05Z","ended":"2026-01-02T03:04:05Z","reason":"closed","started":1}]}`
	if err := os.WriteFile(path, []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		l := begin(t, path, out, 2, nil)
		l.Settle()
		l.settled()
		l.stop()
	}
	if got := lines(t, out); len(got) != 3 || got["gone 0 expired"] != 1 || got["gone 1 expired"] != 1 || got["half 1 closed"] != 1 {
		t.Errorf("ran %v", got)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old file: %v", err)
	}
}

// What could not be read at the start is read when it can be: the ends of grants
// are told then.
func TestAJournalThatCannotBeReadAtFirstIsReadLater(t *testing.T) {
	dir := t.TempDir()
	path, out := filepath.Join(dir, "state", "commands.json"), filepath.Join(dir, "out")
	l := begin(t, path, out, 1, nil)
	l.Settle()
	l.Began(grant("gone"))
	l.settled()
	l.stop()
	state := filepath.Dir(path)
	if err := errors.Join(os.Rename(state, state+".away"), os.WriteFile(state, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	l = begin(t, path, out, 1, nil)
	l.Began(grant("new"))
	l.Settle()
	for l.Problem() == nil {
		runtime.Gosched()
	}
	if err := errors.Join(os.Remove(state), os.Rename(state+".away", state)); err != nil {
		t.Fatal(err)
	}
	for len(lines(t, out)) == 0 {
		runtime.Gosched()
	}
	l.settled()
	l.stop()
	if got := lines(t, out); len(got) != 1 || got["gone 0 expired"] != 1 {
		t.Errorf("ran %v", got)
	}
}
