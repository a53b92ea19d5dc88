package httpd

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestOptionsChangeWithoutAnAnswerLost(t *testing.T) {
	asked, release := make(chan struct{}), make(chan struct{})
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(asked)
		<-release
		io.WriteString(w, "at last")
	}))
	defer site.Close()
	address, err := url.Parse(site.URL)
	if err != nil {
		t.Fatal(err)
	}
	l, knocks := listenWith(t, Options{Cover: Proxy{Site: address}})
	slow := dial(t, l)
	io.WriteString(slow, "GET /slow HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
	<-knocks
	<-asked
	l.Use(Options{Max: 100, Post: func(k Knock) { knocks <- k }, Log: slog.New(slog.DiscardHandler)})
	dropped := dial(t, l)
	io.WriteString(dropped, "GET /b HTTP/1.1\r\nHost: h\r\n\r\n")
	<-knocks
	mustReset(t, dropped)
	close(release)
	slow.SetReadDeadline(time.Now().Add(20 * time.Second))
	if got, err := io.ReadAll(slow); err != nil || !strings.HasSuffix(string(got), "at last") {
		t.Errorf("what was being answered: %q, %v", got, err)
	}
}

// Slow heads under a cover that answers give way like those under one that
// drops.
func TestSlowClientsGiveWayUnderACoverThatAnswers(t *testing.T) {
	for name, cover := range map[string]Cover{"status": Status{Code: 404}, "proxy": Proxy{Site: &url.URL{Scheme: "http", Host: "127.0.0.1:1"}}} {
		knocks := make(chan Knock, 10)
		l, err := Listen(t.Context(), "127.0.0.1:0", Options{Max: 2, Cover: cover, Post: func(k Knock) { knocks <- k }, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		go l.Serve()
		defer l.Close()
		for range 5 {
			io.WriteString(dial(t, l), "GET / HTTP/1.1\r\n")
		}
		conn := dial(t, l)
		io.WriteString(conn, "GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
		if got, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 ") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if l.Refused().Evicted.Load() < 3 {
			t.Errorf("%s: %d evicted", name, l.Refused().Evicted.Load())
		}
	}
}
