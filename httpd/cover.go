package httpd

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/pires/go-proxyproto"
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
			answered := make(chan struct{})
			defer close(answered)
			o.knock(r, answered)
			answer.ServeHTTP(w, r)
		}),
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, namedKey{}, proxiedOf(conn) != nil)
		},
		Protocols:                    protocols,
		TLSConfig:                    o.TLS.Clone(), // which the server may change, while handshakes go by o.TLS
		ReadHeaderTimeout:            HeadTimeout,
		IdleTimeout:                  time.Minute,
		MaxHeaderBytes:               MaxHead,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), // strangers' mistakes
	}
}

// answer does with a connection what a cover that does not drop wants. It
// reports false, and has done nothing, if that is no longer in force.
//
// Under a constant response net/http sees HTTP/2 alone: a request by HTTP/1 that
// it cannot read, or a Host that it does not like, it would answer with words
// of its own. For the same reason it sees no handshake.
func (l *Listener) answer(h *half, s *service) bool {
	select {
	case <-s.feed.ended:
		return false
	default:
	}
	tcp := h.conn
	conn, err := s.Clients.accept(tcp)
	named := conn != net.Conn(tcp)
	if err == nil {
		err = errors.Join(tcp.SetLinger(-1), tcp.SetDeadline(time.Now().Add(HeadTimeout)))
	}
	protocol := ""
	if err == nil && s.TLS != nil {
		secured := tls.Server(conn, s.TLS)
		err = secured.Handshake()
		conn, protocol = secured, secured.ConnectionState().NegotiatedProtocol
	}
	switch {
	case err != nil:
		tcp.Close()
	case s.Cover.Status != 0 && protocol != "h2":
		s.reply(tcp, conn, named)
		closeSlowly(tcp, conn)
	default:
		tcp.SetDeadline(time.Time{})
		s.waiting.begin(conn, h)
		select {
		case s.feed.conns <- conn:
		case <-s.feed.ended:
			tcp.Close()
			s.waiting.end(conn)
		}
		return true
	}
	l.halves.remove(h)
	return true
}

// waiting is the connections of a server that wait for a head. They give way to
// others as those do that the listener reads itself, and in the same order.
type waiting struct {
	halves *halves
	max    int
	mu     sync.Mutex
	places map[net.Conn]*half
}

// begin has a connection, which has its place, wait for a head.
func (w *waiting) begin(conn net.Conn, h *half) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.places[conn] = h
}

// end takes the place of a connection away, if it waits.
func (w *waiting) end(conn net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if h, waits := w.places[conn]; waits {
		w.halves.remove(h)
		delete(w.places, conn)
	}
}

// state is the ConnState of the server.
func (w *waiting) state(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew: // has waited since it was accepted
	case http.StateIdle:
		if h := (&half{conn: tcpOf(conn)}); w.halves.add(h, w.max) {
			w.begin(conn, h)
		}
	default:
		w.end(conn)
	}
}

// namedKey is of the context of requests: whether the PROXY protocol has named
// their client.
type namedKey struct{}

// proxiedOf returns what speaks the PROXY protocol below TLS; nil: nobody does.
func proxiedOf(conn net.Conn) *proxyproto.Conn {
	if secured, ok := conn.(*tls.Conn); ok {
		conn = secured.NetConn()
	}
	proxied, _ := conn.(*proxyproto.Conn)
	return proxied
}

// tcpOf returns the connection below TLS and the PROXY protocol.
func tcpOf(conn net.Conn) *net.TCPConn {
	if proxied := proxiedOf(conn); proxied != nil {
		conn = proxied.Raw()
	} else if secured, ok := conn.(*tls.Conn); ok {
		conn = secured.NetConn()
	}
	return conn.(*net.TCPConn)
}

