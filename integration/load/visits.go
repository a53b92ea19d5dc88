package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"webknock/integration/lab"
)

// Visits are timed knocks, one after the other, from many clients. Each knock
// goes in a connection of its own. Who knocks is drawn by lot, and so is whether
// the knock is the next step of that client's sequence or a miss: what a client
// has done before says nothing about what comes.
type Visits struct {
	To      netip.AddrPort
	Steps   []string // of a sequence
	Miss    string   // a path that is no step
	Knocks  int
	From    netip.Addr // the first client
	Clients int        // the addresses from From on
	Strict  bool       // a miss starts a sequence over
	Misses  float64    // the part of knocks that are misses, 0 to 1
	Door    uint16     // a port that the sequence opens; 0: nobody looks when it does
}

// A Class is what a knock was.
type Class int

// The classes of knocks.
const (
	Miss Class = iota
	Step
	Completion // the last step
)

// A Visit is one knock.
type Visit struct {
	Class  Class
	Whole  time.Duration // from before the connection to the end of the answer
	Answer time.Duration // from before the request to the end of the answer, as the client's program sees it
	Wire   time.Duration // the same as its network interface sees it: from the request's packet to the one that ends the connection
	Grant  time.Duration // from the end of the answer to an open door, of a client's first completion; 0: not looked at
}

// On has a process on a host do it.
func (v Visits) On(ctx context.Context, host *lab.Host) ([]Visit, error) {
	return on[[]Visit](ctx, host, "visits", v)
}

func (v Visits) do() (any, error) {
	runtime.LockOSThread()
	requests := make(map[string][]byte)
	for _, path := range append([]string{v.Miss}, v.Steps...) {
		requests[path] = []byte("GET " + path + " HTTP/1.1\r\nHost: home.example.org\r\nConnection: close\r\n\r\n")
	}
	wire, err := newTap()
	if err != nil {
		return nil, err
	}
	progress, opened := make([]int, v.Clients), make([]bool, v.Clients) // steps done, and whether the door has been opened
	visits := make([]Visit, v.Knocks)
	buf := make([]byte, 1<<16)
	for i := range visits {
		visit, client := &visits[i], rand.IntN(v.Clients)
		path := v.Miss
		switch {
		case rand.Float64() < v.Misses:
			if v.Strict {
				progress[client] = 0
			}
		case progress[client] == len(v.Steps)-1:
			visit.Class, path = Completion, v.Steps[progress[client]]
			progress[client] = 0
		default:
			visit.Class, path = Step, v.Steps[progress[client]]
			progress[client]++
		}
		from := plus(v.From, client)
		if err := visit.knock(from, v.To, requests[path], buf); err != nil {
			return nil, err
		}
		if visit.Wire, err = wire.answer(buf); err != nil {
			return nil, err
		}
		if v.Door != 0 && visit.Class == Completion && !opened[client] {
			opened[client] = true
			if visit.Grant, err = opening(from, netip.AddrPortFrom(v.To.Addr(), v.Door)); err != nil {
				return nil, err
			}
			if err := wire.drain(buf); err != nil {
				return nil, err
			}
		}
	}
	return visits, nil
}

func socket(from netip.Addr, flags int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|flags, 0)
	if err != nil {
		return 0, err
	}
	return fd, errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(patience.Seconds())}),
		unix.Bind(fd, sockaddr(netip.AddrPortFrom(from, 0))),
	)
}

func sockaddr(a netip.AddrPort) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
}

// knock sends a request and reads until the server ends the connection.
func (v *Visit) knock(from netip.Addr, to netip.AddrPort, request, buf []byte) error {
	fd, err := socket(from, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	began := time.Now()
	if err := unix.Connect(fd, sockaddr(to)); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	sent := time.Now()
	if _, err := unix.Write(fd, request); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	for {
		n, err := unix.Read(fd, buf)
		if n > 0 || err == unix.EINTR {
			continue
		}
		v.Answer, v.Whole = time.Since(sent), time.Since(began)
		if err != nil && err != unix.ECONNRESET {
			return fmt.Errorf("read: %w", err)
		}
		return nil
	}
}

// opening tries a door until it is answered, be it by a refusal, and returns
// how long that took. Before the door is open its packets are dropped.
func opening(from netip.Addr, door netip.AddrPort) (time.Duration, error) {
	began := time.Now()
	var tries []unix.PollFd
	defer func() {
		for _, t := range tries {
			unix.Close(int(t.Fd))
		}
	}()
	for time.Since(began) < patience && len(tries) < 10_000 {
		fd, err := socket(from, unix.SOCK_NONBLOCK)
		if err != nil {
			return 0, err
		}
		tries = append(tries, unix.PollFd{Fd: int32(fd), Events: unix.POLLOUT})
		if err := unix.Connect(fd, sockaddr(door)); err != unix.EINPROGRESS && err != unix.ECONNREFUSED && err != nil {
			return 0, fmt.Errorf("connect to the door: %w", err)
		} else if err != unix.EINPROGRESS {
			return time.Since(began), nil
		}
		n, err := unix.Ppoll(tries, &unix.Timespec{Nsec: 200_000}, nil)
		if err != nil && err != unix.EINTR {
			return 0, err
		}
		if n > 0 {
			return time.Since(began), nil
		}
	}
	return 0, fmt.Errorf("%v does not open for %v", door, from)
}
