package httpd

import (
	"bytes"
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// HeadTimeout bounds the time from accepting a connection to the end of its
// request head.
const HeadTimeout = 5 * time.Second

// A Listener reads request heads and resets every connection: when its head is
// complete, when that has become impossible, or when its time is over. Not one
// byte is ever sent.
type Listener struct {
	tcp  *net.TCPListener
	post func(Letter)
	log  *slog.Logger
	max  atomic.Int64

	mu      sync.Mutex
	reading *list.List // of *net.TCPConn whose heads are being read, oldest first
	closed  bool

	wg      sync.WaitGroup
	evicted atomic.Uint64
}

// Listen binds a TCP address, host:port, for Serve. Every letter goes to post,
// which must not block, before its connection is reset. Max bounds the heads
// being read at once.
func Listen(ctx context.Context, address string, max int, post func(Letter), log *slog.Logger) (*Listener, error) {
	config := net.ListenConfig{
		KeepAlive: -1, // connections do not live long enough
		Control: func(_, _ string, raw syscall.RawConn) error {
			var err error
			ctrl := raw.Control(func(fd uintptr) {
				// Accepted sockets inherit it (socket(7)): closing resets.
				err = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
			})
			return errors.Join(ctrl, err)
		},
	}
	config.SetMultipathTCP(false) // SO_LINGER 0 of an MPTCP socket resets no subflow
	l, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	ln := &Listener{tcp: l.(*net.TCPListener), post: post, log: log, reading: list.New()}
	ln.SetMax(max)
	return ln, nil
}

// Addr returns the address that is listened on.
func (l *Listener) Addr() netip.AddrPort { return l.tcp.Addr().(*net.TCPAddr).AddrPort() }

// SetMax bounds the heads being read at once. Beyond it the oldest is reset.
func (l *Listener) SetMax(max int) { l.max.Store(int64(max)) }

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
				l.log.Error("cannot accept connections", "address", l.Addr(), "error", err)
			}
			failing = true
			l.evict()
			time.Sleep(5 * time.Millisecond)
			continue
		}
		if failing {
			l.log.Info("accepting connections again", "address", l.Addr())
			failing = false
		}
		place := l.admit(conn)
		if place == nil {
			conn.Close()
			continue
		}
		l.wg.Go(func() { l.receive(conn, place) })
	}
}

// Close stops listening and resets all connections.
func (l *Listener) Close() error {
	err := l.tcp.Close()
	l.mu.Lock()
	l.closed = true
	for e := l.reading.Front(); e != nil; e = e.Next() {
		e.Value.(*net.TCPConn).Close()
	}
	l.mu.Unlock()
	return err
}

// admit gives a connection a place among those being read, or nil if the
// listener is closed. If there are too many, the oldest goes.
func (l *Listener) admit(conn *net.TCPConn) *list.Element {
	for int64(l.count()) >= l.max.Load() && l.evict() {
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
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
func (l *Listener) receive(conn *net.TCPConn, place *list.Element) {
	head := getBuffer()
	if l.read(conn, head) {
		remote := addrPort(conn.RemoteAddr())
		l.post(Letter{Client: remote.Addr(), Remote: remote, Local: addrPort(conn.LocalAddr()), At: time.Now(), head: head})
	} else {
		putBuffer(head)
	}
	l.mu.Lock()
	l.reading.Remove(place)
	l.mu.Unlock()
	conn.Close()
}

// read fills head until it is complete or too large, and reports whether it
// is. A head that never ends is no letter.
func (l *Listener) read(conn *net.TCPConn, head *buffer) bool {
	if conn.SetReadDeadline(time.Now().Add(HeadTimeout)) != nil {
		return false
	}
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
