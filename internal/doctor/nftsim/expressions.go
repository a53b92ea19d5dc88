package nftsim

import (
	"encoding/binary"
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
