package httpd

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"
)

// untilOpen waits until a listener has so many open connections.
func untilOpen(t *testing.T, l *Listener, want int) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); l.Open() != want; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d connections are open, want %d", l.Open(), want)
		}
	}
}

// A connection is open while its head is awaited, while it is answered, and while it
// waits for the next request.
func TestOpenConnectionsAreCountedUnderEveryCover(t *testing.T) {
	const head = "GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
	asked, release := make(chan struct{}), make(chan struct{})
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked <- struct{}{}
		<-release
	}))
	defer site.Close()
	address, err := url.Parse(site.URL)
	if err != nil {
		t.Fatal(err)
	}
	l, _ := listenWith(t, Options{Cover: Proxy{Site: address}})
	conn := dial(t, l)
	untilOpen(t, l, 1)
	for range 2 { // on one connection
		io.WriteString(conn, head)
		<-asked
		if l.Open() != 1 {
			t.Errorf("%d connections while one is answered", l.Open())
		}
		release <- struct{}{}
	}
	silent := dial(t, l)
	untilOpen(t, l, 2)
	silent.Close()
	conn.Close()
	untilOpen(t, l, 0)

	dropping, knocks := listen(t, 16)
	conn = dial(t, dropping)
	io.WriteString(conn, head[:len(head)-2])
	untilOpen(t, dropping, 1)
	io.WriteString(conn, head[len(head)-2:])
	<-knocks
	untilOpen(t, dropping, 0)

	status, _ := listenWith(t, Options{Cover: Status{Code: 404}})
	conn = dial(t, status)
	io.WriteString(conn, head)
	io.ReadAll(conn)
	conn.(*net.TCPConn).Close()
	untilOpen(t, status, 0)
}
