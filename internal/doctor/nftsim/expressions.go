package nftsim

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// What x/sys/unix lacks.
const (
	bitwiseOp, bitwiseData, bitwiseReg2                         = 6, 7, 8
	opMaskXor, opLeft, opRight, opAnd, opOr, opXor              = 0, 1, 2, 3, 4, 5
	dynsetExpressions                                           = 10
	tproxyFamily, tproxyAddr, tproxyPort                        = 1, 2, 3
	objectQuota, objectLimit, objectConnlimit, objectSynproxy   = 2, 4, 5, 10
	connlimitFlags                                              = 2
	immediateReg, immediateData                                 = 1, 2
	metaSDIF, metaSDIFName                                      = 30, 31
	ctReply                                                     = 1
	statusSeenReply, statusAssured, statusConfirmed, statusDNAT = 1 << 1, 1 << 2, 1 << 3, 1 << 5
	statusNATDone                                               = 1<<7 | 1<<8
	exthdrIPv6, exthdrTCP, exthdrIPv4                           = 0, 1, 2
)

// carryOut is what an expression does to the registers and to the packet, and
// whether the packet goes on to the next expression of the rule.
func (s *walk) carryOut(at *Place, e expression) result {
	a := e.attr
	switch e.name {
	case "counter", "log", "last", "dup", "secmark", "fwd":
		return holds
	case "limit":
		return when(a.uint32(unix.NFTA_LIMIT_FLAGS)&unix.NFT_LIMIT_F_INV == 0)
	case "connlimit":
		return when(a.uint32(connlimitFlags)&1 == 0)
	case "quota":
		return quota(a)
	case "objref":
		return s.object(at, a)
	case "immediate":
		data, v := a.data(immediateData)
		if v != nil {
			return result{answer: yes, verdict: v}
		}
		s.store(a.uint32(immediateReg), knownBytes(data))
	case "meta":
		if a.has(unix.NFTA_META_SREG) {
			if a.uint32(unix.NFTA_META_KEY) == unix.NFT_META_MARK {
				s.setMark(at, s.load(a.uint32(unix.NFTA_META_SREG), 4))
			}
			return holds
		}
		return s.meta(a.uint32(unix.NFTA_META_DREG), a.uint32(unix.NFTA_META_KEY))
	case "ct":
		return s.conntrack(a)
	case "notrack":
		s.notrack(at)
	case "fib":
		return s.fib(a)
	case "payload":
		return s.payload(a)
	case "exthdr":
		return s.exthdr(a)
	case "bitwise":
		s.bitwise(a)
	case "byteorder":
		s.byteorder(a)
	case "cmp":
		data, _ := a.data(unix.NFTA_CMP_DATA)
		return s.cmp(s.load(a.uint32(unix.NFTA_CMP_SREG), len(data)), a.uint32(unix.NFTA_CMP_OP), data)
	case "range":
		from, _ := a.data(unix.NFTA_RANGE_FROM_DATA)
		to, _ := a.data(unix.NFTA_RANGE_TO_DATA)
		if len(from) != len(to) {
			return unclear
		}
		cells := s.load(a.uint32(unix.NFTA_RANGE_SREG), len(from))
		s.ports(cells, from, to)
		return result{answer: within(cells, from, to)}.not(a.uint32(unix.NFTA_RANGE_OP) == unix.NFT_RANGE_NEQ)
	case "lookup":
		return s.lookup(a)
	case "dynset":
		return s.dynset(at, a)
	case "reject":
		out := s.end(Rejected, at)
		return result{end: &out}
	case "nat":
		return s.nat(at, a)
	case "redir":
		if s.family == IPv4 || s.family == IPv6 {
			s.redirect(at, s.natPort(a, unix.NFTA_REDIR_REG_PROTO_MIN, unix.NFTA_REDIR_REG_PROTO_MAX))
		}
		return accepts
	case "masq":
		return accepts
	case "tproxy":
		return s.toSocket(at, a)
	case "synproxy":
		return s.synproxy(at)
	case "flow_offload":
		// A flowtable takes over only established connections. For others the rule does
		// not match.
		if c := s.packet.Conn; c != nil && c.Established {
			return unclear
		}
		return fails
	case "queue":
		out := s.end(Unknown, at)
		return result{end: &out}
	case "match":
		return s.match(a.text(unix.NFTA_MATCH_NAME), a.uint32(unix.NFTA_MATCH_REV), a[unix.NFTA_MATCH_INFO])
	case "target":
		return s.target(at, a.text(unix.NFTA_TARGET_NAME), a.uint32(unix.NFTA_TARGET_REV), a[unix.NFTA_TARGET_INFO])
	case "rt", "socket", "osf", "hash", "numgen", "xfrm", "tunnel":
		// They load what is not known, or find nothing to load.
		for _, register := range []uint16{1, 2, 3} {
			if n := a.uint32(register); n >= 1 && n <= 23 {
				s.forget(n, 16)
			}
		}
		return unclear
	default: // inner, and what is newer than this
		s.regs = [64]cell{}
		return unclear
	}
	return holds
}

