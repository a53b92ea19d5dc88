package integration

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestTheDemoLeavesNothing runs the demo to its end, and interrupts it at
// several places. Whatever it started has its environment.
func TestTheDemoLeavesNothing(t *testing.T) {
	demo := filepath.Join(t.TempDir(), "demo")
	if out, err := exec.Command("go", "build", "-o", demo, "./demo").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	for name, tt := range map[string]struct {
		interruptAt int // line of the output, from 1; 0: never
		exit        int
		last        string
	}{
		"to its end":               {0, 0, "Closed again, by the kernel"},
		"interrupted at its start": {1, 130, "nothing is left behind"},
		"interrupted on the way":   {4, 130, "nothing is left behind"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			mark := "WEBKNOCK_DEMO_TEST=" + dir
			cmd := exec.Command(demo, binary)
			for _, v := range os.Environ() {
				if !strings.HasPrefix(v, "WEBKNOCK_LAB=") { // namespaces of its own, as at first
					cmd.Env = append(cmd.Env, v)
				}
			}
			cmd.Env = append(cmd.Env, mark, "TMPDIR="+dir)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			cmd.Stderr = os.Stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var lines []string
			for s := bufio.NewScanner(out); s.Scan(); {
				lines = append(lines, s.Text())
				if len(lines) == tt.interruptAt {
					cmd.Process.Signal(syscall.SIGINT)
				}
			}
			cmd.Wait()
			if text := strings.Join(lines, "\n"); cmd.ProcessState.ExitCode() != tt.exit || !strings.Contains(text, tt.last) {
				t.Errorf("exit %d, want %d and %q in\n%s", cmd.ProcessState.ExitCode(), tt.exit, tt.last, text)
			}
			until(t, "all its processes end", func() bool { return len(withEnvironment(mark)) == 0 })
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

// withEnvironment returns the processes that have a variable in their
// environment.
func withEnvironment(variable string) (pids []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(text, []byte(variable)) {
			continue
		}
		if pid, err := strconv.Atoi(strings.Split(file, "/")[2]); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
