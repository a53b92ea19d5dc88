package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

// ask sends a request to the API of a fake, and returns the answer.
func ask(method, url, body string, header map[string]string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, url, strings.NewReader(body))
	for name, value := range header {
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	Handler(new(fake)).ServeHTTP(w, r)
	return w
}

func TestOnlyNamesOfThisHostAreAnswered(t *testing.T) {
	for host, answered := range map[string]bool{
		"webknock":                   true,
		"webknock:8080":              false, // a resolver may lead there
		"webknock:":                  false,
		"LocalHost:80":               true,
		"localhost":                  true,
		"localhost:8080":             true,
		"127.0.0.1":                  true,
		"127.0.0.1:8080":             true,
		"127.8.9.10:1":               true,
		"[::1]":                      true,
		"[::1]:8080":                 true,
		"[::ffff:127.0.0.1]:80":      true,
		"":                           false,
		"example.org":                false,
		"example.org:8080":           false,
		"localhost.example.org":      false,
		"127.0.0.1.example.org":      false,
		"webknock.example.org":       false,
		"a.localhost":                false, // some resolvers ask a DNS server
		"localhost.":                 false,
		"localhost:":                 false,
		"localhost:80:80":            false,
		"localhost:x":                false,
		"192.0.2.1":                  false,
		"0.0.0.0":                    false,
		"[::]:80":                    false,
		"[2001:db8::1]:80":           false,
		"::1":                        false,
		"[::1":                       false,
		"[127.0.0.1]":                false,
		"[::1%25lo]":                 false,
		"2130706433":                 false,
		"localhost@example.org":      false,
		"user@localhost":             false,
		"localhost\texample.org":     false,
		"localhost,example.org":      false,
		"127.0.0.1:80, example.org":  false,
		"webknock localhost":         false,
		"[::ffff:192.0.2.1]":         false,
		"localhost%2eexample.org:80": false,
	} {
		r := httptest.NewRequest("GET", "http://webknock/v1/grants", nil)
		r.Host = host
		w := httptest.NewRecorder()
		Handler(new(fake)).ServeHTTP(w, r)
		want := http.StatusForbidden
		if answered {
			want = http.StatusOK
		}
		if w.Code != want {
			t.Errorf("Host: %q is answered with %d, want %d", host, w.Code, want)
		}
		if !answered {
			mustBeProblem(t, w, http.StatusForbidden)
		}
	}
}

func mustBeProblem(t *testing.T, w *httptest.ResponseRecorder, status int) {
	t.Helper()
	var p Problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != status || p.Status != status || p.Detail == "" ||
		w.Header().Get("Content-Type") != "application/problem+json" || strings.Contains(w.Body.String(), `"grants"`) {
		t.Errorf("%d %q: want a problem with status %d", w.Code, w.Body, status)
	}
}

// Every combination of what a browser says about a request, for what reads and for what
// changes something, for a page that asks by each of the host's names.
func TestAPageOfAnotherOriginReadsAndChangesNothing(t *testing.T) {
	const absent = "-"
	for _, host := range []string{"localhost:8080", "127.0.0.1:8080", "[::1]:8080", "localhost"} {
		origins := map[string]bool{ // whether it is the API's own
			absent:                         true,
			"http://" + host:               true,
			"https://" + host:              true,
			"HTTP://" + host:               true,
			"http://" + host + "/":         false,
			"http://example.org":           false,
			"http://localhost:3000":        false,
			"http://127.0.0.2:8080":        false,
			"http://user@" + host:          false,
			"ftp://" + host:                false,
			"chrome-extension://" + host:   false,
			"http://" + host + "#x":        false,
			"null":                         false,
			"":                             false,
			"http://example.org?" + host:   false,
			"http://" + host + ".evil.org": false,
		}
		sites := map[string]bool{absent: true, "same-origin": true, "none": true, "same-site": false, "cross-site": false, "": false, "x": false}
		for origin, ownOrigin := range origins {
			for site, ownSite := range sites {
				for _, referer := range []string{absent, "http://" + host + "/", "http://example.org/"} {
					for _, custom := range []string{absent, "1", "0"} {
						header := map[string]string{}
						for name, value := range map[string]string{"Origin": origin, "Sec-Fetch-Site": site, "Referer": referer, "X-Webknock": custom} {
							if value != absent {
								header[name] = value
							}
						}
						own := ownOrigin && ownSite
						byBrowser := origin != absent || site != absent || referer != absent
						for _, request := range []struct {
							method, path string
							status       int
							changes      bool
						}{
							{"GET", "/v1/grants", 200, false},
							{"HEAD", "/v1/status", 200, false},
							{"GET", "/v1/nothing", 404, false},
							{"POST", "/v1/confirm", 204, true},
							{"DELETE", "/v1/grants/a", 204, true},
							{"PUT", "/v1/grants", 405, true},
							{"OPTIONS", "/v1/grants", 405, false},
						} {
							want := request.status
							if !own || request.changes && byBrowser && custom != "1" {
								want = http.StatusForbidden
							}
							w := ask(request.method, "http://"+host+request.path, "", header)
							if w.Code != want {
								t.Fatalf("%s %s of %s with %q: %d, want %d", request.method, request.path, host, header, w.Code, want)
							}
							for name := range w.Header() {
								if strings.HasPrefix(name, "Access-Control-") {
									t.Fatalf("%s %s: the answer has %s", request.method, request.path, name)
								}
							}
						}
					}
				}
			}
		}
	}
}

