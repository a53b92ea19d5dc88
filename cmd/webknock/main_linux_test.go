package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCommandsThatNeedNoDaemon(t *testing.T) {
	dir := t.TempDir()
	good, bad, none := filepath.Join(dir, "good.yaml"), filepath.Join(dir, "bad.yaml"), filepath.Join(dir, "none.sock")
	text, err := os.ReadFile("../../docs/webknock.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{good: string(text), bad: strings.Replace(string(text), "22/tcp", "22", 1)} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		args           string
		code           int
		stdout, stderr string
	}{
		{"version", 0, "webknock dev (go", ""},
		{"version -o json", 0, `"version": "dev"`, ""},
		{"check --config " + good, 0, "is right (doors: 1, sequences: 1)", ""},
		{"check --config " + bad, 1, "", bad + `:30:13: doors[0].ports[0]: "22" is not a valid port`},
		{"check --config " + bad + ".missing", 1, "", "--config"},
		{"status --socket " + none, 1, "", "is webknock serve running?"},
		{"open ssh", 2, "", "accepts 2 arg(s)"},
		{"close a --all", 2, "", "exactly one"},
		{"open ssh nonsense", 2, "", "not an IP address"},
		{"open ssh fe80::1%eth0", 2, "", "not an IP address"},
		{"close --client nonsense", 2, "", "not an address or prefix"},
		{"hash", 2, "", "exactly one of PATH, - and --random"},
		{"hash /a --random", 2, "", "exactly one"},
		{"hash /a /b", 2, "", "exactly one"},
		{"hash a", 2, "", "a path starts with /"},
		{"hash /a%20b", 2, "", "without %XX"},
		{"hash /a?b", 2, "", "no ? and no #"},
		{"hash /k/{totp}", 2, "", "braces"},
		{"user", 2, "", "user add, user list or user remove"},
		{"user nonsense", 2, "", `unknown command "nonsense" (webknock user --help lists them)`},
		{"user add", 2, "", "accepts 1 arg(s)"},
		{"user add Alice", 2, "", `"Alice" is not a valid name (1 to 32 of`},
		{"user add alice --issuer a:b", 2, "", "without colons"},
		{"user add alice --config " + none, 1, "", "--config"},
		{"user remove ../alice", 2, "", "is not a valid name"},
		{"user remove alice --config " + none, 1, "", "--config"},
		{"user list --config " + none, 1, "", "--config"},
		{"help user add", 0, "otpauth", ""},
		{"", 2, "", "webknock --help"},
		{"nonsense", 2, "", "unknown command"},
		{"help nonsense", 2, "", "unknown command"},
		{"help open", 0, "Let an address through a door", ""},
		{"--help", 0, "See and understand", ""},
		{"completion", 2, "", "which shell?"},
		{"completion nonsense", 2, "", "unknown command"},
		{"completion bash", 0, "bash completion", ""},
		{"status --nonsense", 2, "", "unknown flag"},
		{"status -o xml", 2, "", "table or json"},
		{"status --socket /" + strings.Repeat("s", 107), 2, "", "--socket has 108 bytes, and the path of a socket may have 107"},
		{"status --socket /" + strings.Repeat("s", 106), 1, "", "no daemon answers"},
	} {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), strings.Fields(tt.args), &stdout, &stderr)
		if code != tt.code || !strings.Contains(stdout.String(), tt.stdout) || !strings.Contains(stderr.String(), tt.stderr) {
			t.Errorf("webknock %s: exit %d\nstdout %s\nstderr %s", tt.args, code, &stdout, &stderr)
		}
	}
}

func TestAGrantOverlapsItsAddresses(t *testing.T) {
	for _, tt := range []struct {
		granted, scope string
		want           bool
	}{
		{"192.0.2.1", "192.0.2.1", true},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "192.0.2.0/24", true},
		{"2001:db8::/64", "2001:db8::7", true},
		{"2001:db8::/64", "2001:db8:1::7", false},
		{"2001:db8::/64", "192.0.2.1", false},
	} {
		var s scope
		if err := s.Set(tt.scope); err != nil || overlap(tt.granted, s) != tt.want {
			t.Errorf("overlap(%s, %s) = %v, %v", tt.granted, tt.scope, !tt.want, err)
		}
	}
}
