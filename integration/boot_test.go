package integration

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestDoorsAreClosedBeforeTheDaemonStarts(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.configure(standard)
	w.mustPass(w.alice, serverIP, 22, true)
	printed := filepath.Join(w.dir, "guard.nft")
	if err := os.WriteFile(printed, []byte(w.must("guard", "--print")), 0o600); err != nil {
		t.Fatal(err)
	}
	w.mustPass(w.alice, serverIP, 22, true) // printing alone does nothing
	w.nft("-f", printed)
	w.mustPass(w.alice, serverIP, 22, false)
	w.nft("flush", "ruleset")
	w.mustPass(w.alice, serverIP, 22, true)
	w.must("guard")
	w.mustPass(w.alice, serverIP, 22, false)
	w.serve(standard)
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	w.mustBecome("ssh " + aliceIP)
	w.mustPass(w.alice, serverIP, 22, true)
	// Run again, beside the daemon or after it, it takes no grant away.
	w.must("guard")
	w.mustHold("ssh " + aliceIP)
	w.daemon.stop(t, syscall.SIGKILL)
	w.must("guard")
	w.mustPass(w.alice, serverIP, 22, true)
	w.mustPass(w.mallory, serverIP, 22, false)
}

func TestAStartMustBeConfirmed(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	session := w.talk(w.alice, serverIP, 22)
	w.configure(standard)
	w.daemon = w.start(w.server.Command(context.Background(), binary, "serve", "--confirm", "2s", "--config", w.config()))
	w.daemon.wait(t, "need a knock for the next")
	w.daemon.wait(t, "waiting for webknock confirm")
	w.mustPass(w.mallory, serverIP, 22, false)
	w.daemon.wait(t, "nobody has confirmed the start")
	w.mustPass(w.mallory, serverIP, 22, true)
	if out := w.must("status"); !strings.Contains(out, "degraded") || !strings.Contains(out, "nobody has confirmed") {
		t.Errorf("status\n%s", out)
	}
	w.must("reload", "--confirm", "1h")
	w.mustPass(w.mallory, serverIP, 22, false)
	w.must("confirm")
	if out := w.must("status"); strings.Contains(out, "confirm") {
		t.Errorf("status\n%s", out)
	}
	session.says("all the while")
}

// As an ordinary user with CAP_NET_ADMIN and nothing else.
func TestOneCapabilityIsEnough(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	for _, dir := range []string{filepath.Dir(binary), filepath.Dir(w.dir), w.dir} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	config := with("established: cut") + "firewall: {owner: true}\n"
	w.configure(config)
	for _, path := range []string{w.dir, w.config()} {
		if err := os.Chown(path, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	nobody := func(args ...string) []string {
		return append([]string{"--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps", "-all,+net_admin",
			"--ambient-caps", "-all,+net_admin", "--bounding-set", "-all,+net_admin", "--no-new-privs", binary}, append(args, "--config", w.config())...)
	}
	out, err := w.server.Command(t.Context(), "setpriv", nobody("serve", "--socket", "/run/nowhere/socket")...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "permission denied (run as root, or choose a place of your own: --socket PATH)") {
		t.Errorf("serve with a socket at a place of root's: %v\n%s", err, out)
	}
	w.daemon = w.start(w.server.Command(context.Background(), "setpriv", nobody("serve")...))
	w.daemon.wait(t, `"serving"`)
	w.wholePath()
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	w.mustBecome("ssh " + aliceIP)
	session := w.talk(w.alice, serverIP, 22)
	w.nft("flush", "ruleset")
	w.mustPass(w.mallory, serverIP, 22, false)
	w.must("close", "--all")
	session.isReset()
	out, err = w.server.Command(t.Context(), "setpriv", nobody("doctor")...).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "dropped by webknock") {
		t.Errorf("doctor: %v\n%s", err, out)
	}
}
