package keeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"webknock/config"
	"webknock/httpd"
	"webknock/internal/seam"
)

// sockets are those of the listeners. They belong to the keeper, so that a front
// that ends refuses no connection: the kernel accepts meanwhile.
type sockets struct {
	systemd map[string][]net.Listener // by name

	mu       sync.Mutex
	handed   map[string]socket // those of systemd that were asked for, by name
	closed   bool
	current  []socket
	prepared []socket // those of current that stay, and new ones
}

type socket struct {
	seam.Socket
	bound netip.AddrPort
}

// A listener is an address that receives knocks.
type listener struct {
	Address string // as configured
	Bound   netip.AddrPort
	TLS     bool
	Cover   string // as the admin API names it
	Drops   bool

	certificates *certificateSource // nil: it is plain
}

// prepare binds the addresses of a configuration that are new. Use or abort
// follows. If it fails it has bound nothing.
func (s *sockets) prepare(ctx context.Context, cfg *config.Config) ([]listener, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, seam.ErrStopped
	}
	s.forget()
	listeners := make([]listener, 0, len(cfg.Listeners))
	for _, c := range cfg.Listeners {
		at, ok := find(s.current, c.Address)
		if !ok {
			var err error
			if at, err = s.bind(ctx, c.Address); err != nil {
				s.forget()
				return nil, err
			}
		}
		s.prepared = append(s.prepared, at)
		listeners = append(listeners, listener{Address: c.Address, Bound: at.bound, TLS: c.TLS != nil, Cover: c.Cover.String(), Drops: c.Cover.Drops()})
	}
	return listeners, nil
}

// use closes the sockets that are no longer wanted.
func (s *sockets) use() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	old := s.current
	s.current, s.prepared = s.prepared, nil
	closeNew(old, s.current)
}

// abort closes what prepare has bound.
func (s *sockets) abort() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget()
}

// forget is abort for a caller that holds s.mu.
func (s *sockets) forget() {
	closeNew(s.prepared, s.current)
	s.prepared = nil
}

// close closes all sockets, except those that the front still has.
func (s *sockets) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.forget()
	closeNew(s.current, nil)
	s.current = nil
}

// values returns what was prepared, as the front gets it.
func (s *sockets) values() []seam.Socket {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := make([]seam.Socket, len(s.prepared))
	for i, s := range s.prepared {
		v[i] = s.Socket
	}
	return v
}

func find(all []socket, address string) (socket, bool) {
	for _, s := range all {
		if s.Address == address {
			return s, true
		}
	}
	return socket{}, false
}

// closeNew closes the sockets that old does not have.
func closeNew(all, old []socket) {
	for _, s := range all {
		if at, ok := find(old, s.Address); !ok || at.File != s.File {
			s.File.Close()
		}
	}
}

// bind binds an address, or takes a socket from systemd.
func (s *sockets) bind(ctx context.Context, address string) (at socket, err error) {
	if name, ok := strings.CutPrefix(address, "systemd:"); ok {
		at, err = s.take(name)
	} else {
		at, err = listenOn(ctx, address)
	}
	if err != nil {
		return socket{}, explainListen(err)
	}
	at.Address = address
	return at, nil
}

// How long an address may be taken by a front whose keeper was killed: it ends
// at once, but not before its keeper.
const (
	leftOver      = 300 * time.Millisecond
	leftOverPause = 10 * time.Millisecond
)

func listenOn(ctx context.Context, address string) (socket, error) {
	for until := time.Now().Add(leftOver); ; time.Sleep(leftOverPause) {
		tcp, err := httpd.Bind(ctx, address)
		if err == nil {
			return quiet(tcp)
		}
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(until) {
			return socket{}, err
		}
	}
}

// take returns a copy of a socket from systemd, so that what is closed at a reload can
// be opened again.
func (s *sockets) take(name string) (at socket, err error) {
	handed, ok := s.handed[name]
	if !ok {
		if len(s.systemd[name]) == 0 {
			return at, fmt.Errorf("systemd has handed over no socket %s (FileDescriptorName=%s in the .socket unit)", name, name)
		}
		tcp, ok := s.systemd[name][0].(*net.TCPListener)
		if !ok {
			return at, fmt.Errorf("the socket %s from systemd is not TCP (ListenStream=PORT)", name)
		}
		if err := httpd.Prepare(tcp); err != nil {
			return at, err
		}
		if handed, err = quiet(tcp); err != nil {
			return at, err
		}
		if s.handed == nil {
			s.handed = map[string]socket{}
		}
		s.handed[name] = handed
	}
	at = handed
	raw, err := handed.File.SyscallConn()
	if err == nil {
		at.File, err = copied(raw)
	}
	return at, err
}

// quiet closes a listener, and returns its socket as a file that wakes nobody. A
// listener, and the file that its method File returns, are in the poller of Go's
// runtime, which would wake the keeper for each connection that the front accepts.
func quiet(tcp *net.TCPListener) (at socket, err error) {
	defer tcp.Close()
	at.bound = tcp.Addr().(*net.TCPAddr).AddrPort()
	raw, err := tcp.SyscallConn()
	if err == nil {
		at.File, err = copied(raw)
	}
	return at, err
}

// copied returns a copy of a socket that does not block, as a file that is not in the
// poller: one that blocks when the file is made is not put there.
func copied(of syscall.RawConn) (file *os.File, err error) {
	control := of.Control(func(fd uintptr) {
		var own int
		if own, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); err != nil {
			return
		}
		if err = unix.SetNonblock(own, false); err == nil {
			file = os.NewFile(uintptr(own), "listener")
			err = unix.SetNonblock(own, true)
		}
	})
	return file, errors.Join(control, err)
}

// canListen returns why an address cannot be listened on now.
func (s *sockets) canListen(ctx context.Context, address string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := find(s.current, address); ok {
		return nil
	}
	at, err := s.bind(ctx, address)
	if err == nil {
		at.File.Close()
	}
	return err
}

// explainListen adds a hint to why an address cannot be had.
func explainListen(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w (another program listens there, see ss -ltnp; stop it or choose another address)", err)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%w (ports under 1024 need root or CAP_NET_BIND_SERVICE)", err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%w (no interface of this host has the address, see ip address)", err)
	}
	return err
}
