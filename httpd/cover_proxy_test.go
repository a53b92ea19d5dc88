package httpd

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestProxyCoverPassesRequestsToTheSite(t *testing.T) {
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/upgrade" { // like a WebSocket
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			rw.Flush()
			line, _ := rw.ReadString('\n')
			rw.WriteString("echo " + line)
			rw.Flush()
			return
		}
		fmt.Fprintf(w, "%s %s for %s host %s by %s", r.Method, r.URL.Path, r.Header["X-Forwarded-For"], r.Host, r.Header.Get("X-Forwarded-Proto"))
	}))
	defer site.Close()
	address, err := url.Parse(site.URL)
	if err != nil {
		t.Fatal(err)
	}
	o, _ := tlsOptions(t, nil, []string{"h2", "http/1.1"})
	o.Cover = Proxy{Site: address}
	l, knocks := listenWith(t, o)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	get := func(wantStatus int) (string, *http.Response) {
		t.Helper()
		req, err := http.NewRequest("GET", "https://"+l.Addr().String()+"/a", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Forwarded-For", "1.1.1.1") // a stranger's
		req.Host = "home.example.org"
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != wantStatus {
			t.Errorf("%s, %v", res.Status, err)
		}
		return string(body), res
	}
	body, res := get(200)
	if body != "GET /a for [127.0.0.1] host home.example.org by https" || res.ProtoMajor != 2 {
		t.Errorf("%s: %q", res.Proto, body)
	}
	if k := <-knocks; k.Client != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("knock %+v", k)
	}
	conn := tls.Client(dial(t, l), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	io.WriteString(conn, "GET /upgrade HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	reader := bufio.NewReader(conn)
	if res, err := http.ReadResponse(reader, nil); err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %v, %v", res, err)
	}
	io.WriteString(conn, "hello\n")
	if got, err := reader.ReadString('\n'); got != "echo hello\n" {
		t.Errorf("over the upgraded connection: %q, %v", got, err)
	}
	site.Close()
	if body, _ := get(502); body != "Bad Gateway\n" {
		t.Errorf("the site is down: %q", body)
	}
}

// coverOf starts a listener whose cover is a site, and returns a client by
// HTTP/1.1 and one by HTTP/2.
func coverOf(t *testing.T, site string) (l *Listener, knocks chan Knock, clients map[int]*http.Client) {
	t.Helper()
	address, err := url.Parse(site)
	if err != nil {
		t.Fatal(err)
	}
	o, _ := tlsOptions(t, nil, []string{"h2", "http/1.1"})
	o.Cover = Proxy{Site: address}
	l, knocks = listenWith(t, o)
	clients = map[int]*http.Client{}
	for version := 1; version <= 2; version++ {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: version == 2}, Timeout: 20 * time.Second}
		t.Cleanup(client.CloseIdleConnections)
		clients[version] = client
	}
	return l, knocks, clients
}

// What the site sends reaches the visitor before the site goes on, as
// server-sent events need it.
func TestProxyCoverStreams(t *testing.T) {
	seen := make(chan struct{})
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			fmt.Fprintf(w, "data: %d\n", i)
			http.NewResponseController(w).Flush()
			select {
			case <-seen:
			case <-r.Context().Done():
				return
			}
		}
	}))
	defer site.Close()
	l, knocks, clients := coverOf(t, site.URL)
	for version, client := range clients {
		res, err := client.Get("https://" + l.Addr().String() + "/events")
		if err != nil {
			t.Fatal(err)
		}
		<-knocks // posted as the request passed
		lines := bufio.NewReader(res.Body)
		for i := range 3 {
			if line, err := lines.ReadString('\n'); line != fmt.Sprintf("data: %d\n", i) {
				t.Errorf("%s: %q, %v", res.Proto, line, err)
			}
			seen <- struct{}{}
		}
		if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 || res.ProtoMajor != version {
			t.Errorf("%s in the end: %q, %v", res.Proto, rest, err)
		}
		res.Body.Close()
	}
}

func TestProxyCoverLeavesRequestsUnchanged(t *testing.T) {
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %s %s", r.Method, r.RequestURI, r.Host, r.Header["X-Mine"], body)
	}))
	defer site.Close()
	l, knocks, clients := coverOf(t, site.URL)
	for _, client := range clients {
		req, err := http.NewRequest("PATCH", "https://"+l.Addr().String()+"/a%2fb//c?x=%20&y;z=%zz", strings.NewReader("a body"))
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "home.example.org"
		req.Header["X-Mine"] = []string{"1", "2"}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(res.Body)
		res.Body.Close()
		if want := "PATCH /a%2fb//c?x=%20&y;z=%zz home.example.org [1 2] a body"; err != nil || string(got) != want {
			t.Errorf("%s: the site sees %q, %v; want %q", res.Proto, got, err, want)
		}
		k := <-knocks
		if r, err := k.Parse(bufio.NewReader(nil)); err != nil || r.Method != "PATCH" || r.URL.Path != "/a/b//c" || !k.ToSite {
			t.Errorf("knock %+v, %v", k, err)
		}
	}
}

