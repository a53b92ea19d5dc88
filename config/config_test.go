package config

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"webknock/firewall"
	"webknock/sequence"
)

const smallest = `listeners:
  - address: ":8080"
doors:
  - name: ssh
    ports: [22/tcp]
sequences:
  - name: ssh
    steps: [/a, /b, /c]
    opens: [ssh]
`

func TestTheSmallestFileHasAllDefaults(t *testing.T) {
	cfg, err := Parse("w.yaml", []byte(smallest))
	if err != nil {
		t.Fatal(err)
	}
	door := firewall.Door{Name: "ssh", Ports: []firewall.Ports{{Protocol: firewall.TCP, First: 22, Last: 22}},
		TTL: 30 * time.Second, MaxTTL: 30 * time.Second, MaxGrants: 1024, Prefix4: 32, Prefix6: 128}
	if !reflect.DeepEqual(cfg.Doors, []firewall.Door{door}) || !reflect.DeepEqual(cfg.Firewall.Guard.Doors, cfg.Doors) {
		t.Errorf("doors %+v", cfg.Doors)
	}
	s := cfg.Sequences[0]
	if !s.Strict || s.Window != 0 || len(s.Ignore) != 3 || s.Steps[0].Within != 0 || s.Steps[1].Within != 10*time.Second || s.Opens[0] != "ssh" {
		t.Errorf("sequence %+v", s)
	}
	if cfg.Listeners[0].MaxConnections != 16384 || cfg.Clients != (Clients{Max: 65536, IPv4Prefix: 32, IPv6Prefix: 128}) || cfg.Firewall.Table != "webknock" ||
		cfg.Firewall.Backend != BackendNFTables || cfg.Firewall.Guard.Mark != 0x40000000 || cfg.Admin.Socket != "/run/webknock/webknock.sock" ||
		cfg.Log != (Log{Level: slog.LevelInfo, Format: "auto"}) || cfg.State != "/var/lib/webknock" {
		t.Errorf("config %+v", cfg)
	}
}

func TestTOMLAndJSONGiveTheSameConfig(t *testing.T) {
	want, err := Parse("w.yaml", []byte(smallest))
	if err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{
		"w.json": `{"listeners": [{"address": ":8080"}], "doors": [{"name": "ssh", "ports": ["22/tcp"]}],
			"sequences": [{"name": "ssh", "steps": ["/a", "/b", "/c"], "opens": ["ssh"]}]}`,
		"w.toml": "[[listeners]]\naddress = ':8080'\n[[doors]]\nname = 'ssh'\nports = ['22/tcp']\n[[sequences]]\nname = 'ssh'\nsteps = ['/a', '/b', '/c']\nopens = ['ssh']\n",
	} {
		got, err := Parse(file, []byte(text))
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		got.File = want.File
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", file, got, want)
		}
	}
}

