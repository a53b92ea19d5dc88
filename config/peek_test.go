package config

import (
	"os"
	"path/filepath"
	"testing"
)

func TestPeekReadsWhereTheDaemonIsFromABrokenFile(t *testing.T) {
	defaults := Basics{"/run/webknock/webknock.sock", "webknock", "/var/lib/webknock"}
	mine := Basics{"/run/my.sock", "mine", "/var/mine"}
	const right = "admin: {socket: /run/my.sock}\nfirewall:\n  table: mine\n  allow: [192.0.2.0/24]\nstate: /var/mine\n"
	for _, tt := range []struct {
		name, file, text string
		want             Basics
	}{
		{"no file", "w.yaml", "", defaults},
		{"nothing but what is looked for", "w.yaml", right, mine},
		{"an unknown key", "w.yaml", "nonsense: 1\n" + right, mine},
		{"an unclosed bracket before", "w.yaml", "doors: [\n" + right, mine},
		{"an unclosed bracket behind", "w.yaml", right + "doors: [\n", mine},
		{"an unclosed quote", "w.yaml", "doors:\n  - name: \"ssh\n" + right, mine},
		{"a tab", "w.yaml", "doors:\n\t- name: ssh\n" + right, mine},
		{"the section itself is broken", "w.yaml", "admin: {socket: /run/my.sock\nfirewall: {table: mine}\nstate: /var/mine\n", Basics{defaults.Socket, "mine", "/var/mine"}},
		{"two documents", "w.yaml", right + "---\nadmin: {socket: /run/other.sock}\n", mine},
		{"values that cannot be", "w.yaml", "admin: {socket: my.sock}\nfirewall: {table: 'a b'}\nstate: [x]\n", defaults},
		{"an alias", "w.yaml", "x: &s {socket: /run/my.sock}\nadmin: *s\n", Basics{"/run/my.sock", "webknock", "/var/lib/webknock"}},
		{"no mapping", "w.yaml", "- a\n- b\n", defaults},
		{"TOML", "w.toml", "state = '/var/mine'\n[admin]\nsocket = '/run/my.sock'\n[firewall]\ntable = 'mine'\n", mine},
		{"broken TOML", "w.toml", "state = '/var/mine'\n[admin]\nsocket = '/run/my.sock'\n[firewall]\ntable = 'mine'\n[doors\n", mine},
		{"JSON", "w.json", `{"admin": {"socket": "/run/my.sock"}, "firewall": {"table": "mine"}, "state": "/var/mine"}`, mine},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), tt.file)
			if tt.text != "" {
				if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got := Peek(file); got != tt.want {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
		})
	}
	t.Setenv("WEBKNOCK_FIREWALL_TABLE", "other")
	if got := Peek("/nowhere/w.yaml"); got.Table != "other" {
		t.Errorf("the environment does not count: %+v", got)
	}
}
