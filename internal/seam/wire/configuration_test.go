package wire

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"webknock/config"
	"webknock/internal/keeper/forfront"
	"webknock/internal/seam"
	"webknock/sequence"
)

// samples calls f with all configurations that are somewhere in this project as an
// example of a valid one.
func samples(t *testing.T, f func(t *testing.T, cfg *config.Config)) {
	t.Helper()
	var files []string
	for _, pattern := range []string{"../../../docs/webknock.yaml", "../../../config/testdata/good/*.yaml", "../../../config/testdata/warned/*.yaml"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			t.Fatal(pattern, err)
		}
		files = append(files, found...)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		for name, content := range map[string]string{filepath.Base(file): string(text), "body.html": "hello\xff\n", "alice.totp": "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			cfg, err := config.Load(filepath.Join(dir, filepath.Base(file)))
			if err != nil {
				t.Fatal(err)
			}
			f(t, cfg)
		})
	}
}

// everything has every key that the front has to know of.
const everything = `
listeners:
  - {address: ":80", proxies: [10.0.0.0/8, "2001:db8::/32"], client_address: x-forwarded-for, max_connections: 5, cover: {status: 404, body_file: body.html}}
  - {address: ":81", cover: {proxy: "http://127.0.0.1:8081"}}
  - {address: "127.0.0.1:443", tls: {acme: {domains: [home.example.org]}, server_names: [home.example.org]}}
clients: {max: 7, ipv4_prefix: 24, ipv6_prefix: 64}
doors: [{name: ssh, ports: [22/tcp]}]
sequences:
  - name: one
    steps:
      - {path: "/a é", method: GET, host: home.example.org, query: {k: "v ü", K: ""}, scheme: https}
      - {regex: '^/b(c|d)\.php$', within: 3s}
      - sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb
      - /k/{totp}/x
      - /t/{ticket}
    window: 1m
    ignore: [/x]
    users: [alice]
    opens: [ssh]
    allow_address: true
  - {name: two, steps: [/a, /a, /b], strict: false, message: hello}
users: [{name: alice, totp_file: alice.totp}]
firewall: {allow: [192.168.1.0/24]}
shield: {ban: {knocks: 20, within: 2m, for: 3m}, decoys: [/wp-login.php]}
`

// What comes out of the codec is the configuration that went in, and matches the same
// requests.
func TestAConfigurationComesOverAsItIs(t *testing.T) {
	samples(t, mustMatchAlike)
	t.Run("everything", func(t *testing.T) {
		dir := t.TempDir()
		for name, content := range map[string]string{"w.yaml": everything, "body.html": "hello\xff\n", "alice.totp": "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		cfg, err := config.Load(filepath.Join(dir, "w.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		mustMatchAlike(t, cfg)
	})
}

func mustMatchAlike(t *testing.T, cfg *config.Config) {
	sent := forfront.Configuration(cfg)
	for i, l := range sent.Listeners {
		if l.TLS != nil {
			sent.Listeners[i].TLS.Certificates = []seam.Certificate{{Chain: []byte("-----\xff"), Key: nil}}
		}
	}
	got := roundTrip(t, sent)
	if !reflect.DeepEqual(got, sent) {
		t.Fatalf("%+v\nhas become\n%+v", sent, got)
	}
	var before, after []sequence.Spec
	for i := range cfg.Sequences {
		spec, err := got.Sequences[i].Spec()
		if err != nil {
			t.Fatal(err)
		}
		if !spec.Equal(cfg.Sequences[i].Spec) {
			t.Errorf("sequence %s is another", spec.Name)
		}
		before, after = append(before, cfg.Sequences[i].Spec), append(after, spec)
		for _, user := range []string{"alice", "bob", ""} {
			if got.Sequences[i].Admits(user) != cfg.Sequences[i].Admits(user) {
				t.Errorf("sequence %s takes user %q otherwise", spec.Name, user)
			}
		}
	}
	here, err := sequence.NewSet(before, nil)
	if err != nil {
		t.Fatal(err)
	}
	there, err := sequence.NewSet(after, nil)
	if err != nil {
		t.Fatal(err)
	}
	matched := 0
	for _, r := range requests(before) {
		a, b := here.Match(r, nil), there.Match(r, nil)
		if len(a.Hits) != len(b.Hits) || len(a.Candidates) != len(b.Candidates) || here.Ignores(r.Path) != there.Ignores(r.Path) {
			t.Errorf("%+v matches %d and %d steps, then %d and %d", r, len(a.Hits), len(a.Candidates), len(b.Hits), len(b.Candidates))
		}
		for i := range a.Hits {
			if a.Hits[i].Machine.Name() != b.Hits[i].Machine.Name() {
				t.Errorf("%+v matches another sequence", r)
			}
		}
		matched += len(a.Hits) + len(a.Candidates)
	}
	if matched == 0 {
		t.Error("no request matches anything")
	}
}

// requests returns requests of which some match the steps of specs.
func requests(specs []sequence.Spec) (all []sequence.Request) {
	paths := []string{"/", "/a", "/bc.php", "/bd.php", "/x", "/favicon.ico", "/wp-login.php"}
	hosts, methods, queries := []string{"h"}, []string{"GET", "HEAD", "POST"}, []string{""}
	for _, spec := range specs {
		for _, step := range spec.Steps {
			switch trigger := step.Trigger.(type) {
			case sequence.Exact:
				paths = append(paths, string(trigger), string(trigger)+"/")
			case sequence.Template:
				paths = append(paths, strings.ReplaceAll(strings.ReplaceAll(string(trigger), sequence.TOTP, "123456"), sequence.Ticket, "abc"))
			case sequence.Regex:
				paths = append(paths, strings.Trim(strings.ReplaceAll(string(trigger), `\`, ""), "^$"))
			}
			hosts, methods = append(hosts, step.Host), append(methods, step.Method)
			var parameters []string
			for name, value := range step.Query {
				parameters = append(parameters, name+"="+strings.ReplaceAll(value, " ", "+"))
			}
			queries = append(queries, strings.Join(parameters, "&"))
		}
	}
	for _, path := range paths {
		for _, host := range hosts {
			for _, method := range methods {
				for _, query := range queries {
					for _, scheme := range []string{"http", "https"} {
						all = append(all, sequence.Request{Method: method, Host: host, Path: path, RawQuery: query, Scheme: scheme})
					}
				}
			}
		}
	}
	return all
}
