// Package httpd receives knocks.
//
// A [Listener] closes first and thinks after. It reads the head of a request, passes it
// on as a [Knock], and resets the connection without having sent a byte. What was asked
// is looked at only then, so that what a stranger sees cannot depend on it. Start with
// [Listen]:
//
//	l, err := httpd.Listen(ctx, ":80", httpd.Options{
//		Max:  16384,
//		Post: func(k httpd.Knock) { queue <- k }, // must not block
//		Log:  log,
//	})
//	go l.Serve()
//
// The reader of the queue parses each knock with [Knock.Parse] and passes the request to
// [Router].
//
// Options.Cover is the answer to every request instead of the reset: see [Cover].
// Options.Clients says how to find the client behind a proxy: see [Clients].
//
// In the folders below, eventloop reads connections that are to be dropped, pending
// bounds those whose heads are incomplete, and admin serves the admin API.
package httpd

import (
	"net/http"

	"github.com/go-chi/chi/v5"
)

// Router returns a chi router that passes every request to h, whatever its method and
// path, and also those that chi would answer by itself. No secret path is the pattern of
// a route, so the router cannot tell one path from another. Every request goes through
// the middlewares first, in their order.
func Router(h http.HandlerFunc, middlewares ...func(http.Handler) http.Handler) http.Handler {
	r := chi.NewRouter()
	r.Use(middlewares...)
	r.NotFound(h)
	r.MethodNotAllowed(h)
	r.HandleFunc("/*", h)
	return r
}
