package load

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"webknock/integration/lab"
)

// Knocks are requests in connections of their own, as many of them at once as
// there are Connections. Each connection lasts until the server ends it.
type Knocks struct {
	To          netip.AddrPort
	Sequences   int // how often all Paths are asked for, one after the other, by one client each time
	Paths       []string
	Connections int        // at once
	From        netip.Addr // the first client; the zero Addr: whatever address the host has, one client
	Clients     int        // how many addresses take turns
	Skip        int        // how many of them have had their turn before
}

// Knocked is how the connections of Knocks have ended.
type Knocked struct {
	Elapsed time.Duration
	Reset   int   // by RST
	Closed  int   // by FIN
	Bytes   int64 // that the server has sent
}

// On has a process on a host do it. An error says that a connection was refused
// or found no end.
func (k Knocks) On(ctx context.Context, host *lab.Host) (Knocked, error) {
	return on[Knocked](ctx, host, "knocks", k)
}

// A caller is one client that is knocking.
type caller struct {
	fd   int
	from *unix.SockaddrInet4 // nil: any
	step int                 // the index of the path that is being asked for
	sent bool
}

func (k Knocks) do() (any, error) {
	epoll, err := unix.EpollCreate1(0)
	if err != nil {
		return nil, err
	}
	requests := make([][]byte, len(k.Paths))
	for i, path := range k.Paths {
		requests[i] = request(path)
	}
	to := &unix.SockaddrInet4{Addr: k.To.Addr().As4(), Port: int(k.To.Port())}
	callers := make([]caller, min(k.Connections, k.Sequences))
	for i := range callers {
		callers[i].step = len(requests) // done with what was before
	}
	var result Knocked
	begun, open := 0, 0
	// next has a caller begin its next knock, if there is one.
	next := func(i int) error {
		c := &callers[i]
		if c.step == len(requests) {
			if begun == k.Sequences {
				return nil
			}
			if k.From.IsValid() {
				c.from = &unix.SockaddrInet4{Addr: plus(k.From, (k.Skip+begun)%k.Clients).As4()}
			}
			c.step = 0
			begun++
		}
		open++
		return c.connect(epoll, i, to)
	}
	began := time.Now()
	for i := range callers {
		if err := next(i); err != nil {
			return nil, err
		}
	}
	events := make([]unix.EpollEvent, len(callers))
	buf := make([]byte, 4096)
	for open > 0 {
		n, err := unix.EpollWait(epoll, events, int(patience.Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return nil, fmt.Errorf("%d connections of %v find no end", open, k)
		}
		for _, e := range events[:n] {
			c := &callers[e.Fd]
			if !c.sent && e.Events&unix.EPOLLERR == 0 {
				if _, err := unix.Write(c.fd, requests[c.step]); err != nil {
					return nil, fmt.Errorf("write: %w", err)
				}
				c.sent = true
			}
			if e.Events&unix.EPOLLIN == 0 {
				continue
			}
			n, err := unix.Read(c.fd, buf)
			for n > 0 {
				result.Bytes += int64(n)
				n, err = unix.Read(c.fd, buf)
			}
			switch err {
			case unix.EAGAIN:
				continue
			case unix.ECONNRESET:
				result.Reset++
			case nil:
				result.Closed++
			default:
				return nil, fmt.Errorf("read: %w", err)
			}
			open--
			c.step++
			if err := errors.Join(unix.Close(c.fd), next(int(e.Fd))); err != nil {
				return nil, err
			}
		}
	}
	result.Elapsed = time.Since(began)
	return result, nil
}

// connect begins a connection, whose events come with the number of the caller.
func (c *caller) connect(epoll, number int, to *unix.SockaddrInet4) error {
	c.sent = false
	var err error
	if c.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	if c.from != nil {
		// The port is chosen by connect, which knows the whole of the connection (ip(7)).
		err = errors.Join(
			unix.SetsockoptInt(c.fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1),
			unix.Bind(c.fd, c.from),
		)
	}
	if err == nil {
		if err = unix.Connect(c.fd, to); err == unix.EINPROGRESS {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	return unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, c.fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLET&0xffffffff, Fd: int32(number)})
}

// plus returns the IPv4 address that is n after a.
func plus(a netip.Addr, n int) netip.Addr {
	b := a.As4()
	v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	v += uint32(n)
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}
