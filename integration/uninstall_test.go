package integration

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// With the program nobody would be left who takes the guard away.
func TestUninstallRemovesTheGuardFirst(t *testing.T) {
	for name, running := range map[string]bool{"with a daemon": true, "without": false} {
		t.Run(name, func(t *testing.T) { uninstall(t, running) })
	}
}

func uninstall(t *testing.T, running bool) {
	w := newWorld(t)
	w.listen(22)
	prefix := filepath.Join(w.dir, "prefix")
	if err := os.MkdirAll(filepath.Join(prefix, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	installed := filepath.Join(prefix, "bin", "webknock")
	if err := os.Link(binary, installed); err != nil {
		program, err := os.ReadFile(binary)
		if err == nil {
			err = os.WriteFile(installed, program, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if running {
		w.serve(standard)
	} else {
		w.configure(standard)
		w.must("guard")
	}
	w.mustPass(w.alice, serverIP, 22, false)
	uninstall := w.server.Command(context.Background(), "make", "-C", "..", "uninstall", "PREFIX="+prefix)
	uninstall.Env = append(os.Environ(), "WEBKNOCK_CONFIG="+w.config(), "WEBKNOCK_SOCKET="+filepath.Join(w.dir, "webknock.sock"))
	if out, err := uninstall.CombinedOutput(); err != nil {
		t.Fatalf("make uninstall: %v\n%s", err, out)
	}
	w.mustPass(w.alice, serverIP, 22, true)
	if _, err := exec.LookPath(installed); err == nil {
		t.Error("the program is still there")
	}
}