var accepts = result{answer: yes, verdict: &verdict{code: codeAccept}}

// not inverts a result if it is asked to.
func (r result) not(invert bool) result {
	if invert && r.answer != maybe {
		return when(r.answer == no)
	}
	return r
}

func quota(a attributes) result {
	const packet = 60
	over := a.uint64(unix.NFTA_QUOTA_CONSUMED)+packet > a.uint64(unix.NFTA_QUOTA_BYTES)
	return when(over == (a.uint32(unix.NFTA_QUOTA_FLAGS)&unix.NFT_QUOTA_F_INV != 0))
}

// object carries out a named object.
func (s *walk) object(at *Place, a attributes) result {
	kind, name := a.uint32(unix.NFTA_OBJREF_IMM_TYPE), a.text(unix.NFTA_OBJREF_IMM_NAME)
	if a.has(unix.NFTA_OBJREF_SET_NAME) { // by a map
		set := s.Sets[SetID{at.Chain.Table, a.text(unix.NFTA_OBJREF_SET_NAME)}]
		if set == nil {
			return unclear
		}
		found, answer := s.find(at.Chain.Table, set, s.load(a.uint32(unix.NFTA_OBJREF_SET_SREG), set.keyLen))
		if answer != yes {
			return result{answer: answer}
		}
		name = found[0].object
		for _, k := range []uint32{objectQuota, objectLimit, objectSynproxy, objectConnlimit} {
			if _, ok := s.Objects[objectKey(at.Chain.Table, name, k)]; ok {
				return unclear
			}
		}
		return holds
	}
	o, ok := s.Objects[objectKey(at.Chain.Table, name, kind)]
	switch {
	case kind == objectSynproxy:
		return s.synproxy(at)
	case !ok:
		return holds // it counts, or helps
	case kind == objectQuota:
		return quota(o.attr)
	case kind == objectLimit:
		return when(o.attr.uint32(unix.NFTA_LIMIT_FLAGS)&unix.NFT_LIMIT_F_INV == 0)
	case kind == objectConnlimit:
		return when(o.attr.uint32(connlimitFlags)&1 == 0)
	}
	return holds
}

func (s *walk) cmp(cells []cell, op uint32, data []byte) result {
	if first := uint16(0); len(cells) == 2 && len(data) == 2 && cells[0].from == portHigh && op >= unix.NFT_CMP_LT {
		if first = binary.BigEndian.Uint16(data); op == unix.NFT_CMP_LTE || op == unix.NFT_CMP_GT {
			first++ // of the ports that answer otherwise; 0: none
		}
		if first > 0 {
			s.cut(first, 0xffff)
		}
	} else {
		s.ports(cells, data, data)
	}
	s.destination(cells, data)
	if op == unix.NFT_CMP_EQ || op == unix.NFT_CMP_NEQ {
		return result{answer: equal(cells, data)}.not(op == unix.NFT_CMP_NEQ)
	}
	least, greatest := compare(cells, data)
	holdsFor := func(c int) bool {
		switch op {
		case unix.NFT_CMP_LT:
			return c < 0
		case unix.NFT_CMP_LTE:
			return c <= 0
		case unix.NFT_CMP_GT:
			return c > 0
		}
		return c >= 0
	}
	if holdsFor(least) != holdsFor(greatest) {
		return unclear
	}
	return when(holdsFor(least))
}

func (s *walk) bitwise(a attributes) {
	length := int(a.uint32(unix.NFTA_BITWISE_LEN))
	in := s.load(a.uint32(unix.NFTA_BITWISE_SREG), length)
	to := a.uint32(unix.NFTA_BITWISE_DREG)
	data, _ := a.data(bitwiseData)
	op := a.uint32(bitwiseOp)
	switch op {
	case opMaskXor:
		mask, _ := a.data(unix.NFTA_BITWISE_MASK)
		xor, _ := a.data(unix.NFTA_BITWISE_XOR)
		if len(mask) < len(in) || len(xor) < len(in) {
			s.forget(to, length)
			return
		}
		for i := range in {
			in[i] = and(in[i], known(mask[i]))
			in[i].value ^= xor[i] & in[i].bits
			if xor[i] != 0 {
				in[i].from = taint(in[i])
			}
		}
	case opLeft, opRight:
		shift := uint32(0)
		if len(data) >= 4 {
			shift = binary.NativeEndian.Uint32(data)
		}
		value, bits := numberOf(in)
		if length != 4 || shift > 31 {
			if slices.ContainsFunc(in, func(c cell) bool { return taint(c) != elsewhere }) {
				s.pin()
			}
			s.forget(to, length)
			return
		}
		if op == opLeft {
			value, bits = value<<shift, bits<<shift|(1<<shift-1)
		} else {
			value, bits = value>>shift, bits>>shift|^(^uint32(0)>>shift)
		}
		from := taint(in...)
		v, b := binary.NativeEndian.AppendUint32(nil, value&bits), binary.NativeEndian.AppendUint32(nil, bits)
		for i := range in {
			in[i] = cell{v[i], b[i], from}
		}
	case opAnd, opOr, opXor:
		other := knownBytes(data)
		if a.has(bitwiseReg2) {
			other = s.load(a.uint32(bitwiseReg2), length)
		}
		if len(other) < len(in) {
			s.forget(to, length)
			return
		}
		for i := range in {
			switch from := taint(in[i], other[i]); op {
			case opAnd:
				in[i] = and(in[i], other[i])
			case opOr:
				value := in[i].value | other[i].value
				in[i] = cell{value, in[i].bits&other[i].bits | value, from}
			case opXor:
				bits := in[i].bits & other[i].bits
				in[i] = cell{(in[i].value ^ other[i].value) & bits, bits, from}
			}
		}
	default:
		s.forget(to, length)
		return
	}
	s.store(to, in)
}

