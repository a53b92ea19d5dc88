package daemon

import (
	"net/netip"
	"testing"
	"time"

	"webknock/httpd"
	"webknock/sequence"
)

// What is thrown away unopened would have changed nothing, had it been opened.
func FuzzMootLettersChangeNothing(f *testing.F) {
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
		return sequence.Spec{Name: name, Steps: []sequence.Step{{Trigger: t}, {Trigger: sequence.Trigger{Path: "/never"}, Within: time.Second}}}
	}
	set, err := sequence.NewSet([]sequence.Spec{
		spec("exact", sequence.Trigger{Path: "/a"}),
		spec("hash", sequence.Trigger{Hash: "4cfc3a1811fe40afa401b25ef7fa0379f1f7c1930a04f8755d678474d2baee40"}), // "/b" or another
		spec("regex", sequence.Trigger{Regex: `^/t[0-9]+\.php$`}),
		spec("template", sequence.Trigger{Template: "/k/{totp}"}),
	}, nil)
	if err != nil {
		f.Fatal(err)
	}
	r := &rules{set: set, ipv6Prefix: 128, decoys: []string{"/wp-login.php"}}
	s := newShards(1, r, nil, nil, nil).shards[0]
	s.rules = r
	client := netip.MustParseAddr("192.0.2.7")
	f.Fuzz(func(t *testing.T, head []byte) {
		var banned string
		s.ban = func(_ httpd.Letter, reason string) { banned = reason }
		letter := httpd.NewLetter(client, time.Now(), head)
		if !s.moot(&letter) {
			return
		}
		s.letter = letter
		if req, err := letter.Open(s.reader); err != nil {
			s.advance(sequence.Request{})
		} else {
			s.router.ServeHTTP(nobody{}, req)
		}
		if banned != "" || s.tracker.Knows(client) {
			t.Errorf("%q is moot, but bans for %q, begins: %v", head, banned, s.tracker.Knows(client))
		}
	})
}

func TestMostLettersOfStrangersAreMoot(t *testing.T) {
	r, err := newRules(parse(t, file), nil)
	if err != nil {
		t.Fatal(err)
	}
	s := newShards(1, r, nil, nil, nil).shards[0]
	s.rules = r
	moot := func(target string) bool {
		l := httpd.NewLetter(netip.MustParseAddr("192.0.2.7"), time.Now(), []byte("GET "+target+" HTTP/1.1\r\nHost: h\r\n\r\n"))
		return s.moot(&l)
	}
	for target, want := range map[string]bool{"/": true, "/index.html": true, "/a": false, "/hello": false, "/%61": false, "/x?y": false, "*": false} {
		if moot(target) != want {
			t.Errorf("%s: moot %v", target, !want)
		}
	}
	knock := sequence.Request{Method: "GET", Path: "/a"}
	s.tracker.Knock(netip.MustParseAddr("192.0.2.7"), r.set.Match(knock, nil), 0)
	if moot("/index.html") {
		t.Error("a wrong path of a client in progress is not looked at")
	}
	counting := *r
	counting.ban.Knocks = 3
	s.rules = &counting
	if moot("/") {
		t.Error("knocks are not counted")
	}
}

// A miss costs no memory.
func BenchmarkMootLetter(b *testing.B) {
	set, err := sequence.NewSet([]sequence.Spec{{Name: "one", Steps: []sequence.Step{{Trigger: sequence.Trigger{Path: "/a"}}}}}, nil)
	if err != nil {
		b.Fatal(err)
	}
	r := &rules{set: set, ipv6Prefix: 128}
	s := newShards(1, r, nil, nil, nil).shards[0]
	s.shards.rules.Store(r)
	head := []byte("GET /trigger.php HTTP/1.1\r\nHost: home.example.org\r\nUser-Agent: curl/8.0.0\r\nAccept: */*\r\n\r\n")
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		s.read(httpd.NewLetter(netip.AddrFrom4([4]byte{192, 0, 2, 7}), now, head))
	}
}
