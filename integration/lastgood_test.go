package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"webknock/integration/lab"
)

// whole is a configuration that needs other files and users of the system.
func (w *world) whole() string {
	w.t.Helper()
	out, err := exec.Command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
		"-subj", "/CN=h", "-out", w.dir+"/cert.pem", "-keyout", w.dir+"/key.pem").CombinedOutput()
	if err != nil {
		w.t.Fatalf("openssl: %v\n%s", err, out)
	}
	for name, text := range map[string]string{"alice.totp": strings.Repeat("A", 32), "body.html": "nothing here", "url": "ntfy://ntfy.sh/topic"} {
		if err := os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	return `
listeners:
  - address: ":8080"
  - {address: ":8443", tls: {certificate: cert.pem, key: key.pem}}
  - {address: ":8081", cover: {status: 404, body_file: body.html}}
doors:
  - {name: ssh, ports: [22/tcp]}
sequences:
  - name: ssh
    steps: [/a, /b, /c]
    opens: [ssh]
    run: [{on: open, command: [/bin/true], user: nobody}]
  - {name: codes, steps: ["/k/{totp}"], opens: [ssh]}
users:
  - {name: alice, totp_file: alice.totp}
notify: [{url_file: url}]
`
}

type status struct {
	State     string
	Problems  []string
	Firewall  struct{ Guarded bool }
	ConfirmBy string `json:"confirm_by"`
}

func (w *world) status() (s status) {
	w.t.Helper()
	if err := json.Unmarshal([]byte(w.must("status", "-o", "json")), &s); err != nil {
		w.t.Fatal(err)
	}
	return s
}

// mustSay fails unless the state is degraded and its problems hold all texts,
// or ok if there are none.
func (w *world) mustSay(texts ...string) {
	w.t.Helper()
	s := w.status()
	all := strings.Join(s.Problems, "\n")
	if (s.State == "degraded") != (len(texts) > 0) || slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(all, text) }) {
		w.t.Errorf("the state is %s, want %q in its problems:\n%s", s.State, texts, all)
	}
}

// boot does what a boot of the host does: nothing is left of the firewall, then
// the guard is put up, then the daemon is started.
func (w *world) boot(flags ...string) (guarded string, exit int) {
	w.t.Helper()
	if w.daemon != nil {
		w.daemon.stop(w.t, syscall.SIGTERM)
	}
	w.nft("flush", "ruleset")
	until(w.t, "all is open, as without webknock", func() bool { return w.passes(w.mallory, serverIP, 22) })
	_, guarded, exit = w.webknock("guard")
	if exit == 0 || strings.Contains(guarded, "doors are guarded") {
		w.mustPass(w.mallory, serverIP, 22, false)
		w.mustPass(w.mallory, serverIP6, 22, false)
	}
	serve := w.server.Command(context.Background(), binary, append([]string{"serve", "--config", w.config()}, flags...)...)
	serve.Env = append(os.Environ(), w.env...)
	w.daemon = w.start(serve)
	return guarded, exit
}

// mustLetIn fails unless a door is shut to strangers and opens by a knock.
func (w *world) mustLetIn(client *lab.Host, address string) {
	w.t.Helper()
	w.mustPass(w.mallory, serverIP, 22, false)
	w.mustPass(w.mallory, serverIP6, 22, false)
	w.knock(client, serverIP, "/a", "/b", "/c")
	w.mustBecome("ssh " + address)
	w.mustPass(client, serverIP, 22, true)
	w.mustPass(w.mallory, serverIP, 22, false)
	w.must("close", "--all")
}

