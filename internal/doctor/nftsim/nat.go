package nftsim

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// natPort returns the port that a NAT sends to; nil: it stays.
func (s *walk) natPort(a attributes, least, greatest uint16) []cell {
	if !a.has(least) {
		return nil
	}
	port := s.load(a.uint32(least), 2)
	if a.has(greatest) && a.uint32(greatest) != a.uint32(least) && !slices.Equal(s.load(a.uint32(greatest), 2), port) {
		return make([]cell, 2) // one of several
	}
	return port
}

func (s *walk) nat(at *Place, a attributes) result {
	const netmap = 1 << 6
	if family := a.uint32(unix.NFTA_NAT_FAMILY); at.Chain.Table.Family == INet && Family(family) != s.family && family != uint32(INet) && family != 0 {
		return holds
	}
	if a.uint32(unix.NFTA_NAT_TYPE) != unix.NFT_NAT_DNAT {
		return accepts
	}
	port := s.natPort(a, unix.NFTA_NAT_REG_PROTO_MIN, unix.NFTA_NAT_REG_PROTO_MAX)
	if !a.has(unix.NFTA_NAT_REG_ADDR_MIN) {
		s.sendTo(at, s.begunTo, port)
		return accepts
	}
	register := a.uint32(unix.NFTA_NAT_REG_ADDR_MIN)
	cells := s.load(register, s.addressLen())
	data, ok := bytesOf(cells)
	if greatest := a.uint32(unix.NFTA_NAT_REG_ADDR_MAX); a.has(unix.NFTA_NAT_REG_ADDR_MAX) && greatest != register && !slices.Equal(cells, s.load(greatest, s.addressLen())) {
		ok = false
	}
	to, _ := netip.AddrFromSlice(data)
	if !ok || a.uint32(unix.NFTA_NAT_FLAGS)&netmap != 0 || !to.IsValid() {
		out := s.end(Unknown, at)
		return result{end: &out}
	}
	s.sendTo(at, to, port)
	return accepts
}

// toSocket hands the packet to another socket; its headers stay.
func (s *walk) toSocket(at *Place, a attributes) result {
	if family := a.uint32(tproxyFamily); family != 0 && family != uint32(INet) && Family(family) != s.family {
		return fails
	}
	port := s.port[:]
	if a.has(tproxyPort) {
		port = s.load(a.uint32(tproxyPort), 2)
	}
	s.handTo(at, port)
	return holds
}

func (s *walk) handTo(at *Place, port []cell) {
	s.tproxy, s.tproxyTo = at, 0
	if data, ok := bytesOf(port); ok {
		s.tproxyTo = binary.BigEndian.Uint16(data)
	}
}

// synproxy answers a SYN in the service's place.
func (s *walk) synproxy(at *Place) result {
	if !s.isTCP() {
		return fails
	}
	out := s.end(Unknown, at)
	return result{end: &out}
}