func TestEveryErrorSaysWhereAndWhatWouldBeRight(t *testing.T) {
	for _, tt := range []struct{ old, new, want string }{
		{"ports: [22/tcp]", "ports: [22/tcp]\n    ttl: 30", `w.yaml:6:10: doors[0].ttl: 30 has no unit (write a duration like 30s)`},
		{"listeners:", "admin: {metrics: '9105'}\nlisteners:", `w.yaml:1:18: admin.metrics: "9105" is not a valid address (host:port, like 127.0.0.1:9105; leave it out for none)`},
		{"listeners:", "admin: {metrics: '127.0.0.1:http'}\nlisteners:", `admin.metrics: "127.0.0.1:http" is not a valid address`},
		{"listeners:", "admin: {metrics: '224.0.0.1:9105'}\nlisteners:", `admin.metrics: 224.0.0.1 is an address of many hosts (write one of this host)`},
		{"listeners:", "admin: {metrics: 'systemd:metrics'}\nlisteners:", `admin.metrics: "systemd:metrics": the metrics take no socket of systemd (write host:port, like 127.0.0.1:9105)`},
		{"ports: [22/tcp]", "ports: [22/tcp]\n    ttl: 500ms", `w.yaml:6:10: doors[0].ttl: 500ms is out of range (1s to 24h0m0s)`},
		{"ports: [22/tcp]", "ports: [22/tcp]\n    ttl: 1m\n    max_ttl: 30s", `w.yaml:7:14: doors[0].max_ttl: 30s is less than the door's ttl 1m0s (write at least that)`},
		{"ports: [22/tcp]", "port: [22/tcp]", `w.yaml:5:5: doors[0].port: unknown key (did you mean ports?)`},
		{"ports: [22/tcp]", "ports: [22]", `w.yaml:5:13: doors[0].ports[0]: "22" is not a valid port (like 22/tcp or 60000-61000/udp)`},
		{"ports: [22/tcp]", "ports: [30-20/tcp]", `not a valid range of ports`},
		{"ports: [22/tcp]", "ports: [22/tcp, 20-30/tcp]", `w.yaml:5:21: doors[0].ports[1]: 20-30/tcp is in door "ssh" already, as 22/tcp (put each port into one door only)`},
		{"ports: [22/tcp]", "ports: [22/tcp]\n    established: sever", `doors[0].established: "sever" is unknown (one of keep, cut)`},
		{"ports: [22/tcp]", "ports: [22/tcp]\n    forward: 10.0.0.5", `doors[0].forward: "10.0.0.5" is not the address of another host (address:port, like 10.0.0.5:22 or [2001:db8::5]:22)`},
		{"ports: [22/tcp]", "ports: [22/tcp]\n    prefix: {ipv4: 33}", `doors[0].prefix.ipv4: "33" is not a number from 8 to 32`},
		{"ports: [22/tcp]", "ports: [22/tcp]\n    established: cut\nfirewall: {mode: sets}", `doors[0].established: cut needs firewall.mode guard`},
		{"listeners:", "firewall: {allow: [192.168.1.7/24]}\nlisteners:", `firewall.allow[0]: "192.168.1.7/24" has bits set after its prefix (write 192.168.1.0/24)`},
		{"listeners:", "firewall: {owner: perhaps}\nlisteners:", `firewall.owner: "perhaps" is not a boolean (true or false)`},
		{"opens: [ssh]", "opens: [ssh]\n    closes: [ssh]", `sequences[0].closes[0]: door "ssh" is there twice (name it once, in opens or closes)`},
		{"ports: [22/tcp]", "ports: [22/tcp]\n    name: two", `doors[0].name: is there twice (remove one)`},
		{"name: ssh\n    ports", "name: SSH\n    ports", `doors[0].name: "SSH" is not a valid name`},
		{"name: ssh\n    ports", "name: before\n    ports", `doors[0].name: "before" is taken`},
		{"opens: [ssh]", "opens: [cellar]", `w.yaml:9:13: sequences[0].opens[0]: there is no door "cellar" (one of ssh)`},
		{"    opens: [ssh]\n", "", `does nothing when it completes`},
		{"opens: [ssh]", "run: [{on: open, command: [/bin/true]}]", `w.yaml:9:16: sequences[0].run[0].on: open, but the sequence opens nothing (opens, or on: complete)`},
		{"opens: [ssh]", "run: [{on: opened, command: [/bin/true]}]", `sequences[0].run[0].on: "opened" is unknown (did you mean open?)`},
		{"opens: [ssh]", "run: [{on: complete, command: [bin/true]}]", `sequences[0].run[0].command: does not begin with an absolute path`},
		{"opens: [ssh]", "run: [{on: complete}]", `sequences[0].run[0].command: is missing`},
		{"opens: [ssh]", "run: [{on: complete, command: [/bin/true], user: mallory}]", `w.yaml:9:54: sequences[0].run[0].user: there is no user "mallory" (a user of this system)`},
		{"opens: [ssh]", "run: [{on: complete, command: [/bin/true], timeout: 500ms}]", `sequences[0].run[0].timeout: 500ms is out of range (1s to 24h0m0s)`},
		{"opens: [ssh]", "run: [{on: complete, command: [/bin/true], environment: {WEBKNOCK_USER: alice}}]", `sequences[0].run[0].environment.WEBKNOCK_USER: WEBKNOCK_ variables are set by webknock itself`},
		{"opens: [ssh]", "run: [{on: complete, command: [/bin/true], environment: {a-b: x}}]", `"a-b" is not a valid name of a variable`},
		{"[/a, /b, /c]", "[]", `sequences[0].steps: has 0 steps (1 to 32)`},
		{"[/a, /b, /c]", "[/%41]", `sequences[0].steps[0]: write the path decoded, without %XX`},
		{"[/a, /b, /c]", "['/k/{totp}']", `w.yaml:8:13: sequences[0].steps[0]: asks for something of a user, and there are none (webknock user add NAME)`},
		{"[/a, /b, /c]", "['/k/x{totp}']", `w.yaml:8:13: sequences[0].steps[0]: a template holds {totp} or {ticket} once, as a whole segment, like /k/{totp}`},
		{"[/a, /b, /c]", "[{path: '/{ticket}/{totp}'}]", `a template holds {totp} or {ticket} once`},
		{"[/a, /b, /c]", "['{totp}']", `a path starts with /`},
		{"[/a, /b, /c]", "[{regex: '^/k/{totp}'}]", `sequences[0].steps[0].regex: a regex holds no {totp} and no {ticket} (write a path with it)`},
		{"opens: [ssh]", "opens: [ssh]\n    users: [alice]", `w.yaml:10:13: sequences[0].users[0]: there is no user "alice" (write it under users)`},
		{"opens: [ssh]", "opens: [ssh]\n    allow_address: true", `w.yaml:10:20: sequences[0].allow_address: only a ticket can name an address (a step like /t/{ticket}, or leave it out)`},
		{"[/a, /b, /c]", "[/a, 'sha256:']", `sequences[0].steps[1]: the hash is missing (webknock hash prints one)`},
		{"[/a, /b, /c]", "[/a, 'sha256:abc']", `sequences[0].steps[1]: not a SHA-256 in 64 lower-case hexadecimal digits`},
		{"[/a, /b, /c]", "[/a, 'sha256:" + strings.Repeat("g", 64) + "']", `sequences[0].steps[1]: not a SHA-256`},
		{"[/a, /b, /c]", "[/a, {path: 'sha256:" + hashOf("/robots.txt") + "'}]", `w.yaml:8:17: sequences[0].steps[1]: is ignored by its own sequence`},
		{"listeners:", "users: {}\nlisteners:", `users: is not a list`},
		{"listeners:", "users: [{name: alice}]\nlisteners:", `users[0].totp_file: is missing`},
		{"listeners:", "users: [{name: Alice, totp_file: /nowhere/alice.totp}]\nlisteners:", `users[0].name: "Alice" is not a valid name`},
		{"listeners:", "users: [{name: alice, totp_file: /nowhere/alice.totp}]\nlisteners:", `w.yaml:1:34: users[0].totp_file: cannot be read: open /nowhere/alice.totp`},
		{"listeners:", "users: [{name: alice, totp: x}]\nlisteners:", `users[0].totp: unknown key (one of name, totp_file)`},
		{"[/a, /b, /c]", "[{regex: '(hidden'}]", `sequences[0].steps[0]: not an RE2 expression: missing closing )`},
		{"[/a, /b, /c]", "[{path: /a, within: 3s}]", `the first step has no step before it`},
		{"[/a, /b, /c]", "[/a, /favicon.ico]", `sequences[0].steps[1]: is ignored by its own sequence`},
		{"[/a, /b, /c]", "[/a, {path: /b, regex: b}]", `sequences[0].steps[1]: a step needs exactly one of`},
		{":8080", "8080", `listeners[0].address: "8080" is not a valid address`},
		{":8080", "systemd:", `is not a valid name of a socket`},
		{"address: ", "cover: {status: 404, proxy: 'http://x'}\n    address: ", `listeners[0].cover: needs either status or proxy (or write drop)`},
		{"address: ", "cover: {proxy: 'ftp://x'}\n    address: ", `listeners[0].cover.proxy: "ftp://x" is not the address of a site`},
		{"address: ", "cover: hide\n    address: ", `listeners[0].cover: "hide" is unknown (one of drop)`},
		{"address: ", "client_address: forwarded\n    address: ", `listeners[0].client_address: forwarded, but no proxy is trusted`},
		{"address: ", "proxies: [10.0.0.0/8]\n    address: ", `listeners[0].proxies: client_address does not say how they name the client`},
		{"address: ", "tls: {key: /nowhere/key.pem}\n    address: ", `listeners[0].tls.key: cannot be read: open /nowhere/key.pem`},
		{"address: ", "tls: {acme: {}}\n    address: ", `listeners[0].tls.acme.domains: is missing`},
		{"address: ", "tls: {acme: {domains: []}}\n    address: ", `listeners[0].tls.acme.domains: is empty (at least one host name)`},
		{"address: ", "tls: {acme: {domains: ['*.example.org']}}\n    address: ", `w.yaml:2:28: listeners[0].tls.acme.domains[0]: "*.example.org" is a wildcard, which needs a challenge by DNS (list each host name)`},
		{"address: ", "tls: {acme: {domains: [192.0.2.1]}}\n    address: ", `listeners[0].tls.acme.domains[0]: "192.0.2.1" is an address, for which there is no certificate (a host name, like home.example.org)`},
		{"address: ", "tls: {acme: {domains: [h.example.org, H.example.org]}}\n    address: ", `listeners[0].tls.acme.domains[1]: "H.example.org" is there twice (remove one)`},
		{"address: ", "tls: {acme: {domains: [h.example.org], email: Me <me@example.org>}}\n    address: ", `listeners[0].tls.acme.email: "Me <me@example.org>" is not an email address (like me@example.org)`},
		{"address: ", "tls: {acme: {domains: [h.example.org], directory: 'http://ca.example.org/dir'}}\n    address: ", `listeners[0].tls.acme.directory: "http://ca.example.org/dir" is not an https URL`},
		{"address: ", "tls: {acme: {domains: [h.example.org], ca: /nowhere/ca.pem}}\n    address: ", `listeners[0].tls.acme.ca: cannot be read: open /nowhere/ca.pem`},
		{"address: ", "tls: {acme: {domains: [h.example.org], ca: /dev/null}}\n    address: ", `listeners[0].tls.acme.ca: /dev/null has no certificate (the roots to trust for the directory, in PEM)`},
		{"address: ", "tls: {acme: {domains: [h.example.org]}, certificate: c.pem}\n    address: ", `listeners[0].tls.acme: stands beside certificate or key (write either acme, or both of them)`},
		{"listeners:", "Listeners:", `w.yaml:1:1: Listeners: unknown key (did you mean listeners?)`},
		{"listeners:", "shield: {rate: 20}\nlisteners:", `shield.rate: "20" is not a rate (like 20/second or 100/minute, or off)`},
		{"listeners:", "shield: {ban: {knocks: 2}}\nlisteners:", `shield.ban.knocks: 2, but sequence "ssh" has 3 steps`},
		{"listeners:", "shield: {ban: {for: 1m}}\nlisteners:", `shield.ban.knocks: is missing`},
		{"listeners:", "shield: {decoys: [/b]}\nlisteners:", `w.yaml:9:17: sequences[0].steps[1]: is a decoy as well`},
		{"sequences:\n  - name: ssh\n    steps: [/a, /b, /c]", "shield: {decoys: [/x]}\nsequences:\n  - name: ssh\n    steps: [sha256:" + strings.ToUpper(hashOf("/x")) + "]", `w.yaml:9:13: sequences[0].steps[0]: is a decoy as well`},
		{"listeners:", "shield: {decoys: [b]}\nlisteners:", `shield.decoys[0]: a path starts with /`},
		{"listeners:", "firewall: {mark: 0x100000000}\nlisteners:", `"0x100000000" is not a mark`},
		{"listeners:", "log: {level: loud}\nlisteners:", `log.level: "loud" is unknown (one of debug, info, warn, error)`},
		{"listeners:", "state: here\nlisteners:", `state: "here" is not an absolute path`},
		{"listeners:", "listeners: [\nx:", `w.yaml:1:1: a list in brackets is not closed`},
		{smallest, "", `listeners: is missing`},
	} {
		_, err := Parse("w.yaml", []byte(strings.Replace(smallest, tt.old, tt.new, 1)))
		var errs Errors
		if !errors.As(err, &errs) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q for %q:\n got %v\nwant %s", tt.new, tt.old, err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), "hidden") {
			t.Errorf("a trigger is in the error: %v", err)
		}
	}
}

