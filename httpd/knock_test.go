package httpd

import (
	"bufio"
	"bytes"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"webknock/httpd/eventloop"
	"webknock/sequence"
)

func TestPrefetch(t *testing.T) {
	for _, tt := range []struct {
		header string
		want   bool
	}{
		{"Sec-Purpose: prefetch", true},
		{"Sec-Purpose: prefetch;prerender", true},
		{"Purpose: prefetch", true},
		{"Purpose: Prefetch", true},
		{"Sec-Purpose: prefetch;anonymous-client-ip", true},
		{"Sec-Purpose: Prefetch ; prerender", true},
		{"Sec-Purpose: prerender", true},
		{"Purpose: preview", true},
		{"X-Purpose: preview", true},
		{"X-Purpose: prefetch", true},
		{"X-Moz: prefetch", true},
		{"Sec-Purpose: navigate", false},
		{"Purpose: prefetched", false},
		{"Purpose:", false},
		{"X-Requested-With: prefetch", false},
	} {
		name, value, _ := strings.Cut(tt.header, ": ")
		if got := Prefetch(http.Header{name: {value}}); got != tt.want {
			t.Errorf("%s: %v", tt.header, got)
		}
	}
}

// The router must have no opinion of its own about any request.
func TestRouterHandsEverythingToTheHandler(t *testing.T) {
	for _, method := range []string{"GET", "HEAD", "POST", "PROPFIND", "OPTIONS", "CONNECT", "BREW"} {
		for _, target := range []string{"/", "/a", "/a/b/", "//a", "/%2f", "*", "/x/../y", "http://h/a", "http://h", "/{totp}", "/a*"} {
			if method == "CONNECT" && target != "/a" {
				continue // net/http takes other targets for an authority
			}
			k := NewKnock(testClient, time.Now(), fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: h\r\n\r\n", method, target))
			req, err := open(k)
			if err != nil {
				t.Errorf("%s %s: %v", method, target, err)
				continue
			}
			handled := 0
			Router(func(w http.ResponseWriter, r *http.Request) {
				handled++
				if r.URL.Path != req.URL.Path || r.Method != method {
					t.Errorf("%s %s arrived as %s %s", method, target, r.Method, r.URL.Path)
				}
			}).ServeHTTP(mute{t}, req)
			if handled != 1 {
				t.Errorf("%s %s: handled %d times", method, target, handled)
			}
		}
	}
}

// mute fails if anybody answers.
type mute struct{ t *testing.T }

func (m mute) Header() http.Header         { return http.Header{} }
func (m mute) Write(p []byte) (int, error) { m.t.Errorf("answered %q", p); return len(p), nil }
func (m mute) WriteHeader(status int)      { m.t.Errorf("answered %d", status) }

// FuzzParse feeds heads to whatever looks at them before and after the reset.
func FuzzParse(f *testing.F) {
	for _, head := range []string{
		"GET /a HTTP/1.1\r\nHost: h\r\n\r\n",
		"GET http://h/%61?k=v HTTP/1.0\r\nPurpose: prefetch\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\n",
		"\x16\x03\x01\n\n",
	} {
		f.Add([]byte(head))
	}
	set, err := sequence.NewSet([]sequence.Spec{{Name: "any", Steps: []sequence.Step{{Trigger: sequence.Regex("a")}}}}, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		end := eventloop.HeadEnd(data)
		if end > len(data) || end == 0 {
			t.Fatalf("head of %d bytes in %d", end, len(data))
		}
		if end > 0 && eventloop.HeadEnd(data[:end-1]) >= 0 {
			t.Fatalf("%q ends before %d", data, end)
		}
		req, err := open(NewKnock(testClient, time.Now(), data))
		if err != nil {
			return
		}
		if len(data) > MaxHead || bytes.Count(data, []byte{'\n'}) > MaxLines || end < 0 {
			t.Fatalf("accepted %d bytes, head of %d", len(data), end)
		}
		Prefetch(req.Header)
		Router(func(_ http.ResponseWriter, r *http.Request) {
			set.Match(sequence.Request{Method: r.Method, Host: r.Host, Path: r.URL.Path, RawQuery: r.URL.RawQuery}, nil)
		}).ServeHTTP(mute{t}, req)
	})
}

var testClient = netip.MustParseAddr("192.0.2.1")

func BenchmarkParse(b *testing.B) {
	head := []byte("GET /a HTTP/1.1\r\nHost: home.example.org\r\nUser-Agent: curl/8.0.0\r\nAccept: */*\r\n\r\n")
	r := bufio.NewReaderSize(nil, MaxHead)
	b.ReportAllocs()
	for b.Loop() {
		k := NewKnock(testClient, time.Time{}, head)
		if _, err := k.Parse(r); err != nil {
			b.Fatal(err)
		}
	}
}
