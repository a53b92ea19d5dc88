package admin

import (
	"fmt"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// The API may be used from a browser: `webknock ui` and `ssh -L` lead a loopback port to
// the socket. The kernel then knows only the process that holds that port, and a browser
// sends requests on behalf of any page that it shows. These middlewares see to it that a
// page of another origin can neither read nor change anything:
//
//   - localHostsOnly: a name that a stranger's DNS server resolves to 127.0.0.1 is not
//     answered (DNS rebinding).
//   - sameOriginOnly: nor is what the browser says another page has asked for. What changes
//     something needs a header that no form and no plain link can send.
//   - jsonBodiesOnly: a form's body is refused.
//   - withGuardingHeaders: the browser is told not to lend answers to other pages.
//
// There are no CORS headers: a browser asks for leave before it sends a header like
// X-Webknock for another origin, and gets none.

// browserHeader is what a page has to send, with the value 1, to change something.
const browserHeader = "X-Webknock"

// localHostsOnly answers only requests for webknock, localhost or a loopback address.
func localHostsOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isLocalHost(r.Host) {
			fail(w, NewProblem(http.StatusForbidden,
				fmt.Sprintf("Host: %q is not answered here (webknock, localhost or a loopback address is)", r.Host)))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isLocalHost reports whether a Host header is what the commands send, or leads to this
// host. Only without a port it is the commands' name: a resolver may find a host of that
// name, and a browser that has asked there names the port.
func isLocalHost(host string) bool { return host == "webknock" || Loopback(host) }

// Loopback reports whether a Host header names this host by a name that no DNS server is
// asked for: localhost, or a loopback address. A port may follow it.
func Loopback(host string) bool {
	name := host
	if h, port, err := net.SplitHostPort(host); err == nil && isPort(port) {
		name = h
		if strings.HasPrefix(host, "[") {
			name = "[" + h + "]"
		}
	}
	if strings.EqualFold(name, "localhost") {
		return true
	}
	inner, bracketed := strings.CutPrefix(name, "[")
	if bracketed {
		if inner, bracketed = strings.CutSuffix(inner, "]"); !bracketed {
			return false
		}
	}
	addr, err := netip.ParseAddr(inner)
	return err == nil && addr.Is6() == bracketed && addr.Zone() == "" && addr.Unmap().IsLoopback()
}

func isPort(s string) bool {
	for _, c := range s {
		if c < '0' || c > '9' {
			return false
		}
	}
	return s != ""
}

// sameOriginOnly refuses what a browser sends for a page of another origin. From a browser
// it lets through what changes something only with X-Webknock: 1.
func sameOriginOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, origin := range r.Header["Origin"] {
			if !isOrigin(origin, r.Host) {
				fail(w, NewProblem(http.StatusForbidden, fmt.Sprintf("Origin: a page of %q may not ask for this", origin)))
				return
			}
		}
		// Pages of other ports of this host are same-site. None is a user who has typed the
		// address (W3C Fetch Metadata Request Headers, section 2.4).
		for _, site := range r.Header["Sec-Fetch-Site"] {
			if site != "same-origin" && site != "none" {
				fail(w, NewProblem(http.StatusForbidden, "Sec-Fetch-Site: a page of another origin may not ask for this"))
				return
			}
		}
		if changes(r.Method) && isBrowser(r.Header) && r.Header.Get(browserHeader) != "1" {
			fail(w, NewProblem(http.StatusForbidden, "a browser may change something only with the header "+browserHeader+": 1"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isOrigin reports whether an Origin header is that of pages of a host. "null" is nobody's.
func isOrigin(origin, host string) bool {
	u, err := url.Parse(origin)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.User == nil &&
		strings.EqualFold(origin, u.Scheme+"://"+host)
}

// changes reports whether requests of a method may change something.
func changes(method string) bool {
	return method != http.MethodGet && method != http.MethodHead && method != http.MethodOptions
}

// isBrowser reports whether a request has a header that browsers send and programs do not.
func isBrowser(h http.Header) bool {
	return h["Origin"] != nil || h["Referer"] != nil || h["Sec-Fetch-Site"] != nil
}

// jsonBodiesOnly refuses bodies that are not application/json.
func jsonBodiesOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			if media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); media != "application/json" {
				fail(w, NewProblem(http.StatusUnsupportedMediaType, "the body is not application/json"))
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// withGuardingHeaders keeps answers out of pages of other origins, of caches, and of what
// a browser takes them for by their first bytes.
func withGuardingHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		next.ServeHTTP(w, r)
	})
}
