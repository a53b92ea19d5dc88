package integration

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"
)

const explained = `
listeners:
  - address: ":8080"
  - address: ":8443"
    tls: {certificate: cert.pem, key: key.pem}
  - address: ":8081"
    proxies: [` + malloryIP + `]
    client_address: x-forwarded-for
    cover: {status: 404}
shield: {rate: off, decoys: [/wp-login.php]}
doors: [{name: ssh, ports: [22/tcp], ttl: 1h, max_grants: 1}]
sequences:
  - {name: three, steps: [/a, /b, /c], within: 1m, opens: [ssh]}
  - {name: quick, steps: [/q1, /q2], within: 1s, opens: [ssh]}
  - {name: brief, steps: [/w1, /w2], within: 1m, window: 1s, opens: [ssh]}
  - {name: loose, steps: [/l1, /l2], within: 1m, strict: false, opens: [ssh]}
  - name: picky
    steps:
      - {path: /p1, scheme: https}
      - {path: /p2, method: POST, host: home.example.org, query: {k: v}}
    within: 1m
    opens: [ssh]
  - {name: code, steps: ["/k/{totp}", /k2], within: 1m, opens: [ssh]}
`

// An explanation is what webknock explain says.
type explanation struct {
	Client string
	Knocks []struct {
		At                                     time.Time
		Listener, Outcome, Sequence, Why, Path string
		Step, Steps                            int
	}
	Progress    []struct{ Sequence string }
	Grants      []grant
	BannedUntil *time.Time `json:"banned_until"`
	Advice      string
}

func (w *world) explain(address string, flags ...string) (e explanation) {
	w.t.Helper()
	out, errs, code := w.webknock(append([]string{"explain", address, "-o", "json"}, flags...)...)
	if err := json.Unmarshal([]byte(out), &e); err != nil || code != 0 {
		w.t.Fatalf("explain %s: %v, exit %d\n%s%s", address, err, code, out, errs)
	}
	return e
}

