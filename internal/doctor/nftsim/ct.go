package nftsim

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

func (s *walk) notrack(at *Place) {
	if s.tracked == notYet && s.packet.Conn == nil {
		s.tracked, s.untracked = never, at
	}
}

// state returns the bits of ct state.
func (s *walk) state() uint32 {
	const invalid, established, isNew, untracked = 1, 2, 8, 64
	switch {
	case s.tracked == never:
		return untracked
	case s.tracked == notYet:
		return invalid
	case s.packet.Conn != nil && s.packet.Conn.Established:
		return established
	}
	return isNew
}

// status returns the bits of ct status, and which are known.
func (s *walk) status() (status, bits uint32) {
	bits = ^uint32(statusNATDone)
	if s.dnat != nil {
		status = statusDNAT
	}
	if c := s.packet.Conn; c != nil {
		bits = statusDNAT | statusConfirmed
		status = statusConfirmed
		if c.DNAT {
			status |= statusDNAT
		}
		if c.Established {
			bits, status = bits|statusSeenReply, status|statusSeenReply
		}
	}
	return status, bits
}

func (s *walk) conntrack(a attributes) result {
	key := a.uint32(unix.NFTA_CT_KEY)
	if a.has(unix.NFTA_CT_SREG) {
		from := a.uint32(unix.NFTA_CT_SREG)
		switch {
		case key == unix.NFT_CT_MARK && s.tracked == tracked:
			copy(s.ctMark[:], s.load(from, 4))
		case key == unix.NFT_CT_LABELS && s.tracked == tracked:
			for i, c := range s.load(from, 16) {
				s.labels[i] = cell{s.labels[i].value | c.value, s.labels[i].bits&c.bits | s.labels[i].value | c.value, elsewhere}
			}
		}
		return holds
	}
	to := a.uint32(unix.NFTA_CT_DREG)
	if key == unix.NFT_CT_STATE {
		s.store(to, number32(s.state()))
		return holds
	}
	if s.tracked != tracked {
		return fails // there is no connection to ask for anything
	}
	conn := s.packet.Conn
	reply := conn != nil && conn.Reply
	direction := a.uint32(unix.NFTA_CT_DIRECTION)
	original := !reply && a.has(unix.NFTA_CT_DIRECTION) && direction != ctReply
	address := func(ip netip.Addr) []cell {
		cells := make([]cell, 16)
		if ip.IsValid() {
			copy(cells, knownBytes(ip.AsSlice()))
		}
		return cells[:s.addressLen()]
	}
	switch key {
	case unix.NFT_CT_DIRECTION:
		s.store(to, []cell{known(map[bool]byte{false: 0, true: 1}[reply])})
	case unix.NFT_CT_STATUS:
		status, bits := s.status()
		s.store(to, masked(status, bits))
	case unix.NFT_CT_MARK:
		s.store(to, s.ctMark[:])
	case unix.NFT_CT_LABELS:
		s.store(to, s.labels[:])
	case unix.NFT_CT_L3PROTOCOL:
		s.store(to, []cell{known(byte(s.family))})
	case unix.NFT_CT_PROTOCOL:
		s.store(to, []cell{known(s.packet.Protocol)})
	case unix.NFT_CT_SRC, unix.NFT_CT_SRC_IP, unix.NFT_CT_SRC_IP6:
		switch {
		case key == unix.NFT_CT_SRC_IP && s.family != IPv4, key == unix.NFT_CT_SRC_IP6 && s.family != IPv6:
			return fails
		case original:
			s.store(to, address(s.from))
		case !reply && conn == nil:
			s.store(to, address(s.to))
		default:
			s.forget(to, 16)
		}
	case unix.NFT_CT_DST, unix.NFT_CT_DST_IP, unix.NFT_CT_DST_IP6:
		switch {
		case key == unix.NFT_CT_DST_IP && s.family != IPv4, key == unix.NFT_CT_DST_IP6 && s.family != IPv6:
			return fails
		case original:
			s.store(to, s.destinationCells(s.begunTo))
		default:
			s.forget(to, 16)
		}
	case unix.NFT_CT_PROTO_DST:
		if !original {
			s.forget(to, 2)
			break
		}
		s.store(to, s.begunPort[:])
	case unix.NFT_CT_PROTO_SRC:
		if !original || s.packet.SourcePort == 0 {
			s.forget(to, 2)
			break
		}
		s.store(to, knownBytes(binary.BigEndian.AppendUint16(nil, s.packet.SourcePort)))
	case unix.NFT_CT_HELPER:
		if conn == nil {
			s.store(to, make16())
			return unclear
		}
		s.forget(to, 16)
	default:
		s.forget(to, 16)
	}
	return holds
}

func make16() []cell { return knownBytes(make([]byte, 16)) }

// masked returns a number of the host's byte order of which some bits are known.
func masked(value, bits uint32) []cell {
	v, b := binary.NativeEndian.AppendUint32(nil, value&bits), binary.NativeEndian.AppendUint32(nil, bits)
	cells := make([]cell, 4)
	for i := range cells {
		cells[i] = cell{v[i], b[i], elsewhere}
	}
	return cells
}
