package httpd

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"time"
)

// Status is the cover that gives one constant response to every request, whatever
// its method and path. A HEAD request gets the same without the body.
type Status struct {
	Code int
	Body []byte
	Type string // the Content-Type; empty: none is sent
}

func (s Status) String() string { return "status " + strconv.Itoa(s.Code) }

func (Status) HasVisitors() bool { return false }

// Respond returns the response by HTTP/1.
func (s Status) Respond(head []byte, now time.Time) []byte {
	b := fmt.Appendf(nil, "HTTP/1.1 %d %s\r\n", s.Code, http.StatusText(s.Code))
	if s.Type != "" {
		b = fmt.Appendf(b, "Content-Type: %s\r\n", s.Type)
	}
	if s.hasBody() {
		b = fmt.Appendf(b, "Content-Length: %d\r\n", len(s.Body))
	}
	b = fmt.Appendf(b, "Date: %s\r\nConnection: close\r\n\r\n", now.UTC().Format(http.TimeFormat))
	if s.hasBody() && !bytes.HasPrefix(head, []byte("HEAD ")) {
		b = append(b, s.Body...)
	}
	return b
}

// Handler returns what gives the response by HTTP/2.
func (s Status) Handler(Clients, *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		header := w.Header()
		if s.Type != "" {
			header.Set("Content-Type", s.Type)
		} else {
			header["Content-Type"] = nil // net/http must not guess one
		}
		if s.hasBody() {
			header.Set("Content-Length", strconv.Itoa(len(s.Body)))
		}
		w.WriteHeader(s.Code)
		w.Write(s.Body)
	})
}

// hasBody reports whether the status allows a body (RFC 9110, section 6.4.1).
func (s Status) hasBody() bool {
	return s.Code != http.StatusNoContent && s.Code != http.StatusNotModified
}
