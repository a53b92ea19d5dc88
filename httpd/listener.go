package httpd

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
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
	Post    func(Knock) // must not block
	Log     *slog.Logger
	Refused *Refused // of a Listener: the first options' counts for good; nil: its own

	// Challenge returns what a plain listener answers to a request head, if
	// that is a challenge of ACME that is pending (RFC 8555, section 8.3);
	// otherwise, or if it is nil itself, there is no answer. It has to be cheap
	// while nothing is pending.
	Challenge func(head []byte) (answer []byte)
}

// A Listener receives knocks. Under the cover that drops it reads request heads
// and resets every connection: when its head is complete, when that has become
// impossible, or when its time is over. Not one byte is ever sent, save to a
// challenge that is pending.
type Listener struct {
	tcp     *net.TCPListener
	service atomic.Pointer[service]
	changed chan struct{} // something other than before is to be done with connections
	halves  halves

	mu      sync.Mutex
	loops   *loops // that accept, if some do
	noLoops bool   // there can be none
	closed  bool

	failure sync.Mutex
	failed  time.Time   // when the log last heard that accepting fails, guarded by failure
	failing atomic.Bool // and it has not heard of the end

	wg sync.WaitGroup
}

// A service is what is done with connections as long as the options stay.
type service struct {
	Options
	server *http.Server  // answers; nil: connections are reset
	conns  *chanListener // what the server accepts
	idle   *idleConns    // what the server waits for
}

// Listen binds a TCP address, host:port, for Serve. Every knock goes to
// o.Post: where connections are dropped, before that is done.
func Listen(ctx context.Context, address string, o Options) (*Listener, error) {
	config := net.ListenConfig{
		KeepAlive: -1, // connections do not live long enough
		Control:   func(_, _ string, raw syscall.RawConn) error { return control(raw, prepare) },
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
		err = control(raw, prepare)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", l.Addr(), err)
	}
	return newListener(l, o), nil
}

func newListener(tcp *net.TCPListener, o Options) *Listener {
	l := &Listener{tcp: tcp, changed: make(chan struct{}, 1), halves: halves{parked: map[int]*half{}, refused: cmp.Or(o.Refused, new(Refused))}}
	l.Use(o)
	return l
}

// prepare has closing a socket reset its connection: accepted sockets inherit
// it from the one that listens (socket(7)). It also has connections accepted
// only when the first bytes are there, so that a head need not be waited for, or
// else after a second (tcp(7), TCP_DEFER_ACCEPT). Those that wait count as half
// open, so this goes only with SYN cookies, by which half-open ones cannot keep
// others out.
func prepare(fd int) error {
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return err
	}
	if cookies, err := os.ReadFile("/proc/sys/net/ipv4/tcp_syncookies"); err != nil || len(cookies) == 0 || cookies[0] == '0' {
		return nil
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 1)
}

// Use puts other options in force, for connections that come from now on.
// Those that are being answered are brought to their end.
func (l *Listener) Use(o Options) {
	o.Refused = l.halves.refused
	s := &service{Options: o}
	if handler := o.handler(); handler != nil {
		s.server = o.server(handler)
		s.idle = &idleConns{halves: &l.halves, max: o.Max, byConn: map[net.Conn]*half{}}
		s.server.ConnState = s.idle.state
		s.conns = newChanListener(l.tcp.Addr())
		go s.server.Serve(s.conns)
	}
	if old := l.service.Swap(s); old != nil {
		go old.end(shutdownTimeout)
		l.change()
	}
}

// change has Serve look at what is to be done.
func (l *Listener) change() {
	select {
	case l.changed <- struct{}{}:
	default:
	}
	l.tcp.SetDeadline(time.Unix(1, 0))
}

// loopable reports whether loops can do what is to be done: read plain heads
// whose connections are dropped.
func (s *service) loopable() bool {
	return s.server == nil && s.TLS == nil && s.Clients.Source != ProxyProtocol
}

const shutdownTimeout = 30 * time.Second // for answers that are being given

// end stops a service, once or again. Connections that are dropped need nothing.
func (s *service) end(timeout time.Duration) {
	if s.server == nil {
		return
	}
	s.conns.Close()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if s.server.Shutdown(ctx) != nil {
		s.server.Close()
	}
}

