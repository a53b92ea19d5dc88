package httpd

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pires/go-proxyproto"

	"webknock/httpd/pending"
)

// server returns the server of a cover that answers. It posts each request as it
// comes in, and then lets the handler answer it.
func (o Options) server(handler http.Handler, conns *idleConns) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(o.TLS != nil)
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if o.answerChallengeRequest(w, r) {
				return
			}
			answered := make(chan struct{})
			defer close(answered)
			o.postRequest(r, answered)
			if conn, ok := r.Context().Value(connKey{}).(net.Conn); ok {
				defer conns.endHijacked(conn)
			}
			handler.ServeHTTP(w, r)
		}),
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			ctx = context.WithValue(ctx, connKey{}, conn)
			return context.WithValue(ctx, viaProxyKey{}, proxiedOf(conn) != nil)
		},
		Protocols:                    protocols,
		TLSConfig:                    o.TLS.Clone(), // the server may change its copy; handshakes go by o.TLS
		ReadHeaderTimeout:            HeadTimeout,
		IdleTimeout:                  time.Minute,
		MaxHeaderBytes:               MaxHead,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), // strangers' mistakes
	}
}

// answer serves a connection under a cover that answers. It reports false, and has
// done nothing, if the service has ended.
//
// If the cover responds to HTTP/1 heads by itself, net/http serves HTTP/2 only:
// it would answer a malformed request, or a Host that it does not like, with an
// error of its own. For the same reason the handshake is made here.
func (l *Listener) answer(tcp *net.TCPConn, e *pending.Entry, s *service) bool {
	select {
	case <-s.conns.closed:
		return false
	default:
	}
	conn, err := s.Clients.accept(tcp)
	viaProxy := conn != net.Conn(tcp)
	if err == nil {
		err = errors.Join(tcp.SetLinger(-1), tcp.SetDeadline(time.Now().Add(HeadTimeout)))
	}
	protocol := ""
	if err == nil && s.TLS != nil {
		secured := tls.Server(conn, s.TLS)
		err = secured.Handshake()
		conn, protocol = secured, secured.ConnectionState().NegotiatedProtocol
	}
	responder, responds := s.Cover.(HeadResponder)
	switch {
	case err != nil:
		tcp.Close()
	case responds && protocol != "h2":
		s.respond(responder, tcp, conn, viaProxy)
		closeSlowly(tcp, conn)
	default:
		tcp.SetDeadline(time.Time{})
		s.idle.begin(conn, e)
		select {
		case s.conns.conns <- conn:
		case <-s.conns.closed:
			tcp.Close()
			s.idle.end(conn)
		}
		return true
	}
	l.pending.Remove(e)
	return true
}

// respond reads one head, posts it, and sends the cover's response, even if the
// head is malformed. An incomplete head is no knock and gets no response.
func (s *service) respond(cover HeadResponder, tcp *net.TCPConn, conn net.Conn, viaProxy bool) {
	head := getBuffer()
	err := readHead(conn, head)
	s.Refused.CountSlow(err)
	if err != nil || s.answerChallenge(tcp, conn, head.bytes) {
		putBuffer(head)
		return
	}
	response := cover.Respond(head.bytes, time.Now()) // the head is not ours any more once it is posted
	answered := make(chan struct{})
	defer close(answered)
	k := Knock{Remote: addrPort(conn.RemoteAddr()), Local: addrPort(conn.LocalAddr()), ViaProxy: viaProxy, ToSite: cover.HasVisitors(), Answered: answered, head: head}
	if s.identify(&k, head.bytes) {
		s.Post(k)
	} else {
		k.Release()
	}
	conn.Write(response)
}

// closeSlowly closes a connection whose client may still be sending. It reads on
// for a moment, so that the response reaches the client before a reset could (RFC
// 9112, section 9.6).
func closeSlowly(tcp *net.TCPConn, conn net.Conn) {
	if secured, ok := conn.(*tls.Conn); ok {
		secured.CloseWrite()
	}
	tcp.CloseWrite()
	tcp.SetReadDeadline(time.Now().Add(closeTimeout))
	io.CopyN(io.Discard, tcp, 256<<10)
	tcp.Close()
}

