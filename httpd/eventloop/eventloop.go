// Package eventloop accepts plain TCP connections and reads one request head from
// each, with few goroutines and epoll(7).
//
// Nearly every head has arrived whole when it is first looked at. It then costs
// four system calls (accept, read, getsockname, close), no goroutine and no memory.
// Only a connection with an incomplete head waits in epoll, with the bytes it has
// sent, until more comes; meanwhile it is in the set of pending connections.
//
// Begin with [Start] and [Handler]. The loops of a listener all accept from its
// socket. Each may reset a connection that another one waits for.
package eventloop

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"webknock/httpd/pending"
)

// A Handler is the listener that loops accept connections for. All loops call it.
type Handler interface {
	// Accepted is called when a connection has been accepted. It returns the service
	// in force, or nil if that one needs more than a loop can do. The connection is
	// then passed to Serve.
	Accepted() Service

	// Serve takes a connection over. It must not wait for it.
	Serve(conn *net.TCPConn)

	// Failed is called when accepting fails. It may wait a moment.
	Failed(err error)
}

// A Service says what is done with connections. One that was accepted under a
// service keeps it, even if another comes into force while its head is read.
type Service interface {
	MaxPending() int // connections with an incomplete head; beyond it the oldest is reset

	// Head is called with each complete head, or with more than Options.MaxHead bytes
	// of one that is too large. When it returns, the loop resets the connection. It
	// must not keep the head, nor wait.
	Head(c Conn, head []byte)
}

// Options bound what loops read.
type Options struct {
	Loops       int
	MaxHead     int           // bytes
	HeadTimeout time.Duration // from accepting a connection to the end of its head
}

// Loops are the event loops of one listener.
type Loops struct {
	Options
	handler  Handler
	pending  *pending.Set
	socket   int // the listening socket, under a descriptor of its own
	all      []*loop
	stopping atomic.Bool
	stopOnce sync.Once
	accepts  sync.WaitGroup // loops that still accept
	runs     sync.WaitGroup // loops that still run
}

// Start starts loops that accept connections from a listener. The listener itself
// stays open when they stop.
func Start(l *net.TCPListener, handler Handler, set *pending.Set, o Options) (_ *Loops, err error) {
	ls := &Loops{Options: o, handler: handler, pending: set, socket: -1}
	defer func() {
		if err != nil {
			ls.release()
			err = fmt.Errorf("listen on %s: %w", l.Addr(), err)
		}
	}()
	raw, err := l.SyscallConn()
	if err != nil {
		return nil, err
	}
	err = control(raw, func(fd int) (err error) {
		ls.socket, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	for range o.Loops {
		lp, err := newLoop(ls)
		if err != nil {
			return nil, err
		}
		ls.all = append(ls.all, lp)
	}
	ls.accepts.Add(o.Loops)
	for _, lp := range ls.all {
		ls.runs.Go(lp.run)
	}
	return ls, nil
}

// Stop stops accepting, and returns when no loop accepts any more. Incomplete
// heads are still read: see Wait.
func (ls *Loops) Stop() {
	ls.stopOnce.Do(func() {
		ls.stopping.Store(true)
		for _, lp := range ls.all {
			lp.wake()
		}
		ls.accepts.Wait()
		ls.release()
	})
}

// Wait returns when the loops have stopped and none has a pending connection.
func (ls *Loops) Wait() { ls.runs.Wait() }

// release closes the descriptors of loops that do not accept any more, or have
// never begun to.
func (ls *Loops) release() {
	if ls.socket >= 0 {
		unix.Close(ls.socket)
	}
	if !ls.stopping.Load() {
		for _, lp := range ls.all {
			lp.epoll.Close()
		}
	}
}

// A Conn is a connection whose head a service handles.
type Conn struct {
	fd   int
	peer netip.AddrPort
}

// Peer returns the address at the other end. It has no zone and is never an
// IPv4-mapped one, and likewise Local's.
func (c Conn) Peer() netip.AddrPort { return c.peer }

// Local returns the address that the connection came to.
func (c Conn) Local() netip.AddrPort { return localAddress(c.fd) }

// Answer sends an answer. The client gets to read it: the connection is closed
// without a reset.
func (c Conn) Answer(answer []byte) {
	unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{})
	unix.Write(c.fd, answer)
}
