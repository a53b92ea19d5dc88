package keeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"webknock/config"
	"webknock/httpd"
	"webknock/internal/seam"
)

// sockets are those of the listeners. They belong to the keeper, so that a front
// that ends refuses no connection: the kernel accepts meanwhile.
type sockets struct {
	systemd map[string][]net.Listener // by name

	mu       sync.Mutex
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
func (s *sockets) bind(ctx context.Context, address string) (socket, error) {
	tcp, err := s.listen(ctx, address)
	if err != nil {
		return socket{}, explainListen(err)
	}
	defer tcp.Close()
	file, err := tcp.File()
	if err != nil {
		return socket{}, err
	}
	return socket{seam.Socket{Address: address, File: file}, tcp.Addr().(*net.TCPAddr).AddrPort()}, nil
}

// How long an address may be taken by a front whose keeper was killed: it ends
// at once, but not before its keeper.
const (
	leftOver      = 300 * time.Millisecond
	leftOverPause = 10 * time.Millisecond
)

func (s *sockets) listen(ctx context.Context, address string) (*net.TCPListener, error) {
	name, ok := strings.CutPrefix(address, "systemd:")
	if !ok {
		for until := time.Now().Add(leftOver); ; time.Sleep(leftOverPause) {
			tcp, err := httpd.Bind(ctx, address)
			if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(until) {
				return tcp, err
			}
		}
	}
	if len(s.systemd[name]) == 0 {
		return nil, fmt.Errorf("systemd has handed over no socket %s (FileDescriptorName=%s in the .socket unit)", name, name)
	}
	tcp, ok := s.systemd[name][0].(*net.TCPListener)
	if !ok {
		return nil, fmt.Errorf("the socket %s from systemd is not TCP (ListenStream=PORT)", name)
	}
	if err := httpd.Prepare(tcp); err != nil {
		return nil, err
	}
	// A copy, so that what is closed at a reload can be opened again.
	file, err := tcp.File()
	if err != nil {
		return nil, err
	}
	defer file.Close()
	copied, err := net.FileListener(file)
	if err != nil {
		return nil, err
	}
	return copied.(*net.TCPListener), nil
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
