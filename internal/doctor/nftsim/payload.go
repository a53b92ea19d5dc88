package nftsim

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// header returns what is known of a header.
func (s *walk) header(base uint32) []cell {
	var header []cell
	put := func(at int, cells ...cell) { copy(header[at:], cells) }
	switch {
	case base == unix.NFT_PAYLOAD_NETWORK_HEADER && s.family == IPv4:
		header = make([]cell, 20)
		put(0, known(0x45))
		put(6, cell{0, 0xbf, elsewhere}, known(0)) // no fragment; it may be that it must not be one
		put(9, known(s.packet.Protocol))
		put(12, knownBytes(s.from.AsSlice())...)
		put(16, s.destinationCells(s.to)...)
	case base == unix.NFT_PAYLOAD_NETWORK_HEADER:
		header = make([]cell, 40)
		put(0, cell{0x60, 0xf0, elsewhere})
		put(6, known(s.packet.Protocol))
		put(8, knownBytes(s.from.AsSlice())...)
		put(24, s.destinationCells(s.to)...)
	case base == unix.NFT_PAYLOAD_TRANSPORT_HEADER:
		header = make([]cell, 8)
		if s.packet.SourcePort != 0 {
			put(0, knownBytes(binary.BigEndian.AppendUint16(nil, s.packet.SourcePort))...)
		}
		put(2, s.port[:]...)
		if s.isTCP() {
			header = append(header, make([]cell, 12)...)
			put(13, s.flags())
		}
	}
	return header
}

// flags returns those of TCP. A SYN may carry the two of ECN.
func (w *walker) flags() cell {
	const syn, ecn = 0x02, 0xc0
	if c := w.packet.Conn; c != nil && c.Flags != 0 {
		return known(c.Flags)
	}
	return cell{syn, ^byte(ecn), elsewhere}
}

func (s *walk) payload(a attributes) result {
	base, offset, length := a.uint32(unix.NFTA_PAYLOAD_BASE), int(a.uint32(unix.NFTA_PAYLOAD_OFFSET)), int(a.uint32(unix.NFTA_PAYLOAD_LEN))
	if a.has(unix.NFTA_PAYLOAD_SREG) {
		s.overwrite(base, offset, s.load(a.uint32(unix.NFTA_PAYLOAD_SREG), length))
		return holds
	}
	to := a.uint32(unix.NFTA_PAYLOAD_DREG)
	if header := s.header(base); offset+length <= len(header) && offset >= 0 && length >= 0 {
		s.store(to, header[offset:offset+length])
		return holds
	}
	s.forget(to, length)
	if base == unix.NFT_PAYLOAD_LL_HEADER {
		return holds
	}
	return unclear // the packet may be too short for it
}

// overwrite changes the packet's headers.
func (s *walk) overwrite(base uint32, offset int, cells []cell) {
	header := s.header(base)
	if offset < 0 || offset+len(cells) > len(header) {
		return
	}
	copy(header[offset:], cells)
	ip := func(cells []cell) netip.Addr {
		data, ok := bytesOf(cells)
		a, _ := netip.AddrFromSlice(data)
		if !ok {
			return netip.Addr{}
		}
		return a
	}
	switch {
	case base == unix.NFT_PAYLOAD_TRANSPORT_HEADER:
		copy(s.port[:], header[2:4])
	case base == unix.NFT_PAYLOAD_NETWORK_HEADER && s.family == IPv4:
		s.to = ip(header[16:20])
		if from := ip(header[12:16]); from.IsValid() {
			s.from = from
		}
	case base == unix.NFT_PAYLOAD_NETWORK_HEADER:
		s.to = ip(header[24:40])
		if from := ip(header[8:24]); from.IsValid() {
			s.from = from
		}
	}
}

func (s *walk) exthdr(a attributes) result {
	if a.has(unix.NFTA_EXTHDR_SREG) {
		return unclear // it changes an option that the packet may have
	}
	to := a.uint32(unix.NFTA_EXTHDR_DREG)
	op := a.uint32(unix.NFTA_EXTHDR_OP)
	present := a.uint32(unix.NFTA_EXTHDR_FLAGS)&unix.NFT_EXTHDR_F_PRESENT != 0
	if op == exthdrTCP && s.isTCP() {
		s.forget(to, int(a.uint32(unix.NFTA_EXTHDR_LEN)))
		if present {
			s.forget(to, 1)
			return holds
		}
		return unclear
	}
	if (op == exthdrIPv6 || op == exthdrIPv4) && present {
		s.store(to, []cell{known(0)})
		return holds
	}
	return fails
}