func TestCommandsOfASequence(t *testing.T) {
	const run = `opens: [ssh]
    run:
      - {on: open, command: [/bin/true, "--x y"], user: nobody, timeout: 1m, environment: {b: "1", A: x}}
      - {on: close, command: [/nowhere/hello]}
      - {on: complete, command: [/etc/passwd]}`
	cfg, err := Parse("w.yaml", []byte(strings.Replace(smallest, "opens: [ssh]", run, 1)))
	if err != nil {
		t.Fatal(err)
	}
	all := cfg.Sequences[0].Run
	first := all[0]
	if first.Credential == nil || first.Credential.Uid != 65534 || len(first.Credential.Groups) == 0 {
		t.Errorf("credential %+v", first.Credential)
	}
	first.Credential = nil
	if want := (Command{On: OnOpen, Argv: []string{"/bin/true", "--x y"}, User: "nobody", Timeout: time.Minute, Environment: []string{"A=x", "b=1"}}); !reflect.DeepEqual(first, want) {
		t.Errorf("%+v, want %+v", first, want)
	}
	if all[1].Timeout != 30*time.Second || all[1].Credential != nil {
		t.Errorf("defaults %+v", all[1])
	}
	warnings := cfg.Warnings.Error()
	if len(cfg.Warnings) != 2 || !strings.Contains(warnings, "sequences[0].run[1].command: cannot be run now: stat /nowhere/hello") || !strings.Contains(warnings, "/etc/passwd is not executable") {
		t.Errorf("warnings %s", warnings)
	}
}

