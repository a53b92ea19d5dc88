package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	diag "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"webknock/firewall"
)

// The states of a TCP socket, as sock_diag(7) has them.
const (
	established = 1
	listening   = 10
)

// A session is a TCP connection to this host.
type session struct {
	client, ours netip.AddrPort
	socket       *diag.Socket
}

// key returns the session as an element of the set of sessions from before the
// guard.
func (s session) key() []byte {
	return slices.Concat(s.client.Addr().AsSlice(), port(s.client.Port()), []byte{0, 0}, s.ours.Addr().AsSlice(), port(s.ours.Port()), []byte{0, 0})
}

// sessions returns the TCP sessions that are up and were begun by others: those
// to ports on which a socket listens.
func sessions() (up []session, err error) {
	open := map[uint16]bool{}
	var sockets []*diag.Socket
	for _, f := range []uint8{unix.AF_INET, unix.AF_INET6} {
		found, err := diag.SocketDiagTCP(f)
		if err != nil {
			return nil, fmt.Errorf("list sockets: %w", err)
		}
		sockets = append(sockets, found...)
	}
	for _, s := range sockets {
		if s.State == listening {
			open[s.ID.SourcePort] = true
		}
	}
	for _, s := range sockets {
		client, ok1 := netip.AddrFromSlice(s.ID.Destination)
		ours, ok2 := netip.AddrFromSlice(s.ID.Source)
		if s.State == established && open[s.ID.SourcePort] && ok1 && ok2 {
			up = append(up, session{netip.AddrPortFrom(client.Unmap(), s.ID.DestinationPort), netip.AddrPortFrom(ours.Unmap(), s.ID.SourcePort), s})
		}
	}
	return up, nil
}

// guards reports whether a TCP port belongs to a door, and to which.
func guards(g firewall.Guard, p uint16) *firewall.Door {
	for i, door := range g.Doors {
		for _, ports := range door.Ports {
			if ports.Protocol == firewall.TCP && ports.First <= p && p <= ports.Last {
				return &g.Doors[i]
			}
		}
	}
	return nil
}

// sessionsBefore returns the sessions to guarded ports that are up, by family,
// as elements of the sets of sessions from before the guard: conntrack may not
// have been active yet when they began.
func sessionsBefore(g firewall.Guard) (map[bool][]nftables.SetElement, error) {
	found := map[bool][]nftables.SetElement{}
	up, err := sessions()
	for _, s := range up {
		if guards(g, s.ours.Port()) != nil {
			is4 := s.client.Addr().Is4()
			found[is4] = append(found[is4], nftables.SetElement{Key: s.key()})
		}
	}
	return found, err
}

// Sessions returns who has TCP sessions to guarded ports of this host, by door,
// in no order. Networks that need no grant are left out, and so is this host.
func (b *Backend) Sessions() (map[string][]netip.Addr, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.guard == nil {
		return nil, nil
	}
	up, err := sessions()
	by := map[string][]netip.Addr{}
	for _, s := range up {
		client := s.client.Addr()
		door := guards(*b.guard, s.ours.Port())
		if door == nil || client == s.ours.Addr() || client.IsLoopback() || slices.Contains(by[door.Name], client) ||
			slices.ContainsFunc(b.guard.Allow, func(p netip.Prefix) bool { return p.Contains(client) }) {
			continue
		}
		by[door.Name] = append(by[door.Name], client)
	}
	return by, err
}

// EndSessions implements firewall.Backend. The kernel resets the sessions'
// sockets (SOCK_DESTROY of sock_diag), so that the clients hear at once.
// Sessions through a door that forwards have no socket here; they are reset by
// the guard when their client next sends.
func (b *Backend) EndSessions(ctx context.Context, grants []firewall.Grant) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.guard == nil {
		return nil
	}
	up, err := sessions()
	if err != nil {
		return err
	}
	var spared [][]byte
	err = b.talk("read the sessions from before the guard", func(c *nftables.Conn) error {
		for _, f := range families {
			elements, err := c.GetSetElements(b.beforeSet(f))
			if err != nil {
				return err
			}
			for _, e := range elements {
				spared = append(spared, e.Key)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	ended := map[grantKey]bool{}
	for _, g := range grants {
		ended[grantKey{g.Door, g.Client}] = true
	}
	conn, err := netlink.Dial(unix.NETLINK_INET_DIAG, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	var failed error
	for _, s := range up {
		door := guards(*b.guard, s.ours.Port())
		if door == nil || !ended[grantKey{door.Name, door.Scope(s.client.Addr())}] || slices.ContainsFunc(spared, func(k []byte) bool { return string(k) == string(s.key()) }) {
			continue
		}
		_, err := conn.Execute(netlink.Message{
			Header: netlink.Header{Type: unix.SOCK_DESTROY, Flags: netlink.Request | netlink.Acknowledge},
			Data:   destroy(s.socket),
		})
		if err != nil && !errors.Is(err, syscall.ENOENT) {
			failed = errors.Join(failed, fmt.Errorf("reset a session of %s: %w", s.client, err))
		}
	}
	return failed
}

// destroy is a struct inet_diag_req_v2 that names a socket.
func destroy(s *diag.Socket) []byte {
	req := []byte{s.Family, unix.IPPROTO_TCP, 0, 0}
	req = binary.NativeEndian.AppendUint32(req, 0xffffffff) // in any state
	req = binary.BigEndian.AppendUint16(req, s.ID.SourcePort)
	req = binary.BigEndian.AppendUint16(req, s.ID.DestinationPort)
	for _, ip := range [][]byte{s.ID.Source, s.ID.Destination} {
		if s.Family == unix.AF_INET {
			ip = ip[len(ip)-4:]
		}
		req = append(req, append(slices.Clone(ip), make([]byte, 16-len(ip))...)...)
	}
	req = binary.NativeEndian.AppendUint32(req, s.ID.Interface)
	for _, half := range s.ID.Cookie {
		req = binary.NativeEndian.AppendUint32(req, half)
	}
	return req
}