// and returns two bytes' common bits: one is known if both are, or if one is 0.
func and(a, b cell) cell {
	bits := a.bits&b.bits | a.bits&^a.value | b.bits&^b.value
	c := cell{a.value & b.value & bits, bits, taint(a, b)}
	switch {
	case b.bits == 0xff && b.value == 0xff:
		c.from = a.from
	case b.bits == 0xff && b.value == 0:
		c.from = elsewhere
	}
	return c
}

func (s *walk) byteorder(a attributes) {
	length, size := int(a.uint32(unix.NFTA_BYTEORDER_LEN)), int(a.uint32(unix.NFTA_BYTEORDER_SIZE))
	cells := s.load(a.uint32(unix.NFTA_BYTEORDER_SREG), length)
	if size > 0 && binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
		for part := range slices.Chunk(cells, size) {
			slices.Reverse(part)
			for i := range part {
				part[i].from = taint(part[i])
			}
		}
	}
	s.store(a.uint32(unix.NFTA_BYTEORDER_DREG), cells)
}

// meta loads what is known of the packet beside its headers.
func (s *walk) meta(register, key uint32) result {
	in := s.packet.In
	name := func(n string) {
		b := make([]byte, unix.IFNAMSIZ)
		copy(b, n)
		s.store(register, knownBytes(b))
	}
	inKnown := in.Name != ""
	out, outKnown := s.out()
	switch key {
	case unix.NFT_META_NFPROTO:
		s.store(register, []cell{known(byte(s.family))})
	case unix.NFT_META_PROTOCOL:
		if s.family == IPv4 {
			s.store(register, knownBytes([]byte{0x08, 0x00}))
		} else {
			s.store(register, knownBytes([]byte{0x86, 0xdd}))
		}
	case unix.NFT_META_L4PROTO:
		s.store(register, []cell{known(s.packet.Protocol)})
	case unix.NFT_META_MARK:
		s.store(register, s.mark[:])
	case unix.NFT_META_PKTTYPE:
		s.store(register, []cell{known(unix.PACKET_HOST)})
	case unix.NFT_META_IIFNAME:
		if !inKnown {
			s.forget(register, unix.IFNAMSIZ)
			break
		}
		name(in.Name)
	case unix.NFT_META_IIF, unix.NFT_META_IIFGROUP:
		n := uint32(in.Index)
		if key == unix.NFT_META_IIFGROUP {
			n = in.Group
		}
		if !inKnown {
			s.forget(register, 4)
			break
		}
		s.store(register, number32(n))
	case unix.NFT_META_IIFTYPE:
		if !inKnown || in.Type == 0 {
			s.forget(register, 2)
			break
		}
		s.store(register, knownBytes(binary.NativeEndian.AppendUint16(nil, in.Type)))
	case unix.NFT_META_OIFNAME:
		if !outKnown {
			s.forget(register, unix.IFNAMSIZ)
			break
		}
		name(out.Name)
	case unix.NFT_META_OIF, unix.NFT_META_OIFGROUP:
		n := uint32(out.Index)
		if key == unix.NFT_META_OIFGROUP {
			if n = out.Group; s.hook != Forward {
				return fails // there is no interface to ask
			}
		}
		if !outKnown {
			s.forget(register, 4)
			break
		}
		s.store(register, number32(n))
	case metaSDIF, metaSDIFName:
		s.forget(register, unix.IFNAMSIZ)
	case unix.NFT_META_OIFTYPE:
		if s.hook != Forward {
			return fails
		}
		s.forget(register, 2)
	case unix.NFT_META_SKUID, unix.NFT_META_SKGID:
		s.forget(register, 4)
		return unclear
	default:
		s.forget(register, 16)
	}
	return holds
}

// out returns the interface that the packet leaves by; at other hooks than
// forward there is none.
func (s *walk) out() (Interface, bool) {
	if s.hook != Forward {
		return Interface{}, true
	}
	if s.Host.Route == nil || !s.to.IsValid() {
		return Interface{}, false
	}
	index, ok := s.Host.Route(s.to)
	at := slices.IndexFunc(s.Host.Interfaces, func(i Interface) bool { return i.Index == index })
	if !ok || at < 0 {
		return Interface{}, false
	}
	return s.Host.Interfaces[at], true
}

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
