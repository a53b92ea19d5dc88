package nft

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"webknock/firewall"
)

// earlier is the TCP sessions that were up before the guard. The guard accepts their
// packets by address and port, unless they begin a connection.
//
// The sessions to a port are listed once: when the port is guarded for the first time
// since boot, or again after the administrator stopped guarding it (webknock unguard, or
// another configuration). Later the set only shrinks: ended sessions are removed. A restart,
// or a table that somebody else has deleted, adds no sessions, because a grant may have let
// them in, or they may have begun while there was no guard.
//
// Sessions that were up when the administrator stopped guarding a port (left) do not count
// when the port is guarded again: they may have begun under a grant.
type earlier struct {
	known    bool               // there is a record of this boot
	ports    []firewall.Ports   // guarded TCP ports
	sessions map[string]session // by the key of their element
	left     map[uint64]uint16  // ports of the sessions that do not count, by session ID
}

// A session is a TCP session. ID distinguishes it from a later one with the same addresses
// and ports: it is the cookie of its socket on this host, or the id of its conntrack entry
// if DNAT forwards it.
type session struct {
	Client netip.AddrPort `json:"client"`
	Ours   netip.AddrPort `json:"ours"`           // destination of its packets at the hooks of the guard
	Asked  netip.AddrPort `json:"asked,omitzero"` // destination as the client sent it, if DNAT has changed it
	Family byte           `json:"family,omitempty"`
	Iface  uint32         `json:"interface,omitempty"` // interface that its socket is bound to
	Zone   uint16         `json:"zone,omitempty"`      // of its conntrack entry
	ID     uint64         `json:"id"`
}

// tracked is the bit of an ID that comes from a conntrack entry.
const tracked = 1 << 63

// maxEarlier is how many sessions from before the guard are kept: half the size of a set.
const maxEarlier = setSize / 2

// key returns the key of the session's element in its set.
func (s session) key() string {
	return string(slices.Concat(s.Client.Addr().AsSlice(), port(s.Client.Port()), []byte{0, 0}, s.Ours.Addr().AsSlice(), port(s.Ours.Port()), []byte{0, 0}))
}

// guardedPort returns the port that the client asked for.
func (s session) guardedPort() uint16 {
	if s.Asked.IsValid() {
		return s.Asked.Port()
	}
	return s.Ours.Port()
}

// upSessions returns the sessions that are up to ports for which guarded returns true. If it
// fails, it also returns the sessions that it has found.
func upSessions(guarded func(uint16) bool) (up []session, err error) {
	c, err := dialSockets()
	if err == nil {
		defer c.Close()
		var found []socket
		found, err = sessions(c, nil, guarded)
		for _, s := range found {
			if !s.client.Addr().IsLoopback() {
				up = append(up, session{Client: s.client, Ours: s.ours, Family: s.family, Iface: s.id.iface(), ID: s.id.cookie()})
			}
		}
	}
	// Sessions that DNAT forwards, to a container for example, have no socket on this host,
	// or one on another port.
	t, trackErr := dialConntrack()
	if trackErr != nil {
		return up, errors.Join(err, trackErr)
	}
	defer t.Close()
	for _, all := range []string{"0.0.0.0/0", "::/0"} {
		flows, trackErr := t.flows(firewall.TCP, netip.MustParsePrefix(all))
		err = errors.Join(err, trackErr)
		for _, f := range flows {
			if f.runs() && f.served != f.asked && guarded(f.asked.Port()) {
				up = append(up, session{Client: f.client, Ours: f.served, Asked: f.asked, Zone: f.zone, ID: tracked | uint64(f.id)})
			}
		}
	}
	return up, err
}

// runs reports whether a TCP flow is established and may carry data.
func (f flow) runs() bool { return ctEstablished <= f.state && f.state < ctTimeWait }

// A checker tells whether sessions are still up.
type checker struct {
	sockets   sockets
	conntrack conntrack
}

