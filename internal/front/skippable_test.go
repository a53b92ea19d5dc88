package front

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"webknock/httpd"
	"webknock/internal/seam"
	"webknock/sequence"
)

// A knock that is dropped without being parsed would have had no effect.
func FuzzSkippableKnocksHaveNoEffect(f *testing.F) {
	for _, head := range []string{
		"GET /zzz HTTP/1.1\r\nHost: h\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h\r\n\r\n",
		"GET /%61 HTTP/1.1\r\nHost: h\r\n\r\n",
		"GET /k/123456 HTTP/1.1\r\nHost: h\r\n\r\n",
		"GET\n/zzz /a HTTP/1.1\r\nHost: h\r\n\r\n",
		"GET  /a HTTP/1.1\r\nHost: h\r\n\r\n",
		"GET /wp-login.php HTTP/1.0\r\n\r\n",
		"POST http://h/a HTTP/1.0\r\n\r\n",
	} {
		f.Add([]byte(head))
	}
	spec := func(name string, t sequence.Trigger) sequence.Spec {
		return sequence.Spec{Name: name, Steps: []sequence.Step{{Trigger: t}, {Trigger: sequence.Exact("/never"), Within: time.Second}}}
	}
	set, err := sequence.NewSet([]sequence.Spec{
		spec("exact", sequence.Exact("/a")),
		spec("hash", sequence.Hash("4cfc3a1811fe40afa401b25ef7fa0379f1f7c1930a04f8755d678474d2baee40")), // "/b" or another
		spec("regex", sequence.Regex(`^/t[0-9]+\.php$`)),
		spec("template", sequence.Template("/k/{totp}")),
	}, nil)
	if err != nil {
		f.Fatal(err)
	}
	r := &rules{set: set, router: newRouter(), clients: seam.Clients{IPv4Prefix: 32, IPv6Prefix: 128}, decoys: []string{"/wp-login.php"}}
	s := newShards(1, r, nil, nil, nil).shards[0]
	client := netip.MustParseAddr("192.0.2.7")
	f.Fuzz(func(t *testing.T, head []byte) {
		var banned string
		s.all.ban = func(_ httpd.Knock, reason string) { banned = reason }
		received := httpd.NewKnock(client, time.Now(), head)
		if _, ok := s.skippable(r, &received, client); !ok {
			return
		}
		k := s.begin(r, &received, client)
		request, err := received.Parse(s.reader)
		k.received = received
		if err != nil {
			request = malformed
		} else {
			k.request = request
		}
		r.router.ServeHTTP(nobody{}, request.WithContext(k))
		if banned != "" || s.tracker.Knows(client) {
			t.Errorf("%q is skippable, but bans for %q, begins: %v", head, banned, s.tracker.Knows(client))
		}
	})
}

func TestMostKnocksOfStrangersAreSkippable(t *testing.T) {
	r, err := newRules(parse(t, file), nil)
	if err != nil {
		t.Fatal(err)
	}
	s := newShards(1, r, nil, nil, nil).shards[0]
	skippable := func(target string) bool {
		l := httpd.NewKnock(netip.MustParseAddr("192.0.2.7"), time.Now(), []byte("GET "+target+" HTTP/1.1\r\nHost: h\r\n\r\n"))
		_, ok := s.skippable(r, &l, l.Client)
		return ok
	}
	for target, want := range map[string]bool{"/": true, "/index.html": true, "/a": false, "/hello": false, "/%61": false, "/x?y": false, "*": false} {
		if skippable(target) != want {
			t.Errorf("%s: skippable %v", target, !want)
		}
	}
	knock := sequence.Request{Method: "GET", Path: "/a"}
	s.tracker.Advance(netip.MustParseAddr("192.0.2.7"), r.set.Match(knock, nil), 0)
	if skippable("/index.html") {
		t.Error("a wrong path of a client in progress is not looked at")
	}
	counting := *r
	counting.ban.Knocks = 3
	r = &counting
	if skippable("/") {
		t.Error("knocks are not counted")
	}
}

// A miss costs no memory.
func BenchmarkSkippableKnock(b *testing.B) {
	set, err := sequence.NewSet([]sequence.Spec{{Name: "one", Steps: []sequence.Step{{Trigger: sequence.Exact("/a")}}}}, nil)
	if err != nil {
		b.Fatal(err)
	}
	r := &rules{set: set, router: newRouter(), clients: seam.Clients{IPv4Prefix: 32, IPv6Prefix: 128}}
	s := newShards(1, r, nil, nil, nil).shards[0]
	s.all.rules.Store(r)
	head := []byte("GET /trigger.php HTTP/1.1\r\nHost: home.example.org\r\nUser-Agent: curl/8.0.0\r\nAccept: */*\r\n\r\n")
	now := time.Now()
	s.all.tallies.add(":80")
	b.ReportAllocs()
	for b.Loop() {
		k := httpd.NewKnock(netip.AddrFrom4([4]byte{192, 0, 2, 7}), now, head)
		k.Listener = ":80"
		s.read(k)
	}
}

