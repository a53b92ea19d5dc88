package command

import (
	"bufio"
	"net/http"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	client = netip.MustParseAddr("192.0.2.7")
	remote = netip.MustParseAddrPort("192.0.2.7:40000")
	local  = netip.MustParseAddrPort("198.51.100.1:8080")
)

func request(t testing.TB, head string) *Request {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(head)))
	if err != nil {
		t.Fatal(err)
	}
	return &Request{Request: r, Client: client, Remote: remote, Local: local, Software: "webknock/1"}
}

// get returns the value that a process sees, and whether there is one.
func get(env []string, name string) (string, bool) {
	for _, v := range slices.Backward(env) {
		if n, value, _ := strings.Cut(v, "="); n == name {
			return value, true
		}
	}
	return "", false
}

func mustBe(t *testing.T, env []string, want map[string]string) {
	t.Helper()
	for name, value := range want {
		if got, there := get(env, name); got != value || !there {
			t.Errorf("%s is %q (%v), want %q", name, got, there, value)
		}
	}
}

func mustLack(t *testing.T, env []string, names ...string) {
	t.Helper()
	for _, name := range names {
		if got, there := get(env, name); there {
			t.Errorf("%s is %q", name, got)
		}
	}
}

func TestTheEnvironmentDescribesTheRequestAsCGI(t *testing.T) {
	r := request(t, "POST /a%20b/c?x=1&y=%20 HTTP/1.1\r\nHost: home.example.org:8080\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n"+
		"User-Agent: curl/8\r\nX-Two: one\r\nX-Two: two\r\nCookie: a=1\r\nCookie: b=2\r\n\r\n")
	r.TLS = true
	mustBe(t, r.environment(), map[string]string{
		"GATEWAY_INTERFACE": "CGI/1.1", "SERVER_SOFTWARE": "webknock/1", "SERVER_PROTOCOL": "HTTP/1.1", "SERVER_NAME": "home.example.org", "SERVER_PORT": "8080",
		"REMOTE_ADDR": "192.0.2.7", "REMOTE_PORT": "40000", "HTTPS": "on", "REQUEST_METHOD": "POST", "REQUEST_URI": "/a%20b/c?x=1&y=%20",
		"SCRIPT_NAME": "", "PATH_INFO": "/a b/c", "QUERY_STRING": "x=1&y=%20", "CONTENT_TYPE": "text/plain", "CONTENT_LENGTH": "5",
		"HTTP_HOST": "home.example.org:8080", "HTTP_USER_AGENT": "curl/8", "HTTP_X_TWO": "one, two", "HTTP_COOKIE": "a=1; b=2",
	})
	plain := request(t, "GET / HTTP/1.0\r\n\r\n")
	plain.Remote = netip.MustParseAddrPort("10.0.0.1:1") // a proxy
	mustBe(t, plain.environment(), map[string]string{"SERVER_NAME": "198.51.100.1", "QUERY_STRING": "", "SERVER_PROTOCOL": "HTTP/1.0"})
	mustLack(t, plain.environment(), "HTTPS", "REMOTE_PORT", "CONTENT_TYPE", "CONTENT_LENGTH", "HTTP_HOST")
	for host, want := range map[string]string{"[2001:db8::1]:80": "[2001:db8::1]", "192.0.2.1": "192.0.2.1", "a'b": "198.51.100.1", "": "198.51.100.1"} {
		plain.Host = host
		mustBe(t, plain.environment(), map[string]string{"SERVER_NAME": want})
	}
}

func TestTheEnvironmentIsSafeWhateverAStrangerSends(t *testing.T) {
	env := request(t, "GET /a%0ab?x=%00 HTTP/1.1\r\nHost: h\r\nProxy: http://mallory\r\nAuthorization: Basic x\r\nProxy-Authorization: Basic x\r\n"+
		"X_Forwarded_For: 1\r\nX-Shell: () { :;}; echo broken\r\nX-Tab: a\tb\r\nX-Odd!: 1\r\nX-Large: "+strings.Repeat("x", maxValue+1)+"\r\nX-Fine: ok\r\n\r\n").environment()
	mustLack(t, env, "HTTP_PROXY", "HTTP_AUTHORIZATION", "HTTP_PROXY_AUTHORIZATION", "HTTP_X_FORWARDED_FOR", "HTTP_X_SHELL", "HTTP_X_TAB", "HTTP_X_ODD!", "HTTP_X_LARGE", "PATH_INFO")
	mustBe(t, env, map[string]string{"HTTP_X_FINE": "ok", "QUERY_STRING": "x=%00", "REQUEST_URI": "/a%0ab?x=%00"})
}