func newChecker() (c checker, err error) {
	if c.sockets, err = dialSockets(); err != nil {
		return c, err
	}
	if c.conntrack, err = dialConntrack(); err != nil {
		c.sockets.Close()
	}
	return c, err
}

func (c checker) close() {
	c.sockets.Close()
	c.conntrack.Close()
}

// up reports whether a session is still up, and not another one with the same addresses.
func (c checker) up(s session) (bool, error) {
	if s.ID&tracked != 0 {
		f, there, err := c.conntrack.find(flow{protocol: firewall.TCP, client: s.Client, asked: s.Asked, zone: s.Zone})
		return there && f.runs() && tracked|uint64(f.id) == s.ID, err
	}
	ours, client := s.Ours, s.Client
	if s.Family == unix.AF_INET6 && client.Addr().Is4() { // a socket for both
		mapped := func(a netip.AddrPort) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom16(a.Addr().As16()), a.Port())
		}
		ours, client = mapped(ours), mapped(client)
	}
	state, there, err := c.sockets.find(s.Family, newSocketID(ours, client, s.Iface, s.ID))
	return there && state != stateTimeWait && state != stateClosed, err
}

// cookies returns the identities of the sessions.
func (e *earlier) cookies() map[uint64]bool {
	all := make(map[uint64]bool, len(e.sessions))
	for _, s := range e.sessions {
		all[s.ID] = true
	}
	return all
}

// clone returns a copy that can be changed.
func (e *earlier) clone() *earlier {
	c := *e
	c.sessions, c.left = maps.Clone(e.sessions), maps.Clone(e.left)
	if c.sessions == nil {
		c.sessions = map[string]session{}
	}
	if c.left == nil {
		c.left = map[uint64]uint16{}
	}
	return &c
}

// without returns the ports that none of others is.
func without(ports, others []firewall.Ports) func(uint16) bool {
	return func(p uint16) bool { return among(p, ports) && !among(p, others) }
}

func among(port uint16, all []firewall.Ports) bool {
	return slices.ContainsFunc(all, func(p firewall.Ports) bool { return p.First <= port && port <= p.Last })
}

func tcpPorts(g firewall.Guard) (ports []firewall.Ports) {
	if g.Mode == firewall.Sets {
		return nil // this mode drops nothing, so no session needs an exception
	}
	for _, door := range g.Doors {
		for _, p := range door.Ports {
			if p.Protocol == firewall.TCP {
				ports = append(ports, p)
			}
		}
	}
	return ports
}

// guard changes which ports are guarded, and reports whether they have changed. Sessions to
// new ports are from before the guard, unless except returns true for them. Sessions to ports
// that are no longer guarded are moved to left.
func (e *earlier) guard(ports []firewall.Ports, except func(session) bool, up func(func(uint16) bool) ([]session, error)) (changed bool, err error) {
	if e.known && slices.Equal(ports, e.ports) {
		return false, nil
	}
	comes, goes := without(ports, e.ports), without(e.ports, ports)
	found, err := up(func(p uint16) bool { return comes(p) || goes(p) })
	over := 0
	for _, s := range found {
		known, counts := e.sessions[s.key()]
		counts = counts && known.ID == s.ID // the addresses may belong to another session now
		_, left := e.left[s.ID]
		switch p := s.guardedPort(); {
		case goes(p):
			if !counts {
				e.left[s.ID] = p
			}
		case counts || left || except(s):
		case len(e.sessions) >= maxEarlier:
			over++
		default:
			e.sessions[s.key()] = s
		}
	}
	maps.DeleteFunc(e.left, func(_ uint64, p uint16) bool { return comes(p) })
	e.known, e.ports = true, ports
	if over > 0 {
		err = errors.Join(err, fmt.Errorf("%d sessions beyond the first %d are not noted", over, maxEarlier))
	}
	return true, err
}
