// Package ui shows the page of the admin API to one browser.
//
// The page is on the admin socket, which browsers cannot open, and which only some users
// may. A [Server] answers on a port of the loopback address, which everybody on this host
// may connect to, and passes requests on to the socket. So it asks each request for more
// than the socket does:
//
//   - The link that [Server.URL] returns holds a token, which is good once. The browser
//     that shows it first gets a cookie for a path that nobody else knows. Every request
//     without that path and that cookie is refused, reads as well.
//   - The path is a secret because browsers send cookies to all ports of a host: a page
//     of another user on another port would receive the cookie, if it could name the path.
//   - The Host of a request must be a loopback address or localhost, so that no name of a
//     stranger's leads here (DNS rebinding).
//   - A request that another origin causes is refused, as the headers Origin and
//     Sec-Fetch-Site tell, and one that changes something needs the header X-Webknock: 1,
//     which no other origin can send.
package ui

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"webknock/httpd/admin"
)

// A Server is the handler of one run of webknock ui. Make it with New.
type Server struct {
	address netip.AddrPort
	token   string
	used    atomic.Bool // the token
	path    string      // the secret path of the session, with a slash on both sides
	cookie  http.Cookie
	proxy   http.Handler
}

// New returns a server for requests that come to an address of this host, which passes
// them on to an admin socket.
func New(address netip.AddrPort, socket string) *Server {
	s := &Server{address: address, token: rand.Text(), path: "/" + rand.Text() + "/"}
	s.cookie = http.Cookie{
		Name: fmt.Sprint("webknock-", address.Port()), Value: rand.Text(), Path: s.path, HttpOnly: true, SameSite: http.SameSiteStrictMode,
	}
	s.proxy = http.StripPrefix(strings.TrimSuffix(s.path, "/"), toSocket(socket))
	return s
}

// URL returns the link that opens the page once.
func (s *Server) URL() string {
	return fmt.Sprintf("http://%v/?token=%s", s.address, s.token)
}

// Serve answers on a listener until ctx is done, and then returns nil.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{Handler: s, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(l); ctx.Err() == nil {
		return err
	}
	return nil
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case !admin.Loopback(r.Host): // the port may be another than ours, since ssh -L has one of its own
		refuse(w, "This page is for a browser on this computer: by 127.0.0.1 or localhost, and by no other name.")
	case s.redeem(r):
		w.Header().Set("Content-Security-Policy", strings.Replace(policy, ";", "; img-src data:;", 1)) // for the empty icon
		protect(w.Header())
		http.SetCookie(w, &s.cookie)
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		entrance.Execute(w, s.path) // fails only if the browser has gone
	case !s.knows(r):
		refuse(w, "This page needs the link that webknock ui has printed. Each link is good once, for one browser: for another, stop webknock ui and start it again.")
	case !ownOrigin(r):
		refuse(w, "Another page has asked for this. Open the page by itself.")
	case !reads(r) && r.Header.Get("X-Webknock") != "1":
		refuse(w, "A request that changes something needs the header X-Webknock: 1.")
	default:
		s.proxy.ServeHTTP(w, r)
	}
}

const policy = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// protect adds what browsers are told about every answer, except where the answer says
// it itself, as the page does.
func protect(h http.Header) {
	for name, value := range map[string]string{
		"Cache-Control":                "no-store",
		"Content-Security-Policy":      policy,
		"Cross-Origin-Opener-Policy":   "same-origin",
		"Cross-Origin-Resource-Policy": "same-origin",
		"Referrer-Policy":              "no-referrer",
		"X-Content-Type-Options":       "nosniff",
	} {
		if h.Get(name) == "" {
			h.Set(name, value)
		}
	}
}

// refuse answers with status 403.
func refuse(w http.ResponseWriter, why string) {
	protect(w.Header())
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusForbidden)
	fmt.Fprintln(w, why)
}

// entrance sends a browser on to the session's path. A redirect would not do: after a
// click on a link of another site, browsers follow it without the cookie.
var entrance = template.Must(template.New("entrance").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><title>webknock</title><link rel="icon" href="data:,"><meta http-equiv="refresh" content="0; url={{.}}">
<p><a href="{{.}}">The page of webknock</a></p></html>
`))

// redeem reports whether a request brings the token for the first time.
func (s *Server) redeem(r *http.Request) bool {
	return r.Method == http.MethodGet && r.URL.Path == "/" && equal(r.URL.Query().Get("token"), s.token) && s.used.CompareAndSwap(false, true)
}

// knows reports whether a request comes from the browser with the session.
func (s *Server) knows(r *http.Request) bool {
	length := len(s.path)
	if len(r.URL.Path) < length || !equal(r.URL.Path[:length], s.path) {
		return false
	}
	for _, cookie := range r.CookiesNamed(s.cookie.Name) {
		if equal(cookie.Value, s.cookie.Value) {
			return true
		}
	}
	return false
}

func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// ownOrigin reports whether the page itself causes a request, or the user does who types
// its address. The headers are those of a browser: nobody else can make it leave them out.
func ownOrigin(r *http.Request) bool {
	for _, origin := range r.Header.Values("Origin") {
		if origin != "http://"+r.Host {
			return false
		}
	}
	site := r.Header.Values("Sec-Fetch-Site")
	return len(site) == 0 || len(site) == 1 && (site[0] == "same-origin" || site[0] == "none" && reads(r))
}

func reads(r *http.Request) bool { return r.Method == http.MethodGet || r.Method == http.MethodHead }

// toSocket returns a handler that passes requests on to an admin socket.
func toSocket(socket string) http.Handler {
	return &httputil.ReverseProxy{
		FlushInterval: -1, // events are shown as they come
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", socket)
			},
			DisableCompression: true,
		},
		Rewrite: func(r *httputil.ProxyRequest) {
			// The request has been checked here. For the API it is one of a command's.
			r.SetURL(&url.URL{Scheme: "http", Host: "webknock"})
			r.Out.Host = "webknock"
			for name := range r.Out.Header {
				if name == "Cookie" || name == "Origin" || name == "Referer" || strings.HasPrefix(name, "Sec-") {
					r.Out.Header.Del(name)
				}
			}
		},
		ModifyResponse: func(res *http.Response) error {
			protect(res.Header)
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() != nil {
				return // the browser has gone
			}
			protect(w.Header())
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusBadGateway)
			json.NewEncoder(w).Encode(admin.NewProblem(http.StatusBadGateway, "the daemon does not answer: "+err.Error()))
		},
	}
}
