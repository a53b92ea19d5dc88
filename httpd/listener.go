package httpd

import (
	"bytes"
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pires/go-proxyproto"
	"golang.org/x/sys/unix"
)

// HeadTimeout bounds the time from accepting a connection to the end of its
// request head.
const HeadTimeout = 5 * time.Second

// Options are what a Listener does with connections.
type Options struct {
	Max     int         // heads being read at once; beyond it the oldest is reset
	TLS     *tls.Config // nil: plain HTTP
	Clients Clients
	Cover   Cover
	Post    func(Letter) // must not block
	Log     *slog.Logger
}

// A Listener receives knocks. Under the cover that drops it reads request heads
// and resets every connection: when its head is complete, when that has become
// impossible, or when its time is over. Not one byte is ever sent.
type Listener struct {
	tcp     *net.TCPListener
	service atomic.Pointer[service]

	mu      sync.Mutex
	reading *list.List // of *net.TCPConn whose heads are being read, oldest first
	closed  bool

	wg      sync.WaitGroup
	evicted atomic.Uint64
}

// A service is what is done with connections as long as the options stay.
type service struct {
	Options
	*http.Server // nil: they are dropped
	feed         *feed
}

// Listen binds a TCP address, host:port, for Serve. Every knock goes to
// o.Post: where connections are dropped, before that is done.
func Listen(ctx context.Context, address string, o Options) (*Listener, error) {
	config := net.ListenConfig{
		KeepAlive: -1, // connections do not live long enough
		Control: func(_, _ string, raw syscall.RawConn) error {
			var err error
			ctrl := raw.Control(func(fd uintptr) { err = resetOnClose(int(fd), true) })
			return errors.Join(ctrl, err)
		},
	}
	config.SetMultipathTCP(false) // SO_LINGER 0 of an MPTCP socket resets no subflow
	network := "tcp"
	if at, err := netip.ParseAddrPort(address); err == nil && at.Addr().Is4() {
		network = "tcp4" // 0.0.0.0 would take IPv6 as well
	}
	l, err := config.Listen(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	return newListener(l.(*net.TCPListener), o), nil
}

// ListenOn is Listen on a socket that somebody else has bound.
func ListenOn(l *net.TCPListener, o Options) (*Listener, error) {
	raw, err := l.SyscallConn()
	if err == nil {
		ctrl := raw.Control(func(fd uintptr) { err = resetOnClose(int(fd), true) })
		err = errors.Join(ctrl, err)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", l.Addr(), err)
	}
	return newListener(l, o), nil
}

func newListener(tcp *net.TCPListener, o Options) *Listener {
	l := &Listener{tcp: tcp, reading: list.New()}
	l.Use(o)
	return l
}

// resetOnClose has closing a socket reset its connection. Accepted sockets
// inherit it from the one that listens (socket(7)).
func resetOnClose(fd int, on bool) error {
	linger := unix.Linger{}
	if on {
		linger.Onoff = 1
	}
	return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &linger)
}

// Use puts other options in force, for connections that come from now on.
// Those that are being answered are brought to their end.
func (l *Listener) Use(o Options) {
	s := &service{Options: o}
	if !o.Cover.Drops() {
		s.Server = o.server()
		s.ConnState = l.heads(o.Max)
		s.feed = &feed{conns: make(chan net.Conn), ended: make(chan struct{}), addr: l.tcp.Addr()}
		go s.Serve(s.feed)
	}
	if old := l.service.Swap(s); old != nil {
		go old.end(shutdownTimeout)
	}
}

const shutdownTimeout = 30 * time.Second // for answers that are being given

// end stops a service. Connections that are dropped need nothing.
func (s *service) end(timeout time.Duration) {
	if s.Server == nil {
		return
	}
	close(s.feed.ended)
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if s.Shutdown(ctx) != nil {
		s.Close()
	}
}

// Addr returns the address that is listened on.
func (l *Listener) Addr() netip.AddrPort { return l.tcp.Addr().(*net.TCPAddr).AddrPort() }

// Evicted returns how many connections were reset to make room for others.
func (l *Listener) Evicted() uint64 { return l.evicted.Load() }

// Serve accepts connections until Close. No error ends it: a listener that
// gives up locks its users out.
func (l *Listener) Serve() {
	failing := false
	for {
		conn, err := l.tcp.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			l.wg.Wait()
			return
		}
		if err != nil {
			// Out of descriptors or memory (accept(2)): make room, then retry.
			if !failing {
				l.service.Load().Log.Error("cannot accept connections", "address", l.Addr(), "error", err)
			}
			failing = true
			l.evict()
			time.Sleep(5 * time.Millisecond)
			continue
		}
		if failing {
			l.service.Load().Log.Info("accepting connections again", "address", l.Addr())
			failing = false
		}
		l.wg.Go(func() { l.handle(conn) })
	}
}

// handle does with a connection what the options say.
func (l *Listener) handle(conn *net.TCPConn) {
	for {
		s := l.service.Load()
		if s.Server == nil {
			if place := l.admit(conn, s.Max); place != nil {
				l.receive(conn, place, s)
			}
			return
		}
		if l.answer(conn, s) {
			return
		}
	}
}

