package httpd

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"webknock/httpd/eventloop"
	"webknock/httpd/pending"
)

// HeadTimeout bounds the time from accepting a connection to the end of its
// request head.
const HeadTimeout = 5 * time.Second

// Options are what a Listener does with connections.
type Options struct {
	Name    string      // of the listener, which its knocks carry
	Max     int         // pending connections; beyond it the oldest is reset
	TLS     *tls.Config // nil: plain HTTP
	Clients Clients
	Cover   Cover       // nil: Drop
	Post    func(Knock) // is called with every knock; must not block
	Log     *slog.Logger
	Refused *Refused // where the listener counts; only its first options' matters; nil: its own

	// Challenge returns the answer of a plain listener to a request head that is a
	// pending ACME challenge (RFC 8555, section 8.3), and nil for any other head.
	// It must be cheap while no challenge is pending. Challenge may be nil itself.
	Challenge func(head []byte) (answer []byte)
}

// A Listener receives knocks. Under a cover that drops it resets every connection:
// when its head is complete, when that has become impossible, or when its time is
// over. It never sends a byte, save to answer a pending ACME challenge.
//
// Event loops read plain connections that are to be dropped. All others have a
// goroutine each.
type Listener struct {
	tcp     *net.TCPListener
	service atomic.Pointer[service]
	changed chan struct{} // Use or Close has been called
	pending *pending.Set
	refused *Refused
	active  atomic.Int64 // connections that are no longer pending: a server answers a request of theirs

	mu      sync.Mutex
	loops   *eventloop.Loops // that accept; nil: none do
	noLoops bool             // they cannot be started
	closed  bool

	failure sync.Mutex
	failed  time.Time   // when a failure to accept was last logged, guarded by failure
	failing atomic.Bool // and its end has not been logged

	wg sync.WaitGroup // connections with a goroutine, and loops
}

// A service handles connections under one set of options. A reload replaces it.
type service struct {
	Options
	server *http.Server  // answers requests; nil: connections are reset
	conns  *chanListener // hands accepted connections to the server
	idle   *idleConns    // connections on which the server waits for a request
}

// Refused counts what a listener refuses at its bounds. Several listeners may share
// one.
type Refused struct {
	pending.Counts
	TooLarge     atomic.Uint64 // heads of more than MaxHead bytes, which count as malformed
	TooManyLines atomic.Uint64 // heads of more than MaxLines lines, which count as malformed
}

// count counts a head that is beyond the bounds.
func (r *Refused) count(head []byte) {
	switch {
	case len(head) > MaxHead:
		r.TooLarge.Add(1)
	case len(head) > 2*MaxLines && bytes.Count(head, []byte{'\n'}) > MaxLines: // every line but the last has at least 2 bytes
		r.TooManyLines.Add(1)
	}
}

// Listen binds a TCP address, host:port, for Serve. It calls o.Post with every
// knock, under a cover that drops before the connection is reset.
func Listen(ctx context.Context, address string, o Options) (*Listener, error) {
	tcp, err := Bind(ctx, address)
	if err != nil {
		return nil, err
	}
	return Receive(tcp, o), nil
}

// Bind binds a TCP address, host:port, with the options that Receive needs.
func Bind(ctx context.Context, address string) (*net.TCPListener, error) {
	config := net.ListenConfig{
		KeepAlive: -1, // connections do not live long enough
		Control:   func(_, _ string, raw syscall.RawConn) error { return control(raw, prepare) },
	}
	config.SetMultipathTCP(false) // SO_LINGER 0 of an MPTCP socket resets no subflow
	network := "tcp"
	if at, err := netip.ParseAddrPort(address); err == nil && at.Addr().Is4() {
		network = "tcp4" // with "tcp", 0.0.0.0 would take IPv6 as well
	}
	l, err := config.Listen(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	return l.(*net.TCPListener), nil
}

// Prepare gives a socket that was bound elsewhere, for example by systemd, the
// options that Receive needs.
func Prepare(l *net.TCPListener) error {
	raw, err := l.SyscallConn()
	if err == nil {
		err = Restore(raw) // an earlier daemon may have had it
	}
	if err != nil {
		return fmt.Errorf("listen on %s: %w", l.Addr(), err)
	}
	return nil
}

// Restore is Prepare for a socket that another process has had, which may have changed
// its options, or have it listen no more.
func Restore(raw syscall.RawConn) error { return control(raw, restore) }

func restore(fd int) error {
	if err := prepare(fd); err != nil {
		return err
	}
	listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil || listens != 0 {
		return err
	}
	// It may be connected: connect(2) to no family ends that.
	nowhere := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&nowhere)), unsafe.Sizeof(nowhere))
	return unix.Listen(fd, math.MaxInt32) // the kernel cuts that to somaxconn
}