func TestErrorsOfTOMLSayWhere(t *testing.T) {
	const right = "log.level = 'info'\n[[listeners]]\naddress = ':8080'\n[[doors]]\nname = 'ssh'\nports = ['22/tcp']\n" +
		"[[sequences]]\nname = 'ssh'\nsteps = ['/a', {path = '/b', within = '5s'}]\nopens = ['ssh']\n[clients]\nmax = 10\n"
	cfg, err := Parse("w.toml", []byte(right))
	if err != nil || cfg.Clients.Max != 10 || cfg.Sequences[0].Steps[1].Within != 5*time.Second {
		t.Fatalf("%+v, %v", cfg, err)
	}
	for _, tt := range []struct{ old, new, want string }{
		{"['22/tcp']", "['22/tcp', 23]", `w.toml:6:20: doors[0].ports[1]: "23" is not a valid port`},
		{"max = 10", "max = 0", `w.toml:12:7: clients.max: "0" is not a number`},
		{"'5s'", "5", `w.toml:9:39: sequences[0].steps[1].within: 5 has no unit`},
		{"ports =", "port =", `w.toml:6:1: doors[0].port: unknown key (did you mean ports?)`},
		{"'info'", "'loud'", `w.toml:1:13: log.level: "loud" is unknown`},
		{"max = 10", "max = 10\nmax = 11", `w.toml:13:1: `},
		{"max = 10", "max = ", `w.toml:12:`},
	} {
		_, err := Parse("w.toml", []byte(strings.Replace(right, tt.old, tt.new, 1)))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s for %s:\n got %v\nwant %s", tt.new, tt.old, err, tt.want)
		}
	}
}

