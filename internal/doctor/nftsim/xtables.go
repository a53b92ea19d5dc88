package nftsim

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// info is the structure of a match or target of x_tables, as C lays it out.
type info []byte

func (i info) byte(at int) byte {
	if at >= len(i) {
		return 0
	}
	return i[at]
}

func (i info) uint16(at int) uint16 {
	if at+2 > len(i) {
		return 0
	}
	return binary.NativeEndian.Uint16(i[at:])
}

func (i info) port(at int) uint16 {
	if at+2 > len(i) {
		return 0
	}
	return binary.BigEndian.Uint16(i[at:])
}

func (i info) uint32(at int) uint32 {
	if at+4 > len(i) {
		return 0
	}
	return binary.NativeEndian.Uint32(i[at:])
}

func (i info) bytes(at, length int) []byte {
	if at+length > len(i) {
		return make([]byte, length)
	}
	return i[at : at+length]
}

// portIn answers whether the packet's port lies in a range.
func (s *walk) portIn(first, last uint16) answer {
	from, to := binary.BigEndian.AppendUint16(nil, first), binary.BigEndian.AppendUint16(nil, last)
	s.ports(s.port[:], from, to)
	if first > last {
		return no
	}
	return within(s.port[:], from, to)
}

func (s *walk) sourceIn(first, last uint16) answer {
	switch {
	case first == 0 && last == 0xffff:
		return yes
	case s.packet.SourcePort == 0:
		return maybe
	}
	return when(first <= s.packet.SourcePort && s.packet.SourcePort <= last).answer
}

func (a answer) not(invert bool) answer { return result{answer: a}.not(invert).answer }

// all answers whether all conditions hold.
func all(answers ...answer) result {
	for _, a := range answers {
		if a == no {
			return fails
		}
	}
	if slices.Contains(answers, maybe) {
		return unclear
	}
	return holds
}

// match answers a match of x_tables, as iptables-nft has them.
func (s *walk) match(name string, revision uint32, i info) result {
	switch name {
	case "comment", "nfacct":
		return holds
	case "tcp": // xt_tcp: source ports, destination ports, option, mask, flags, inversions
		inv := i.byte(11)
		if !s.isTCP() {
			return fails
		}
		flags := yes
		if mask := i.byte(9); mask != 0 {
			flags = equal([]cell{and(s.flags(), known(mask))}, []byte{i.byte(10)}).not(inv&4 != 0)
		}
		option := yes
		if i.byte(8) != 0 {
			option = maybe
		}
		return all(s.sourceIn(i.uint16(0), i.uint16(2)).not(inv&1 != 0), s.portIn(i.uint16(4), i.uint16(6)).not(inv&2 != 0), flags, option)
	case "udp", "udplite":
		inv := i.byte(8)
		if name != "udp" || s.packet.Protocol != unix.IPPROTO_UDP {
			return fails
		}
		return all(s.sourceIn(i.uint16(0), i.uint16(2)).not(inv&1 != 0), s.portIn(i.uint16(4), i.uint16(6)).not(inv&2 != 0))
	case "multiport":
		return s.multiport(revision, i)
	case "conntrack":
		return s.xtConntrack(revision, i)
	case "state":
		state, _ := s.xtState()
		return when(i.uint32(0)&uint32(state) != 0)
	case "addrtype":
		return s.xtAddressType(revision, i)
	case "mark", "connmark":
		cells := s.mark
		if name == "connmark" {
			if s.tracked != tracked {
				return fails
			}
			cells = s.ctMark
		}
		mask, mark := binary.NativeEndian.AppendUint32(nil, i.uint32(4)), binary.NativeEndian.AppendUint32(nil, i.uint32(0))
		for n := range cells {
			cells[n] = and(cells[n], known(mask[n]))
		}
		return result{answer: equal(cells[:], mark)}.not(i.byte(8) != 0)
	case "limit":
		return holds
	case "hashlimit":
		mode := i.uint32(16)
		if revision >= 2 {
			mode = i.uint32(272)
		}
		const invert, rateMatch = 1 << 4, 1 << 6
		if mode&rateMatch != 0 {
			return unclear
		}
		return when(mode&invert == 0)
	case "connlimit":
		return when(i.uint32(20)&1 != 0) // a first connection is within any limit
	case "recent":
		const check, set, update = 1, 2, 4
		hits, what, invert := i.uint32(4), i.byte(8), i.byte(9) != 0
		switch {
		case what&set != 0:
			return holds.not(invert)
		case what&(check|update) != 0 && hits > 1:
			return fails.not(invert)
		}
		return unclear
	case "icmp", "icmp6", "icmpv6", "sctp", "dccp", "esp", "ah", "ipcomp", "rt", "frag", "hbh", "dst", "mh", "l2tp":
		return fails // other protocols, and headers that the packet has not
	case "pkttype":
		return when(i.uint32(0) == unix.PACKET_HOST).not(i.uint32(4) != 0)
	case "devgroup": // flags, group, mask, group, mask
		flags := i.uint32(0)
		a := yes
		if flags&1 != 0 {
			if s.packet.In.Name == "" {
				return unclear
			}
			a = when(s.packet.In.Group&i.uint32(8) == i.uint32(4)).answer.not(flags&2 != 0)
		}
		if flags&4 != 0 && a == yes {
			out, ok := s.out()
			if !ok {
				return unclear
			}
			a = when(out.Group&i.uint32(16) == i.uint32(12)).answer.not(flags&8 != 0)
		}
		return result{answer: a}
	case "iprange":
		return s.xtRange(i)
	case "helper":
		if s.packet.Conn != nil {
			return unclear
		}
		return when(i.uint32(0) != 0) // invert: no helper has the first packet
	case "policy": // 4 elements of 76 bytes, flags, their number
		const none, strict = 4, 8
		flags := i.uint16(304)
		if len(i) < 308 || flags&strict != 0 {
			return unclear
		}
		return when(flags&none != 0)
	case "rpfilter":
		const loose, invert = 1, 8
		if s.Host.Route == nil || s.packet.In.Index == 0 || i.byte(0)&loose != 0 {
			return unclear
		}
		index, ok := s.Host.Route(s.from)
		if s.family == IPv6 && index != s.packet.In.Index {
			return unclear
		}
		return when(ok && index == s.packet.In.Index).not(i.byte(0)&invert != 0)
	}
	return unclear
}

