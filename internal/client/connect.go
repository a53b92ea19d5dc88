package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// Connect returns a connection to host and port. It tries the port first, and
// knocks only if that does not answer: then it connects as soon as the door is
// open.
func Connect(ctx context.Context, p *Profile, host, port string, o Options) (net.Conn, error) {
	host, err := hostName(host)
	if err != nil {
		return nil, err
	}
	if !isPort(port) {
		return nil, fmt.Errorf("%q is not a port (1 to 65535)", port)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, max(o.Timeout, time.Second), errTime)
	defer cancel()
	at := *p
	at.Wait = net.JoinHostPort(host, port)
	r := newRound(&at, o)
	if c := r.tryFirst(ctx, host, port); c != nil {
		return c, nil
	}
	r.hurry = true
	result, c, err := r.run(ctx)
	switch {
	case c != nil:
		return c, nil
	case err != nil:
		return nil, err
	}
	return nil, &NotOpenError{result}
}

// NotOpenError says that the knocks opened nothing.
type NotOpenError struct{ Result Result }

func (e *NotOpenError) Error() string {
	text := "not every knock was delivered"
	if e.Result.Wait != "" {
		text = e.Result.Wait + " does not answer"
	}
	for _, a := range e.Result.Advice {
		text += "\n  - " + a
	}
	return text
}

// How long a port has to answer before it counts as shut. A round trip to the
// knock's server is measured at the same time: the port is given three, and not
// less than headStart.
const (
	headStart     = 10 * time.Millisecond
	longHeadStart = time.Second // if the server cannot be reached
)

// tryFirst returns a connection to the port if it answers without a knock.
func (r *round) tryFirst(ctx context.Context, host, port string) net.Conn {
	ctx, cancel := context.WithTimeout(ctx, longHeadStart)
	defer cancel()
	result := make(chan net.Conn, 1)
	go func() {
		c, err := dialTCP(ctx, net.JoinHostPort(host, port)) // Go's dialer has happy eyeballs (RFC 6555)
		if err != nil {
			c = nil
		}
		result <- c
	}()
	rtt := make(chan time.Duration, 1)
	go func() {
		if took, err := r.measure(ctx); err == nil {
			rtt <- took
		}
	}()
	for {
		select {
		case c := <-result:
			return c
		case took := <-rtt:
			r.timed(took)
			wait := time.AfterFunc(max(headStart, 3*took)-took, cancel)
			defer wait.Stop()
		}
	}
}

// measure returns how long a server takes to accept a connection.
func (r *round) measure(ctx context.Context) (time.Duration, error) {
	s := r.p.Servers[0]
	ways, err := r.d.routes(ctx, s)
	if err != nil {
		return 0, err
	}
	if ways[0].proxy != nil {
		return 0, errors.New("behind a proxy the way is not that of the port")
	}
	began := time.Now()
	c, err := dialTCP(ctx, net.JoinHostPort(s.Host, s.Port))
	if err != nil {
		return 0, err
	}
	defer c.Close()
	return time.Since(began), nil
}

// Pipe copies in to the connection and the connection to out, until the
// connection ends. When in ends it closes that half of the connection alone.
func Pipe(c net.Conn, in io.Reader, out io.Writer) error {
	defer c.Close()
	go func() {
		io.Copy(c, in)
		if half, ok := c.(interface{ CloseWrite() error }); ok {
			half.CloseWrite()
		}
	}()
	_, err := io.Copy(out, c)
	return err
}
