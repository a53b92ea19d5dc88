package integration

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/charmbracelet/x/vt"
	"github.com/creack/pty"
)

// A screen is a terminal in which a command runs.
type screen struct {
	t        testing.TB
	file     *os.File
	mu       sync.Mutex // held while the emulator's cells are looked at or changed
	emulator *vt.SafeEmulator
	more     chan struct{} // something was written
	ended    chan error
}

// show runs a command of the program in a terminal of so many columns and lines.
func (w *world) show(columns, lines int, args ...string) *screen {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := w.server.Command(ctx, binary, append(args, "--config", w.config(), "--socket", filepath.Join(w.dir, "webknock.sock"))...)
	cmd.Env = append(os.Environ(), "TERM=xterm-256color", "NO_COLOR=")
	cmd.Env = append(cmd.Env, w.env...)
	file, err := pty.StartWithSize(cmd, &pty.Winsize{Cols: uint16(columns), Rows: uint16(lines)})
	if err != nil {
		cancel()
		w.t.Fatal(err)
	}
	s := &screen{t: w.t, file: file, emulator: vt.NewSafeEmulator(columns, lines), more: make(chan struct{}, 1), ended: make(chan error, 1)}
	go io.Copy(file, s.emulator) // what the terminal answers to questions, and keys
	go func() {
		io.Copy(s, file) // ends with an error when the command does
		s.ended <- cmd.Wait()
	}()
	w.t.Cleanup(func() {
		cancel()
		file.Close()
	})
	return s
}

// Write has the terminal show what the command writes.
func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	n, err := s.emulator.Write(p)
	s.mu.Unlock()
	select {
	case s.more <- struct{}{}:
	default:
	}
	return n, err
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lines []string
	for y := range s.emulator.Height() {
		var line strings.Builder
		for x := range s.emulator.Width() {
			if cell := s.emulator.CellAt(x, y); cell != nil {
				line.WriteString(cell.Content)
			}
		}
		lines = append(lines, strings.TrimRight(line.String(), " "))
	}
	return strings.Join(lines, "\n") + "\n"
}

// wait waits until the screen matches, and returns the submatches.
func (s *screen) wait(pattern string) (found []string) {
	s.t.Helper()
	re := regexp.MustCompile("(?m)" + pattern)
	deadline := time.After(patience)
	for {
		if found = re.FindStringSubmatch(s.text()); found != nil {
			return found
		}
		select {
		case <-s.more:
		case <-deadline:
			s.t.Fatalf("no %s on the screen:\n%s", pattern, s.text())
		}
	}
}

// press types keys.
func (s *screen) press(keys string) {
	s.t.Helper()
	if _, err := s.file.WriteString(keys); err != nil {
		s.t.Fatal(err)
	}
}

func TestTopShowsWhoKnocksAndWhoIsIn(t *testing.T) {
	w := newWorld(t)
	slow := strings.NewReplacer("ttl: 30s", "ttl: 10m", "steps: [/a, /b, /c]", "steps: [/a, /b, /c]\n    within: 5m").Replace(standard)
	w.serve(slow)
	w.listen(22)
	s := w.show(80, 24, "top")
	s.wait(`^webknock \S+  ok  guarded  up `)
	s.wait(`^> KNOCKS -+$`)

	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	s.wait(`^> \d\d:\d\d:\d\d ` + aliceIP + ` +:8080 completed ssh 3/3$`)
	s.wait(`^  \d\d:\d\d:\d\d ` + aliceIP + ` +:8080 matched   ssh 1/3$`)
	first := s.wait(`^  9m(\d+)s #+ ssh ` + aliceIP + ` \[ssh\] until `)
	w.mustPass(w.alice, serverIP, 22, true)
	at, err := strconv.Atoi(first[1])
	if err != nil {
		t.Fatal(err)
	}
	s.wait(fmt.Sprintf(`^  9m(%d|%d)s #+ ssh `, at-1, at-2)) // it counts down

	w.knock(w.mallory, serverIP, "/a")
	s.wait(`^  (5m0s|4m\d+s) 1/3 ssh ` + malloryIP + ` +`)
	s.press("e") // of the latest knock
	s.wait(`^> explain ` + malloryIP + `$`)
	s.wait(`step 2 of ssh is awaited`)
	s.press("q")
	s.wait(`^> KNOCKS -+$`)

	s.press("\tx")
	s.wait(`^close ssh for ` + aliceIP + `\? y/n$`)
	w.mustPass(w.alice, serverIP, 22, true)
	s.press("y")
	s.wait(`^closed ssh for ` + aliceIP + `$`)
	s.wait(`^> WHO IS IN 0 `)
	w.mustPass(w.alice, serverIP, 22, false)
	w.mustHold()

	// It outlives the daemon.
	w.daemon.stop(t, syscall.SIGTERM)
	s.wait(`^! gone since .*no daemon answers`)
	w.serve(slow)
	s.wait(`^webknock \S+  ok  guarded  up `)
	w.knock(w.mallory, serverIP, "/nothing")
	s.wait(`^  \d\d:\d\d:\d\d ` + malloryIP + ` +:8080 missed    matches no step$`)

	// It follows the size of the terminal.
	s.mu.Lock()
	s.emulator.Resize(50, 10)
	s.mu.Unlock()
	if err := pty.Setsize(s.file, &pty.Winsize{Cols: 50, Rows: 10}); err != nil {
		t.Fatal(err)
	}
	s.wait(`^> WHO IS IN 0 -{36,37}$`)
	if text := s.text(); strings.Contains(text, "KNOCKS") {
		t.Errorf("a small terminal shows more than one pane:\n%s", text)
	}
	s.press("q")
	if err := <-s.ended; err != nil {
		t.Errorf("top ends with %v", err)
	}
	if s.emulator.IsAltScreen() {
		t.Error("the terminal is left on the other screen")
	}
}

func TestStatusHasColoursAtATerminalAlone(t *testing.T) {
	w := newWorld(t)
	w.serve(standard)
	styled := func(s *screen) (any bool) {
		for y := range s.emulator.Height() {
			for x := range s.emulator.Width() {
				if cell := s.emulator.CellAt(x, y); cell != nil && !cell.Style.IsZero() {
					any = true
				}
			}
		}
		return any
	}
	s := w.show(80, 24, "status")
	if err := <-s.ended; err != nil {
		t.Fatal(err)
	}
	s.wait(`doors are guarded$`)
	if !styled(s) {
		t.Error("no colours at a terminal")
	}
	for _, env := range []string{"NO_COLOR=1", "TERM=dumb"} {
		w.env = []string{env}
		s := w.show(80, 24, "status")
		if err := <-s.ended; err != nil {
			t.Fatal(err)
		}
		s.wait(`doors are guarded$`)
		if styled(s) {
			t.Errorf("colours with %s", env)
		}
	}
	w.env = nil
	if out, _, code := w.webknock("status"); code != 0 || strings.Contains(out, "\x1b") {
		t.Errorf("exit %d, %q", code, out)
	}
}

func TestTopNeedsATerminal(t *testing.T) {
	w := newWorld(t)
	w.serve(standard)
	if _, stderr, code := w.webknock("top"); code != 1 || !strings.Contains(stderr, "top needs a terminal") {
		t.Errorf("exit %d, %s", code, stderr)
	}
}
