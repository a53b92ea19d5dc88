package nftsim

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

func (w *walker) addressLen() int {
	if w.family == IPv4 {
		return 4
	}
	return 16
}

func (w *walker) destinationCells(to netip.Addr) []cell {
	cells := make([]cell, w.addressLen())
	if to.IsValid() {
		for i, b := range to.AsSlice() {
			cells[i] = cell{b, 0xff, address + source(i)}
		}
	}
	return cells
}

// fib asks the routing tables.
func (s *walk) fib(a attributes) result {
	to, flags := a.uint32(unix.NFTA_FIB_DREG), a.uint32(unix.NFTA_FIB_FLAGS)
	ip := s.from
	if flags&unix.NFTA_FIB_F_DADDR != 0 {
		ip = s.to
	}
	const resultOIF, resultName, resultType = 1, 2, 3
	if a.uint32(unix.NFTA_FIB_RESULT) == resultType {
		typ, ok := s.addressType(ip)
		if !ok {
			s.forget(to, 4)
			return holds
		}
		s.store(to, number32(typ))
		return holds
	}
	index, ok := 0, false
	if s.Host.Route != nil && ip.IsValid() {
		index, ok = s.Host.Route(ip)
		if flags&unix.NFTA_FIB_F_IIF != 0 && index != s.packet.In.Index && ok {
			if s.family == IPv6 || s.packet.In.Index == 0 {
				s.forget(to, 16) // IPv6 takes a worse route that leads by the interface
				return holds
			}
			ok = false
		}
		if !ok { // no route
			s.store(to, make16())
			return holds
		}
	}
	switch {
	case !ok:
		s.forget(to, 16)
	case flags&unix.NFTA_FIB_F_PRESENT != 0:
		s.store(to, []cell{known(1)})
	case a.uint32(unix.NFTA_FIB_RESULT) == resultOIF:
		s.store(to, number32(uint32(index)))
	case index == s.packet.In.Index:
		b := make([]byte, unix.IFNAMSIZ)
		copy(b, s.packet.In.Name)
		s.store(to, knownBytes(b))
	default:
		s.forget(to, 16)
	}
	return holds
}

// addressType returns what kind of address the table "local" has one for.
func (s *walk) addressType(ip netip.Addr) (uint32, bool) {
	switch h := &s.Host; {
	case !ip.IsValid():
		return unix.RTN_LOCAL, s.dnat != nil // a redirect to an address of this host
	case ip.IsMulticast():
		return unix.RTN_MULTICAST, true
	case slices.Contains(h.Broadcast, ip):
		return unix.RTN_BROADCAST, true
	case contains(h.Local, ip):
		return unix.RTN_LOCAL, true
	case contains(h.Elsewhere, ip) && ip.Is6():
		return 0, false // IPv6 asks all tables, by the rules of policy routing
	case ip.Is6() && h.Route != nil:
		if _, ok := h.Route(ip); !ok {
			return 0, false // unreachable, prohibit or blackhole
		}
	}
	return unix.RTN_UNICAST, true
}