func TestProxyCoverAnswersAlikeWhileTheSiteIsDown(t *testing.T) {
	site := httptest.NewServer(nil)
	site.Close()
	l, knocks, clients := coverOf(t, site.URL)
	for _, client := range clients {
		answers := map[string]int{}
		for _, path := range []string{"/a", "/other", "/a?x"} {
			for _, method := range []string{"GET", "POST", "PROPFIND"} {
				req, err := http.NewRequest(method, "https://"+l.Addr().String()+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				res, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil {
					t.Fatal(err)
				}
				res.Header.Del("Date")
				answers[fmt.Sprint(res.StatusCode, res.Header, string(body))]++
				<-knocks
			}
		}
		if len(answers) != 1 || !strings.HasPrefix(fmt.Sprint(answers), "map[502 ") {
			t.Errorf("answers %v", answers)
		}
	}
}

// A WebSocket (RFC 6455) through the cover: the handshake, and frames both ways.
func TestProxyCoverPassesWebSockets(t *testing.T) {
	const magic, key = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", "dGhlIHNhbXBsZSBub25jZQ=="
	accept := func(key string) string {
		sum := sha1.Sum([]byte(key + magic))
		return base64.StdEncoding.EncodeToString(sum[:])
	}
	frame := []byte{0x81, 0x85, 1, 2, 3, 4, 'h' ^ 1, 'e' ^ 2, 'l' ^ 3, 'l' ^ 4, 'o' ^ 1} // masked
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Sec-WebSocket-Version") != "13" {
			w.WriteHeader(http.StatusUpgradeRequired)
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept(r.Header.Get("Sec-WebSocket-Key")))
		rw.Flush()
		for range 2 {
			got := make([]byte, len(frame))
			if _, err := io.ReadFull(rw, got); err != nil || !bytes.Equal(got, frame) {
				return
			}
			rw.Write([]byte{0x81, 5, 'w', 'o', 'r', 'l', 'd'})
			rw.Flush()
		}
	}))
	defer site.Close()
	l, knocks, _ := coverOf(t, site.URL)
	conn := tls.Client(dial(t, l), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(conn, "GET /socket HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n", key)
	<-knocks
	untilOpen(t, l, 1)
	reader := bufio.NewReader(conn)
	res, err := http.ReadResponse(reader, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols || res.Header.Get("Sec-WebSocket-Accept") != accept(key) {
		t.Fatalf("%v, %v", res, err)
	}
	for range 2 {
		if _, err := conn.Write(frame); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 7)
		if _, err := io.ReadFull(reader, got); err != nil || string(got[2:]) != "world" {
			t.Errorf("%q, %v", got, err)
		}
	}
	conn.Close()
	untilOpen(t, l, 0)
}

// However an answer ends, what the knock completes goes on behind it.
func TestAnsweredIsClosedHoweverTheAnswerEnds(t *testing.T) {
	asked := make(chan struct{})
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/aborts":
			io.WriteString(w, "half an ans")
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case "/hangs":
			asked <- struct{}{}
			<-r.Context().Done()
		}
	}))
	defer site.Close()
	l, knocks, clients := coverOf(t, site.URL)
	for version, client := range clients {
		for _, path := range []string{"/", "/aborts", "/hangs"} {
			ctx, leave := context.WithCancel(t.Context())
			req, err := http.NewRequestWithContext(ctx, "GET", "https://"+l.Addr().String()+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			failed := make(chan error)
			go func() {
				res, err := client.Do(req)
				if err == nil {
					_, err = io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
				failed <- err
			}()
			k := <-knocks
			if path == "/hangs" {
				<-asked
				select {
				case <-k.Answered:
					t.Errorf("HTTP/%d, %s: the answer is out before the site has begun it", version, path)
				default:
				}
				leave()
			}
			select {
			case <-k.Answered:
			case <-time.After(20 * time.Second):
				t.Errorf("HTTP/%d, %s: the answer is never out", version, path)
			}
			if err := <-failed; (err == nil) != (path == "/") {
				t.Errorf("HTTP/%d, %s: %v", version, path, err)
			}
			leave()
		}
	}
}