// Addr returns the address that is listened on.
func (l *Listener) Addr() netip.AddrPort { return l.tcp.Addr().(*net.TCPAddr).AddrPort() }

// Refused returns the counts of what the listener refuses at its bounds.
func (l *Listener) Refused() *Refused { return l.halves.refused }

// Serve accepts connections until Close. No error ends it: a listener that
// gives up locks its users out.
func (l *Listener) Serve() {
	for more := true; more; {
		if l.startLoops() {
			<-l.changed
			more = l.stopLoops()
		} else {
			more = l.acceptEach()
		}
	}
	l.wg.Wait()
}

// startLoops reports whether loops accept connections, which they do if they
// can.
func (l *Listener) startLoops() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.noLoops || !l.service.Load().loopable() {
		return false
	}
	if l.loops != nil {
		return true
	}
	ls, err := newLoops(l, max(1, runtime.GOMAXPROCS(0)/2))
	if err != nil {
		l.service.Load().Log.Warn("connections are read by a goroutine each", "error", err)
		l.noLoops = true
		return false
	}
	l.loops = ls
	l.wg.Go(ls.runs.Wait)
	return true
}

// stopLoops has the loops accept no more, unless they can go on. It reports
// whether there is more to serve.
func (l *Listener) stopLoops() (more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false // and Close stops them
	}
	if !l.service.Load().loopable() {
		l.loops.stop()
		l.loops = nil
	}
	return true
}

// acceptEach accepts connections, a goroutine each, until loops can do it or the
// listener is closed. It reports whether there is more to serve.
func (l *Listener) acceptEach() (more bool) {
	for {
		conn, err := l.tcp.AcceptTCP()
		switch {
		case err == nil:
			l.accepted()
			l.serveConn(conn)
		case errors.Is(err, net.ErrClosed):
			return false
		case errors.Is(err, os.ErrDeadlineExceeded): // Use or Close
			l.tcp.SetDeadline(time.Time{})
			if l.service.Load().loopable() && !l.noLoops {
				return true
			}
		default:
			l.cannotAccept(err)
		}
	}
}

// cannotAccept makes room where descriptors or memory have run out (accept(2)),
// and waits a moment. Strangers can cause it, so the log hears of it now and then.
func (l *Listener) cannotAccept(err error) {
	l.failure.Lock()
	if now := time.Now(); now.Sub(l.failed) >= failureInterval {
		l.failed = now
		l.failing.Store(true)
		l.service.Load().Log.Error("cannot accept connections", "address", l.Addr(), "error", err)
	}
	l.failure.Unlock()
	l.halves.evict()
	time.Sleep(acceptPause)
}

// accepted logs that what failed before, as the log has heard, does no more.
func (l *Listener) accepted() {
	if l.failing.Load() && l.failing.Swap(false) {
		l.service.Load().Log.Info("accepting connections again", "address", l.Addr())
	}
}

const (
	acceptPause     = 5 * time.Millisecond // after accepting has failed
	failureInterval = 10 * time.Second     // at least, until the log hears of it again
)

// serveConn gives a new connection a place, in the order of accepting, and a
// goroutine.
func (l *Listener) serveConn(conn *net.TCPConn) {
	s := l.service.Load()
	if raw, err := conn.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) {
			if l.halves.spare(int(fd)) {
				time.Sleep(time.Millisecond) // the goroutines of those that go close them
			}
		})
	}
	if h := (&half{conn: conn}); l.halves.add(h, s.Max) {
		l.wg.Go(func() { l.handle(h, s) })
	}
}

// handle does with a connection what the options say.
func (l *Listener) handle(h *half, s *service) {
	for s.server != nil {
		if l.answer(h, s) {
			return
		}
		ended := s
		if s = l.service.Load(); s == ended { // by Close
			l.halves.remove(h)
			h.conn.Close()
			return
		}
	}
	l.receive(h, s)
}