// postRequest posts a request that net/http has read.
func (o Options) postRequest(r *http.Request, answered <-chan struct{}) {
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return
	}
	remote = canonical(remote)
	client, scheme := remote.Addr(), ""
	if o.Clients.Source != ProxyProtocol { // which has set the remote address to the client's already
		if client, err = o.Clients.client(remote.Addr(), r.Header); err != nil {
			return
		}
		scheme = o.Clients.scheme(remote.Addr(), r.Header)
	}
	viaProxy, _ := r.Context().Value(viaProxyKey{}).(bool)
	k := Knock{
		Listener: o.Name, Client: client, Remote: remote, At: time.Now(), TLS: r.TLS != nil, ProxyScheme: scheme, ViaProxy: viaProxy || client != remote.Addr(),
		ToSite: o.Cover.HasVisitors(), Answered: answered,
		request: &http.Request{
			Method: r.Method, URL: r.URL, Proto: r.Proto, ProtoMajor: r.ProtoMajor, ProtoMinor: r.ProtoMinor,
			Header: r.Header.Clone(), Host: r.Host, RequestURI: r.RequestURI, RemoteAddr: remote.String(), Body: http.NoBody,
		},
	}
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		if at, err := netip.ParseAddrPort(local.String()); err == nil {
			k.Local = canonical(at)
		}
	}
	o.Post(k)
}

// viaProxyKey is the key of request contexts for whether the PROXY protocol has
// named the client.
type viaProxyKey struct{}

// connKey is the key of request contexts for the connection.
type connKey struct{}

// proxiedOf returns the connection that trusts the PROXY protocol below TLS, or
// nil if there is none.
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

// idleConns are the connections of a server that wait for a request head. They are
// pending connections like those that the listener reads itself, and are evicted
// in the same order. The others, whose requests are being answered, are counted.
type idleConns struct {
	pending   *pending.Set
	max       int
	active    *atomic.Int64
	mu        sync.Mutex
	byConn    map[net.Conn]*pending.Entry
	answering map[net.Conn]bool // true: hijacked, so that the server says no more of it
}

// begin records that a pending connection waits for a head.
func (c *idleConns) begin(conn net.Conn, e *pending.Entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.byConn[conn] = e
}

// end removes a connection from the pending ones, if it was waiting.
func (c *idleConns) end(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, waits := c.byConn[conn]; waits {
		c.pending.Remove(e)
		delete(c.byConn, conn)
	}
}

// state is the ConnState of the server.
func (c *idleConns) state(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew: // pending since it was accepted
	case http.StateIdle:
		c.endAnswering(conn)
		if e := (&pending.Entry{Closer: tcpOf(conn)}); c.pending.Add(e, c.max) {
			c.begin(conn, e)
		}
	default:
		c.end(conn)
		c.answer(conn, state)
	}
}

// answer counts a connection that is no longer pending for as long as it is open.
func (c *idleConns) answer(conn net.Conn, state http.ConnState) {
	if state == http.StateClosed {
		c.endAnswering(conn)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.answering[conn]; !known {
		c.active.Add(1)
	}
	c.answering[conn] = state == http.StateHijacked
}

func (c *idleConns) endAnswering(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.answering[conn]; known {
		c.active.Add(-1)
		delete(c.answering, conn)
	}
}

// endHijacked is called when the answer to a request is over. Nothing else tells of
// the end of a hijacked connection.
func (c *idleConns) endHijacked(conn net.Conn) {
	c.mu.Lock()
	hijacked := c.answering[conn]
	c.mu.Unlock()
	if hijacked {
		c.endAnswering(conn)
	}
}

// A chanListener is a net.Listener whose connections come out of a channel.
type chanListener struct {
	conns  chan net.Conn
	closed chan struct{}
	close  func() // closes closed, once
	addr   net.Addr
}

func newChanListener(addr net.Addr) *chanListener {
	closed := make(chan struct{})
	return &chanListener{conns: make(chan net.Conn), closed: closed, close: sync.OnceFunc(func() { close(closed) }), addr: addr}
}

func (l *chanListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *chanListener) Close() error   { l.close(); return nil }
func (l *chanListener) Addr() net.Addr { return l.addr }
