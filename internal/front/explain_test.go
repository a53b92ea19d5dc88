package front

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"webknock/firewall"
	"webknock/httpd"
	"webknock/internal/event"
	"webknock/internal/seam"
	"webknock/sequence"
)

// A visitor sends knocks of one client at times of its own.
type visitor struct {
	all    *shards
	client string
	at     time.Time
	change func(*httpd.Knock)
}

// send sends a request for a target, or a whole head.
func (v *visitor) send(head string) {
	if strings.HasPrefix(head, "/") {
		head = "GET " + head + " HTTP/1.1\r\nHost: h\r\n\r\n"
	}
	k := httpd.NewKnock(netip.MustParseAddr(v.client), v.at, []byte(head))
	k.Listener = "127.0.0.1:1"
	if v.change != nil {
		v.change(&k)
	}
	v.shard().read(k)
}

func (v *visitor) shard() *shard {
	return v.all.of(v.all.rules.Load().client(netip.MustParseAddr(v.client)))
}

// last returns what is remembered of the latest knock.
func (v *visitor) last() trace { return v.traces()[0] }

func (v *visitor) traces() []trace {
	return v.shard().traces.of(v.all.rules.Load().client(netip.MustParseAddr(v.client)), v.all.tallies.list())
}

// visiting returns a visitor to shards that nothing else reads.
func visiting(t *testing.T, text string) *visitor {
	t.Helper()
	r, err := newRules(parse(t, text), nil)
	if err != nil {
		t.Fatal(err)
	}
	all := newShards(100, r, nil, func(completion) {}, nil)
	all.ban = func(k httpd.Knock, _ string) {
		all.bans.Add(banOf(k.Client, time.Hour))
	}
	all.tallies.add("127.0.0.1:1")
	return &visitor{all: all, client: "192.0.2.7", at: time.Now()}
}