// Close stops listening, and then resets the connections whose heads are not
// complete within a moment.
func (l *Listener) Close() error {
	l.mu.Lock()
	l.closed = true
	ls := l.loops
	l.mu.Unlock()
	l.change()
	if ls != nil {
		ls.stop()
	}
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
	l.halves.close()
	return err
}

// closeTimeout is for heads that are being read, and for answers that are being
// given, when the listener closes.
const closeTimeout = 500 * time.Millisecond

// receive reads one head, posts it, and only then resets the connection, so
// that the knock is in its mailbox before the client can know of the end.
func (l *Listener) receive(h *half, s *service) {
	head := getBuffer()
	if k, ok := s.read(h.conn, head); ok {
		s.Post(k)
	} else {
		putBuffer(head)
	}
	l.halves.remove(h)
	h.conn.Close()
}

// read reads the head of a connection, and finds out whose it is.
func (s *service) read(tcp *net.TCPConn, head *buffer) (k Knock, ok bool) {
	if tcp.SetReadDeadline(time.Now().Add(HeadTimeout)) != nil {
		return k, false
	}
	var conn net.Conn = tcp
	if s.Clients.Source == ProxyProtocol {
		var err error
		if conn, err = s.Clients.accept(tcp); err != nil || tcp.SetReadDeadline(time.Now().Add(HeadTimeout)) != nil {
			return k, false
		}
	}
	named := conn != net.Conn(tcp)
	remote := addrPort(conn.RemoteAddr())
	k = Knock{Remote: remote, Local: addrPort(conn.LocalAddr()), ViaProxy: named, head: head}
	if s.TLS != nil {
		var err error
		if conn, err = secure(conn, s.TLS); err != nil {
			s.Refused.countSlow(err)
			return k, false
		}
	}
	if err := readHead(conn, head); err != nil {
		s.Refused.countSlow(err)
		return k, false
	}
	return k, !s.answerChallenge(tcp, conn, head.bytes) && s.identify(&k, head.bytes)
}

// identify says in a knock from Remote when its head was complete, and who the
// client is. It reports false if nobody is.
func (s *service) identify(k *Knock, head []byte) bool {
	s.Refused.count(head)
	k.At, k.TLS = time.Now(), s.TLS != nil
	k.Client = k.Remote.Addr()
	if s.Clients.Source == Peer || s.Clients.Source == ProxyProtocol || !s.Clients.trusts(k.Client) {
		return true
	}
	var err error
	header := fields(head)
	k.ProxyScheme = s.Clients.scheme(k.Client, header)
	k.Client, err = s.Clients.client(k.Client, header)
	k.ViaProxy = k.Client != k.Remote.Addr()
	return err == nil
}

// accept reads the header of the PROXY protocol, if the peer is a proxy and
// that is how it names its clients. From nobody else is one taken.
func (c Clients) accept(tcp *net.TCPConn) (net.Conn, error) {
	if c.Source != ProxyProtocol || !c.trusts(addrPort(tcp.RemoteAddr()).Addr()) {
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
	if client := addrPort(source).Addr(); !nameable(client) || c.trusts(client) {
		return nil, errClient
	}
	return conn, nil
}

// readHead fills head until it is complete or too large. It returns an error for a
// head that does not end: that is no knock.
func readHead(conn net.Conn, head *buffer) error {
	for line := 0; ; { // where the line begins that is not complete
		if len(head.bytes) == cap(head.bytes) {
			if len(head.bytes) > MaxHead {
				return nil // too large: malformed
			}
			large := make([]byte, len(head.bytes), MaxHead+1)
			copy(large, head.bytes)
			head.bytes = large
		}
		n, err := conn.Read(head.bytes[len(head.bytes):cap(head.bytes)])
		head.bytes = head.bytes[:len(head.bytes)+n]
		if end := headEnd(head.bytes[line:]); end >= 0 {
			head.bytes = head.bytes[:line+end]
			return nil
		}
		if err != nil {
			return err
		}
		line = bytes.LastIndexByte(head.bytes, '\n') + 1
	}
}

func addrPort(a net.Addr) netip.AddrPort {
	return canonical(a.(*net.TCPAddr).AddrPort())
}

// canonical returns an address without a zone, and an IPv4-mapped one as IPv4.
func canonical(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}
