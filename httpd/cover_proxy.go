package httpd

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"time"
)

// Proxy is the cover that passes every request on to a real site, knocks
// included. HTTP/2, WebSockets and server-sent events go through.
type Proxy struct {
	Site *url.URL // scheme and host, such as http://127.0.0.1:8081
}

func (Proxy) String() string { return "proxy" }

func (Proxy) HasVisitors() bool { return true }

// Handler returns the reverse proxy. The site sees the Host that the visitor asked
// for, and the visitor's address in X-Forwarded-For. Addresses already in that
// field are passed on only if one of the trusted proxies sent it.
func (p Proxy) Handler(clients Clients, log *slog.Logger) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(p.Site)
			r.Out.Host = r.In.Host
			r.Out.URL.RawQuery = r.In.URL.RawQuery // as it came, even if it cannot be parsed
			if peer, err := netip.ParseAddrPort(r.In.RemoteAddr); err == nil && clients.trusts(peer.Addr().Unmap()) {
				r.Out.Header["X-Forwarded-For"] = r.In.Header["X-Forwarded-For"]
			}
			r.SetXForwarded()
		},
		FlushInterval: -1, // pass each write on at once
		Transport: &http.Transport{
			MaxIdleConnsPerHost:   64,
			IdleConnTimeout:       time.Minute,
			ResponseHeaderTimeout: time.Minute,
			DisableCompression:    true, // bodies pass unchanged
		},
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			if !errors.Is(err, context.Canceled) { // the visitor has gone
				log.Warn("the site behind the cover does not answer", "site", p.Site.Host, "error", err)
			}
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.WriteHeader(http.StatusBadGateway)
			io.WriteString(w, "Bad Gateway\n")
		},
	}
}