// Each knock is told with what it did and why.
func TestWhatBecameOfAKnockAndWhy(t *testing.T) {
	const sequences = `
listeners: [{address: "127.0.0.1:1"}]
doors: [{name: ssh, ports: [22/tcp]}]
sequences:
  - {name: ssh, steps: [/a, /b, /c], opens: [ssh]}
`
	behindTLS := strings.Replace(sequences, "1:1\"", "1:1\", proxies: [10.0.0.0/8], client_address: x-forwarded-for", 1)
	loose := strings.Replace(sequences, "opens:", "strict: false, opens:", 1)
	head := func(fields string) string { return "GET /a HTTP/1.1\r\n" + fields + "\r\n" }
	for _, tt := range []struct {
		name, text string
		knocks     string // separated by spaces; +5s: time passes
		head       string // the last knock
		change     func(*httpd.Knock)
		outcome    event.Outcome
		place      string // sequence step/steps
		why        string
		cause      seam.Cause
	}{
		{name: "a step", knocks: "/a /b", outcome: event.Matched, place: "ssh 2/3", why: "matched step 2 of 3", cause: seam.Reached},
		{name: "the last step", knocks: "/a /b /c", outcome: event.Completed, place: "ssh 3/3", why: "matched step 3 of 3", cause: seam.Completed},
		{name: "a step once more", knocks: "/a /b +1s /b", outcome: event.Matched, place: "ssh 2/3", why: "matched step 2 of 3 once more", cause: seam.Repeated},
		{name: "the first step anew", knocks: "/a /b /a", outcome: event.Matched, place: "ssh 1/3", why: "matched step 1 of 3, which starts over", cause: seam.Reached},
		{name: "the wrong order", knocks: "/c", outcome: event.Missed, place: "ssh 3/3", why: "wrong order: matches step 3, step 1 is awaited", cause: seam.WrongOrder},
		{name: "the wrong order on the way", knocks: "/a /c", outcome: event.Missed, place: "ssh 3/3", why: "wrong order: matches step 3, step 2 was awaited: starts over", cause: seam.WrongOrder},
		{name: "too late", knocks: "/a +13200ms /b", outcome: event.Missed, place: "ssh 2/3", why: "3.2 s too late for step 2 (within 10s)", cause: seam.LateWithin},
		{name: "much too late", knocks: "/a +5m /b", outcome: event.Missed, place: "ssh 2/3", why: "4m50s too late for step 2 (within 10s)", cause: seam.LateWithin},
		{name: "too late and then on", knocks: "/a +13s /b /c", outcome: event.Missed, place: "ssh 3/3", why: "wrong order: matches step 3, step 1 is awaited", cause: seam.WrongOrder},
		{name: "too late for the window", text: strings.Replace(sequences, "opens:", "window: 15s, opens:", 1), knocks: "/a +8s /b +9s /c", outcome: event.Missed, place: "ssh 3/3", why: "2.0 s too late for step 3 (window 15s)", cause: seam.LateWindow},
		{name: "another request", knocks: "/a /b /x", outcome: event.Missed, place: "ssh 0/3", why: "matches no step: starts over (strict), step 3 was awaited", cause: seam.StartedOver},
		{name: "another request where it does no harm", text: loose, knocks: "/a /x", outcome: event.Missed, place: "ssh 0/3", why: "matches no step, which does no harm: step 2 is awaited", cause: seam.PassedOver},
		{name: "nothing", knocks: "/x", outcome: event.Missed, place: " 0/0", why: "matches no step", cause: seam.NoStep},
		{name: "nothing, by query", knocks: "/x?y", outcome: event.Missed, place: " 0/0", why: "matches no step", cause: seam.NoStep},
		{name: "an ignored path of a stranger", knocks: "/favicon.ico", outcome: event.Ignored, place: " 0/0", why: "ignored path", cause: seam.IgnoredPath},
		{name: "an ignored path on the way", knocks: "/a /favicon.ico", outcome: event.Ignored, place: "ssh 0/3", why: "ignored path of ssh", cause: seam.IgnoredPath},
		{name: "a prefetch", head: head("Host: h\r\nSec-Purpose: prefetch\r\n"), outcome: event.Prefetch, place: " 0/0", why: "a browser sent it ahead of its user", cause: seam.Prefetch},
		{name: "no Host", head: head(""), outcome: event.Malformed, place: " 0/0", why: "head without a Host field", cause: seam.NoHost},
		{name: "no Host on the way", knocks: "/a", head: head(""), outcome: event.Malformed, place: " 0/0", why: "head without a Host field, and starts ssh over", cause: seam.NoHost},
		{name: "two Hosts", head: head("Host: h\r\nHost: h\r\n"), outcome: event.Malformed, place: " 0/0", why: "head with several Host fields", cause: seam.Malformed},
		{name: "too large", head: head("Host: h\r\nCookie: " + strings.Repeat("x", httpd.MaxHead) + "\r\n"), outcome: event.Malformed, place: " 0/0", why: "head too large (over 8 KiB)", cause: seam.HeadTooLong},
		{name: "too many lines", head: head("Host: h\r\n" + strings.Repeat("X: y\r\n", httpd.MaxLines)), outcome: event.Malformed, place: " 0/0", why: "head with too many lines (over 100)", cause: seam.HeadTooLong},
		{name: "a control character", head: head("Host: h\r\nX: \x01\r\n"), outcome: event.Malformed, place: " 0/0", why: "head with a control character", cause: seam.Malformed},
		{name: "nonsense", head: "nonsense\r\n\r\n", outcome: event.Malformed, place: " 0/0", why: "not a valid HTTP request", cause: seam.Malformed},
		{name: "in clear", text: strings.Replace(behindTLS, "[/a,", "[{path: /a, scheme: https},", 1), knocks: "/a", outcome: event.Missed, place: "ssh 1/3", why: "came by http, step 1 wants https", cause: seam.WrongScheme},
		{name: "by TLS", text: strings.Replace(behindTLS, "[/a,", "[{path: /a, scheme: http},", 1), knocks: "/a", change: func(k *httpd.Knock) { k.TLS = true }, outcome: event.Missed, place: "ssh 1/3", why: "came by https, step 1 wants http", cause: seam.WrongScheme},
		{name: "another method", text: strings.Replace(sequences, "/b,", "{path: /b, method: POST},", 1), knocks: "/a /b", outcome: event.Missed, place: "ssh 2/3", why: "came with another method, step 2 wants POST: starts over", cause: seam.WrongMethod},
		{name: "another host", text: strings.Replace(sequences, "[/a,", "[{path: /a, host: home.example.org},", 1), knocks: "/a", outcome: event.Missed, place: "ssh 1/3", why: "came for another host, step 1 wants home.example.org", cause: seam.WrongHost},
		{name: "without the query", text: strings.Replace(sequences, "[/a,", "[{path: /a, query: {k: v}},", 1), knocks: "/a", outcome: event.Missed, place: "ssh 1/3", why: "came without the query that step 1 wants", cause: seam.WrongQuery},
		{name: "a decoy", text: sequences + "shield: {decoys: [/wp-login.php]}\n", knocks: "/wp-login.php", outcome: event.Missed, place: " 0/0", why: "matches no step; banned for it, a decoy", cause: seam.NoStep},
		{name: "one too many", text: sequences + "shield: {ban: {knocks: 3}}\n", knocks: "/x /y /z", outcome: event.Missed, place: " 0/0", why: "matches no step; banned for it, one knock too many", cause: seam.NoStep},
		{name: "through a proxy", knocks: "/a", change: func(k *httpd.Knock) { k.ViaProxy = true }, outcome: event.Matched, place: "ssh 1/3", why: "matched step 1 of 3", cause: seam.Reached},
		{name: "a step of another sequence", text: sequences + "  - {name: hello, steps: [/hello], message: hello}\n", knocks: "/a /hello", outcome: event.Completed, place: "hello 1/1", why: "matched step 1 of 1, and starts ssh over", cause: seam.Completed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.text == "" {
				tt.text = sequences
			}
			v := visiting(t, tt.text)
			v.change = tt.change
			for _, word := range strings.Fields(tt.knocks) {
				if d, err := time.ParseDuration(word); err == nil {
					v.at = v.at.Add(d)
					v.shard().tracker.Sweep(v.at.Sub(v.all.origin)) // must not hide that it is too late
					continue
				}
				v.send(word)
			}
			if tt.head != "" {
				v.send(tt.head)
			}
			one := v.last()
			got := one.recalled()
			place := fmt.Sprintf("%s %d/%d", got.Knock.Sequence, got.Knock.Step, got.Knock.Steps)
			if got.Knock.Outcome != tt.outcome || place != tt.place || got.Knock.Why != tt.why || got.Cause != tt.cause {
				t.Errorf("%s, %q, %q, %q; want %s, %q, %q, %q", got.Knock.Outcome, place, got.Knock.Why, got.Cause, tt.outcome, tt.place, tt.why, tt.cause)
			}
			if got.Knock.Listener != "127.0.0.1:1" || got.Knock.At.UnixNano() != v.at.UnixNano() || got.ViaProxy != (tt.name == "through a proxy") {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestABannedClientIsTold(t *testing.T) {
	v := visiting(t, file)
	v.send("/a")
	v.all.bans.Add(banOf(netip.MustParseAddr(v.client), time.Hour))
	v.send("/b")
	if got := v.last(); got.value().Outcome != event.Banned || got.why() != "banned until "+v.all.bans.End(netip.MustParseAddr(v.client)).Format("2006-01-02 15:04:05") {
		t.Errorf("%+v: %s", got, got.why())
	}
}

func TestAClientBeyondTheBoundIsToldSo(t *testing.T) {
	v := visiting(t, file)
	v.all.bound.SetMax(0)
	v.send("/a")
	if got := v.last(); got.value().Outcome != event.Untracked || got.why() != "matches step 1 of 3, but clients.max is reached" {
		t.Errorf("%+v: %s", got, got.why())
	}
}

// No text that goes to the keeper unasked holds anything that a client has sent.
func TestWhatIsToldHoldsNoPath(t *testing.T) {
	v := visiting(t, file)
	for _, target := range []string{"/secret-path", "/a", "/secret-path", "/c", "/secret-path?query", "/a%2f%20secret-path"} {
		v.send(target)
	}
	for _, one := range v.traces() {
		if text := fmt.Sprintf("%+v", one.value()); strings.Contains(text, "secret") || strings.ContainsAny(one.why(), "/%?") {
			t.Errorf("told: %s", text)
		}
	}
	if got := v.traces(); got[len(got)-1].path != "/secret-path" || got[len(got)-2].path != "/a" {
		t.Errorf("paths %q, %q", got[len(got)-1].path, got[len(got)-2].path)
	}
}

// A flood of strangers takes no memory beyond a fixed part, and pushes out nobody who
// has known a path.
func TestAFloodOfStrangersPushesOutNobodyWhoMatters(t *testing.T) {
	v := visiting(t, file+"\nshield: {decoys: [/wp-login.php]}\n")
	v.send("/a")
	v.send("/typo")
	for i := range 200_000 {
		flood := *v
		flood.client = netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}).String()
		flood.send([]string{"/x", "/x?y", "/wp-login.php", "nonsense\r\n\r\n"}[i%4])
	}
	got := v.traces()
	if len(got) != 2 || got[0].path != "/typo" || got[1].path != "/a" {
		t.Errorf("remembered: %+v", got)
	}
	for _, s := range v.all.shards {
		if len(s.traces.strangers) > maxStrange || s.traces.banned.byClient.Len() > maxBanned || s.traces.banned.traces > banTotal {
			t.Fatalf("%d strangers, %d banned clients", len(s.traces.strangers), s.traces.banned.byClient.Len())
		}
	}
}

// Under a flood a shard remembers some strangers, and at all other times every one.
func TestOfAFloodOnlySomeAreRemembered(t *testing.T) {
	tr := newTraces()
	now, taken := time.Duration(0), 0
	for range 100_000 { // a second
		if tr.takes(now) {
			taken++
		}
		now += 10 * time.Microsecond
	}
	if want := int(time.Second/strangeInterval) + strangeBurst; taken < want-2 || taken > want+2 {
		t.Errorf("%d of a flood, want %d", taken, want)
	}
	now += time.Second
	for range strangeBurst {
		if !tr.takes(now) {
			t.Fatal("one of a few at once is not remembered")
		}
	}
	for range 1000 {
		now += strangeInterval
		if !tr.takes(now) {
			t.Fatal("one of a slow stream is not remembered")
		}
	}
}

// Clients that matter are bounded as well, the latest stay, and none takes more than its
// share.
func TestClientsThatMatterAreBounded(t *testing.T) {
	r := &rules{set: mustSet(t, "/a"), router: newRouter(), clients: seam.Clients{IPv4Prefix: 32, IPv6Prefix: 128}}
	s := newShards(1<<20, r, nil, func(completion) {}, nil).shards[0]
	s.all.rules.Store(r)
	latest := netip.MustParseAddr("10.255.255.255")
	for i := range 3 * maxKnown {
		client := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		if i == 3*maxKnown-1 {
			client = latest
		}
		for range i%40 + 1 {
			knockAs(s, client.String(), "GET /a HTTP/1.1\r\nHost: h\r\n\r\n", nil)
		}
	}
	sum := 0
	for _, of := range s.traces.known.byClient.Values() {
		sum += len(of.traces)
		if len(of.traces) > maxTrail {
			t.Errorf("%d knocks of one client", len(of.traces))
		}
	}
	if n := s.traces.known.byClient.Len(); n > maxKnown || sum != s.traces.known.traces || sum > knownTotal {
		t.Errorf("%d clients, %d knocks, counted %d", n, sum, s.traces.known.traces)
	}
	if got := s.traces.of(latest, nil); len(got) == 0 {
		t.Error("the latest is forgotten")
	}
}

// What is kept of strangers stays in the processor's cache.
func TestAStrangersKnockFitsACacheLine(t *testing.T) {
	if size := unsafe.Sizeof(stranger{}); size != 64 {
		t.Errorf("%d bytes", size)
	}
}

func TestAFrontWithoutAConfigurationRemembersNothing(t *testing.T) {
	f, _ := fresh(t)
	if _, err := f.Recent(t.Context(), netip.MustParseAddr("192.0.2.7")); err == nil {
		t.Error("no error")
	}
}

func mustSet(t testing.TB, paths ...string) *sequence.Set {
	t.Helper()
	spec := sequence.Spec{Name: "s", Strict: true}
	for _, path := range append(paths, "/never") {
		step := sequence.Step{Trigger: sequence.Exact(path)}
		if len(spec.Steps) > 0 {
			step.Within = time.Hour
		}
		spec.Steps = append(spec.Steps, step)
	}
	set, err := sequence.NewSet([]sequence.Spec{spec}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestOneTimeCodesAreExplained(t *testing.T) {
	all, knocks := onetimers(t, "sequences:\n  - {name: ssh, steps: [/a, '/k/{totp}', /c], opens: [ssh]}\n  - {name: bobs, users: [bob], steps: [/b, '/b/{totp}', /c], opens: [ssh]}\n", "alice", "bob")
	why := func(client string) (all_ []string) {
		addr := netip.MustParseAddr(client)
		if err := all.do(t.Context(), all.of(addr), func(s *shard, _ time.Duration) {
			s.readQueue()
			for _, one := range s.traces.of(addr, nil) {
				all_ = append(all_, string(outcomes[one.outcome])+": "+one.why())
			}
		}); err != nil {
			t.Fatal(err)
		}
		slices.Reverse(all_)
		return all_
	}
	knocks("@192.0.2.1 /k/{alice} /a /k/{wrong}")
	knocks("@192.0.2.2 /a /k/{alice} /k/{alice} /c")
	knocks("@192.0.2.3 /a /k/{alice}")
	knocks("@192.0.2.4 /b /b/{alice}")
	for client, want := range map[string][]string{
		"192.0.2.1": {"missed: wrong order: matches step 2, step 1 is awaited", "matched: matched step 1 of 3", "wrong_code: wrong code (step 2 of 3): starts over"},
		"192.0.2.2": {"matched: matched step 1 of 3", "matched: matched step 2 of 3", "replayed: code used already, 0 ms ago", "completed: matched step 3 of 3"},
		"192.0.2.3": {"matched: matched step 1 of 3", "wrong_code: code used already, by another client or before a restart (step 2 of 3): starts over"},
		"192.0.2.4": {"matched: matched step 1 of 3", "wrong_code: code used already, by another client or before a restart (step 2 of 3): starts over"},
	} {
		got := why(client)
		for i := range got {
			if strings.HasPrefix(got[i], "replayed") {
				got[i] = want[2]
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", client, got, want)
		}
	}
}

func banOf(client netip.Addr, d time.Duration) firewall.Ban {
	return firewall.Ban{Client: firewall.Offender(client), Until: time.Now().Add(d)}
}