func TestTheEnvironmentIsBounded(t *testing.T) {
	var head strings.Builder
	head.WriteString("GET / HTTP/1.1\r\nHost: h\r\n")
	for c := 'A'; c <= 'Z'; c++ {
		head.WriteString("X-" + string(c) + ": " + strings.Repeat("x", maxValue) + "\r\n")
	}
	size := 0
	env := request(t, head.String()+"\r\n").environment()
	for _, v := range env {
		size += len(v) + 1
	}
	if size > maxTotal || size < maxTotal-2*maxValue {
		t.Errorf("%d bytes, want up to %d", size, maxTotal)
	}
	mustBe(t, env, map[string]string{"HTTP_HOST": "h"})
}

func TestTheEnvironmentDescribesTheEvent(t *testing.T) {
	expires := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	o := Occasion{Event: Close, Sequence: "ssh", Client: netip.PrefixFrom(client, 32), User: "alice", Door: "ssh", Grant: "g1", Expires: expires, Reason: "expired"}
	env := o.environment(Command{Environment: []string{"K=v", "PATH=/bin"}})
	mustBe(t, env, map[string]string{
		"PATH": "/bin", "K": "v", "REMOTE_ADDR": "192.0.2.7", "WEBKNOCK_EVENT": "close", "WEBKNOCK_SEQUENCE": "ssh", "WEBKNOCK_CLIENT": "192.0.2.7",
		"WEBKNOCK_USER": "alice", "WEBKNOCK_DOOR": "ssh", "WEBKNOCK_GRANT": "g1", "WEBKNOCK_REASON": "expired", "WEBKNOCK_EXPIRES": "2026-11-25T12:00:00Z",
	})
	if len(env) != 12 {
		t.Errorf("more than that: %q", env)
	}
	o = Occasion{Event: Complete, Sequence: "ssh", Client: netip.PrefixFrom(client, 32), Request: request(t, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")}
	env = o.environment(Command{})
	mustBe(t, env, map[string]string{"WEBKNOCK_EVENT": "complete", "REQUEST_METHOD": "GET"})
	mustLack(t, env, "WEBKNOCK_DOOR", "WEBKNOCK_GRANT", "WEBKNOCK_USER", "WEBKNOCK_REASON", "WEBKNOCK_EXPIRES")
}

// Any request that can be read gives an environment that is harmless.
func FuzzEnvironment(f *testing.F) {
	f.Add("GET /a?b HTTP/1.1\r\nHost: h\r\nProxy: p\r\nX: () { :;}\r\n\r\n")
	f.Add("OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\nX-Y_Z: 1\r\nX: a\tb\r\n\r\n")
	f.Add("CONNECT h:1 HTTP/1.0\r\n\r\n")
	f.Add("GET http://h/%00%0a HTTP/1.1\r\nHost: h\r\n folded\r\n\r\n")
	f.Fuzz(func(t *testing.T, head string) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(head)))
		if err != nil {
			return
		}
		env := (&Request{Request: r, Client: client, Remote: remote, Local: local}).environment()
		size, seen := 0, map[string]bool{}
		for _, v := range env {
			size += len(v) + 1
			name, value, _ := strings.Cut(v, "=")
			if strings.ContainsFunc(v, func(c rune) bool { return c < ' ' || c == 0x7f }) {
				t.Errorf("a control character in %q", v)
			}
			if strings.ContainsFunc(name, func(c rune) bool { return c != '_' && (c == '-' || unsuitable(c)) }) || strings.ContainsAny(name, "abcdefghijklmnopqrstuvwxyz") {
				t.Errorf("name %q", name)
			}
			if seen[name] || name == "HTTP_PROXY" || strings.Contains(name, "AUTHORIZATION") || strings.HasPrefix(value, "() {") || len(value) > maxValue {
				t.Errorf("variable %q", v)
			}
			seen[name] = true
		}
		if size > maxTotal {
			t.Errorf("%d bytes", size)
		}
	})
}

// The kernel takes the largest environment there can be.
func TestTheKernelTakesTheEnvironment(t *testing.T) {
	head := "GET / HTTP/1.1\r\nHost: h\r\n"
	for c := 'A'; c <= 'Z'; c++ {
		head += "X-" + string(c) + ": " + strings.Repeat("x", maxValue) + "\r\n"
	}
	o := Occasion{Request: request(t, head+"\r\n"), Client: netip.PrefixFrom(client, 32)}
	cmd := exec.Command("/bin/true")
	cmd.Env = o.environment(Command{})
	if err := cmd.Run(); err != nil {
		t.Error(err)
	}
}
