package httpd

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Loops read the heads of plain connections that are to be dropped. Nearly
// every head has arrived whole by the time it is looked at, so that a knock
// costs a few system calls (accept, read, close), no goroutine and no memory of
// its own. Only what is incomplete is parked: it waits in epoll(7), with its
// bytes, until more comes.
//
// All loops accept from the same socket, and each may reset what another has
// parked, to make room or because its time is over.
type loops struct {
	*Listener
	socket   int // that listens, under a descriptor of its own
	all      []*loop
	stopping atomic.Bool
	stopped  sync.Once
	accepts  sync.WaitGroup // loops that still accept
	runs     sync.WaitGroup // loops that still run
}

// A loop is one goroutine, and what it waits with.
type loop struct {
	*loops
	epoll   *os.File // which the runtime waits for as for any other file
	ready   syscall.RawConn
	events  []unix.EpollEvent
	scratch []byte // for what is read at once
	serial  int32  // of what was parked last
	due     bool   // epoll has a deadline, to reset what takes too long
	parked  int    // guarded by halves.mu
}

const (
	eventBatch  = 128 // events that are taken at once
	acceptBatch = 64  // connections accepted before others are read
)

// newLoops has n loops accept connections.
func newLoops(l *Listener, n int) (_ *loops, err error) {
	ls := &loops{Listener: l, socket: -1}
	defer func() {
		if err != nil {
			ls.release()
			err = fmt.Errorf("listen on %s: %w", l.Addr(), err)
		}
	}()
	raw, err := l.tcp.SyscallConn()
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
	for range n {
		lp, err := ls.loop()
		if err != nil {
			return nil, err
		}
		ls.all = append(ls.all, lp)
	}
	ls.accepts.Add(n)
	for _, lp := range ls.all {
		ls.runs.Go(lp.run)
	}
	return ls, nil
}

func (ls *loops) loop() (*loop, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil { // so that the runtime waits for it
		unix.Close(fd)
		return nil, err
	}
	lp := &loop{loops: ls, epoll: os.NewFile(uintptr(fd), "epoll"), events: make([]unix.EpollEvent, eventBatch), scratch: make([]byte, MaxHead+1)}
	lp.ready, err = lp.epoll.SyscallConn()
	if err == nil { // EPOLLEXCLUSIVE would be in vain: the runtime waits for this epoll with one of its own
		err = unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, ls.socket, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(ls.socket)})
	}
	if err != nil {
		lp.epoll.Close()
		return nil, err
	}
	return lp, nil
}

// watch has the loop wait for more of what it parks.
func (lp *loop) watch(fd int, serial int32) error {
	return control(lp.ready, func(epoll int) error {
		return unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd), Pad: serial})
	})
}

// stop ends accepting, and returns when it has ended. Heads that are parked are
// still read.
func (ls *loops) stop() {
	ls.stopped.Do(func() {
		ls.stopping.Store(true)
		for _, lp := range ls.all {
			lp.wake()
		}
		ls.accepts.Wait()
		ls.release()
	})
}

// wake has the loop look at what it still has to do.
func (lp *loop) wake() { lp.epoll.SetReadDeadline(time.Unix(1, 0)) }

// release closes the socket. The loops no longer accept, or never began.
func (ls *loops) release() {
	if ls.socket >= 0 {
		unix.Close(ls.socket)
	}
	if !ls.stopping.Load() {
		for _, lp := range ls.all {
			lp.epoll.Close()
		}
	}
}