// A mistake in the configuration, or in what it needs, and then a reboot: no door
// is open, and nobody is locked out.
func TestNoMistakeOpensADoorOrLocksAnybodyOut(t *testing.T) {
	edit := func(old, new string) func(*world) error {
		return func(w *world) error {
			text, err := os.ReadFile(w.config())
			if err != nil || !strings.Contains(string(text), old) {
				t.Errorf("no %q in the file: %v", old, err)
			}
			return os.WriteFile(w.config(), []byte(strings.Replace(string(text), old, new, 1)), 0o600)
		}
	}
	remove := func(name string) func(*world) error {
		return func(w *world) error { return os.Remove(filepath.Join(w.dir, name)) }
	}
	for name, tt := range map[string]struct {
		make func(*world) error
		says string // by the errors of the file
	}{
		"an unknown key":              {edit("doors:", "nonsense: 1\ndoors:"), "unknown key"},
		"a door misspelt":             {edit("22/tcp", "22/tpc"), "22/tpc"},
		"a tab":                       {edit("  - {name: ssh, ports", "\t- {name: ssh, ports"), "webknock.yaml"},
		"a bracket not closed":        {edit("ports: [22/tcp]", "ports: [22/tcp"), "webknock.yaml"},
		"a file cut off":              {func(w *world) error { return os.Truncate(w.config(), 40) }, "webknock.yaml"},
		"an empty file":               {func(w *world) error { return os.Truncate(w.config(), 0) }, "webknock.yaml"},
		"no file":                     {func(w *world) error { return os.Remove(w.config()) }, "webknock.yaml"},
		"no certificate":              {remove("cert.pem"), "tls.certificate"},
		"a key that all may read":     {func(w *world) error { return os.Chmod(w.dir+"/key.pem", 0o644) }, "tls.key"},
		"an unknown user of run":      {edit("user: nobody", "user: nobdy"), "nobdy"},
		"a secret that is missing":    {remove("alice.totp"), "totp_file"},
		"a secret that all may read":  {func(w *world) error { return os.Chmod(w.dir+"/alice.totp", 0o644) }, "totp_file"},
		"a body that is missing":      {remove("body.html"), "body_file"},
		"a target that is missing":    {remove("url"), "url_file"},
		"an address that is nobody's": {edit(`":8443"`, `"198.51.100.9:8443"`), "198.51.100.9"},
		"no state any more to tell":   {func(w *world) error { return os.WriteFile(w.config(), []byte("state: ["), 0o600) }, "webknock.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.listen(22)
			w.serve(w.whole())
			right, err := os.ReadFile(w.config())
			if err != nil {
				t.Fatal(err)
			}
			w.mustLetIn(w.alice, aliceIP)
			w.mustSay()
			if tt.says == "webknock.yaml" { // the file cannot tell its state
				w.env = []string{"WEBKNOCK_STATE=" + w.dir + "/state"}
			}
			if err := tt.make(w); err != nil {
				t.Fatal(err)
			}
			stderr, exit := w.boot()
			if name == "an address that is nobody's" {
				if exit != 0 { // the file itself is right
					t.Errorf("guard: exit %d, %s", exit, stderr)
				}
			} else if exit != 1 || !strings.Contains(stderr, tt.says) || !strings.Contains(stderr, "1 doors are guarded, by the last good guard") {
				t.Errorf("guard: exit %d, %s", exit, stderr)
			}
			w.daemon.wait(t, `"serving"`)
			w.mustSay("is not what runs", tt.says)
			w.mustLetIn(w.alice, aliceIP)
			if exit, code := w.curl(w.alice, "--insecure", "https://"+serverIP+":8443/a"); code != 56 {
				t.Errorf("the listener with TLS does not serve: %q, exit %d", exit, code)
			}

			// Strictly; then once more, since nothing may get worse by it; and then
			// without the mistake.
			w.daemon.stop(t, syscall.SIGTERM)
			if _, stderr, exit := w.webknock("serve", "--strict"); exit != 1 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, tt.says) {
				t.Errorf("serve --strict: exit %d, %s", exit, stderr)
			}
			w.mustPass(w.mallory, serverIP, 22, false)
			w.daemon = nil
			w.boot()
			w.daemon.wait(t, `"serving"`)
			if err := os.WriteFile(w.config(), right, 0o600); err != nil {
				t.Fatal(err)
			}
			w.whole()
			os.Chmod(w.dir+"/key.pem", 0o600)
			os.Chmod(w.dir+"/alice.totp", 0o600)
			w.must("reload")
			w.mustSay()
			w.mustLetIn(w.alice, aliceIP)
		})
	}
}

// completions returns how often a sequence was completed since the last call.
func (w *world) completions(sequence string) int {
	w.t.Helper()
	var s struct {
		Sequences []struct {
			Name        string
			Completions int
		}
	}
	if err := json.Unmarshal([]byte(w.must("status", "-o", "json")), &s); err != nil {
		w.t.Fatal(err)
	}
	key := fmt.Sprintf("%d %s", w.daemon.cmd.Process.Pid, sequence)
	for _, q := range s.Sequences {
		if q.Name == sequence {
			n := q.Completions - w.completed[key]
			w.completed[key] = q.Completions
			return n
		}
	}
	return 0
}
