package integration

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
)

// Two daemons with a socket and a state of their own would undo each other's
// table, and let strangers in between two changes.
func TestATableHasOneDaemon(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(standard)
	before := w.nft("list", "ruleset")
	first := w.daemon
	other := func(args ...string) (stderr string, code int) {
		t.Helper()
		_, stderr, code = w.webknock(append(args, "--socket", w.dir+"/other.sock")...)
		return stderr, code
	}
	holder := fmt.Sprintf("process %d (%s serve", first.cmd.Process.Pid, binary)
	second := strings.NewReplacer(":8080", ":8081", "22/tcp", "2222/tcp").Replace(standard) + "state: " + w.dir + "/other\n"
	for _, command := range []string{"serve", "guard", "unguard"} {
		w.configure(second)
		if stderr, code := other(command); code != 1 || !strings.Contains(stderr, holder) || !strings.Contains(stderr, "firewall.table") {
			t.Errorf("%s beside a daemon: exit %d, %s; want %q in it", command, code, stderr, holder)
		}
	}
	if _, err := os.Stat(w.dir + "/other"); err == nil {
		t.Error("who was refused has made its state")
	}
	if after := w.nft("list", "ruleset"); after != before {
		t.Errorf("the table has changed:\n%s\nbefore:\n%s", after, before)
	}
	w.mustPass(w.mallory, serverIP, 22, false)
	// One with a table of its own starts.
	w.configure(second + "firewall: {table: other}\n")
	beside := w.start(w.server.Command(t.Context(), binary, "serve", "--config", w.config(), "--socket", w.dir+"/other.sock"))
	beside.wait(t, `"serving"`)
	beside.stop(t, syscall.SIGTERM)
	// A restart is never refused: after a stop that has begun, after a kill.
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := w.daemon.cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		w.serve(standard)
	}
}