func TestAllErrorsAreReportedInOrder(t *testing.T) {
	_, err := Parse("w.yaml", []byte("listeners:\n  - address: x\ndoors:\n  - name: 1\n    ports: [x]\nsequences:\n  - name: s\n    steps: [a]\n    opens: [y]\n"))
	var errs Errors
	if !errors.As(err, &errs) || len(errs) != 5 {
		t.Fatalf("errors: %v", err)
	}
	for i := 1; i < len(errs); i++ {
		if errs[i].Line < errs[i-1].Line {
			t.Errorf("out of order: %v", err)
		}
	}
}

func TestTheEnvironmentOverridesScalars(t *testing.T) {
	t.Setenv("WEBKNOCK_LOG_LEVEL", "debug")
	t.Setenv("WEBKNOCK_FIREWALL_BACKEND", "memory")
	t.Setenv("WEBKNOCK_STATE", "/srv/state")
	cfg, err := Parse("w.yaml", []byte(smallest+"state: /other\n"))
	if err != nil || cfg.Log.Level != slog.LevelDebug || cfg.Firewall.Backend != BackendMemory || cfg.State != "/srv/state" {
		t.Errorf("%+v, %v", cfg, err)
	}
	t.Setenv("WEBKNOCK_LOG_LEVEL", "loud")
	if _, err := Parse("w.yaml", []byte(smallest)); err == nil || !strings.HasPrefix(err.Error(), "WEBKNOCK_LOG_LEVEL: log.level: ") {
		t.Errorf("error %v", err)
	}
}