func (s *walk) multiport(revision uint32, i info) result {
	// xt_multiport_v1: flags, count, 15 ports, 15 flags, inversion
	const source, destination = 0, 1
	if revision != 1 || len(i) < 48 || i[0] > destination {
		return unclear
	}
	inside := no
	for n := 0; n < int(i[1]) && n < 15; n++ {
		first := i.uint16(2 + 2*n)
		last := first
		if i[32+n] != 0 && n+1 < 15 {
			n++
			last = i.uint16(2 + 2*n)
		}
		a := s.portIn
		if i[0] == source {
			a = s.sourceIn
		}
		switch a(first, last) {
		case yes:
			inside = yes
		case maybe:
			if inside == no {
				inside = maybe
			}
		}
	}
	return result{answer: inside}.not(i[47] != 0)
}

// xtState returns the packet's state as the matches conntrack and state have
// it, and whether it belongs to a connection at all.
func (s *walk) xtState() (uint16, bool) {
	const invalid, established, isNew, dnat, untracked = 1, 2, 8, 1 << 7, 1 << 8
	var state uint16
	switch {
	case s.tracked == never:
		return untracked, false
	case s.tracked == notYet:
		return invalid, false
	case s.packet.Conn != nil && s.packet.Conn.Established:
		state = established
	default:
		state = isNew
	}
	if status, _ := s.status(); status&statusDNAT != 0 {
		state |= dnat
	}
	return state, true
}

