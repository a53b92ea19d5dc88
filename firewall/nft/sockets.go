package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const reqBytecode = 1 // INET_DIAG_REQ_BYTECODE

// The states of a TCP socket, as sock_diag(7) has them.
const (
	stateEstablished = 1
	stateFinWait1    = 4
	stateFinWait2    = 5
	stateTimeWait    = 6
	stateClosed      = 7
	stateCloseWait   = 8
	stateLastAck     = 9
	stateListen      = 10
	stateClosing     = 11
)

// stillUp has a bit for each state in which a session may carry data.
const stillUp = 1<<stateEstablished | 1<<stateFinWait1 | 1<<stateFinWait2 | 1<<stateCloseWait

// A socket is a TCP socket as the kernel reports it.
type socket struct {
	family       byte
	state        byte
	ours, client netip.AddrPort // IPv4 addresses are unmapped, even on an IPv6 socket
	id           socketID
}

// socketID is the struct inet_diag_sockid by which the kernel tells sockets
// apart. No two have the same cookie while the machine runs.
type socketID [48]byte

func (id *socketID) cookie() uint64 {
	return uint64(binary.NativeEndian.Uint32(id[40:])) | uint64(binary.NativeEndian.Uint32(id[44:]))<<32
}

// newSocketID returns what finds the socket of a session.
func newSocketID(ours, client netip.AddrPort, iface uint32, cookie uint64) (id socketID) {
	binary.BigEndian.PutUint16(id[0:], ours.Port())
	binary.BigEndian.PutUint16(id[2:], client.Port())
	copy(id[4:20], ours.Addr().AsSlice())
	copy(id[20:36], client.Addr().AsSlice())
	binary.NativeEndian.PutUint32(id[36:], iface)
	binary.NativeEndian.PutUint32(id[40:], uint32(cookie))
	binary.NativeEndian.PutUint32(id[44:], uint32(cookie>>32))
	return id
}

func (id *socketID) iface() uint32 { return binary.NativeEndian.Uint32(id[36:]) }

// sockets is a connection to sock_diag(7).
type sockets struct{ *netlink.Conn }

func dialSockets() (sockets, error) {
	conn, err := netlink.Dial(unix.NETLINK_INET_DIAG, nil)
	if err != nil {
		return sockets{}, err
	}
	conn.SetReadBuffer(sockBuffer)
	return sockets{conn}, conn.SetDeadline(time.Now().Add(requestTimeout))
}

// request returns a message with a struct inet_diag_req_v2.
func request(kind netlink.HeaderType, flags netlink.HeaderFlags, family byte, states uint32, id socketID, attributes ...netlink.Attribute) netlink.Message {
	data := []byte{family, unix.IPPROTO_TCP, 0, 0}
	data = binary.NativeEndian.AppendUint32(data, states)
	data = append(data, id[:]...)
	more, _ := netlink.MarshalAttributes(attributes) // fails only over 64 KiB
	return netlink.Message{Header: netlink.Header{Type: kind, Flags: netlink.Request | flags}, Data: append(data, more...)}
}

// list returns the sockets in one of the states that match filter (INET_DIAG_REQ_BYTECODE).
// A nil filter matches all.
func (c sockets) list(states uint32, filter []byte) (all []socket, err error) {
	var attributes []netlink.Attribute
	if filter != nil {
		attributes = append(attributes, netlink.Attribute{Type: reqBytecode, Data: filter})
	}
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		answers, err := c.Execute(request(unix.SOCK_DIAG_BY_FAMILY, netlink.Dump, family, states, socketID{}, attributes...))
		if errors.Is(err, syscall.ENOENT) && family == unix.AF_INET6 {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("list sockets: %w", err)
		}
		for _, m := range answers {
			if s, ok := parseSocket(m.Data); ok {
				all = append(all, s)
			}
		}
	}
	return all, nil
}

// find returns the state of a socket, or false if the socket no longer exists.
func (c sockets) find(family byte, id socketID) (state byte, there bool, err error) {
	answers, err := c.Execute(request(unix.SOCK_DIAG_BY_FAMILY, 0, family, ^uint32(0), id))
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ESTALE) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("find a socket: %w", err)
	}
	for _, m := range answers {
		if s, ok := parseSocket(m.Data); ok {
			return s.state, true, nil
		}
	}
	return 0, false, nil
}

// destroy resets the connection of a socket. It returns no error if the socket no longer
// exists.
func (c sockets) destroy(s socket) error {
	_, err := c.Execute(request(unix.SOCK_DESTROY, netlink.Acknowledge, s.family, ^uint32(0), s.id))
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ESTALE) {
		return nil
	}
	return err
}

// parseSocket decodes a struct inet_diag_msg.
func parseSocket(data []byte) (s socket, ok bool) {
	if len(data) < 72 {
		return s, false
	}
	s.family, s.state = data[0], data[1]
	copy(s.id[:], data[4:52])
	length := 16
	if s.family == unix.AF_INET {
		length = 4
	}
	ours, ok1 := netip.AddrFromSlice(s.id[4 : 4+length])
	client, ok2 := netip.AddrFromSlice(s.id[20 : 20+length])
	s.ours = netip.AddrPortFrom(ours.Unmap(), binary.BigEndian.Uint16(s.id[0:]))
	s.client = netip.AddrPortFrom(client.Unmap(), binary.BigEndian.Uint16(s.id[2:]))
	return s, ok1 && ok2
}

// maxClients is how many clients one filter may name: the kernel accepts 64 KiB.
const maxClients = 1024

// fromClients returns a filter (linux/inet_diag.h) that matches the sockets whose remote
// address is in one of the prefixes, of which there may be maxClients. An IPv4 prefix also
// matches IPv6 sockets with a mapped address.
func fromClients(clients []netip.Prefix) (filter []byte) {
	const (
		jump, remote = 1, 8 // INET_DIAG_BC_JMP, INET_DIAG_BC_D_COND
		op           = 4    // size of struct inet_diag_bc_op
	)
	// The filter is built from its end. Each condition is followed by a jump to the end of
	// the filter, which accepts the socket. If the condition fails, the next one is tried.
	// The last one then jumps four bytes beyond the end, which rejects the socket.
	clients = slices.Clone(clients)
	slices.Reverse(clients)
	for i, c := range clients {
		addr := c.Addr().AsSlice()
		family := byte(unix.AF_INET6)
		if c.Addr().Is4() {
			family = unix.AF_INET
		}
		size := op + 8 + len(addr)
		no := size + op
		if i == 0 {
			no += op
		}
		condition := []byte{remote, byte(size)}
		condition = binary.NativeEndian.AppendUint16(condition, uint16(no))
		condition = append(condition, family, byte(c.Bits()), 0, 0)
		condition = binary.NativeEndian.AppendUint32(condition, ^uint32(0)) // any port
		condition = append(condition, addr...)
		condition = append(condition, jump, op)
		condition = binary.NativeEndian.AppendUint16(condition, uint16(op+len(filter)))
		filter = append(condition, filter...)
	}
	return filter
}
