package client

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const full = `servers: [https://home.example.org, http://bücher.example:8080]
steps:
  - /a
  - {path: "/t/{ticket}", method: POST, host: other.example, query: {K: v}}
user: alice
secret: GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ
doors: [ssh, web]
ttl: 1h
address: 192.0.2.7
wait: home.example.org:22
family: ipv6
gap: 250ms
pin: sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
proxy: socks5://127.0.0.1:1080
`

func TestAProfileIsReadWhole(t *testing.T) {
	p, err := Parse("x.yaml", []byte(full))
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Servers[0].String() + " " + p.Servers[1].String(); got != "https://home.example.org http://xn--bcher-kva.example:8080" {
		t.Errorf("servers %s", got)
	}
	if s := p.Steps[1]; s.Path != "/t/{ticket}" || s.Method != "POST" || s.Host != "other.example" || s.Query["K"] != "v" {
		t.Errorf("step %+v", s)
	}
	if string(p.Secret) != "12345678901234567890" || p.TTL != time.Hour || p.Address.String() != "192.0.2.7" || p.Gap != 250*time.Millisecond ||
		p.Family != IPv6 || len(p.Pin) != 32 || p.Proxy != "socks5://127.0.0.1:1080" || strings.Join(p.Doors, " ") != "ssh web" {
		t.Errorf("profile %+v", p)
	}
}

func TestAllErrorsOfAProfileAreReportedAtOnce(t *testing.T) {
	const ok = "servers: [http://h]\nsteps: [/a]\n"
	for name, tt := range map[string]struct{ text, want string }{
		"empty":                      {"", "it is empty"},
		"nothing needed":             {"user: alice\n", "servers: none is named|steps: none is named"},
		"an unknown key":             {ok + "sekret: x\n", "line 3: unknown key sekret"},
		"a value of another kind":    {ok + "secret: [GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ]\n", "a value of another kind is needed"},
		"two documents":              {ok + "---\n" + ok, "a second document"},
		"bare braces":                {"servers: [http://h]\nsteps: [/a, /t/{ticket}]\n", `needs quotes: "/t/{ticket}"`},
		"bare braces in a mapping":   {"servers: [http://h]\nsteps:\n  - {totp}\n", "braces need quotes"},
		"no URL":                     {"servers: [home]\nsteps: [/a]\n", "servers[0]: not a URL of a server"},
		"a path in the server":       {"servers: [http://h/a]\nsteps: [/a]\n", "put the path into steps"},
		"a port too high":            {"servers: [http://h:70000]\nsteps: [/a]\n", "servers[0]"},
		"no path":                    {"servers: [http://h]\nsteps: [a]\n", "steps[0]: a path starts with /"},
		"a query in the path":        {"servers: [http://h]\nsteps: ['/a?b']\n", "no ? and no #"},
		"another variable":           {"servers: [http://h]\nsteps: ['/{code}']\n", "braces stand for a one-time code"},
		"a method in lower case":     {"servers: [http://h]\nsteps: [{path: /a, method: get}]\n", `method "get"`},
		"a ticket of nobody":         {"servers: [http://h]\nsteps: ['/{ticket}']\n", "a ticket names its user|secret: a one-time step needs one"},
		"a code without a secret":    {"servers: [http://h]\nsteps: ['/{totp}']\n", "secret: a one-time step needs one"},
		"a secret that is none":      {ok + "secret: geheim!\n", "secret: not base32"},
		"a short secret":             {ok + "secret: GEZDGNBV\n", "secret: 5 bytes long"},
		"two secrets":                {ok + "secret: GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ\nsecret_file: x\n", "keep one of them"},
		"a time for nobody's ticket": {ok + "ttl: 1h\n", "no step has {ticket}"},
		"half a second":              {ok + "ttl: 1500ms\n", "whole seconds"},
		"an address of nobody":       {ok + "address: 127.0.0.1\n", "not the address of a host"},
		"no port":                    {ok + "wait: home\n", "not HOST:PORT"},
		"no family":                  {ok + "family: ipv5\n", "both, ipv4 or ipv6"},
		"a long gap":                 {ok + "gap: 1h\n", "up to 1m"},
		"no pin":                     {ok + "pin: 123\n", "sha256//BASE64"},
		"a pin without TLS":          {ok + "pin: sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n", "no server is https"},
		"no certificate":             {"servers: [https://h]\nsteps: [/a]\nca: /nowhere.pem\n", "ca: open /nowhere.pem"},
		"no proxy":                   {ok + "proxy: proxy.example.org\n", "not env, none or the URL"},
	} {
		_, err := Parse("x.yaml", []byte(tt.text))
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		for _, want := range strings.Split(tt.want, "|") {
			if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "x.yaml: ") {
				t.Errorf("%s: no %q in\n%v", name, want, err)
			}
		}
		if strings.Contains(err.Error(), "GEZDG") {
			t.Errorf("%s: the secret is in the error: %v", name, err)
		}
	}
}