// xtConntrack reads xt_conntrack_mtinfo1 to 3.
func (s *walk) xtConntrack(revision uint32, i info) result {
	const (
		state, proto, originalSource, originalTo, replySource, replyTo = 1, 2, 4, 8, 16, 32
		status, expires, originalSourcePort, originalPort              = 64, 128, 256, 512
		direction, alias                                               = 4096, 8192
		knownFlags                                                     = state | proto | originalSource | originalTo | status | originalPort | direction | alias
	)
	flags, invert := i.uint16(146), i.uint16(148)
	stateMask, statusMask := i.uint16(150), i.uint16(152)
	if revision == 1 {
		stateMask, statusMask = uint16(i.byte(150)), uint16(i.byte(151))
	}
	inv := func(flag uint16) bool { return invert&flag != 0 }
	is, there := s.xtState()
	if flags&state != 0 && (stateMask&is != 0) == inv(state) {
		return fails
	}
	if !there {
		return when(flags&state != 0)
	}
	answers := []answer{yes}
	if flags&direction != 0 {
		reply := s.packet.Conn != nil && s.packet.Conn.Reply
		answers = append(answers, when(reply == inv(direction)).answer) // original, or not
	}
	masked := func(at, maskAt int, a netip.Addr) answer {
		if !a.IsValid() {
			return maybe
		}
		n := s.addressLen()
		want, mask, have := i.bytes(at, n), i.bytes(maskAt, n), a.AsSlice()
		for k := range have {
			if (have[k]^want[k])&mask[k] != 0 {
				return no
			}
		}
		return yes
	}
	if flags&originalSource != 0 {
		answers = append(answers, masked(0, 16, s.packet.From).not(inv(originalSource)))
	}
	if flags&originalTo != 0 {
		s.asked(i.bytes(32, s.addressLen()))
		answers = append(answers, masked(32, 48, s.begunTo).not(inv(originalTo)))
	}
	if flags&proto != 0 {
		answers = append(answers, when(i.uint16(136) == uint16(s.packet.Protocol)).answer.not(inv(proto)))
	}
	if flags&originalPort != 0 {
		first, last := i.uint16(140), i.uint16(156)
		if revision < 3 {
			first = i.port(140)
			last = first
		}
		from, to := binary.BigEndian.AppendUint16(nil, first), binary.BigEndian.AppendUint16(nil, last)
		s.ports(s.begunPort[:], from, to)
		answers = append(answers, within(s.begunPort[:], from, to).not(inv(originalPort)))
	}
	if flags&status != 0 {
		value, bits := s.status()
		a := when(value&uint32(statusMask) != 0).answer
		if a == no && ^bits&uint32(statusMask) != 0 {
			a = maybe
		}
		answers = append(answers, a.not(inv(status)))
	}
	if flags&^knownFlags != 0 {
		answers = append(answers, maybe)
	}
	return all(answers...)
}

func (s *walk) xtAddressType(revision uint32, i info) result {
	const byInterface = 4 | 8
	from, to, flags := i.uint16(0), i.uint16(2), i.uint32(4)
	notFrom, notTo := flags&1 != 0, flags&2 != 0
	if revision == 0 {
		notFrom, notTo, flags = i.uint32(4) != 0, i.uint32(8) != 0, 0
	}
	if flags&byInterface != 0 {
		return unclear
	}
	is := func(ip netip.Addr, mask uint16) answer {
		if mask == 0 {
			return yes
		}
		typ, ok := s.addressType(ip)
		if !ok {
			return maybe
		}
		return when(mask&(1<<typ) != 0).answer
	}
	answers := []answer{yes}
	if from != 0 {
		answers = append(answers, is(s.from, from).not(notFrom))
	}
	if to != 0 {
		answers = append(answers, is(s.to, to).not(notTo))
	}
	return all(answers...)
}

func (s *walk) xtRange(i info) result {
	const source, destination, notSource, notDestination = 1, 2, 16, 32
	flags := i.byte(64)
	n := s.addressLen()
	answers := []answer{yes}
	if flags&source != 0 {
		answers = append(answers, within(knownBytes(s.from.AsSlice()), i.bytes(0, n), i.bytes(16, n)).not(flags&notSource != 0))
	}
	if flags&destination != 0 {
		s.asked(i.bytes(32, n))
		answers = append(answers, within(s.destinationCells(s.to), i.bytes(32, n), i.bytes(48, n)).not(flags&notDestination != 0))
	}
	return all(answers...)
}

