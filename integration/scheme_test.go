package integration

import (
	"fmt"
	"strings"
	"testing"
)

// A step with scheme: https is taken by TLS alone: to a listener with tls, or to a
// trusted proxy that says so.
func TestStepsThatHaveToComeByTLS(t *testing.T) {
	w := newWorld(t)
	w.certificate("IP:" + serverIP)
	secure := strings.Replace(standard, "steps: [/a, /b, /c]", "steps: [{path: /a, scheme: https}, {path: /b, scheme: https}, {path: /c, scheme: https}]", 1)
	w.serve(strings.Replace(secure, `  - address: ":8080"`, `  - address: ":8080"
  - address: ":8443"
    tls: {certificate: cert.pem, key: key.pem}
  - address: ":8081"
    proxies: [`+malloryIP+`]
    client_address: x-forwarded-for
    cover: {status: 404}
  - address: ":8082"
    proxies: [`+malloryIP+`]
    client_address: forwarded
    cover: {status: 404}`, 1))
	clear := func(path string) { w.curl(w.alice, "http://"+serverIP+":8080"+path) }
	byTLS := func(path string) { w.curl(w.alice, "--cacert", w.dir+"/cert.pem", "https://"+serverIP+":8443"+path) }
	proxied := func(port string, fields ...string) func(string) {
		return func(path string) {
			args := []string{"http://" + serverIP + ":" + port + path}
			for _, field := range fields {
				args = append(args, "--header", field)
			}
			w.curl(w.mallory, args...)
		}
	}
	completions := 0
	client := "X-Forwarded-For: " + aliceIP
	for _, tt := range []struct {
		name     string
		a, b, c  func(path string)
		complete bool
	}{
		{"in clear", clear, clear, clear, false},
		{"the last in clear", byTLS, byTLS, clear, false},
		{"the first in clear", clear, byTLS, byTLS, false},
		{"by TLS", byTLS, byTLS, byTLS, true},
		{"a proxy that says nothing", proxied("8081", client), proxied("8081", client), proxied("8081", client), false},
		{"by TLS to a proxy", proxied("8081", client, "X-Forwarded-Proto: https"), byTLS, proxied("8081", client, "X-Forwarded-Proto: https"), true},
		{"in clear to a proxy", byTLS, byTLS, proxied("8081", client, "X-Forwarded-Proto: http"), false},
		{"proxies that contradict each other", byTLS, byTLS, proxied("8081", client, "X-Forwarded-Proto: https, http"), false},
		{"by Forwarded", byTLS, byTLS, proxied("8082", "Forwarded: for=192.0.2.1;proto=http, for="+aliceIP+";proto=https"), true},
		{"a client's own word", byTLS, byTLS, func(path string) {
			w.curl(w.alice, "--header", "X-Forwarded-Proto: https", "http://"+serverIP+":8080"+path)
		}, false},
	} {
		tt.a("/a")
		tt.b("/b")
		tt.c("/c")
		if tt.complete {
			completions++
			w.mustBecome("ssh " + aliceIP)
			if _, stderr, code := w.webknock("close", "--all"); code != 0 {
				t.Fatalf("%s: close: exit %d, %s", tt.name, code, stderr)
			}
		}
		byTLS("/nothing") // starts over
	}
	// One client's knocks are read in their order: when the last sequence has
	// completed, all others have or never will.
	byTLS("/a")
	byTLS("/b")
	byTLS("/c")
	w.mustBecome("ssh " + aliceIP)
	status, _, _ := w.webknock("status", "-o", "json")
	if want := fmt.Sprintf(`"completions": %d`, completions+1); !strings.Contains(status, want) {
		t.Errorf("want %s: %s", want, status)
	}
}
