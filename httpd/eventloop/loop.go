package eventloop

import (
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"webknock/httpd/pending"
)

// A loop is one goroutine and the epoll that it waits with.
type loop struct {
	*Loops
	epoll   *os.File // the runtime waits for it as for any other file
	ready   syscall.RawConn
	events  []unix.EpollEvent
	scratch []byte // for what is read at once
	serial  int32  // of the latest connection that waits
	due     bool   // epoll has a deadline, at which connections expire

	mu      sync.Mutex
	waiting map[int32]*conn // the loop's pending connections, by serial
}

// A conn is a pending connection of a loop.
type conn struct {
	Conn
	entry   pending.Entry
	service Service
	serial  int32 // tells it from others of the loop that had the same descriptor
	head    []byte
	scanner Scanner
}

// Close resets the connection.
func (c *conn) Close() error { closeFD(c.fd); return nil }

const (
	eventBatch  = 128 // events that are taken at once
	acceptBatch = 64  // connections accepted before others are read
)

func newLoop(ls *Loops) (*loop, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil { // so that the runtime waits for it
		unix.Close(fd)
		return nil, err
	}
	lp := &loop{
		Loops: ls, epoll: os.NewFile(uintptr(fd), "epoll"), events: make([]unix.EpollEvent, eventBatch), scratch: make([]byte, ls.MaxHead+1),
		waiting: map[int32]*conn{},
	}
	lp.ready, err = lp.epoll.SyscallConn()
	if err == nil { // EPOLLEXCLUSIVE would not help: the runtime waits for this epoll with one of its own
		err = unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, ls.socket, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(ls.socket)})
	}
	if err != nil {
		lp.epoll.Close()
		return nil, err
	}
	return lp, nil
}

// Watch makes the loop wait for more of a connection's head.
func (lp *loop) Watch(e *pending.Entry) error {
	c := e.Closer.(*conn)
	err := control(lp.ready, func(epoll int) error {
		return unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, c.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(c.fd), Pad: c.serial})
	})
	if err != nil {
		return err
	}
	lp.mu.Lock()
	defer lp.mu.Unlock()
	lp.waiting[c.serial] = c
	return nil
}

// Forget makes the loop forget a connection. Closing it takes it out of epoll.
func (lp *loop) Forget(e *pending.Entry) {
	lp.mu.Lock()
	defer lp.mu.Unlock()
	delete(lp.waiting, e.Closer.(*conn).serial)
	if len(lp.waiting) == 0 && lp.stopping.Load() {
		lp.wake() // there is nothing left to do
	}
}

// busy reports whether the loop has pending connections.
func (lp *loop) busy() bool {
	lp.mu.Lock()
	defer lp.mu.Unlock()
	return len(lp.waiting) > 0
}

// wake makes the loop look at what it still has to do.
func (lp *loop) wake() { lp.epoll.SetReadDeadline(time.Unix(1, 0)) }

// run works until the loop neither accepts nor has pending connections.
func (lp *loop) run() {
	defer lp.epoll.Close()
	for accepts := true; accepts || lp.busy(); {
		n := 0
		err := lp.ready.Read(func(fd uintptr) bool {
			n = poll(int(fd), lp.events)
			return n > 0
		})
		for _, e := range lp.events[:n] {
			if e.Pad == 0 {
				lp.accept()
			} else {
				lp.resume(e.Pad)
			}
		}
		if err != nil { // the deadline
			next := lp.pending.Expire(time.Now())
			lp.due = !next.IsZero()
			lp.epoll.SetReadDeadline(next)
		}
		// After everything that sets a deadline, so that one from wake is not lost.
		if accepts && lp.stopping.Load() {
			control(lp.ready, func(epoll int) error { return unix.EpollCtl(epoll, unix.EPOLL_CTL_DEL, lp.socket, nil) })
			lp.accepts.Done()
			accepts = false
		}
	}
}

// accept accepts new connections, and reads what has come with them.
func (lp *loop) accept() {
	for range acceptBatch {
		if lp.stopping.Load() {
			return // other loops, or the next listener, accept the rest
		}
		fd, peer, err := accept(lp.socket)
		switch err {
		case nil:
			lp.begin(Conn{fd, peer})
		case unix.EAGAIN:
			return
		case unix.ECONNABORTED, unix.EINTR:
		default:
			lp.handler.Failed(err)
			return
		}
	}
}

// begin reads the head of a new connection. If it is incomplete the connection
// becomes pending.
func (lp *loop) begin(c Conn) {
	service := lp.handler.Accepted()
	if service == nil {
		lp.handOver(c.fd)
		return
	}
	n, err := read(c.fd, lp.scratch)
	if err != unix.EAGAIN && (err != nil || n == 0) {
		closeFD(c.fd)
		return
	}
	scanner := Scanner{Max: lp.MaxHead}
	if end, complete := scanner.End(lp.scratch[:n]); complete {
		service.Head(c, lp.scratch[:end])
		closeFD(c.fd)
		return
	}
	lp.serial = max(lp.serial+1, 1)
	lp.wait(&conn{Conn: c, service: service, serial: lp.serial, head: append([]byte(nil), lp.scratch[:n]...), scanner: scanner})
}

// handOver passes a connection to the handler as one of the runtime's.
func (lp *loop) handOver(fd int) {
	file := os.NewFile(uintptr(fd), "connection")
	tcp, err := net.FileConn(file) // has a descriptor of its own
	file.Close()
	if err == nil {
		lp.handler.Serve(tcp.(*net.TCPConn))
	}
}

// wait makes a connection wait for the rest of its head.
func (lp *loop) wait(c *conn) {
	c.entry = pending.Entry{Closer: c, Reader: lp, Deadline: time.Now().Add(lp.HeadTimeout)}
	lp.pending.Spare(c.fd)
	if lp.pending.Add(&c.entry, c.service.MaxPending()) && !lp.due {
		lp.due = true
		lp.epoll.SetReadDeadline(c.entry.Deadline)
	}
}

// resume reads more of the head of a pending connection.
func (lp *loop) resume(serial int32) {
	lp.mu.Lock()
	c := lp.waiting[serial]
	lp.mu.Unlock()
	if c == nil || !lp.pending.Take(&c.entry) { // reset meanwhile
		return
	}
	n, err := read(c.fd, lp.scratch[:lp.MaxHead+1-len(c.head)])
	c.head = append(c.head, lp.scratch[:n]...)
	end, complete := c.scanner.End(c.head)
	switch {
	case complete:
		lp.pending.Remove(&c.entry)
		c.service.Head(c.Conn, c.head[:end])
		closeFD(c.fd)
	case err != unix.EAGAIN && (err != nil || n == 0): // the head will never be complete: no knock
		lp.pending.Remove(&c.entry)
		closeFD(c.fd)
	default:
		lp.pending.PutBack(&c.entry)
	}
}