// Receive is Listen on a socket that Bind has bound, or Prepare has prepared,
// perhaps in another process.
func Receive(tcp *net.TCPListener, o Options) *Listener {
	refused := cmp.Or(o.Refused, new(Refused))
	l := &Listener{tcp: tcp, changed: make(chan struct{}, 1), pending: pending.New(&refused.Counts), refused: refused}
	l.Use(o)
	return l
}

// control calls f with the descriptor of a connection or a listener.
func control(raw syscall.RawConn, f func(fd int) error) (err error) {
	ctrl := raw.Control(func(fd uintptr) { err = f(int(fd)) })
	return errors.Join(ctrl, err)
}

// prepare sets the options of a listening socket. Accepted sockets inherit
// SO_LINGER, so that closing one resets its connection (socket(7)).
//
// TCP_DEFER_ACCEPT lets the kernel pass a connection on only when its first bytes
// have come, or after a second (tcp(7)): the head need not be waited for then. Until
// then the connection counts as half-open. So this needs SYN cookies, without which
// half-open connections could keep others out.
func prepare(fd int) error {
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return err
	}
	if cookies, err := os.ReadFile("/proc/sys/net/ipv4/tcp_syncookies"); err != nil || len(cookies) == 0 || cookies[0] == '0' {
		return nil
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 1)
}

// Use puts other options in force for new connections. Requests that are being
// answered get their answer.
func (l *Listener) Use(o Options) {
	o.Refused = l.refused
	s := &service{Options: o}
	if handler := o.handler(); handler != nil {
		s.idle = &idleConns{pending: l.pending, max: o.Max, active: &l.active, byConn: map[net.Conn]*pending.Entry{}, answering: map[net.Conn]bool{}}
		s.server = o.server(handler, s.idle)
		s.server.ConnState = s.idle.state
		s.conns = newChanListener(l.tcp.Addr())
		go s.server.Serve(s.conns)
	}
	if old := l.service.Swap(s); old != nil {
		go old.end(shutdownTimeout)
		l.change()
	}
}

// change makes Serve look at what Use or Close has changed.
func (l *Listener) change() {
	select {
	case l.changed <- struct{}{}:
	default:
	}
	l.tcp.SetDeadline(time.Unix(1, 0))
}

// loopable reports whether event loops can serve connections. They only read plain
// heads of connections that are dropped.
func (s *service) loopable() bool {
	return s.server == nil && s.TLS == nil && s.Clients.Source != ProxyProtocol
}

const shutdownTimeout = 30 * time.Second // for answers that are being given

// end ends a service; it may be called twice. It waits for answers that are being
// given, until the timeout.
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

// Open returns how many connections are open: those that are pending, and those whose
// request is being answered.
func (l *Listener) Open() int { return l.pending.Len() + int(l.active.Load()) }

// Refused returns the counts of what the listener refuses at its bounds.
func (l *Listener) Refused() *Refused { return l.refused }

// Serve accepts connections until Close. No error ends it: a listener that
// gave up would lock its users out.
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

