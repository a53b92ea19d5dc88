package command

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A logbook is a log that may be read.
type logbook struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// run runs scripts, one after the other, and returns the log.
func run(t *testing.T, timeout time.Duration, scripts ...string) string {
	t.Helper()
	log := new(logbook)
	r := NewRunner(slog.New(slog.NewTextHandler(log, nil)))
	for _, script := range scripts {
		r.run(Command{Argv: []string{"/bin/sh", "-c", script}, Timeout: timeout}, occasion, r.log.With(occasion.attributes(Command{Argv: []string{"/bin/sh"}})...))
	}
	return log.String()
}

var occasion = Occasion{Event: Open, Sequence: "ssh", Grant: "g1", Door: "ssh", Client: netip.PrefixFrom(client, 32)}

func mustHave(t *testing.T, log string, want ...string) {
	t.Helper()
	for _, text := range want {
		if !strings.Contains(log, text) {
			t.Errorf("no %q in\n%.2000s", text, log)
		}
	}
}

func TestOutputGoesToTheLogLineByLine(t *testing.T) {
	log := run(t, time.Minute, `echo one; echo two >&2; printf '\033[31m\000binary\377'; exit 3`)
	mustHave(t, log, "msg=output sequence=ssh event=open command=sh client=192.0.2.7 door=ssh grant=g1 line=one\n", "line=two\n", `line="\x1b[31m\x00binary\xff"`,
		`msg="command failed"`, `error="exit status 3"`)
	log = run(t, time.Minute, `i=0; while [ $i -lt 1000 ]; do echo line; i=$((i+1)); done`, `head -c 100000 /dev/zero | tr '\0' x`)
	if n := strings.Count(log, "line=line"); n != MaxLines {
		t.Errorf("%d lines, want %d", n, MaxLines)
	}
	mustHave(t, log, "lines_lost=800\n", "lines_lost=1\n", "line="+strings.Repeat("x", maxLine)+"\n")
}

func TestACommandHasACleanProcess(t *testing.T) {
	Isolate()
	extra, err := os.Open("/") // which a process that is careless would inherit
	if err != nil {
		t.Fatal(err)
	}
	defer extra.Close()
	if err := unix.Dup3(int(extra.Fd()), 77, 0); err != nil {
		t.Fatal(err)
	}
	Isolate()
	log := run(t, time.Minute, `pwd; umask; cat; [ "$(ps -o pgid= $$)" -eq $$ ] && echo leads; [ -e /proc/$$/fd/77 ] && echo inherited; grep -E '^Cap(Inh|Amb)' /proc/self/status`)
	mustHave(t, log, "line=/\n", "line=00", "line=leads", "CapInh:\\t0000000000000000", "CapAmb:\\t0000000000000000")
	if strings.Contains(log, "line=inherited") {
		t.Errorf("an open file is inherited:\n%s", log)
	}
}

func TestATimeoutEndsTheWholeGroup(t *testing.T) {
	for name, script := range map[string]string{
		"hangs":                       `sleep 1000`,
		"with children":               `sleep 1000 & sleep 1000 & wait`,
		"heeds no SIGTERM":            `trap '' TERM; sleep 1000 & sleep 1000; sleep 1000`,
		"leaves a child behind":       `sleep 1000 &`,
		"child without output":        `sleep 1000 >/dev/null 2>&1 & sleep 1000`,
		"child that has left with it": `setsid sleep 2 & sleep 1000`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fifo := filepath.Join(t.TempDir(), "fifo")
			if err := unix.Mkfifo(fifo, 0o600); err != nil {
				t.Fatal(err)
			}
			reader, err := os.OpenFile(fifo, os.O_RDONLY|unix.O_NONBLOCK, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer reader.Close()
			log := run(t, 500*time.Millisecond, "exec 9>"+fifo+"; "+script)
			why := "it takes longer than 500ms"
			if name == "leaves a child behind" {
				why = "what it left behind holds its output for longer than 500ms"
			}
			mustHave(t, log, `msg="command killed"`, `reason="`+why+`"`)
			// It ends when all who had it open have: those who left as well.
			reader.SetReadDeadline(time.Now().Add(20 * time.Second))
			if n, err := reader.Read(make([]byte, 1)); n != 0 || err == nil || os.IsTimeout(err) {
				t.Errorf("somebody lives: %d, %v", n, err)
			}
		})
	}
}

func TestACommandThatCannotBeStartedSaysWhy(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "none"):                              "no such file or directory\"",
		write("plain", "#!/bin/sh\n", 0o600):                    "permission denied (the user it runs as",
		write("interpreter", "#!/nowhere/sh\n", 0o700):          "the interpreter of its first line is missing",
		write("format", "neither a script nor a binary", 0o700): "a script begins with",
	} {
		log := new(logbook)
		r := NewRunner(slog.New(slog.NewTextHandler(log, nil)))
		r.run(Command{Argv: []string{path}, Timeout: time.Second}, occasion, r.log)
		mustHave(t, log.String(), `msg="command cannot be started"`, want)
	}
}

func TestRunningAndWaitingCommandsAreBounded(t *testing.T) {
	dir := t.TempDir()
	log := new(logbook)
	r := NewRunner(slog.New(slog.NewTextHandler(log, nil)))
	ctx, cancel := context.WithCancel(t.Context())
	var ended sync.WaitGroup
	ended.Go(func() { r.Run(ctx) })
	hang := Command{Argv: []string{"/bin/sh", "-c", "echo begun >> " + dir + "/out; exec sleep 1000"}, Timeout: time.Hour}
	for range MaxRunning {
		r.Submit(hang, occasion)
	}
	for strings.Count(log.String(), "command started") < MaxRunning {
	}
	for range maxWaiting + 11 {
		r.Submit(hang, occasion)
	}
	if lost := r.Lost(); lost != 10 && lost != 11 { // one may wait for its slot
		t.Errorf("%d lost", lost)
	}
	cancel()
	ended.Wait()
	r.Stop()
	mustHave(t, log.String(), "webknock stops", "commands are not run")
	if n := strings.Count(log.String(), "command killed"); n != MaxRunning {
		t.Errorf("%d killed, want %d", n, MaxRunning)
	}
}