// run works until the loop neither accepts nor has anything parked.
func (lp *loop) run() {
	defer lp.epoll.Close()
	for accepts := true; accepts || lp.halves.parkedBy(lp) > 0; {
		n := 0
		err := lp.ready.Read(func(fd uintptr) bool {
			n = poll(int(fd), lp.events)
			return n > 0
		})
		for _, e := range lp.events[:n] {
			if e.Pad == 0 {
				lp.accept()
			} else {
				lp.resume(int(e.Fd), e.Pad)
			}
		}
		if err != nil { // the deadline
			next := lp.halves.expire(time.Now())
			lp.due = !next.IsZero()
			lp.epoll.SetReadDeadline(next)
		}
		// Behind everything that sets a deadline, lest one from wake is lost.
		if accepts && lp.stopping.Load() {
			control(lp.ready, func(epoll int) error { return unix.EpollCtl(epoll, unix.EPOLL_CTL_DEL, lp.socket, nil) })
			lp.accepts.Done()
			accepts = false
		}
	}
}

// accept takes new connections, and reads what has come with them.
func (lp *loop) accept() {
	for range acceptBatch {
		if lp.stopping.Load() {
			return // what waits is for whoever has the socket next
		}
		fd, peer, err := accept(lp.socket)
		switch err {
		case nil:
			lp.begin(fd, peer)
		case unix.EAGAIN:
			return
		case unix.ECONNABORTED, unix.EINTR:
			continue
		default:
			lp.cannotAccept(err)
			return
		}
		lp.accepted()
	}
}

// begin reads the head of a new connection, unless other options have come into
// force with which loops cannot do.
func (lp *loop) begin(fd int, peer netip.AddrPort) {
	s := lp.service.Load()
	if !s.loopable() {
		lp.handOver(fd)
		return
	}
	n, err := read(fd, lp.scratch)
	if err != unix.EAGAIN && (err != nil || n == 0) {
		shut(fd)
		return
	}
	var h half
	if end, complete := h.end(lp.scratch[:n]); complete {
		s.drop(fd, peer, lp.scratch[:end])
		return
	}
	lp.serial = max(lp.serial+1, 1)
	lp.park(&half{loop: lp, service: s, fd: fd, serial: lp.serial, peer: peer, head: append([]byte(nil), lp.scratch[:n]...), line: h.line})
}

// handOver has a goroutine serve a connection.
func (lp *loop) handOver(fd int) {
	file := os.NewFile(uintptr(fd), "connection")
	conn, err := net.FileConn(file) // has a descriptor of its own
	file.Close()
	if err == nil {
		lp.serveConn(conn.(*net.TCPConn))
	}
}

// park has a connection wait for the rest of its head.
func (lp *loop) park(h *half) {
	h.deadline = time.Now().Add(HeadTimeout)
	lp.halves.spare(h.fd)
	if lp.halves.add(h, h.service.Max) && !lp.due {
		lp.due = true
		lp.epoll.SetReadDeadline(h.deadline)
	}
}

// resume reads more of a head that was parked.
func (lp *loop) resume(fd int, serial int32) {
	h := lp.halves.take(lp, fd, serial)
	if h == nil {
		return
	}
	n, err := read(fd, lp.scratch[:MaxHead+1-len(h.head)])
	h.head = append(h.head, lp.scratch[:n]...)
	end, complete := h.end(h.head)
	switch {
	case complete:
		lp.halves.remove(h)
		h.service.drop(fd, h.peer, h.head[:end])
	case err != unix.EAGAIN && (err != nil || n == 0): // a head that never ends is no knock
		lp.halves.remove(h)
		shut(fd)
	default:
		lp.halves.putBack(h)
	}
}

// drop posts a head, and only then resets its connection, so that the knock is
// in its mailbox before the client can know of the end.
func (s *service) drop(fd int, peer netip.AddrPort, head []byte) {
	if s.Challenge != nil {
		if answer := s.Challenge(head); answer != nil { // no knock, and whoever has asked has to read it
			unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{})
			unix.Write(fd, answer)
			shut(fd)
			return
		}
	}
	k := Knock{Client: peer.Addr(), Remote: peer, Local: localAddress(fd)}
	if s.identify(&k, head) {
		k.head = getBuffer()
		k.head.bytes = append(k.head.bytes, head...)
		s.Post(k)
	}
	shut(fd)
}