// Every outcome and every reason, made by a real client.
func TestEachKnockIsExplained(t *testing.T) {
	w := newWorld(t)
	w.certificate("IP:" + serverIP)
	keys := newKeyring(w, "alice")
	config := explained + strings.Replace(keys.config, "\nstate: "+w.dir+"/state", "", 1)
	w.serve(config)

	get := func(paths ...string) func() {
		return func() { w.knock(w.alice, serverIP, paths...) }
	}
	curl := func(args ...string) func() { return func() { w.curl(w.alice, args...) } }
	clear := func(path string, args ...string) func() {
		return curl(append(args, "http://"+serverIP+":8080"+path)...)
	}
	byTLS := func(path string) func() {
		return curl("--cacert", w.dir+"/cert.pem", "https://"+serverIP+":8443"+path)
	}
	raw := func(text string) func() {
		return func() {
			if got, reset := w.send(w.alice, text, false); got != "" || !reset {
				t.Errorf("%.40q: %q, reset %v", text, got, reset)
			}
		}
	}
	proxied := func(client, path string) func() {
		return func() { w.curl(w.mallory, "--header", "X-Forwarded-For: "+client, "http://"+serverIP+":8081"+path) }
	}
	long := func() { time.Sleep(1200 * time.Millisecond) } // longer than within and window
	var code string                                        // at its time
	wrong := func() {
		code = keys.code("alice")
		w.knock(w.alice, serverIP, "/k/"+strings.Map(func(r rune) rune { return '0' + (r-'0'+5)%10 }, code))
	}
	right := func() { w.knock(w.alice, serverIP, "/k/"+code) }
	const other, third, fourth = "203.0.113.9", "203.0.113.10", "203.0.113.11"

	for _, tt := range []struct {
		name    string
		do      []func()
		client  string // empty: alice
		outcome string
		where   string // sequence step/steps
		why     string // begins so
		advice  string
	}{
		{"nothing", []func(){get("/nothing")}, "", "missed", " 0/0", "matches no step", "--reveal"},
		{"a step", []func(){get("/a", "/b")}, "", "matched", "three 2/3", "matched step 2 of 3", "step 3 of three is awaited until"},
		{"a step again", []func(){get("/b")}, "", "matched", "three 2/3", "matched step 2 of 3 once more", "step 3 of three"},
		{"an ignored path", []func(){get("/favicon.ico")}, "", "ignored", "three 0/3", "ignored path of three", "step 3 of three"},
		{"a prefetch", []func(){clear("/c", "--header", "Sec-Purpose: prefetch")}, "", "prefetch", " 0/0", "a browser sent it ahead of its user", "step 3 of three"},
		{"another request", []func(){get("/nothing")}, "", "missed", "three 0/3", "matches no step: starts over (strict), step 3 was awaited", "strict: false"},
		{"the wrong order", []func(){get("/c")}, "", "missed", "three 3/3", "wrong order: matches step 3, step 1 is awaited", "in their order"},
		{"too late", []func(){get("/q1"), long, get("/q2")}, "", "missed", "quick 2/2", "0.", "a longer within"},
		{"too late for the window", []func(){get("/w1"), long, get("/w2")}, "", "missed", "brief 2/2", "0.", "a longer window"},
		{"another request where that does no harm", []func(){get("/l1", "/nothing")}, "", "missed", "loose 0/2", "matches no step, which does no harm: step 2 is awaited", "step 2 of loose"},
		{"in clear", []func(){get("/p1")}, "", "missed", "picky 1/2", "came by http, step 1 wants https", "its scheme is not"},
		{"by TLS", []func(){byTLS("/p1")}, "", "matched", "picky 1/2", "matched step 1 of 2", ""},
		{"with another method", []func(){clear("/p2?k=v", "--header", "Host: home.example.org")}, "", "missed", "picky 2/2", "came with another method, step 2 wants POST: starts over", "its method is not"},
		{"for another host", []func(){clear("/p2?k=v", "--request", "POST")}, "", "missed", "picky 2/2", "came for another host, step 2 wants home.example.org", "its host is not"},
		{"without the query", []func(){clear("/p2", "--request", "POST", "--header", "Host: home.example.org")}, "", "missed", "picky 2/2", "came without the query that step 2 wants", "its query is not"},
		{"cookies", []func(){clear("/a", "--header", "Cookie: "+strings.Repeat("x", 9000))}, "", "malformed", " 0/0", "head too large (over 8 KiB)", "delete the cookies"},
		{"too many fields", []func(){raw("GET /a HTTP/1.1\r\nHost: h\r\n" + strings.Repeat("X: y\r\n", 100) + "\r\n")}, "", "malformed", " 0/0", "head with too many lines (over 100)", "delete the cookies"},
		{"no Host", []func(){raw("GET /a HTTP/1.1\r\n\r\n")}, "", "malformed", " 0/0", "head without a Host field", "send a Host field"},
		{"nonsense", []func(){raw("nonsense\r\n\r\n")}, "", "malformed", " 0/0", "not a valid HTTP request", "speak HTTP/1.1"},
		{"a wrong code", []func(){wrong}, "", "wrong_code", "code 1/2", "wrong code (step 1 of 2)", "compare the clocks"},
		{"a code", []func(){right}, "", "matched", "code 1/2", "matched step 1 of 2", ""},
		{"a used code", []func(){right}, "", "replayed", "code 1/2", "code used already, ", "each counts once"},
		{"somebody else's code", []func(){func() { proxied(other, "/k/"+code)() }}, other, "wrong_code", "code 1/2", "code used already, by another client or before a restart", "each counts once"},
		{"the last step", []func(){get("/a", "/b", "/c"), func() { w.mustBecome("ssh " + aliceIP) }}, "", "completed", "three 3/3", "matched step 3 of 3", "does the client connect from this address"},
		{"a full door", []func(){proxied(other, "/a"), proxied(other, "/b"), proxied(other, "/c"), func() { w.daemon.wait(t, "not let in") }}, other, "completed", "three 3/3", "matched step 3 of 3, but opened nothing: door ssh is full (max_grants 1): no room for another grant", "raise max_grants"},
		{"a decoy", []func(){proxied(third, "/wp-login.php")}, third, "missed", " 0/0", "matches no step; banned for it, a decoy", "webknock unban " + third},
		{"a banned client", []func(){proxied(third, "/a")}, third, "banned", " 0/0", "banned until ", "webknock unban " + third},
	} {
		for _, do := range tt.do {
			do()
		}
		client := tt.client
		if client == "" {
			client = aliceIP
		}
		e := w.explain(client)
		if len(e.Knocks) == 0 {
			t.Errorf("%s: no knocks", tt.name)
			continue
		}
		k := e.Knocks[0]
		where := fmt.Sprintf("%s %d/%d", k.Sequence, k.Step, k.Steps)
		if k.Outcome != tt.outcome || where != tt.where || !strings.HasPrefix(k.Why, tt.why) || !strings.Contains(e.Advice, tt.advice) {
			t.Errorf("%s: %s, %q, %q, advice %q; want %s, %q, %q, advice %q", tt.name, k.Outcome, where, k.Why, e.Advice, tt.outcome, tt.where, tt.why, tt.advice)
		}
		if k.Path != "" || len(e.Knocks) > 16 || k.Listener == "" {
			t.Errorf("%s: %+v", tt.name, k)
		}
	}
	late := func(text, step string) bool { return strings.Contains(text, " s too late for step 2 ("+step+")") }
	all := w.explain(aliceIP)
	if e := w.explain(third); e.BannedUntil == nil || all.BannedUntil != nil || len(all.Grants) != 1 || len(e.Grants) != 0 {
		t.Errorf("banned until %v, grants %v; alice %v, %v", e.BannedUntil, e.Grants, all.BannedUntil, all.Grants)
	}

	// Who knocks too late is told by how much and by which limit.
	w.must("close", "--all")
	for _, tt := range []struct{ first, second, limit string }{{"/q1", "/q2", "within 1s"}, {"/w1", "/w2", "window 1s"}} {
		w.knock(w.alice, serverIP, tt.first)
		long()
		w.knock(w.alice, serverIP, tt.second)
		if why := w.explain(aliceIP).Knocks[0].Why; !late(why, tt.limit) {
			t.Errorf("%s: %q", tt.limit, why)
		}
	}

	// Root sees the paths, in the table as well, which fits a terminal.
	if path := w.explain(aliceIP, "--reveal").Knocks[0].Path; path != "/w2" {
		t.Errorf("revealed %q", path)
	}
	table := w.must("explain", aliceIP, "--reveal")
	if !strings.Contains(table, `"/w2"`) || strings.Contains(w.must("explain", aliceIP), "/w2") {
		t.Errorf("table\n%s", table)
	}
	for line := range strings.Lines(table) {
		if utf8.RuneCountInString(strings.TrimSuffix(line, "\n")) > 80 {
			t.Errorf("more than 80 columns: %s", line)
		}
	}
	if e := w.explain("192.0.2.250"); len(e.Knocks) != 0 || !strings.HasPrefix(e.Advice, "no knock came from this address since ") || !strings.Contains(e.Advice, ": is a proxy or NAT in between") || !strings.Contains(e.Advice, ":8443 (https)") {
		t.Errorf("a client that never knocked: %+v", e)
	}
	if e := w.explain(malloryIP); !strings.Contains(e.Advice, "is a proxy's") {
		t.Errorf("the proxy: %q", e.Advice)
	}

	// What is refused when it should open, and clients beyond the bound.
	w.must("unguard")
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	until(t, "the refusal", func() bool { return strings.Contains(w.explain(aliceIP).Knocks[0].Why, "but opened nothing") })
	if e := w.explain(aliceIP); !strings.Contains(e.Advice, "webknock reload") {
		t.Errorf("unguarded: %+v", e)
	}
	w.configure(config + "clients: {max: 1}\n")
	w.must("reload")
	w.knock(w.alice, serverIP, "/a")
	proxied(fourth, "/a")()
	if e := w.explain(fourth); e.Knocks[0].Outcome != "untracked" || e.Knocks[0].Why != "matches step 1 of 3, but clients.max is reached" || !strings.Contains(e.Advice, "clients.max (1) is reached") {
		t.Errorf("beyond the bound: %+v, %q", e.Knocks[0], e.Advice)
	}
	w.daemon.stop(t, syscall.SIGTERM)
}