// target carries out a target of x_tables.
func (s *walk) target(at *Place, name string, revision uint32, i info) result {
	end := func(v Verdict) result {
		out := s.end(v, at)
		return result{end: &out}
	}
	switch name {
	case "LOG", "NFLOG", "TCPMSS", "AUDIT", "TRACE", "CHECKSUM", "CLASSIFY", "DSCP", "TOS", "TTL", "HL", "ECN", "TEE", "RATEEST", "IDLETIMER", "LED", "SECMARK", "CONNSECMARK", "TCPOPTSTRIP":
		return holds
	case "SET": // of ipset; what it holds is not known anyway
		return holds
	case "NOTRACK":
		s.notrack(at)
		return holds
	case "CT":
		const notrack = 1
		if i.uint16(0)&notrack != 0 {
			s.notrack(at)
		}
		return holds
	case "MARK":
		switch revision {
		case 2:
			mark, mask := i.uint32(0), i.uint32(4)
			s.setMark(at, s.changed(s.mark, mask, mark))
		default:
			s.setMark(at, make([]cell, 4))
		}
		return holds
	case "CONNMARK":
		s.connmark(at, revision, i)
		return holds
	case "HMARK":
		s.setMark(at, make([]cell, 4))
		return holds
	case "REJECT":
		return end(Rejected)
	case "ACCEPT":
		return accepts
	case "DROP":
		return end(Dropped)
	case "SNAT", "MASQUERADE":
		return accepts
	case "DNAT", "REDIRECT":
		to, port, ok := s.xtNAT(revision, i)
		switch {
		case !ok:
			return end(Unknown)
		case name == "REDIRECT":
			s.redirect(at, port)
		case to.IsValid():
			s.sendTo(at, to, port)
		default:
			s.sendTo(at, s.begunTo, port)
		}
		return accepts
	case "TPROXY":
		port := i.bytes(24, 2) // after mask, mark and a nf_inet_addr
		if revision == 0 {
			port = i.bytes(12, 2)
		}
		cells := knownBytes(port)
		if bytes.Equal(port, []byte{0, 0}) {
			cells = s.port[:]
		}
		s.handTo(at, cells)
		s.setMark(at, s.changed(s.mark, i.uint32(0), i.uint32(4)))
		return accepts
	case "SYNPROXY":
		return s.synproxy(at)
	}
	return end(Unknown) // NFQUEUE, NETMAP, and what is newer than this
}

// changed returns a mark with the bits of a mask cleared and those of value
// flipped, as x_tables do.
func (s *walk) changed(mark [4]cell, mask, value uint32) []cell {
	m, v := binary.NativeEndian.AppendUint32(nil, ^mask), binary.NativeEndian.AppendUint32(nil, value)
	for i := range mark {
		c := and(mark[i], known(m[i]))
		c.value = (c.value ^ v[i]) & c.bits
		mark[i] = c
	}
	return mark[:]
}

// connmark reads xt_connmark_tginfo1 and 2.
func (s *walk) connmark(at *Place, revision uint32, i info) {
	const set, save, restore = 0, 1, 2
	ctMark, ctMask, mask, mode, shift := i.uint32(0), i.uint32(4), i.uint32(8), i.byte(12), byte(0)
	if revision >= 2 { // the direction and width of a shift come before
		shift, mode = i.byte(13), i.byte(14)
	}
	if s.tracked != tracked {
		return
	}
	other := func(mark [4]cell, mask uint32) (value uint32, ok bool) {
		value, bits := numberOf(mark[:])
		return value & mask, bits&mask == mask
	}
	switch {
	case shift != 0:
		if mode == restore {
			s.setMark(at, make([]cell, 4))
		} else {
			s.ctMark = [4]cell{}
		}
	case mode == set:
		copy(s.ctMark[:], s.changed(s.ctMark, ctMask, ctMark))
	case mode == save:
		if value, ok := other(s.mark, mask); ok {
			copy(s.ctMark[:], s.changed(s.ctMark, ctMask, value))
		} else {
			s.ctMark = [4]cell{}
		}
	case mode == restore:
		if value, ok := other(s.ctMark, ctMask); ok {
			s.setMark(at, s.changed(s.mark, mask, value))
		} else {
			s.setMark(at, make([]cell, 4))
		}
	}
}

// xtNAT returns where a target sends to: an address, if it names one, and a
// port. ok is false if it chooses among several.
func (s *walk) xtNAT(revision uint32, i info) (to netip.Addr, port []cell, ok bool) {
	const addresses, ports = 1, 2
	var flags uint32
	var first, last, firstPort, lastPort []byte
	if s.family == IPv4 && revision == 0 { // nf_nat_ipv4_multi_range_compat
		if i.uint32(0) != 1 || len(i) < 20 {
			return to, nil, false
		}
		flags, first, last, firstPort, lastPort = i.uint32(4), i.bytes(8, 4), i.bytes(12, 4), i.bytes(16, 2), i.bytes(18, 2)
	} else { // nf_nat_range, nf_nat_range2
		n := s.addressLen()
		flags, first, last, firstPort, lastPort = i.uint32(0), i.bytes(4, n), i.bytes(20, n), i.bytes(36, 2), i.bytes(38, 2)
	}
	if flags&addresses != 0 {
		if !bytes.Equal(first, last) {
			return to, nil, false
		}
		to, _ = netip.AddrFromSlice(first)
	}
	if flags&ports != 0 {
		port = make([]cell, 2)
		if bytes.Equal(firstPort, lastPort) {
			port = knownBytes(firstPort)
		}
	}
	return to, port, true
}
