package integration

import (
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"webknock/integration/lab"
)

// Whatever a stranger sends, he sees a reset and not one byte. What it counts
// as is the table of docs/listeners.md: the knock /a/b, a knock that matches
// nothing, or no knock.
func TestHostileInput(t *testing.T) {
	w := newWorld(t)
	// After the first step a hit completes one sequence, no knock at all lets
	// another go on, and a miss starts both over.
	w.serve(listener(`address: ":8080"`) + `
  - {name: hit, steps: [/first, /a/b], message: a hit}
  - {name: none, steps: [/first, /last], message: no knock}
  - {name: mark, steps: [/mark], message: all before is read}
shield: {rate: 'off'}
`)
	completed := func(sequence string) int {
		return strings.Count(strings.Join(w.daemon.lines(), "\n"), `"sequence completed","sequence":"`+sequence+`"`)
	}
	const head = " HTTP/1.1\r\nHost: h\r\n"
	get := func(target string) string { return "GET " + target + head + "\r\n" }
	for _, tt := range []struct {
		name, sent string
		want       string // hit, miss or none
	}{
		{"pipelining", get("/a/b") + get("/other"), "hit"},
		{"Content-Length and Transfer-Encoding", "POST /a/b" + head + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "hit"},
		{"two different Content-Lengths", "POST /a/b" + head + "Content-Length: 3\r\nContent-Length: 4\r\n\r\n", "miss"},
		{"a Transfer-Encoding nobody knows", "POST /a/b" + head + "Transfer-Encoding: gzip\r\n\r\n", "miss"},
		{"a folded header", "GET /a/b" + head + "X: a\r\n b\r\n\r\n", "hit"},
		{"a folded Host", "GET /a/b HTTP/1.1\r\nHost:\r\n h\r\n\r\n", "hit"},
		{"a header that begins folded", "GET /a/b HTTP/1.1\r\n X: a\r\nHost: h\r\n\r\n", "miss"},
		{"bare LF", "GET /a/b HTTP/1.1\nHost: h\n\n", "hit"},
		{"a bare CR", "GET /a/b HTTP/1.1\rHost: h\r\n\r\n", "miss"},
		{"a NUL", "GET /a/b\x00" + head + "\r\n", "miss"},
		{"a space before the colon", "GET /a/b HTTP/1.1\r\nHost : h\r\n\r\n", "miss"},
		{"a huge header", "GET /a/b" + head + "X: " + strings.Repeat("x", 100_000) + "\r\n\r\n", "miss"},
		{"too many headers", "GET /a/b" + head + strings.Repeat("X: y\r\n", 1000) + "\r\n", "miss"},
		{"the HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "miss"},
		{"HTTP/0.9", "GET /a/b\r\n\r\n", "miss"},
		{"HTTP/1.0", "GET /a/b HTTP/1.0\r\n\r\n", "hit"},
		{"HTTP/9.9", "GET /a/b HTTP/9.9\r\nHost: h\r\n\r\n", "hit"},
		{"CONNECT", "CONNECT h:22" + head + "\r\n", "miss"},
		{"CONNECT to a path", "CONNECT /a/b" + head + "\r\n", "hit"},
		{"OPTIONS *", "OPTIONS *" + head + "\r\n", "miss"},
		{"an absolute URI", get("http://other.example.org/a/b"), "hit"},
		{"an absolute URI of another scheme", get("gopher://other.example.org/a/b"), "hit"},
		{"%2f", get("/a%2fb"), "hit"},
		{"%252f", get("/a%252fb"), "miss"},
		{"%00", get("/a/b%00"), "miss"},
		{"a bad escape", get("/a/b%"), "miss"},
		{"an encoded dot segment", get("/x/%2e%2e/a/b"), "miss"},
		{"a dot segment", get("/a/./b"), "miss"},
		{"two slashes", get("/a//b"), "miss"},
		{"two slashes at the beginning", get("//a/b"), "miss"},
		{"a trailing slash", get("/a/b/"), "miss"},
		{"a backslash", get(`/a\b`), "miss"},
		{"invalid UTF-8", get("/a/b\xff\xfe"), "miss"},
		{"invalid UTF-8, encoded", get("/a/b%ff"), "miss"},
		{"an overlong slash", get("/a%c0%afb"), "miss"},
		{"an overlong letter", get("/a/%c1%a2"), "miss"},
		{"a full-width slash", get("/a%ef%bc%8fb"), "miss"},
		{"upper case", get("/A/B"), "miss"},
		{"a fragment", get("/a/b#x"), "miss"},
		{"path parameters", get("/a/b;x"), "miss"},
		{"a query", get("/a/b?x=%zz;&"), "hit"},
		{"a zone in Host", "GET /a/b HTTP/1.1\r\nHost: [fe80::1%25eth0]:8080\r\n\r\n", "hit"},
		{"no Host", "GET /a/b HTTP/1.1\r\n\r\n", "miss"},
		{"two Hosts", "GET /a/b HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", "miss"},
		{"TLS on the plain port", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("\n\n", 20), "miss"},
		{"TLS without an empty line", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "none"},
		{"nothing at all", "", "none"},
		{"a slow head", "GET /a/b HTTP/1.1\r\nHos", "none"},
		{"a head that does not end", "GET /a/b" + head, "none"},
		{"a long header that does not end", "GET /a/b" + head + "X: " + strings.Repeat("x", 5000), "none"},
		{"an endless header", "GET /a/b" + head + "X: " + strings.Repeat("x", 9000), "miss"},
	} {
		hits, nones, marks := completed("hit"), completed("none"), completed("mark")
		w.send(w.alice, get("/first"), false)
		// A head that does not end is over when the client has no more to say,
		// or after some time.
		got, reset := w.send(w.alice, tt.sent, tt.want == "none" && !strings.Contains(tt.name, "slow"))
		if got != "" || !reset {
			t.Errorf("%s: %q, reset %v; want a reset and no byte", tt.name, got, reset)
		}
		w.send(w.alice, get("/last"), false)
		w.send(w.alice, get("/mark"), false)
		until(t, "the mark", func() bool { return completed("mark") > marks })
		got = "miss"
		switch {
		case completed("hit") > hits:
			got = "hit"
		case completed("none") > nones:
			got = "none"
		}
		if got != tt.want {
			t.Errorf("%s is a %s, want %s", tt.name, got, tt.want)
		}
	}
}

// send sends bytes to the listener, and returns what comes back and whether the
// connection ended with a reset.
func (w *world) send(from *lab.Host, sent string, end bool) (got string, reset bool) {
	w.t.Helper()
	err := from.Do(func() error {
		conn, err := net.Dial("tcp", serverIP+":8080")
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		_, failed := io.WriteString(conn, sent)
		if end {
			conn.(*net.TCPConn).CloseWrite()
		}
		all, err := io.ReadAll(conn)
		got = string(all)
		// The call that meets the reset first has the error.
		reset = errors.Is(err, syscall.ECONNRESET) || errors.Is(failed, syscall.ECONNRESET) || errors.Is(failed, syscall.EPIPE)
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return got, reset
}
