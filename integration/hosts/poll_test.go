//go:build hosts

package hosts

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"webknock/integration/lab"
)

// A poll asks for a port again and again, each time by one SYN that it sends
// after a pause of a millisecond, and keeps the sessions that it gets.
type poll struct {
	stop chan struct{}
	done chan error

	mu       sync.Mutex
	asked    int
	refused  int // answered by a reset: nobody listens, and nobody guards
	sessions []session
}

type session struct {
	fd      int
	address netip.AddrPort
	asked   time.Time // just before the SYN was sent
}

// silence is how long a SYN waits for its answer. It is sent once: the kernel
// sends it again only after a second.
const silence = 200 * time.Millisecond

// startPoll polls each of the addresses from a host until end or the end of the
// test.
func startPoll(t *testing.T, from *lab.Host, addresses ...netip.AddrPort) *poll {
	t.Helper()
	p := &poll{stop: make(chan struct{}), done: make(chan error, 1)}
	go func() { p.done <- from.Do(func() error { return p.run(addresses) }) }()
	t.Cleanup(func() { p.end(t) })
	return p
}

func (p *poll) run(addresses []netip.AddrPort) error {
	var waiting []session
	defer func() {
		for _, s := range waiting {
			unix.Close(s.fd)
		}
	}()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-p.stop:
			return nil
		case <-tick.C:
		}
		for _, a := range addresses {
			now := time.Now()
			fd, err := ask(a)
			if err == unix.ENETUNREACH || err == unix.EHOSTUNREACH {
				continue // not up yet
			}
			if err != nil {
				return err
			}
			waiting = append(waiting, session{fd, a, now})
		}
		waiting = p.look(waiting)
	}
}

func ask(a netip.AddrPort) (fd int, err error) {
	var family int
	var to unix.Sockaddr
	if a.Addr().Is4() {
		family, to = unix.AF_INET, &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	} else {
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	}
	if fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, err
	}
	if err = unix.Connect(fd, to); err != nil && err != unix.EINPROGRESS {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// look returns those of the sessions that still wait for an answer.
func (p *poll) look(waiting []session) (still []session) {
	fds := make([]unix.PollFd, len(waiting))
	for i, s := range waiting {
		fds[i] = unix.PollFd{Fd: int32(s.fd), Events: unix.POLLOUT}
	}
	if _, err := unix.Poll(fds, 0); err != nil {
		return waiting
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, s := range waiting {
		if fds[i].Revents == 0 && time.Since(s.asked) < silence {
			still = append(still, s)
			continue
		}
		p.asked++
		switch code, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR); {
		case fds[i].Revents == 0:
			unix.Close(s.fd)
		case err == nil && code == 0:
			p.sessions = append(p.sessions, s)
		default:
			if code == int(unix.ECONNREFUSED) {
				p.refused++
			}
			unix.Close(s.fd)
		}
	}
	return still
}

// seen returns how often the poll has asked, and the sessions that it got.
func (p *poll) seen() (asked int, sessions []session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked, append([]session(nil), p.sessions...)
}

// settle waits until every SYN that was sent before it has had its time.
func (p *poll) settle() {
	time.Sleep(2 * silence)
}

// end stops the poll, and the sessions that it got.
func (p *poll) end(t *testing.T) {
	t.Helper()
	select {
	case <-p.stop:
		return
	default:
	}
	close(p.stop)
	if err := <-p.done; err != nil {
		t.Errorf("the poll has failed: %v", err)
	}
	for _, s := range p.sessions {
		unix.Close(s.fd)
	}
}

// living counts the sessions that sshd still answers. It tells its version in
// each, and waits for what sshd offers then.
func living(sessions []session) (n int) {
	buf := make([]byte, 4096)
	for _, s := range sessions {
		for { // what has come so far
			if n, err := unix.Read(s.fd, buf); n <= 0 || err != nil {
				break
			}
		}
		unix.Write(s.fd, []byte("SSH-2.0-probe\r\n"))
	}
	time.Sleep(1500 * time.Millisecond)
	for _, s := range sessions {
		if n1, err := unix.Read(s.fd, buf); n1 > 0 && err == nil {
			n++
		}
	}
	return n
}
