package front

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"webknock/httpd"
)

const shielded = file + `
shield: {ban: {knocks: 5}, decoys: [/wp-login.php]}
`

func TestRightAndWrongKnocksCountAlikeForABan(t *testing.T) {
	for name, knocks := range map[string][]string{
		"right ones":     {"/a", "/b", "/a", "/b", "/a"},
		"a right one":    {"/a?1", "/a?2", "/a?3", "/a?4", "/a?5"},
		"wrong ones":     {"/1", "/2", "/3", "/4", "/5"},
		"malformed ones": {"x\r\n\r\n", "y\r\n\r\n", "x\r\n\r\n", "y\r\n\r\n", "x\r\n\r\n"},
		"a mixture":      {"/a", "/2", "x\r\n\r\n", "/b", "/a"},
		"ignored ones do not count": {"/a", "/favicon.ico", "/favicon.ico", "/2", "/3", "/4",
			"GET /x HTTP/1.1\r\nHost: h\r\nPurpose: prefetch\r\n\r\n", "/5"},
	} {
		all, done := completing(t, shielded)
		send(all, "192.0.2.1", knocks[:len(knocks)-1]...)
		if got := done(); len(got) > 0 {
			t.Errorf("%s: %v before the fifth", name, got)
		}
		send(all, "192.0.2.1", knocks[len(knocks)-1])
		if got := strings.Join(done(), ", "); got != "banned 192.0.2.1" {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestACompletionClearsTheCountAndADecoyBansAtOnce(t *testing.T) {
	for knocks, want := range map[string]string{
		"/1 /2 /a /b /c /1 /2 /3 /4":     "ssh",
		"/1 /2 /a /b /c /1 /2 /3 /4 /5":  "ssh, banned",
		"/wp-login.php":                  "banned",
		"/wp%2dlogin.php":                "banned",
		"/a /b /c /wp-login.php?x /1 /2": "ssh, banned",
	} {
		all, done := completing(t, shielded)
		send(all, "192.0.2.1", strings.Fields(knocks)...)
		if got := strings.ReplaceAll(strings.Join(done(), ", "), " 192.0.2.1", ""); got != want {
			t.Errorf("%s: %q, want %q", knocks, got, want)
		}
	}
}

// Browsers send a request again that was reset: Chromium two or three times, Firefox
// ten times. A progress goes on by every one of them all the same.
func TestARequestThatIsSentAgainCountsOnce(t *testing.T) {
	const again = shielded + "clients: {ipv6_prefix: 64}\n"
	times := func(n int, path string) string { return strings.Repeat(path+" ", n) }
	for _, tt := range []struct{ name, knocks, want string }{
		{"a browser at a right path", times(10, "/a"), ""},
		{"a browser at a wrong one", times(10, "/x"), ""},
		{"at a malformed one", times(10, "x\x00"), ""},
		{"a browser gets in", times(10, "/a") + times(10, "/b") + times(10, "/c"), "ssh"},
		{"and is not banned for what it sends behind that", times(10, "/a") + times(10, "/b") + times(10, "/c") + times(4, "/c"), "ssh"},
		{"four pages and a fifth", times(3, "/1") + times(3, "/2") + times(3, "/3") + times(3, "/4") + "/5", "banned"},
		{"two in turn are not sent again", "/1 /2 /1 /2 /1", "banned"},
		{"one that is ignored stands between", "/1 /favicon.ico /1 /favicon.ico /1 /favicon.ico /1 /favicon.ico /1", "banned"},
		{"a decoy bans at once", times(3, "/a") + "/wp-login.php", "banned"},
		{"over the seconds that Chromium takes", "/1 +1s /1 +5s /1 /2 +1s /2 +5s /2 /3 +1s /3 +5s /3", ""},
		{"after ten seconds it counts again", "/1 +10s /1 +10.001s /1 +10.001s /1 +10.001s /1", ""},
		{"as any other", "/1 +10.001s /1 +10.001s /1 +10.001s /1 +10.001s /1", "banned"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			all, done := completing(t, again)
			at := time.Now()
			for _, word := range strings.Fields(tt.knocks) {
				if after, ok := strings.CutPrefix(word, "+"); ok {
					d, err := time.ParseDuration(after)
					if err != nil {
						t.Fatal(err)
					}
					at = at.Add(d)
					continue
				}
				all.post(httpd.NewKnock(netip.MustParseAddr("192.0.2.1"), at, []byte("GET "+word+" HTTP/1.1\r\nHost: h\r\n\r\n")))
			}
			if got := strings.ReplaceAll(strings.Join(done(), ", "), " 192.0.2.1", ""); got != tt.want {
				t.Errorf("%s: %q, want %q", tt.knocks, got, tt.want)
			}
		})
	}
	// The same head from another client is another request.
	all, done := completing(t, again)
	for i := range 5 {
		send(all, fmt.Sprintf("192.0.2.%d", i+1), "/x", "/x")
	}
	if got := done(); len(got) > 0 {
		t.Errorf("%v", got)
	}
	// A step that comes twice is two knocks, whatever counts.
	all, done = completing(t, strings.Replace(again, "[/a, /b, /c]", "[/a, /a, /b]", 1))
	send(all, "192.0.2.1", "/a", "/a", "/b")
	if got := strings.Join(done(), ", "); got != "ssh 192.0.2.1" {
		t.Errorf("/a /a /b completes %q", got)
	}
}

func TestAddressesOfOneIPv6PrefixCountTogetherForABan(t *testing.T) {
	all, done := completing(t, strings.Replace(shielded, "listeners:", "clients: {ipv6_prefix: 64}\nlisteners:", 1))
	for i := range 5 {
		send(all, fmt.Sprintf("2001:db8::%d", i+1), fmt.Sprintf("/%d", i))
	}
	if got := done(); len(got) != 1 {
		t.Errorf("%v", got)
	}
}

func TestCountersForgetUnderAFlood(t *testing.T) {
	cfg := parse(t, shielded)
	r, err := newRules(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := newShards(100, r, nil, nil, nil).shards[0]
	for i := range 10 * maxCounted {
		client := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		k := &knock{shard: s, rules: r, received: httpd.Knock{Client: client}, path: "/x"}
		k.offends()
		if len(s.counts.clients) > maxCounted {
			t.Fatalf("%d clients are counted", len(s.counts.clients))
		}
	}
	if got := s.all.forgotten.Load(); got != 9*maxCounted {
		t.Errorf("%d were forgotten, want %d", got, 9*maxCounted)
	}
}