// Every kind of a first step is read, however it is written.
func TestNoFirstStepIsSkippable(t *testing.T) {
	for _, tt := range []struct {
		step, target string
	}{
		{"/a", "/a"},
		{"sha256:" + fmt.Sprintf("%x", sha256.Sum256([]byte("/hidden"))), "/hidden"},
		{"{regex: '^/t[0-9]+$'}", "/t42"},
		{"{path: /a, method: GET, host: h}", "/a"},
	} {
		r, err := newRules(parse(t, strings.Replace(file, "/a, /b, /c", tt.step+", /b, /c", 1)), nil)
		if err != nil {
			t.Fatal(err)
		}
		s := newShards(1, r, nil, nil, nil).shards[0]
		knockAs(s, "192.0.2.7", "GET "+tt.target+" HTTP/1.1\r\nHost: h\r\n\r\n", nil)
		if !s.tracker.Knows(netip.MustParseAddr("192.0.2.7")) {
			t.Errorf("%s begins nothing for %s", tt.target, tt.step)
		}
	}
	// What matters of a one-time step is that its code is looked at.
	set, err := sequence.NewSet([]sequence.Spec{{Name: "template", Steps: []sequence.Step{{Trigger: sequence.Template("/k/{totp}")}}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := &rules{set: set, router: newRouter(), clients: seam.Clients{IPv4Prefix: 32, IPv6Prefix: 128}}
	s := newShards(1, r, nil, nil, nil).shards[0]
	l := httpd.NewKnock(netip.MustParseAddr("192.0.2.7"), time.Now(), []byte("GET /k/123456 HTTP/1.1\r\nHost: h\r\n\r\n"))
	if _, ok := s.skippable(r, &l, l.Client); ok {
		t.Error("a request with a code is thrown away unread")
	}
}

// knockAs has a shard read a knock.
func knockAs(s *shard, client, head string, change func(*httpd.Knock)) {
	l := httpd.NewKnock(netip.MustParseAddr(client), time.Now(), []byte(head))
	if change != nil {
		change(&l)
	}
	s.read(l)
}

func TestAStepWithASchemeIsTakenOnlyByThat(t *testing.T) {
	set, err := sequence.NewSet([]sequence.Spec{{Name: "secure", Strict: true, Steps: []sequence.Step{
		{Trigger: sequence.Exact("/a"), Conditions: sequence.Conditions{Scheme: sequence.HTTPS, Host: "xn--bcher-kva.example"}}, {Trigger: sequence.Exact("/never"), Within: time.Second},
	}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := &rules{set: set, router: newRouter(), clients: seam.Clients{IPv4Prefix: 32, IPv6Prefix: 128}}
	for _, tt := range []struct {
		name   string
		host   string
		change func(*httpd.Knock)
		want   bool
	}{
		{"in clear", "xn--bcher-kva.example", nil, false},
		{"by TLS", "xn--bcher-kva.example", func(l *httpd.Knock) { l.TLS = true }, true},
		{"by TLS to a proxy", "xn--bcher-kva.example:8080", func(l *httpd.Knock) { l.ProxyScheme = "https" }, true},
		{"in clear to a proxy that speaks TLS", "xn--bcher-kva.example", func(l *httpd.Knock) { l.TLS, l.ProxyScheme = true, "http" }, false},
		{"with the host not encoded", "Bücher.example.:443", func(l *httpd.Knock) { l.TLS = true }, true},
		{"to another host", "bücher2.example", func(l *httpd.Knock) { l.TLS = true }, false},
	} {
		s := newShards(1, r, nil, nil, nil).shards[0]
		knockAs(s, "192.0.2.7", "GET /a HTTP/1.1\r\nHost: "+tt.host+"\r\n\r\n", tt.change)
		if got := s.tracker.Knows(netip.MustParseAddr("192.0.2.7")); got != tt.want {
			t.Errorf("%s: begun %v", tt.name, got)
		}
	}
}

func TestAPrefixMayBeOneClient(t *testing.T) {
	set, err := sequence.NewSet([]sequence.Spec{{Name: "two", Strict: true, Steps: []sequence.Step{
		{Trigger: sequence.Exact("/a")}, {Trigger: sequence.Exact("/b"), Within: time.Second},
	}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		bits4, bits6 int
		from, then   string
		want         bool
	}{
		{32, 128, "192.0.2.7", "192.0.2.7", true},
		{32, 128, "192.0.2.7", "192.0.2.8", false},
		{24, 128, "192.0.2.7", "192.0.2.200", true},
		{24, 128, "192.0.2.7", "192.0.3.7", false},
		{24, 128, "2001:db8::1", "2001:db8::2", false},
		{32, 64, "2001:db8::1", "2001:db8::2", true},
	} {
		completed := 0
		r := &rules{set: set, router: newRouter(), clients: seam.Clients{IPv4Prefix: tt.bits4, IPv6Prefix: tt.bits6}, sequences: map[*sequence.Machine]*seam.Sequence{}}
		all := newShards(2, r, nil, func(c completion) {
			completed++
			if c.knock.Client != netip.MustParseAddr(tt.then) {
				t.Errorf("the completion is for %v, not for the address of the last knock", c.knock.Client)
			}
		}, nil)
		for _, knock := range [][2]string{{tt.from, "/a"}, {tt.then, "/b"}} {
			l := httpd.NewKnock(netip.MustParseAddr(knock[0]), time.Now(), []byte("GET "+knock[1]+" HTTP/1.1\r\nHost: h\r\n\r\n"))
			all.post(l)
			for _, s := range all.shards { // the shard of the client has it
				for len(s.queue) > 0 {
					s.read(<-s.queue)
				}
			}
		}
		if (completed == 1) != tt.want {
			t.Errorf("/%d and /%d: %s and %s complete %d times", tt.bits4, tt.bits6, tt.from, tt.then, completed)
		}
	}
}
