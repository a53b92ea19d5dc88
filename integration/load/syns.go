package load

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"webknock/integration/lab"
)

// SYNs are a stranger's first packets to a TCP port, each from another port: ten
// at a time, some 30,000 a second. (Without any pause they would keep the host
// from all else.) What comes back is counted, and goes on to no connection: the
// stranger's kernel resets it.
type SYNs struct {
	From, To netip.AddrPort // of From the address alone

	out, in  int // raw sockets
	stop     atomic.Bool
	stopped  sync.Once
	done     sync.WaitGroup
	sent     atomic.Int64
	mu       sync.Mutex
	answered []time.Time // when the kernel had each SYN-ACK
	failed   error
}

// Start sends from a host until Stop.
func (s *SYNs) Start(host *lab.Host) error {
	domain := unix.AF_INET
	if s.To.Addr().Is6() {
		domain = unix.AF_INET6
	}
	err := host.Do(func() (err error) {
		if s.out, err = unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP); err != nil {
			return err
		}
		if s.in, err = unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP); err != nil {
			return err
		}
		return errors.Join(
			unix.SetsockoptInt(s.out, unix.SOL_SOCKET, unix.SO_RCVBUF, 0), // never read
			unix.SetsockoptTimeval(s.in, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}),
			unix.SetsockoptInt(s.in, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
			unix.SetsockoptInt(s.in, unix.SOL_SOCKET, unix.SO_RCVBUF, 8<<20),
			unix.Bind(s.out, rawSockaddr(netip.AddrPortFrom(s.From.Addr(), 0))),
		)
	})
	if err != nil {
		return fmt.Errorf("raw sockets on %s: %w", host.Name, err)
	}
	s.done.Go(s.send)
	s.done.Go(s.receive)
	return nil
}

// Sent returns how many SYNs have been sent.
func (s *SYNs) Sent() int64 { return s.sent.Load() }

// Answered returns when SYN-ACKs came.
func (s *SYNs) Answered() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]time.Time(nil), s.answered...)
}

// Stop ends it. Another call does nothing more: the descriptors belong to
// somebody else by then.
func (s *SYNs) Stop() error {
	s.stopped.Do(func() {
		s.stop.Store(true)
		s.done.Wait()
		unix.Close(s.out)
		unix.Close(s.in)
	})
	return s.failed
}

func (s *SYNs) send() {
	to := rawSockaddr(netip.AddrPortFrom(s.To.Addr(), 0))
	packet := make([]byte, 20)
	binary.BigEndian.PutUint16(packet[2:], s.To.Port())
	packet[12], packet[13] = 5<<4, 0x02 // a header of 20 bytes, SYN
	binary.BigEndian.PutUint16(packet[14:], 64240)
	pseudo := append(append(s.From.Addr().AsSlice(), s.To.Addr().AsSlice()...), 0, unix.IPPROTO_TCP, 0, 20)
	for port := uint16(1024); !s.stop.Load(); port++ {
		port = max(port, 1024)
		binary.BigEndian.PutUint16(packet, port)
		binary.BigEndian.PutUint32(packet[4:], rand.Uint32())
		binary.BigEndian.PutUint16(packet[16:], 0)
		binary.BigEndian.PutUint16(packet[16:], ^sum(sum(0, pseudo), packet))
		switch err := unix.Sendto(s.out, packet, 0, to); err {
		case nil:
			if s.sent.Add(1)%10 == 0 {
				time.Sleep(200 * time.Microsecond)
			}
		case unix.ENOBUFS, unix.EINTR, unix.EHOSTUNREACH, unix.ENETUNREACH:
		default:
			s.failed = fmt.Errorf("send a SYN: %w", err)
			return
		}
	}
}

// sum adds 16-bit words as the Internet's checksum does.
func sum(with uint16, data []byte) uint16 {
	n := uint32(with)
	for ; len(data) > 1; data = data[2:] {
		n += uint32(binary.BigEndian.Uint16(data))
	}
	n = n>>16 + n&0xffff
	return uint16(n>>16 + n)
}

func (s *SYNs) receive() {
	buf, control := make([]byte, 2048), make([]byte, 128)
	seen := map[uint64]bool{} // a server repeats an answer for which it hears nothing
	for {
		n, size, _, from, err := unix.Recvmsg(s.in, buf, control, 0)
		if err != nil {
			if s.stop.Load() {
				return
			}
			continue // nothing has come for a while
		}
		p := buf[:n]
		if _, is4 := from.(*unix.SockaddrInet4); is4 && n > 20 {
			p = p[int(p[0]&15)*4:]
		}
		const synACK = 0x12
		if len(p) < 20 || p[13]&synACK != synACK || binary.BigEndian.Uint16(p) != s.To.Port() || addrOf(from) != s.To.Addr() {
			continue
		}
		answer := uint64(binary.BigEndian.Uint16(p[2:]))<<32 | uint64(binary.BigEndian.Uint32(p[8:]))
		if seen[answer] {
			continue
		}
		seen[answer] = true
		at := time.Now()
		if messages, err := unix.ParseSocketControlMessage(control[:size]); err == nil {
			for _, m := range messages {
				if m.Header.Type == unix.SCM_TIMESTAMPNS {
					at = time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
				}
			}
		}
		s.mu.Lock()
		s.answered = append(s.answered, at)
		s.mu.Unlock()
	}
}

func addrOf(s unix.Sockaddr) netip.Addr {
	switch s := s.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(s.Addr)
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(s.Addr)
	}
	return netip.Addr{}
}

func rawSockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}