func TestACMEIsDecoded(t *testing.T) {
	text := strings.Replace(smallest, "address: ", "tls: {acme: {domains: [Home.example.org, other.example.org], email: me@example.org, directory: 'https://ca.example.org/dir'}, server_names: [home.example.org, old.example.org]}\n    address: ", 1)
	cfg, err := Parse("w.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := &ACME{Domains: []string{"home.example.org", "other.example.org"}, Email: "me@example.org", Directory: "https://ca.example.org/dir"}
	if got := cfg.Listeners[0].TLS.ACME; !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if len(cfg.Warnings) != 1 || !strings.Contains(cfg.Warnings[0].Error(), "listeners[0].tls.server_names[1]: old.example.org is not among the domains of acme") {
		t.Errorf("warnings %q", cfg.Warnings)
	}
}

func TestAStepKeepsTheCaseOfItsQuery(t *testing.T) {
	cfg, err := Parse("w.yaml", []byte(strings.Replace(smallest, "[/a, /b, /c]", "[{path: /A, query: {Key: Value}}]", 1)))
	if err != nil || cfg.Sequences[0].Steps[0].Query["Key"] != "Value" || cfg.Sequences[0].Steps[0].Trigger != sequence.Exact("/A") {
		t.Errorf("%+v, %v", cfg, err)
	}
}

func TestAFileThatEverybodyMayReadIsAWarning(t *testing.T) {
	file := filepath.Join(t.TempDir(), "w.yaml")
	for mode, warnings := range map[os.FileMode]int{0o600: 0, 0o644: 1} {
		if err := os.WriteFile(file, []byte(smallest), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		if cfg, err := Load(file); err != nil || len(cfg.Warnings) != warnings {
			t.Errorf("mode %o: %+v, %v", mode, cfg, err)
		}
	}
	if _, err := Load(file + ".missing"); err == nil || !strings.Contains(err.Error(), "--config") {
		t.Errorf("a missing file: %v", err)
	}
}

func TestTheSampleAndTheReadmeLoad(t *testing.T) {
	if cfg, err := Load("../docs/webknock.yaml"); err != nil {
		t.Error(err)
	} else if len(cfg.Users)+len(cfg.Notify)+len(cfg.Shield.Decoys) > 0 || len(cfg.Listeners) != 1 || len(cfg.Sequences) != 1 {
		t.Errorf("the sample turns on what is off by default: %+v", cfg)
	}
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(readme), "```yaml\n")
	text, _, _ = strings.Cut(text, "```")
	if _, err := Parse("w.yaml", []byte(text)); err != nil {
		t.Error(err)
	}
}

func TestMisspeltVariablesCauseAWarning(t *testing.T) {
	got := misspelt([]string{"WEBKNOCK_FIREWAL_TABLE=x", "WEBKNOCK_FIREWALL_TABLE=x", "WEBKNOCK_CONFIG=x", "WEBKNOCK_SOMETHING_ELSE=x", "HOME=/", "WEBKNOCKLOG_LEVEL=x"})
	want := []string{
		"WEBKNOCK_FIREWAL_TABLE: is not a variable of webknock and changes nothing (did you mean WEBKNOCK_FIREWALL_TABLE?)",
		"WEBKNOCKLOG_LEVEL: is not a variable of webknock and changes nothing (did you mean WEBKNOCK_LOG_LEVEL?)",
	}
	if !reflect.DeepEqual(got.Lines(), want) {
		t.Errorf("%q, want %q", got.Lines(), want)
	}
}

func TestAnErrorOfTheEnvironmentNamesItsVariable(t *testing.T) {
	t.Setenv("WEBKNOCK_LOG_LEVEL", "loud")
	t.Setenv("WEBKNOCK_CLIENTS_IPV4_PREFIX", "24")
	_, err := Parse("w.yaml", []byte(smallest))
	if err == nil || err.Error() != `WEBKNOCK_LOG_LEVEL: log.level: "loud" is unknown (one of debug, info, warn, error)` {
		t.Errorf("%v", err)
	}
	t.Setenv("WEBKNOCK_LOG_LEVEL", "debug")
	cfg, err := Parse("w.yaml", []byte("x: &c {max: 10}\n"+strings.Replace(smallest, "listeners:", "clients: *c\nlisteners:", 1)))
	if err == nil || !strings.Contains(err.Error(), "x: unknown key") {
		t.Errorf("%+v, %v", cfg, err)
	}
	cfg, err = Parse("w.yaml", []byte("log: &l {level: warn}\n"+smallest))
	if err != nil || cfg.Clients.IPv4Prefix != 24 || cfg.Log.Level != slog.LevelDebug {
		t.Errorf("%+v, %v", cfg, err)
	}
}

func TestEveryScalarOutsideOfListsHasAVariable(t *testing.T) {
	var keys []string
	for _, s := range settings() {
		keys = append(keys, s.key)
	}
	for _, key := range []string{"clients.max", "clients.ipv4_prefix", "clients.ipv6_prefix", "firewall.backend", "firewall.mode", "firewall.table", "firewall.mark", "firewall.owner",
		"shield.rate", "shield.ban.knocks", "shield.ban.within", "shield.ban.for", "shield.ban.doors", "admin.socket", "admin.metrics", "log.level", "log.format", "state"} {
		if !slices.Contains(keys, key) {
			t.Errorf("%s has no variable", key)
		}
	}
	t.Setenv("WEBKNOCK_SHIELD_RATE", "7/minute")
	t.Setenv("WEBKNOCK_SHIELD_BAN_KNOCKS", "9")
	t.Setenv("WEBKNOCK_FIREWALL_MARK", "0x10")
	for _, section := range []string{"", "shield:\n", "shield: {}\n", "shield: {rate: 1/second}\n", "shield: {ban: }\n", "shield: {ban: {within: 2m}}\n"} {
		cfg, err := Parse("w.yaml", []byte(section+smallest))
		if err != nil || cfg.Shield.Rate != 7 || cfg.Shield.Per != time.Minute || cfg.Shield.Ban.Knocks != 9 || cfg.Firewall.Guard.Mark != 16 {
			t.Errorf("%q: %+v, %v", section, cfg, err)
		}
		if within := map[bool]time.Duration{false: time.Minute, true: 2 * time.Minute}[strings.Contains(section, "2m")]; err == nil && cfg.Shield.Ban.Within != within {
			t.Errorf("%q: within %v", section, cfg.Shield.Ban.Within)
		}
	}
}

// viper changes keys to lower case and splits them at dots: neither may make a key
// of something that is none.
func TestKeysAreCaseSensitiveAndNotSplitAtDots(t *testing.T) {
	for text, want := range map[string]string{
		"Log: {level: debug}\n":          "w.yaml:1:1: Log: unknown key (did you mean log?)",
		"log: {Level: debug}\n":          "w.yaml:1:7: log.Level: unknown key (did you mean level?)",
		"log.level: debug\n":             "w.yaml:1:1: log.level: unknown key",
		"log: {level: info, level: x}\n": "w.yaml:1:20: log.level: is there twice (remove one)",
		"shield: {ban: {Knocks: 3}}\n":   "w.yaml:1:16: shield.ban.Knocks: unknown key (did you mean knocks?)",
	} {
		_, err := Parse("w.yaml", []byte(text+smallest))
		var errs Errors
		if !errors.As(err, &errs) || len(errs) != 1 || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	text := strings.Replace(smallest, "[/a, /b, /c]", "[{path: /a, query: {Key.A: V, key.a: v}}]\n    run: [{on: complete, command: [/bin/true], environment: {Name: a, NAME: b}}]", 1)
	cfg, err := Parse("w.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if q := cfg.Sequences[0].Steps[0].Query; q["Key.A"] != "V" || q["key.a"] != "v" || len(q) != 2 {
		t.Errorf("query %v", q)
	}
	if e := cfg.Sequences[0].Run[0].Environment; !reflect.DeepEqual([]string(e), []string{"NAME=b", "Name=a"}) {
		t.Errorf("environment %v", e)
	}
}
