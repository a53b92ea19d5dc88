package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// errRefusedPort: the port answers that nobody listens.
var errRefusedPort = errors.New("connection refused")

// await returns the connection that r.p.Wait accepts, or an error when ctx is
// done.
func (r *round) await(ctx context.Context) (net.Conn, error) {
	host, port, err := splitHostPort(r.p.Wait)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	rtt := r.rtt
	r.mu.Unlock()
	c, err := dialUntilOpen(ctx, host, port, rtt)
	if err != nil {
		return nil, err
	}
	r.say("%s answers at %s", r.p.Wait, remoteAddr(c))
	return c, nil
}

func remoteAddr(c net.Conn) netip.Addr {
	return c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
}

// dialUntilOpen connects to a port, again and again at all of the host's
// addresses side by side, until one accepts or ctx is done. Rtt is how long a
// connection to the host takes, 0 if that is not known.
//
// A guarded port drops what it does not let in, and the kernel would send a SYN
// that was dropped again only after a second. So each attempt is short at first,
// but longer than rtt, and they are made one after the other: a door may count
// the connections that it lets in.
func dialUntilOpen(ctx context.Context, host, port string, rtt time.Duration) (net.Conn, error) {
	addrs, err := resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	found := make(chan net.Conn, len(addrs))
	var mu sync.Mutex
	var last error
	var wg sync.WaitGroup
	for _, a := range addrs {
		wg.Go(func() {
			c, err := dialAgain(ctx, net.JoinHostPort(a.String(), port), rtt)
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				if last == nil || errors.Is(err, errRefusedPort) {
					last = err
				}
				return
			}
			found <- c
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	var open net.Conn
	select {
	case open = <-found:
	case <-done:
	}
	cancel()
	<-done
	for len(found) > 0 { // others that were as fast
		if c := <-found; open == nil {
			open = c
		} else {
			c.Close()
		}
	}
	if open != nil {
		return open, nil
	}
	return nil, last
}

const (
	firstAttempt = 15 * time.Millisecond // longer by three round trips
	lastAttempt  = 2 * time.Second
)

// dialAgain connects to an address until that works, and returns why it did not
// when ctx is done.
func dialAgain(ctx context.Context, address string, rtt time.Duration) (net.Conn, error) {
	refused := false
	for limit := firstAttempt + 3*rtt; ; limit = min(2*limit, max(lastAttempt, 3*rtt)) {
		began := time.Now()
		attempt, cancel := context.WithTimeout(ctx, limit)
		c, err := dialTCP(attempt, address)
		cancel()
		if err == nil {
			return c, nil
		}
		refused = refused || errors.Is(err, syscall.ECONNREFUSED)
		rest := time.NewTimer(min(limit, 100*time.Millisecond) - time.Since(began))
		select {
		case <-rest.C:
		case <-ctx.Done():
			rest.Stop()
			if refused {
				return nil, fmt.Errorf("%s: %w", address, errRefusedPort)
			}
			return nil, fmt.Errorf("%s: no answer: %w", address, context.Cause(ctx))
		}
	}
}
