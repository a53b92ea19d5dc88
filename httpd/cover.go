package httpd

import (
	"bytes"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strconv"
	"time"
)

// A Cover is what every request gets to see. The zero Cover drops: not one byte
// is sent.
type Cover struct {
	Status int    // the status of one constant response
	Body   []byte // of that response
	Type   string // its Content-Type; empty: none
	Proxy  *url.URL
}

// Drops reports whether the cover is to drop.
func (c Cover) Drops() bool { return c.Status == 0 && c.Proxy == nil }

// String names the cover as the configuration does.
func (c Cover) String() string {
	switch {
	case c.Proxy != nil:
		return "proxy"
	case c.Status != 0:
		return "status " + strconv.Itoa(c.Status)
	}
	return "drop"
}

// server returns what answers under a cover that does not drop. A knock is
// posted as the request comes in, and changes nothing about it.
func (o Options) server() *http.Server {
	answer := o.Cover.constant()
	if o.Cover.Proxy != nil {
		answer = o.Cover.reverse(o.Clients, o.Log)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(o.TLS != nil)
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if o.challengedRequest(w, r) {
				return
			}
			o.knock(r)
			answer.ServeHTTP(w, r)
		}),
		Protocols:                    protocols,
		TLSConfig:                    o.TLS,
		ReadHeaderTimeout:            HeadTimeout,
		IdleTimeout:                  time.Minute,
		MaxHeaderBytes:               MaxHead,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), // strangers' mistakes
	}
}

// knock posts a request that a server has read.
func (o Options) knock(r *http.Request) {
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return
	}
	remote = netip.AddrPortFrom(remote.Addr().Unmap().WithZone(""), remote.Port())
	client := remote.Addr()
	if o.Clients.Source != ProxyProtocol { // whose remote address is the client's already
		if client, err = o.Clients.client(remote.Addr(), r.Header); err != nil {
			return
		}
	}
	l := Letter{Client: client, Remote: remote, At: time.Now(), TLS: r.TLS != nil, Named: o.Clients.Source == ProxyProtocol || client != remote.Addr(), Site: o.Cover.Proxy != nil, request: &http.Request{
		Method: r.Method, URL: r.URL, Proto: r.Proto, ProtoMajor: r.ProtoMajor, ProtoMinor: r.ProtoMinor,
		Header: r.Header.Clone(), Host: r.Host, RequestURI: r.RequestURI, RemoteAddr: remote.String(), Body: http.NoBody,
	}}
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		if at, err := netip.ParseAddrPort(local.String()); err == nil {
			l.Local = netip.AddrPortFrom(at.Addr().Unmap().WithZone(""), at.Port())
		}
	}
	o.Post(l)
}

// constant answers every request alike.
func (c Cover) constant() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		header := w.Header()
		if c.Type != "" {
			header.Set("Content-Type", c.Type)
		} else {
			header["Content-Type"] = nil // none is guessed
		}
		if c.Status != http.StatusNoContent && c.Status != http.StatusNotModified {
			header.Set("Content-Length", strconv.Itoa(len(c.Body)))
		}
		w.WriteHeader(c.Status)
		w.Write(c.Body)
	})
}

// reverse passes every request on to the real site.
func (c Cover) reverse(clients Clients, log *slog.Logger) http.Handler {
	const down = "Bad Gateway\n"
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(c.Proxy)
			r.Out.Host = r.In.Host
			if peer, err := netip.ParseAddrPort(r.In.RemoteAddr); err == nil && clients.speaks(peer.Addr().Unmap()) {
				r.Out.Header["X-Forwarded-For"] = r.In.Header["X-Forwarded-For"]
			}
			r.SetXForwarded()
		},
		FlushInterval: -1, // as it comes
		Transport: &http.Transport{
			MaxIdleConnsPerHost:   64,
			IdleConnTimeout:       time.Minute,
			ResponseHeaderTimeout: time.Minute,
			DisableCompression:    true, // the body stays as it is
		},
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			log.Warn("the site behind the cover does not answer", "site", c.Proxy.Host, "error", err)
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.WriteHeader(http.StatusBadGateway)
			io.Copy(w, bytes.NewReader([]byte(down)))
		},
	}
}

// A feed is a net.Listener of connections that were accepted elsewhere.
type feed struct {
	conns chan net.Conn
	ended chan struct{}
	addr  net.Addr
}

func (f *feed) Accept() (net.Conn, error) {
	select {
	case conn := <-f.conns:
		return conn, nil
	case <-f.ended:
		return nil, net.ErrClosed
	}
}

func (f *feed) Close() error   { return nil }
func (f *feed) Addr() net.Addr { return f.addr }

// secure wraps a connection in TLS, if the listener has that.
func secure(conn net.Conn, config *tls.Config) net.Conn {
	if config == nil {
		return conn
	}
	return tls.Server(conn, config)
}
