package metrics

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
)

func newServer(t *testing.T) *Server {
	t.Helper()
	s := NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "up 1\n") }), slog.New(slog.DiscardHandler))
	t.Cleanup(func() { s.Close() })
	return s
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// ask returns the status and the body of an answer, or the error.
func ask(method, url string) (int, string) {
	r, err := http.NewRequest(method, url, nil)
	if err != nil {
		return 0, err.Error()
	}
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(body)
}

func TestOnlyMetricsAreServed(t *testing.T) {
	s, address := newServer(t), free(t)
	if err := s.Prepare(t.Context(), address); err != nil {
		t.Fatal(err)
	}
	s.Commit()
	for _, tt := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/metrics", 200}, {"GET", "/metrics?x=1", 200}, {"GET", "/", 404}, {"GET", "/v1/status", 404}, {"GET", "/metrics/", 404}, {"GET", "/healthz", 404},
		{"GET", "/debug/pprof/", 404}, {"HEAD", "/metrics", 405}, {"POST", "/metrics", 405}, {"DELETE", "/metrics", 405}, {"OPTIONS", "/metrics", 405},
	} {
		status, body := ask(tt.method, "http://"+address+tt.path)
		if status != tt.status || (status == 200) != (body == "up 1\n") {
			t.Errorf("%s %s: %d %q, want %d", tt.method, tt.path, status, body, tt.status)
		}
	}
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")
	if answer, _ := io.ReadAll(conn); !strings.HasPrefix(string(answer), "HTTP/1.1 404 ") {
		t.Errorf("OPTIONS *: %q; want 404, and the end of the connection", answer)
	}
}

func TestTheAddressFollowsTheConfiguration(t *testing.T) {
	s, first, second := newServer(t), free(t), free(t)
	serves := func(address string) bool { status, _ := ask("GET", "http://"+address+"/metrics"); return status == 200 }
	use := func(address string) {
		t.Helper()
		if err := s.Prepare(t.Context(), address); err != nil {
			t.Fatal(err)
		}
		s.Commit()
	}
	use(first)
	if !serves(first) {
		t.Error("not served")
	}
	use(first)
	if !serves(first) {
		t.Error("not served after it was configured again")
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if err := s.Prepare(t.Context(), taken.Addr().String()); err == nil || !strings.Contains(err.Error(), "admin.metrics") || !serves(first) {
		t.Errorf("an address that is taken: %v; the one before is served: %v", err, serves(first))
	}
	if err := s.Prepare(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	s.Abort()
	if !serves(first) {
		t.Error("not served after another address was given up")
	}
	use(second)
	if serves(first) || !serves(second) {
		t.Error("the new address is not served, or the old one is still")
	}
	use("")
	if serves(second) {
		t.Error("served without an address")
	}
	use(first)
	if s.Close(); serves(first) {
		t.Error("served after the end")
	}
	use(first)
	if serves(first) {
		t.Error("served again after the end")
	}
}