func TestASecondOriginIsLookedAtToo(t *testing.T) {
	for _, name := range []string{"Origin", "Sec-Fetch-Site"} {
		r := httptest.NewRequest("GET", "http://localhost/v1/grants", nil)
		r.Header["Origin"] = []string{"http://localhost"}
		r.Header["Sec-Fetch-Site"] = []string{"same-origin"}
		r.Header.Add(name, "http://example.org")
		w := httptest.NewRecorder()
		Handler(new(fake)).ServeHTTP(w, r)
		mustBeProblem(t, w, http.StatusForbidden)
	}
}

func TestWhatChangesSomethingTakesJSONAlone(t *testing.T) {
	for media, status := range map[string]int{
		"application/json":                  201,
		"application/json; charset=utf-8":   201,
		"APPLICATION/JSON":                  201,
		"text/plain":                        415,
		"application/x-www-form-urlencoded": 415,
		"multipart/form-data; boundary=x":   415,
		"text/plain; application/json":      415,
		"application/jsonp":                 415,
		"":                                  415,
	} {
		for _, path := range []string{"/v1/grants", "/v1/confirm", "/v1/unguard"} {
			want := status
			if want == 201 && path != "/v1/grants" {
				want = map[string]int{"/v1/confirm": 204, "/v1/unguard": 500}[path] // the fake's unguard wants to know who asks
			}
			header := map[string]string{"Content-Type": media}
			if media == "" {
				header = nil
			}
			if w := ask("POST", "http://webknock"+path, `{"door":"ssh"}`, header); w.Code != want {
				t.Errorf("POST %s of %q: %d, want %d", path, media, w.Code, want)
			}
		}
	}
	if w := ask("POST", "http://webknock/v1/confirm", "", nil); w.Code != 204 {
		t.Errorf("without a body: %d", w.Code)
	}
}

func TestAnswersBelongToNoOtherPage(t *testing.T) {
	for _, path := range []string{"/v1/grants", "/healthz", "/v1/nothing"} {
		h := ask("GET", "http://webknock"+path, "", nil).Header()
		got := fmt.Sprint(h.Get("Cache-Control"), " ", h.Get("Cross-Origin-Resource-Policy"), " ", h.Get("X-Content-Type-Options"), " ", h.Get("X-Frame-Options"))
		if got != "no-store same-origin nosniff DENY" {
			t.Errorf("%s: %s", path, got)
		}
	}
}

func FuzzLoopback(f *testing.F) {
	for _, seed := range []string{"localhost", "localhost:80", "127.0.0.1:9", "127.8.8.8", "[::1]:80", "[::1]", "::1", "[::ffff:127.0.0.1]:1", "evil.test", "localhost.evil.test:80", "[fe80::1%lo]:1", "0.0.0.0", "localhost:x", "127.0.0.1:80@evil.test", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, host string) {
		if !Loopback(host) {
			return
		}
		// What a browser that asks for this host connects to is this host.
		u, err := url.Parse("http://" + host + "/")
		if err != nil {
			u, err = url.Parse("http://[" + host + "]/")
		}
		if err != nil {
			t.Fatalf("%q is no host: %v", host, err)
		}
		name := strings.ToLower(u.Hostname())
		if address, err := netip.ParseAddr(name); name != "localhost" && (err != nil || !address.IsLoopback()) {
			t.Errorf("%q is of this host, but leads to %q", host, name)
		}
	})
}
