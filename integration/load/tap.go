package load

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A tap captures the packets of eth0 with the time at which the kernel received each. That
// time does not depend on when a client's program is scheduled, which varies with the load
// that the server causes on the same processors.
type tap int

func newTap() (tap, error) {
	every := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL)) // packet(7)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(every))
	if err != nil {
		return 0, err
	}
	eth0, err := net.InterfaceByName("eth0")
	if err != nil {
		return 0, err
	}
	return tap(fd), errors.Join(
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: every, Ifindex: eth0.Index}),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20),
	)
}

// answer reads the packets of one connection, which has ended, and returns the
// time from the first that went out with content to the first that came in with
// a RST or a FIN.
func (t tap) answer(buf []byte) (time.Duration, error) {
	var asked, ended time.Time
	for {
		n, at, out, err := t.read(buf)
		if err == unix.EAGAIN {
			break
		}
		if err != nil {
			return 0, err
		}
		p := buf[:n]
		if n < 20 || p[0]>>4 != 4 || p[9] != unix.IPPROTO_TCP {
			continue
		}
		p = p[int(p[0]&15)*4 : binary.BigEndian.Uint16(p[2:])]
		const finOrReset = 1 | 4
		switch {
		case out && asked.IsZero() && len(p) > int(p[12]>>4)*4:
			asked = at
		case !out && ended.IsZero() && p[13]&finOrReset != 0:
			ended = at
		}
	}
	if asked.IsZero() || ended.IsZero() {
		return 0, errors.New("the packets of a knock have not been seen")
	}
	return ended.Sub(asked), nil
}

// drain forgets the packets so far.
func (t tap) drain(buf []byte) error {
	for {
		if _, _, _, err := t.read(buf); err == unix.EAGAIN {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func (t tap) read(buf []byte) (n int, at time.Time, out bool, err error) {
	var control [128]byte
	n, size, _, from, err := unix.Recvmsg(int(t), buf, control[:], 0)
	if err != nil {
		return 0, at, false, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:size])
	if err != nil {
		return 0, at, false, err
	}
	for _, m := range messages {
		if m.Header.Type == unix.SCM_TIMESTAMPNS {
			stamp := *(*unix.Timespec)(unsafe.Pointer(&m.Data[0]))
			return n, time.Unix(stamp.Unix()), from.(*unix.SockaddrLinklayer).Pkttype == unix.PACKET_OUTGOING, nil
		}
	}
	return 0, at, false, fmt.Errorf("a packet without its time")
}