// startLoops starts event loops if they can serve the connections and do not run
// yet. It reports whether they accept.
func (l *Listener) startLoops() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.noLoops || !l.service.Load().loopable() {
		return false
	}
	if l.loops != nil {
		return true
	}
	loops, err := eventloop.Start(l.tcp, loopHandler{l}, l.pending, eventloop.Options{
		Loops: max(1, runtime.GOMAXPROCS(0)/2), MaxHead: MaxHead, HeadTimeout: HeadTimeout,
	})
	if err != nil {
		l.service.Load().Log.Warn("event loops cannot be started; each connection gets a goroutine", "error", err)
		l.noLoops = true
		return false
	}
	l.loops = loops
	l.wg.Go(loops.Wait)
	return true
}

// stopLoops stops the event loops if they cannot serve connections any more. It
// reports whether there is more to serve.
func (l *Listener) stopLoops() (more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false // Close stops them
	}
	if !l.service.Load().loopable() {
		l.loops.Stop()
		l.loops = nil
	}
	return true
}

// loopHandler is what the event loops see of a listener.
type loopHandler struct{ *Listener }

// Accepted returns the service in force; nil: event loops cannot serve it.
func (h loopHandler) Accepted() eventloop.Service {
	h.accepted()
	if s := h.service.Load(); s.loopable() {
		return s
	}
	return nil
}

// Serve serves a connection that the loops cannot.
func (h loopHandler) Serve(conn *net.TCPConn) { h.serveConn(conn) }

// Failed is called when accepting fails.
func (h loopHandler) Failed(err error) { h.cannotAccept(err) }

// acceptEach accepts connections, a goroutine each, until event loops can serve them
// or the listener is closed. It reports whether there is more to serve.
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

// cannotAccept makes room after accept(2) has failed for want of descriptors or
// memory, and waits a moment. Strangers can cause this, so it is logged rarely.
func (l *Listener) cannotAccept(err error) {
	l.failure.Lock()
	if now := time.Now(); now.Sub(l.failed) >= failureInterval {
		l.failed = now
		l.failing.Store(true)
		l.service.Load().Log.Error("cannot accept connections", "address", l.Addr(), "error", err)
	}
	l.failure.Unlock()
	l.pending.Evict()
	time.Sleep(acceptPause)
}

// accepted logs that accepting works again, if its failure has been logged.
func (l *Listener) accepted() {
	if l.failing.Load() && l.failing.Swap(false) {
		l.service.Load().Log.Info("accepting connections again", "address", l.Addr())
	}
}

const (
	acceptPause     = 5 * time.Millisecond // after accepting has failed
	failureInterval = 10 * time.Second     // at least, between two logged failures
)

// serveConn makes a connection pending, in the order of accepting, and gives it a
// goroutine.
func (l *Listener) serveConn(conn *net.TCPConn) {
	s := l.service.Load()
	if raw, err := conn.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) {
			if l.pending.Spare(int(fd)) {
				time.Sleep(time.Millisecond) // the goroutines of the evicted connections close them
			}
		})
	}
	if e := (&pending.Entry{Closer: conn}); l.pending.Add(e, s.Max) {
		l.wg.Go(func() { l.handle(conn, e, s) })
	}
}

// handle answers a connection or drops it, as the service says. If the service has
// ended meanwhile, the one that is in force now does it.
func (l *Listener) handle(conn *net.TCPConn, e *pending.Entry, s *service) {
	for s.server != nil {
		if l.answer(conn, e, s) {
			return
		}
		ended := s
		if s = l.service.Load(); s == ended { // Close has ended it
			l.pending.Remove(e)
			conn.Close()
			return
		}
	}
	l.drop(conn, e, s)
}

// Close stops listening, and then resets the connections whose heads do not become
// complete within a moment.
func (l *Listener) Close() error {
	l.mu.Lock()
	l.closed = true
	loops := l.loops
	l.mu.Unlock()
	l.change()
	if loops != nil {
		loops.Stop()
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
	l.pending.Close()
	return err
}

// closeTimeout is for heads that are being read, and for answers that are being
// given, when the listener closes.
const closeTimeout = 500 * time.Millisecond