// Close stops listening, and then resets the connections whose heads are not
// complete within a moment.
func (l *Listener) Close() error {
	err := l.tcp.Close()
	read := make(chan struct{})
	go func() {
		l.wg.Wait()
		close(read)
	}()
	l.service.Load().end(closeTimeout)
	select {
	case <-read:
	case <-time.After(closeTimeout):
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for e := l.reading.Front(); e != nil; e = e.Next() {
		e.Value.(*net.TCPConn).Close()
	}
	return err
}

// closeTimeout is for heads that are being read, and for answers that are being
// given, when the listener closes.
const closeTimeout = 500 * time.Millisecond

// admit gives a connection a place among those being read, or closes it and
// returns nil if the listener is closed. If there are too many, the oldest goes.
func (l *Listener) admit(conn *net.TCPConn, max int) *list.Element {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		conn.Close()
		return nil
	}
	for l.reading.Len() >= max && l.evictOldest() {
	}
	return l.reading.PushBack(conn)
}

func (l *Listener) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reading.Len()
}

// evict resets the connection that has been read from the longest, and reports
// whether there was one.
func (l *Listener) evict() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.evictOldest()
}

func (l *Listener) evictOldest() bool {
	oldest := l.reading.Front()
	if oldest == nil {
		return false
	}
	l.reading.Remove(oldest).(*net.TCPConn).Close()
	l.evicted.Add(1)
	return true
}

// receive reads one head, posts it, and only then resets the connection, so
// that the letter is in its mailbox before the client can know of the end.
func (l *Listener) receive(tcp *net.TCPConn, place *list.Element, s *service) {
	head := getBuffer()
	if letter, ok := s.read(tcp, head); ok {
		s.Post(letter)
	} else {
		putBuffer(head)
	}
	l.mu.Lock()
	l.reading.Remove(place)
	l.mu.Unlock()
	tcp.Close()
}

// read reads the head of a connection, and finds out whose it is.
func (s *service) read(tcp *net.TCPConn, head *buffer) (letter Letter, ok bool) {
	if tcp.SetReadDeadline(time.Now().Add(HeadTimeout)) != nil {
		return letter, false
	}
	var conn net.Conn = tcp
	if s.Clients.Source == ProxyProtocol {
		var err error
		if conn, err = s.Clients.accept(tcp); err != nil || tcp.SetReadDeadline(time.Now().Add(HeadTimeout)) != nil {
			return letter, false
		}
	}
	named := conn != net.Conn(tcp)
	remote := addrPort(conn.RemoteAddr())
	letter = Letter{Client: remote.Addr(), Remote: remote, Local: addrPort(conn.LocalAddr()), TLS: s.TLS != nil, head: head}
	if s.TLS != nil {
		conn = secure(&quiet{Conn: conn}, s.TLS)
	}
	if !readHead(conn, head) {
		return letter, false
	}
	letter.At = time.Now()
	if s.Clients.Source != ProxyProtocol && s.Clients.speaks(remote.Addr()) {
		client, err := s.Clients.client(remote.Addr(), fields(head.bytes))
		if err != nil {
			return letter, false
		}
		letter.Client = client
	}
	letter.Named = named || letter.Client != remote.Addr()
	return letter, true
}

// accept reads the header of the PROXY protocol, if the peer is a proxy and
// that is how it names its clients. From nobody else is one taken.
func (c Clients) accept(tcp *net.TCPConn) (net.Conn, error) {
	if c.Source != ProxyProtocol || !c.speaks(addrPort(tcp.RemoteAddr()).Addr()) {
		return tcp, nil
	}
	conn := proxyproto.NewConn(tcp, proxyproto.WithPolicy(proxyproto.REQUIRE), proxyproto.SetReadHeaderTimeout(HeadTimeout))
	header := conn.ProxyHeader()
	if header == nil || header.Command.IsLocal() { // no header, or the proxy's own health check
		return nil, errClient
	}
	source, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return nil, errClient
	}
	if client := addrPort(source).Addr(); !nameable(client) || c.speaks(client) {
		return nil, errClient
	}
	return conn, nil
}

// readHead fills head until it is complete or too large, and reports whether
// it is. A head that never ends is no letter.
func readHead(conn net.Conn, head *buffer) bool {
	for line := 0; ; { // where the line begins that is not complete
		if len(head.bytes) == cap(head.bytes) {
			if len(head.bytes) > MaxHead {
				return true // too large: malformed
			}
			large := make([]byte, len(head.bytes), MaxHead+1)
			copy(large, head.bytes)
			head.bytes = large
		}
		n, err := conn.Read(head.bytes[len(head.bytes):cap(head.bytes)])
		head.bytes = head.bytes[:len(head.bytes)+n]
		if end := headEnd(head.bytes[line:]); end >= 0 {
			head.bytes = head.bytes[:line+end]
			return true
		}
		if err != nil {
			return false
		}
		line = bytes.LastIndexByte(head.bytes, '\n') + 1
	}
}

func addrPort(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}