func TestADraftIsWrittenAsAValidProfile(t *testing.T) {
	d := Draft{Servers: []string{"https://h"}, Steps: []step{NewStep(Step{Path: "/t/{ticket}"}), NewStep(Step{Path: "/b", Query: map[string]string{"K": "v"}})},
		User: "alice", Secret: "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ", Wait: "h:22"}
	text, err := d.Text()
	if err != nil {
		t.Fatal(err)
	}
	p, err := Parse("x.yaml", text)
	if err != nil || p.Steps[0].Path != "/t/{ticket}" || p.Steps[1].Query["K"] != "v" || p.Wait != "h:22" {
		t.Errorf("%v, %+v of\n%s", err, p, text)
	}
}

func TestSavingReplacesAProfileOnlyOnRequest(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	text := []byte("servers: [http://h]\nsteps: [/a]\n")
	if _, err := Save("home", text, false); err != nil {
		t.Fatal(err)
	}
	if _, err := Save("home", text, false); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("saved again: %v", err)
	}
	path, err := Save("home", append(text, "wait: h:22\n"...), true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Save("home", []byte("steps: 1"), true); err == nil {
		t.Error("nonsense was saved")
	}
	if p, err := Load("home"); err != nil || p.Wait != "h:22" || p.Name != "home" {
		t.Errorf("loaded %+v, %v", p, err)
	}
	for _, name := range []string{"", "../x", ".hidden", "a b", "x.yaml"} {
		if _, err := Save(name, text, true); err == nil {
			t.Errorf("%q was saved", name)
		}
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("%d files are left, %v", len(entries), err)
	}
	if names, err := List(); err != nil || strings.Join(names, " ") != "home" {
		t.Errorf("listed %v, %v", names, err)
	}
	if err := Remove("home"); err != nil {
		t.Error(err)
	}
	if err := Remove("home"); err == nil || !strings.Contains(err.Error(), "no profile home") {
		t.Errorf("removed again: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte("servers: [http://h]\nsteps: [&a /a, *a]\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if p, err := Parse("x.yaml", text); err == nil && (len(p.Servers) == 0 || len(p.Steps) == 0) {
			t.Error("a profile without servers or steps")
		}
	})
}

func TestNoTextIsInjectedIntoSSHConfig(t *testing.T) {
	for wait, ok := range map[string]bool{"[fe80::1%eth0]:22": true, "[fe80::1%x\n ProxyCommand evil]:22": false, "my_server:22": true} {
		if err := CheckWait(wait); (err == nil) != ok {
			t.Errorf("%q: %v", wait, err)
		}
	}
	if err := SSHConfig(io.Discard, &Profile{Servers: []Server{{"http", "h", "80"}}}, "$(evil)", "home"); err == nil {
		t.Error("a command was written into ssh_config")
	}
}

func TestAPageThatNoBrowserCanCarryOutIsRefused(t *testing.T) {
	for name, p := range map[string]*Profile{
		"a ticket":          {Servers: []Server{{"http", "h", "80"}}, Steps: []Step{{Path: "/{ticket}"}}},
		"an IPv6 address":   {Servers: []Server{{"http", "2001:db8::1", "80"}}, Steps: []Step{{Path: "/a"}}},
		"a path with dots":  {Servers: []Server{{"http", "h", "80"}}, Steps: []Step{{Path: "/x/../a"}}},
		"another method":    {Servers: []Server{{"http", "h", "80"}}, Steps: []Step{{Path: "/a", Method: "PUT"}}},
		"a host of its own": {Servers: []Server{{"http", "h", "80"}}, Steps: []Step{{Path: "/a", Host: "x"}}},
		"a pin":             {Servers: []Server{{"https", "h", "443"}}, Steps: []Step{{Path: "/a"}}, Pin: make([]byte, 32)},
	} {
		if err := WritePage(io.Discard, p, PageOptions{Door: "ssh", Passphrase: "correct horse battery"}); err == nil {
			t.Errorf("%s: a page was made", name)
		}
	}
}
