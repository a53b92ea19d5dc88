package config

import (
	"os"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// What the loader takes the schema takes, and what is wrong by its shape
// neither does.
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
		{edit("opens: [ssh]", "closes: [ssh]"), true},
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
		{edit("listeners:", "log: {level: loud}\nlisteners:"), false},
		{edit("listeners:", "firewall: {mark: 0}\nlisteners:"), false},
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