// reply reads one head, posts it, and gives the constant response, however
// malformed the head is. One that does not end is no knock and has no response.
func (s *service) reply(tcp *net.TCPConn, conn net.Conn, named bool) {
	head := getBuffer()
	err := readHead(conn, head)
	s.Refused.countSlow(err)
	if err != nil || s.challenged(tcp, conn, head.bytes) {
		putBuffer(head)
		return
	}
	withBody := !bytes.HasPrefix(head.bytes, []byte("HEAD "))
	answered := make(chan struct{})
	defer close(answered)
	k := Knock{Remote: addrPort(conn.RemoteAddr()), Local: addrPort(conn.LocalAddr()), ViaProxy: named, Answered: answered, head: head}
	if s.sign(&k, head.bytes) {
		s.Post(k)
	} else {
		k.Release()
	}
	conn.Write(s.Cover.response(withBody, time.Now()))
}

// response is the constant response by HTTP/1.
func (c Cover) response(withBody bool, now time.Time) []byte {
	b := fmt.Appendf(nil, "HTTP/1.1 %d %s\r\n", c.Status, http.StatusText(c.Status))
	if c.Type != "" {
		b = fmt.Appendf(b, "Content-Type: %s\r\n", c.Type)
	}
	if c.hasBody() {
		b = fmt.Appendf(b, "Content-Length: %d\r\n", len(c.Body))
	}
	b = fmt.Appendf(b, "Date: %s\r\nConnection: close\r\n\r\n", now.UTC().Format(http.TimeFormat))
	if c.hasBody() && withBody {
		b = append(b, c.Body...)
	}
	return b
}

// hasBody reports whether the status allows a body (RFC 9110, section 6.4.1).
func (c Cover) hasBody() bool {
	return c.Status != http.StatusNoContent && c.Status != http.StatusNotModified
}

// closeSlowly ends a connection whose client may still send, so that what was
// written reaches it before a reset could (RFC 9112, section 9.6).
func closeSlowly(tcp *net.TCPConn, conn net.Conn) {
	if secured, ok := conn.(*tls.Conn); ok {
		secured.CloseWrite()
	}
	tcp.CloseWrite()
	tcp.SetReadDeadline(time.Now().Add(closeTimeout))
	io.CopyN(io.Discard, tcp, 256<<10)
	tcp.Close()
}

// knock posts a request that a server has read.
func (o Options) knock(r *http.Request, answered <-chan struct{}) {
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return
	}
	remote = netip.AddrPortFrom(remote.Addr().Unmap().WithZone(""), remote.Port())
	client, said := remote.Addr(), ""
	if o.Clients.Source != ProxyProtocol { // whose remote address is the client's already
		if client, err = o.Clients.client(remote.Addr(), r.Header); err != nil {
			return
		}
		said = o.Clients.scheme(remote.Addr(), r.Header)
	}
	named, _ := r.Context().Value(namedKey{}).(bool)
	l := Knock{Client: client, Remote: remote, At: time.Now(), TLS: r.TLS != nil, ProxyScheme: said, ViaProxy: named || client != remote.Addr(), ToSite: o.Cover.Proxy != nil, Answered: answered, request: &http.Request{
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

// constant answers every request by HTTP/2 alike.
func (c Cover) constant() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		header := w.Header()
		if c.Type != "" {
			header.Set("Content-Type", c.Type)
		} else {
			header["Content-Type"] = nil // none is guessed
		}
		if c.hasBody() {
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
			r.Out.URL.RawQuery = r.In.URL.RawQuery // what cannot be parsed as well
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
			if !errors.Is(err, context.Canceled) { // the client has gone
				log.Warn("the site behind the cover does not answer", "site", c.Proxy.Host, "error", err)
			}
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
	end   func() // closes ended, once
	addr  net.Addr
}

func newFeed(addr net.Addr) *feed {
	ended := make(chan struct{})
	return &feed{conns: make(chan net.Conn), ended: ended, end: sync.OnceFunc(func() { close(ended) }), addr: addr}
}

func (f *feed) Accept() (net.Conn, error) {
	select {
	case conn := <-f.conns:
		return conn, nil
	case <-f.ended:
		return nil, net.ErrClosed
	}
}

func (f *feed) Close() error   { f.end(); return nil }
func (f *feed) Addr() net.Addr { return f.addr }
