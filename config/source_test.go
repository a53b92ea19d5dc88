package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"webknock/internal/certtest"
)

// pair writes a pair beside the configuration.
func pair(t *testing.T, dir, name string) {
	t.Helper()
	certtest.Write(t, filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"), "h")
}

const whole = `
listeners:
  - {address: ":8080", cover: {status: 404, body_file: body.html}}
  - {address: ":8443", tls: {certificate: one.crt, key: one.key}}
  - {address: ":9443", tls: {certificate: two.crt, key: two.key}}
doors: [{name: ssh, ports: [22/tcp]}]
sequences:
  - {name: codes, steps: ["/k/{totp}"], users: [alice], opens: [ssh], notify: [{url_file: url}]}
  - name: plain
    steps: [/a, /b]
    opens: [ssh]
    run: [{on: open, command: [/bin/true], user: nobody}, {on: open, command: [/bin/true]}]
users:
  - {name: alice, totp_file: alice.totp}
  - {name: bob, totp_file: bob.totp}
notify: [{url_file: url}]
state: /d
`

func TestRestoreWorksWithoutMissingFiles(t *testing.T) {
	dir := t.TempDir()
	pair(t, dir, "one")
	pair(t, dir, "two")
	write := func(name, text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("w.yaml", whole, 0o600)
	write("body.html", "not here", 0o600)
	write("url", "ntfy://ntfy.sh/topic", 0o600)
	write("alice.totp", strings.Repeat("A", 32), 0o600)
	write("bob.totp", strings.Repeat("B", 32), 0o600)
	t.Setenv("WEBKNOCK_CLIENTS_MAX", "7")
	cfg, err := Load(filepath.Join(dir, "w.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	source := cfg.WithCertificates()
	t.Setenv("WEBKNOCK_CLIENTS_MAX", "nonsense")

	again, lacks, err := Restore(source)
	if err != nil || len(lacks) > 0 || again.Clients.Max != 7 || len(again.Listeners) != 3 || len(again.Users) != 2 || len(again.Notify) != 2 || again.Source.Hash() != cfg.Source.Hash() {
		t.Fatalf("%+v\n%q, %v", again, lacks, err)
	}

	// Everything is lost but the text and the kept certificate of one.
	for _, name := range []string{"w.yaml", "body.html", "url", "alice.totp", "one.crt", "two.key"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "bob.totp"), 0o644); err != nil {
		t.Fatal(err)
	}
	delete(source.Certificates, filepath.Join(dir, "two.key"))
	source.Text = strings.Replace(source.Text, "user: nobody", "user: no-such-user", 1)
	again, lacks, err = Restore(source)
	if err != nil {
		t.Fatal(err)
	}
	var addresses []string
	for _, l := range again.Listeners {
		addresses = append(addresses, l.Address)
	}
	if !slices.Equal(addresses, []string{":8080", ":8443"}) || again.Listeners[1].TLS.Kept == nil || len(again.Listeners[0].Cover.Body) > 0 {
		t.Errorf("listeners %+v", again.Listeners)
	}
	if len(again.Users) != 1 || again.Users[0].Name != "bob" || len(again.Users[0].Secret) == 0 {
		t.Errorf("users %v", again.Users)
	}
	if codes := again.Sequences[0]; codes.Admits("bob") || !slices.Equal(codes.Users, []string{"alice"}) {
		t.Error("the lost user's sequence admits another")
	}
	if run := again.Sequences[1].Run; len(run) != 1 || run[0].User != "" {
		t.Errorf("commands %+v", run)
	}
	if len(again.Notify) != 0 {
		t.Errorf("notices %+v", again.Notify)
	}
	for _, key := range []string{"body_file", "listeners[1].tls.certificate", "listeners[2].tls.certificate", "users[0].totp_file", "users[1].totp_file", "run[0].user", "url_file"} {
		if !slices.ContainsFunc(lacks, func(l string) bool { return strings.Contains(l, key) }) {
			t.Errorf("no lack of %s in %q", key, lacks)
		}
	}

	// A lost certificate that is kept already stays so.
	if kept := again.WithCertificates().Certificates[filepath.Join(dir, "one.crt")]; kept == "" {
		t.Error("the last good certificate is forgotten")
	}
	source.Text += "nonsense: 1\n"
	if _, _, err := Restore(source); err == nil {
		t.Error("an error of the text itself is none")
	}
}

func TestRestoreWorksWithoutUsers(t *testing.T) {
	_, lacks, err := Restore(&Source{File: "/nowhere/w.yaml", Text: `
listeners: [{address: ":8080"}]
doors: [{name: ssh, ports: [22/tcp]}]
sequences: [{name: codes, steps: ["/k/{totp}"], opens: [ssh]}]
users: [{name: alice, totp_file: alice.totp}]
`})
	if err != nil || len(lacks) != 1 {
		t.Errorf("%q, %v", lacks, err)
	}
}
