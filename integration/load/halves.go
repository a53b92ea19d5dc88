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

// Halves are connections that send half of a request and then hold. One that
// the server resets is made again.
type Halves struct {
	To          netip.AddrPort
	Connections int
	For         time.Duration
}

// Held is how Halves went.
type Held struct {
	Resets int // connections that the server has ended
}

// On has a process on a host do it.
func (h Halves) On(ctx context.Context, host *lab.Host) (Held, error) {
	return on[Held](ctx, host, "halves", h)
}

func (h Halves) do() (any, error) {
	epoll, err := unix.EpollCreate1(0)
	if err != nil {
		return nil, err
	}
	callers := make([]caller, h.Connections)
	to := sockaddr(h.To)
	for i := range callers {
		if err := callers[i].connect(epoll, i, to); err != nil {
			return nil, err
		}
	}
	half := request("/a")
	half = half[:len(half)-len("\r\n\r\n")]
	events := make([]unix.EpollEvent, 256)
	buf := make([]byte, 64)
	var held Held
	for end := time.Now().Add(h.For); time.Now().Before(end); {
		n, err := unix.EpollWait(epoll, events, 100)
		if err != nil && err != unix.EINTR {
			return nil, err
		}
		for _, e := range events[:max(n, 0)] {
			c := &callers[e.Fd]
			if !c.sent && e.Events&unix.EPOLLERR == 0 {
				if _, err := unix.Write(c.fd, half); err != nil {
					return nil, fmt.Errorf("write: %w", err)
				}
				c.sent = true
			}
			if e.Events&unix.EPOLLIN == 0 {
				continue
			}
			if _, err := unix.Read(c.fd, buf); err != unix.ECONNRESET {
				return nil, fmt.Errorf("a connection that holds: %v; want a reset", err)
			}
			held.Resets++
			if err := errors.Join(unix.Close(c.fd), c.connect(epoll, int(e.Fd), to)); err != nil {
				return nil, err
			}
		}
	}
	return held, nil
}
