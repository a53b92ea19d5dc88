package eventloop

import (
	"errors"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The system calls of the loops. None of them blocks, so the scheduler need not
// know of them, and none allocates memory.

// control calls f with a descriptor that the runtime has.
func control(raw syscall.RawConn, f func(fd int) error) (err error) {
	ctrl := raw.Control(func(fd uintptr) { err = f(int(fd)) })
	return errors.Join(ctrl, err)
}

// poll takes the events that are there (epoll_wait(2)).
func poll(epoll int, events []unix.EpollEvent) int {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}

// accept takes a connection, and returns its descriptor and its peer (accept(2)).
func accept(socket int) (fd int, peer netip.AddrPort, err error) {
	var from unix.RawSockaddrAny
	size := uint32(unix.SizeofSockaddrAny)
	n, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(socket), uintptr(unsafe.Pointer(&from)), uintptr(unsafe.Pointer(&size)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return -1, peer, errno
	}
	return int(n), address(&from), nil
}

// localAddress returns the address that a connection came to (getsockname(2)).
func localAddress(fd int) netip.AddrPort {
	var at unix.RawSockaddrAny
	size := uint32(unix.SizeofSockaddrAny)
	unix.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&at)), uintptr(unsafe.Pointer(&size)))
	return address(&at)
}

// address reads an IPv4 or IPv6 address. Zones do not count, and an IPv4 address
// is never a mapped one.
func address(from *unix.RawSockaddrAny) netip.AddrPort {
	var addr netip.Addr
	var port *uint16
	switch from.Addr.Family {
	case syscall.AF_INET:
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(from))
		addr, port = netip.AddrFrom4(v4.Addr), &v4.Port
	case syscall.AF_INET6:
		v6 := (*unix.RawSockaddrInet6)(unsafe.Pointer(from))
		addr, port = netip.AddrFrom16(v6.Addr).Unmap(), &v6.Port
	default:
		return netip.AddrPort{}
	}
	network := (*[2]byte)(unsafe.Pointer(port)) // big-endian
	return netip.AddrPortFrom(addr, uint16(network[0])<<8|uint16(network[1]))
}

// read reads what has come on a connection; 0: its end (read(2)).
func read(fd int, to []byte) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&to[0])), uintptr(len(to)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// closeFD closes a connection, which resets it (close(2)).
func closeFD(fd int) { unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }
