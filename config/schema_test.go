package config

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"webknock/internal/certtest"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// off matches the lines of the sample that are turned off. Its prose has one space
// after the #.
var off = regexp.MustCompile(`(?m)^( *)#([^ \n]|  )`)

func TestTheSampleShowsEveryKeyAndWorksWithAllOfThem(t *testing.T) {
	sample, err := os.ReadFile("../docs/webknock.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := off.ReplaceAllString(string(sample), "$1$2")
	dir := t.TempDir()
	cert, key := certtest.PEM(t, "home.example.org")
	for name, content := range map[string]string{
		"fullchain.pem": string(cert), "key.pem": string(key), "roots.pem": string(cert), "404.html": "not here\n",
		"alice.totp": rfcSecret, "telegram.url": "telegram://123456789:AAbbCCddEEffGGhhIIjjKKllMMnnOOppQQr@telegram?chats=@channel",
		"webknock.yaml": text,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Load(filepath.Join(dir, "webknock.yaml")); err != nil {
		t.Error(err)
	}
	var document any
	if err := yaml.Unmarshal([]byte(text), &document); err != nil {
		t.Fatal(err)
	}
	schema, err := jsonschema.NewCompiler().Compile("../docs/webknock.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(document); err != nil {
		t.Error(err)
	}
	if n := mustShow(t, schema, "", document); n < 70 {
		t.Errorf("the schema has only %d keys", n)
	}
}

// mustShow reports the keys of a schema that none of the values at a place has,
// and returns how many keys there are.
func mustShow(t *testing.T, s *jsonschema.Schema, place string, values ...any) (keys int) {
	t.Helper()
	for s.Ref != nil {
		s = s.Ref
	}
	for name, property := range s.Properties {
		var shown []any
		for _, v := range values {
			if m, ok := v.(map[string]any); ok && m[name] != nil {
				shown = append(shown, m[name])
			}
		}
		if len(shown) == 0 {
			t.Errorf("the sample lacks %s.%s", place, name)
		}
		keys += 1 + mustShow(t, property, place+"."+name, shown...)
	}
	for _, variant := range slices.Concat(s.AnyOf, s.OneOf) {
		keys += mustShow(t, variant, place, values...)
	}
	if items := s.Items2020; items != nil {
		var all []any
		for _, v := range values {
			list, _ := v.([]any)
			all = append(all, list...)
		}
		keys += mustShow(t, items, place+"[]", all...)
	}
	return keys
}

// The schema accepts what the loader accepts, and both refuse what has a wrong shape.
func TestTheSchemaAgreesWithTheLoader(t *testing.T) {
	schema, err := jsonschema.NewCompiler().Compile("../docs/webknock.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	sample, err := os.ReadFile("../docs/webknock.yaml")
	if err != nil {
		t.Fatal(err)
	}
	users := "users: [{name: alice, totp_file: " + secretFile(t, rfcSecret) + "}]\n"
	edit := func(old, new string) string { return strings.Replace(smallest, old, new, 1) }
	for _, tt := range []struct {
		text string
		want bool
	}{
		{smallest, true},
		{string(sample), true},
		{edit("[/a, /b, /c]", "[{path: /a, method: GET, host: h, query: {k: v}}, {regex: b, within: 3s}]"), true},
		{edit("opens: [ssh]", "message: hello"), true},
		{strings.Replace(edit("opens: [ssh]", "message: hello"), "doors:\n  - name: ssh\n    ports: [22/tcp]\n", "", 1), true},
		{strings.Replace(edit("opens: [ssh]", "message: hello"), "doors:\n  - name: ssh\n    ports: [22/tcp]\n", "doors: []\n", 1), true},
		{edit("[/a, /b, /c]", "[/a, {path: /b, scheme: http}]"), true},
		{edit("[/a, /b, /c]", "[/a, {path: /b, scheme: ftp}]"), false},
		{edit("[/a, /b, /c]", "[/a, {path: /b, method: get}]"), false},
		{edit("[/a, /b, /c]", "[/a, {path: /b, method: 'GET,POST'}]"), false},
		{edit("[/a, /b, /c]", "[/a, {path: /b, method: M-SEARCH}]"), true},
		{edit("[/a, /b, /c]", "[/a, {path: /b, host: '*.example.org'}]"), false},
		{edit("[/a, /b, /c]", "[/a, {path: /b, host: bücher.example}]"), true},
		{edit("[/a, /b, /c]", "[/a, {path: /b, host: 'home.example.org.:8080'}]"), true},
		{edit("[/a, /b, /c]", "[/a, {path: /b, host: '[2001:db8::1]:8080'}]"), true},
		{edit("opens: [ssh]", "opens: [ssh]\n    ignore: ['/a?b']"), false},
		{edit("opens: [ssh]", "opens: [ssh]\n    ignore: [favicon.ico]"), false},
		{edit("listeners:", "clients: {max: 10, ipv4_prefix: 24, ipv6_prefix: 64}\nlisteners:"), true},
		{edit("listeners:", "clients: {ipv4_prefix: 33}\nlisteners:"), false},
		{edit("listeners:", "clients: {ipv4_prefix: 7}\nlisteners:"), false},
		{edit("address: ", "tls: {acme: {domains: [bücher.example, home.example.org.]}}\n    address: "), true},
		{edit("listeners:", "admin: {socket: /"+strings.Repeat("a", 106)+"}\nlisteners:"), true},
		{edit("listeners:", "admin: {socket: /"+strings.Repeat("a", 107)+"}\nlisteners:"), false},
		{edit("opens: [ssh]", "closes: [ssh]"), true},
		{edit("opens: [ssh]", "run: [{on: complete, command: [/bin/true, --fast], user: nobody, timeout: 1m, environment: {K: v, N: 1}}]"), true},
		{edit("opens: [ssh]", "opens: [ssh]\n    run: [{on: open, command: [/bin/true]}, {on: close, command: [/bin/true]}]"), true},
		{edit("opens: [ssh]", "run: [{on: open, command: [/bin/true]}]"), false},
		{edit("opens: [ssh]", "run: [{on: never, command: [/bin/true]}]"), false},
		{edit("opens: [ssh]", "run: [{on: complete, command: [true]}]"), false},
		{edit("opens: [ssh]", "run: [{on: complete, command: []}]"), false},
		{edit("opens: [ssh]", "run: [{on: complete, command: /bin/true}]"), false},
		{edit("opens: [ssh]", "run: [{on: complete}]"), false},
		{edit("opens: [ssh]", "run: [{command: [/bin/true]}]"), false},
		{edit("opens: [ssh]", "run: [{on: complete, command: [/bin/true], environment: {WEBKNOCK_USER: alice}}]"), false},
		{edit("opens: [ssh]", "run: [{on: complete, command: [/bin/true], environment: [K=v]}]"), false},
		{edit("ports: [22/tcp]", "ports: [22/tcp]\n    established: cut\n    connections: 3\n    forward: 10.0.0.5:22\n    prefix: {ipv4: 24, ipv6: 64}"), true},
		{edit("ports: [22/tcp]", "ports: [22/tcp]\n    forward: '[2001:db8::5]:22'"), true},
		{edit("listeners:", "firewall: {mode: sets, owner: true, allow: [192.168.1.0/24, '2001:db8::/32', 10.0.0.1]}\nlisteners:"), true},
		{edit("ports: [22/tcp]", "ports: [22/tcp]\n    established: sever"), false},
		{edit("ports: [22/tcp]", "ports: [22/tcp]\n    connections: many"), false},
		{edit("ports: [22/tcp]", "ports: [22/tcp]\n    forward: host:22"), false},
		{edit("ports: [22/tcp]", "ports: [22/tcp]\n    prefix: {ipv4: 0}"), false},
		{edit("listeners:", "firewall: {allow: [home]}\nlisteners:"), false},
		{edit("ports: [22/tcp]", "ports: [22/tcp]\n    ttl: 30"), false},
		{edit("ports: [22/tcp]", "ports: [22]"), false},
		{edit("ports: [22/tcp]", "ports: []"), false},
		{edit("ports: [22/tcp]", "port: [22/tcp]"), false},
		{edit("name: ssh", "name: SSH"), false},
		{edit("[/a, /b, /c]", "[]"), false},
		{edit("[/a, /b, /c]", "[a]"), false},
		{edit("[/a, /b, /c]", "[{path: /a, regex: b}]"), false},
		{edit("    opens: [ssh]\n", ""), false},
		{edit(":8080", "systemd:web"), true},
		{edit("address: ", "cover: drop\n    address: "), true},
		{edit("address: ", "cover: {status: 404}\n    address: "), true},
		{edit("address: ", "cover: {proxy: 'http://127.0.0.1:8081'}\n    address: "), true},
		{edit("address: ", "client_address: forwarded\n    proxies: [10.0.0.0/8]\n    address: "), true},
		{edit("address: ", "cover: hide\n    address: "), false},
		{edit("address: ", "cover: {status: 20}\n    address: "), false},
		{edit("address: ", "client_address: guess\n    proxies: [10.0.0.0/8]\n    address: "), false},
		{edit("address: ", "tls: {acme: {domains: [home.example.org], email: me@example.org, directory: 'https://ca.example.org/dir'}}\n    address: "), true},
		{edit("address: ", "tls: {acme: {domains: []}}\n    address: "), false},
		{edit("address: ", "tls: {acme: {domains: ['*.example.org']}}\n    address: "), false},
		{edit("address: ", "tls: {acme: {domains: [h], email: me}}\n    address: "), false},
		{edit("address: ", "tls: {acme: {domains: [h], directory: 'http://ca.example.org/dir'}}\n    address: "), false},
		{edit("address: ", "tls: {acme: {domains: [h]}, certificate: c.pem, key: k.pem}\n    address: "), false},
		{edit("address: ", "tls: {server_names: [h]}\n    address: "), false},
		{edit("listeners:", "shield: {rate: 20/second, ban: {knocks: 20, within: 1m, for: 10m, doors: true}, decoys: [/wp-login.php]}\nlisteners:"), true},
		{edit("listeners:", "shield: {rate: 'off'}\nlisteners:"), true},
		{edit("listeners:", "shield: {rate: 20}\nlisteners:"), false},
		{edit("listeners:", "shield: {ban: {for: 1m}}\nlisteners:"), false},
		{edit("listeners:", "shield: {decoys: [b]}\nlisteners:"), false},
		{edit("[/a, /b, /c]", "[/a, '/k/{totp}', {path: '/t/{ticket}'}, 'sha256:"+hashOf("/x")+"']\n    users: [alice]\n    allow_address: true") + users, true},
		{edit("[/a, /b, /c]", "[{path: 'sha256:"+strings.ToUpper(hashOf("/x"))+"'}]") + users, true},
		{smallest + "users: []\n", true},
		{smallest + strings.Replace(users, "name: alice, ", "", 1), false},
		{smallest + strings.Replace(users, "name: alice", "name: ALICE", 1), false},
		{smallest + strings.Replace(users, "totp_file", "totp", 1), false},
		{edit("[/a, /b, /c]", "['/k/{totp}']\n    users: alice") + users, false},
		{edit("[/a, /b, /c]", "['/t/{ticket}']\n    allow_address: perhaps") + users, false},
		{edit("[/a, /b, /c]", "['sha256:abc']"), false},
		{edit("opens: [ssh]", "notify: ['ntfy://h/topic', {url: 'generic+http://h/', on: [completion, grant], template: '{{.Client}}'}]"), true},
		{edit("listeners:", "notify: [{url: 'ntfy://h/topic', on: [repair, ban, degraded, grant]}]\nlisteners:"), true},
		{edit("listeners:", "notify: [topic]\nlisteners:"), false},
		{edit("listeners:", "notify: [{on: [ban]}]\nlisteners:"), false},
		{edit("listeners:", "notify: [{url: 'ntfy://h/topic', on: [knock]}]\nlisteners:"), false},
		{edit("listeners:", "notify: [{url: 'ntfy://h/topic', on: []}]\nlisteners:"), false},
		{edit("listeners:", "log: {level: loud}\nlisteners:"), false},
		{edit("listeners:", "firewall: {mark: 0}\nlisteners:"), true},
		{edit("listeners:", "firewall: {mark: 0x100000000}\nlisteners:"), false},
		{edit("listeners:", "state: here\nlisteners:"), false},
	} {
		var document any
		if err := yaml.Unmarshal([]byte(tt.text), &document); err != nil {
			t.Fatal(err)
		}
		schemaErr := schema.Validate(document)
		_, loadErr := Parse("w.yaml", []byte(tt.text))
		if (schemaErr == nil) != tt.want || (loadErr == nil) != tt.want {
			t.Errorf("right: %v; the schema says %v, the loader %v, of\n%s", tt.want, schemaErr, loadErr, tt.text)
		}
	}
}
