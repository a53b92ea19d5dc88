package httpd

import (
	"log/slog"
	"net/http"
	"time"
)

// A Cover decides what every request gets to see, whatever it asks for: nothing
// at all ([Drop]), one constant response ([Status]), or a real site ([Proxy]).
// Each has a file of its own, cover_*.go.
//
// A cover knows nothing of knocks: the listener posts each request, and then has
// the cover answer it.
type Cover interface {
	// String names the cover as the status does: drop, "status 404", proxy.
	String() string

	// Handler returns what answers the requests of a listener. If it returns nil
	// nobody gets an answer: the listener resets each connection as soon as its
	// head has been read.
	Handler(clients Clients, log *slog.Logger) http.Handler

	// HasVisitors reports whether people look around behind the cover who do not
	// know that there is anything else. The paths they try are not held against them.
	HasVisitors() bool
}

// A HeadResponder is a cover that answers HTTP/1 by itself, from the head of a
// request alone. The handler then serves HTTP/2 only. This way malformed requests
// get the same response as all others; net/http would answer them with errors of
// its own.
type HeadResponder interface {
	Cover

	// Respond returns the response to a head, which may be malformed. The
	// connection is closed after it.
	Respond(head []byte, now time.Time) []byte
}

// Drops reports whether the cover answers nobody. The zero Cover does not either.
func (o Options) Drops() bool { return o.handler() == nil }

// handler returns what answers requests; nil: connections are reset.
func (o Options) handler() http.Handler {
	if o.Cover == nil {
		return nil
	}
	return o.Cover.Handler(o.Clients, o.Log)
}
