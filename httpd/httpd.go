// Package httpd receives knocks.
//
// A [Listener] closes first and thinks after: it reads the head of a request,
// posts it as a [Knock], and resets the connection without having sent a
// byte. Only then does anybody look at what was asked: whoever takes the
// knock out of its mailbox has [Router] send it to the one handler there is.
// What a stranger sees cannot depend on the outcome, since it happened before.
package httpd

import (
	"net/http"

	"github.com/go-chi/chi/v5"
)

// Router returns a chi router that hands every request to h: any method, any
// path, and whatever chi would have answered by itself. No pattern is made of
// a secret path, so that the router cannot tell one from others.
func Router(h http.HandlerFunc) http.Handler {
	r := chi.NewRouter()
	r.NotFound(h)
	r.MethodNotAllowed(h)
	r.HandleFunc("/*", h)
	return r
}
