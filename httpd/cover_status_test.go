package httpd

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestStatusCoverAnswersEveryRequestAlike(t *testing.T) {
	l, knocks := listenWith(t, Options{Cover: Status{Code: 404, Body: []byte("nothing here\n"), Type: "text/plain"}})
	ask := func(method, path string) string {
		t.Helper()
		conn := dial(t, l)
		fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", method, path)
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		got, err := io.ReadAll(conn)
		if err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
		head, body, _ := strings.Cut(string(got), "\r\n\r\n")
		lines := strings.Split(head, "\r\n")
		kept := lines[:0]
		for _, line := range lines {
			if !strings.HasPrefix(line, "Date: ") {
				kept = append(kept, line)
			}
		}
		return strings.Join(kept, "\n") + "\n\n" + body
	}
	want := ask("GET", "/a")
	if !strings.HasPrefix(want, "HTTP/1.1 404 Not Found\n") || !strings.HasSuffix(want, "\n\nnothing here\n") {
		t.Errorf("got %q", want)
	}
	for _, path := range []string{"/b", "/zzz", "//", "/a/../b", "/%2f", "/?q"} {
		for _, method := range []string{"GET", "POST", "OPTIONS", "PROPFIND", "NONSENSE"} {
			if got := ask(method, path); got != want {
				t.Errorf("%s %s: %q, want %q", method, path, got, want)
			}
		}
	}
	if got := ask("OPTIONS", "*"); got != want {
		t.Errorf("OPTIONS *: %q", got)
	}
	if got := ask("HEAD", "/a"); got != strings.TrimSuffix(want, "nothing here\n") {
		t.Errorf("HEAD: %q", got)
	}
	if n := len(knocks); n != 33 {
		t.Errorf("%d knocks, want 33", n)
	}
	k := <-knocks
	r, err := k.Parse(bufio.NewReader(nil))
	if err != nil || r.Method != "GET" || r.URL.Path != "/a" || k.Client != netip.MustParseAddr("127.0.0.1") || !k.Local.IsValid() {
		t.Errorf("knock %+v, request %+v, %v", k, r, err)
	}
}

// What net/http would answer by itself gets the same response as everything.
func TestStatusCoverAnswersMalformedHeadsAlike(t *testing.T) {
	l, knocks := listenWith(t, Options{Cover: Status{Code: 404, Body: []byte("nothing here\n"), Type: "text/plain"}})
	ask := func(sent string) string {
		t.Helper()
		conn := dial(t, l)
		go io.WriteString(conn, sent) // more than is read, perhaps
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		got, err := io.ReadAll(conn)
		if err != nil {
			t.Errorf("%.40q: %v", sent, err)
		}
		before, after, _ := strings.Cut(string(got), "Date: ")
		_, after, _ = strings.Cut(after, "\r\n")
		return before + after
	}
	want := ask("GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
	<-knocks
	for _, sent := range []string{
		"nonsense\r\n\r\n",
		"GET /a HTTP/1.1\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h/i\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n",
		"GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n",
		"GET /a HTTP/3.0\r\nHost: h\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"\x16\x03\x01\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h\r\nX: \x00\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h\r\n : \r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
		"POST /a HTTP/1.1\r\nHost: h\r\nExpect: miracles\r\nContent-Length: 1\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 100000),
		"GET /a HTTP/1.1\r\nHost: h\r\nX: " + strings.Repeat("x", 3*MaxHead) + "\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h\r\n" + strings.Repeat("X: y\r\n", 200) + "\r\n",
	} {
		if got := ask(sent); got != want {
			t.Errorf("%.60q gets %q, want %q", sent, got, want)
		}
		<-knocks
	}
	conn := dial(t, l)
	io.WriteString(conn, "GET /a HTTP/1.1\r\nHost: h\r\n")
	conn.(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(conn); len(got) > 0 || err != nil || len(knocks) > 0 {
		t.Errorf("a head that does not end gets %q, %v, and %d knocks", got, err, len(knocks))
	}
}

func TestPlainHTTPOnATLSPortGetsNoAnswer(t *testing.T) {
	for name, cover := range map[string]Cover{"status": Status{Code: 404}, "proxy": Proxy{Site: &url.URL{Scheme: "http", Host: "127.0.0.1:1"}}} {
		o, _ := tlsOptions(t, nil, []string{"h2", "http/1.1"})
		o.Cover = cover
		l, knocks := listenWith(t, o)
		conn := dial(t, l)
		io.WriteString(conn, "GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if got, _ := io.ReadAll(conn); bytes.Contains(got, []byte("HTTP")) || len(knocks) > 0 {
			t.Errorf("%s: %q, and %d knocks", name, got, len(knocks))
		}
	}
}

func TestStatusCoverAnswersOverTLS(t *testing.T) {
	o, _ := tlsOptions(t, nil, []string{"h2", "http/1.1"})
	o.Cover = Status{Code: 403, Body: []byte("no\n"), Type: "text/plain"}
	l, knocks := listenWith(t, o)
	for version, h2 := range map[int]bool{1: false, 2: true} {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: h2}}
		defer client.CloseIdleConnections()
		for _, path := range []string{"/a", "/other"} {
			res, err := client.Post("https://"+l.Addr().String()+path, "text/plain", strings.NewReader("body"))
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil || res.ProtoMajor != version || res.StatusCode != 403 || string(body) != "no\n" || res.Header.Get("Content-Type") != "text/plain" {
				t.Errorf("%s %s %q, %v", res.Proto, res.Status, body, err)
			}
			k := <-knocks
			if r, err := k.Parse(bufio.NewReader(nil)); err != nil || r.URL.Path != path || !k.TLS {
				t.Errorf("knock %+v, %v", k, err)
			}
		}
	}
}
