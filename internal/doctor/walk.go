package doctor

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"

	"webknock/firewall"
)

// A packet is the first one of a connection to this host: a SYN, or a datagram.
type packet struct {
	from, to netip.Addr
	protocol firewall.Protocol
	port     uint16
	iif      string // where it comes in; empty: not known
	iifIndex int
	mark     uint32
}

func (p packet) family() nftables.TableFamily {
	if p.to.Is4() {
		return nftables.TableFamilyIPv4
	}
	return nftables.TableFamilyIPv6
}

// verdict is what becomes of a packet.
type verdict int

const (
	accepted verdict = iota
	dropped
	rejected // with an answer
	untold   // cannot be told
)

// An outcome is what becomes of a packet, and by what.
type outcome struct {
	verdict verdict
	by      string // rule or policy; empty: nothing stands against it
	byUs    bool
	sentTo  netip.AddrPort // by DNAT; zero: this host
}

// A walker follows one packet through the ruleset. What a condition depends on
// may not be known (a source port, say): then both ways are followed, and where
// they end differently the outcome cannot be told.
type walker struct {
	rules   *ruleset
	table   tableID         // our own
	granted map[string]bool // sets of our own table that hold the packet's source
	budget  int             // conditions that may be followed both ways
}

// walk is a place on the way of a packet.
type walk struct {
	packet
	hook    nftables.ChainHook
	left    []*chain // base chains at the hook, after the current one
	frames  []frame
	base    *chain
	natDone bool
	dnat    netip.AddrPort
	ctMark  bool // was set to something
	tracked bool
	regs    [16]word
}

type frame struct {
	chain *chain
	next  int // rule
}

// word is a 32-bit register.
type word struct {
	data  [4]byte
	known bool
	iif   bool // the name of an interface that is not known, but is not lo
}

// budget bounds the work of one packet.
const budget = 2000

// follow returns what becomes of a packet.
func (w walker) follow(p packet) outcome {
	w.budget = budget
	s := walk{packet: p, tracked: true}
	return w.enter(s, *nftables.ChainHookPrerouting)
}

// enter goes to a hook.
func (w *walker) enter(s walk, hook nftables.ChainHook) outcome {
	s.hook = hook
	s.left = w.rules.at(hook, s.family())
	return w.nextBase(s)
}

// nextBase goes to the next base chain, or hook.
func (w *walker) nextBase(s walk) outcome {
	for len(s.left) > 0 {
		s.base, s.left = s.left[0], s.left[1:]
		if s.base.base.Type == nftables.ChainTypeNAT && (s.natDone || s.hook != *nftables.ChainHookPrerouting) {
			continue // one DNAT is all there is; SNAT keeps nobody out
		}
		s.frames = []frame{{s.base, 0}}
		return w.run(s)
	}
	switch {
	case s.hook == *nftables.ChainHookPrerouting && s.dnat.IsValid():
		s.to, s.port = s.dnat.Addr(), s.dnat.Port()
		return w.enter(s, *nftables.ChainHookForward)
	case s.hook == *nftables.ChainHookPrerouting:
		return w.enter(s, *nftables.ChainHookInput)
	case s.hook == *nftables.ChainHookForward:
		return w.enter(s, *nftables.ChainHookPostrouting)
	}
	return outcome{verdict: accepted, sentTo: s.dnat}
}

// run follows rules until the packet has left the base chain.
func (w *walker) run(s walk) outcome {
	for len(s.frames) > 0 {
		top := &s.frames[len(s.frames)-1]
		if top.next >= len(top.chain.rules) {
			s.frames = s.frames[:len(s.frames)-1]
			continue
		}
		r, in := top.chain.rules[top.next], top.chain
		top.next++
		if end, done := w.rule(&s, r, in, 0); done {
			return end
		}
	}
	if p := s.base.base.Policy; p != nil && *p == nftables.ChainPolicyDrop {
		return outcome{dropped, "the policy of " + s.base.chainID.String(), s.base.tableID == w.table, s.dnat}
	}
	return w.nextBase(s)
}

// rule carries out a rule from one of its expressions on. It returns done if
// what becomes of the packet is decided.
func (w *walker) rule(s *walk, r rule, in *chain, from int) (end outcome, done bool) {
	by := func(v verdict) (outcome, bool) {
		return outcome{v, r.in(in), in.tableID == w.table, s.dnat}, true
	}
	for i := from; i < len(r.exprs); i++ {
		switch e := r.exprs[i].(type) {
		case *expr.Verdict:
			return w.decide(s, e, by)
		case *expr.Reject:
			return by(rejected)
		case *expr.NAT:
			if e.Type == expr.NATTypeDestNAT {
				addr, ok1 := s.load(e.RegAddrMin, s.to.BitLen()/8)
				port := binaryutil.BigEndian.PutUint16(s.port)
				ok2 := true
				if e.RegProtoMin != 0 {
					port, ok2 = s.load(e.RegProtoMin, 2)
				}
				to, ok3 := netip.AddrFromSlice(addr)
				if e.RegAddrMin == 0 {
					to, ok1, ok3 = s.to, true, true
				}
				if !ok1 || !ok2 || !ok3 {
					return by(untold)
				}
				s.redirect(netip.AddrPortFrom(to, binary.BigEndian.Uint16(port)))
			}
			return w.left(s) // NAT accepts
		case *expr.Masq:
			return w.left(s)
		case *expr.Redir, opaque, *expr.Objref, *expr.Connlimit, *expr.Quota:
			switch e := e.(type) {
			case *expr.Objref, *expr.Quota: // counts
				continue
			case *expr.Connlimit: // a first connection is within it
				if e.Flags&expr.NFT_CONNLIMIT_F_INV != 0 {
					return outcome{}, false
				}
				continue
			case opaque:
				switch e.name {
				case "last", "dup", "secmark", "cthelper", "cttimeout", "ctexpect", "flow_offload":
					continue // let the packet go on
				case "rt", "socket", "osf", "exthdr", "hash", "numgen", "xfrm", "tunnel", "inner":
					s.regs = [16]word{} // load something, or match
					return w.both(*s, r, in, i+1)
				}
			}
			return by(untold)
		case *expr.Target:
			switch e.Name {
			case "LOG", "NFLOG", "TCPMSS", "CT", "MARK", "CONNMARK", "AUDIT", "TRACE", "CHECKSUM":
				if e.Name == "MARK" || e.Name == "CONNMARK" || e.Name == "CT" {
					return w.both(*s, r, in, i+1) // what it sets is not read
				}
				continue
			case "REJECT":
				return by(rejected)
			case "MASQUERADE", "SNAT":
				return w.left(s)
			case "DNAT":
				if to, ok := xtDNAT(e.Info); ok {
					if to.Port() == 0 {
						to = netip.AddrPortFrom(to.Addr(), s.port)
					}
					s.redirect(to)
					return w.left(s)
				}
			}
			return by(untold)
		case *expr.Lookup:
			matches, verdict := w.lookup(s, in.tableID, e)
			if verdict != nil {
				return w.decide(s, verdict, by)
			}
			switch matches {
			case no:
				return outcome{}, false
			case maybe:
				return w.both(*s, r, in, i+1)
			}
		default:
			switch s.carryOut(e) {
			case no:
				return outcome{}, false
			case maybe:
				return w.both(*s, r, in, i+1)
			}
		}
	}
	return outcome{}, false
}

// both follows a packet that meets a condition, and one that does not.
func (w *walker) both(s walk, r rule, in *chain, next int) (outcome, bool) {
	unclear := outcome{untold, r.in(in), in.tableID == w.table, s.dnat}
	if w.budget--; w.budget < 0 {
		return unclear, true
	}
	copied := func() walk {
		c := s
		c.frames = slices.Clone(s.frames)
		return c
	}
	met := copied()
	yes, done := w.rule(&met, r, in, next)
	if !done {
		yes = w.run(met)
	}
	not := w.run(copied())
	if yes.verdict == not.verdict && yes.sentTo == not.sentTo {
		return yes, true
	}
	if yes.verdict == untold {
		return yes, true
	}
	if not.verdict == untold {
		return not, true
	}
	return unclear, true
}

// left goes on after the base chain has accepted.
func (w *walker) left(s *walk) (outcome, bool) { return w.nextBase(*s), true }

func (s *walk) redirect(to netip.AddrPort) {
	s.natDone = true
	if to.Addr() == s.to { // still this host
		s.port = to.Port()
		return
	}
	s.dnat = to
}

// decide carries out a verdict.
func (w *walker) decide(s *walk, v *expr.Verdict, by func(verdict) (outcome, bool)) (outcome, bool) {
	switch v.Kind {
	case expr.VerdictAccept:
		return w.left(s)
	case expr.VerdictDrop:
		return by(dropped)
	case expr.VerdictReturn:
		s.frames = s.frames[:len(s.frames)-1]
		return outcome{}, false
	case expr.VerdictContinue:
		return outcome{}, false
	case expr.VerdictJump, expr.VerdictGoto:
		to := w.rules.chains[chainID{s.base.tableID, v.Chain}]
		if to == nil || len(s.frames) > 64 {
			return by(untold)
		}
		if v.Kind == expr.VerdictGoto {
			s.frames = s.frames[:len(s.frames)-1]
		}
		s.frames = append(slices.Clone(s.frames), frame{to, 0})
		return outcome{}, false
	}
	return by(untold) // queue: another program decides
}

// answer is of a condition.
type answer int

const (
	yes answer = iota
	no
	maybe
)

func when(is bool) answer {
	if is {
		return yes
	}
	return no
}

// index returns the first 32-bit register of a register.
func index(register uint32) int {
	if register >= unix.NFT_REG32_00 {
		return int(register - unix.NFT_REG32_00)
	}
	return int(register-1) * 4
}

func (s *walk) store(register uint32, data []byte) {
	if register == 0 {
		return
	}
	for i := index(register); i < len(s.regs) && len(data) > 0; i++ {
		s.regs[i] = word{known: true}
		data = data[copy(s.regs[i].data[:], data):]
	}
}

// forget makes the contents of a register unknown.
func (s *walk) forget(register uint32, length int) {
	if register == 0 {
		return
	}
	for i := index(register); i < len(s.regs) && length > 0; i, length = i+1, length-4 {
		s.regs[i] = word{}
	}
}

func (s *walk) load(register uint32, length int) ([]byte, bool) {
	var data []byte
	for i := index(register); len(data) < length; i++ {
		if i < 0 || i >= len(s.regs) || !s.regs[i].known {
			return nil, false
		}
		data = append(data, s.regs[i].data[:]...)
	}
	return data[:length], true
}

// carryOut is what an expression does to the registers, and whether the packet
// goes on to the next one of the rule.
func (s *walk) carryOut(e expr.Any) answer {
	native := binaryutil.NativeEndian
	switch e := e.(type) {
	case *expr.Counter, *expr.Log:
	case *expr.Notrack:
		s.tracked = false
	case *expr.Limit: // one packet is within any limit
		return when(!e.Over)
	case *expr.Dynset:
		for _, inner := range e.Exprs {
			if a := s.carryOut(inner); a != yes {
				return a
			}
		}
	case *expr.Immediate:
		s.store(e.Register, e.Data)
	case *expr.Meta:
		if e.SourceRegister {
			switch e.Key {
			case expr.MetaKeyMARK:
				data, known := s.load(e.Register, 4)
				if !known {
					return maybe
				}
				s.mark = native.Uint32(data)
			}
			return yes
		}
		s.meta(e)
	case *expr.Ct:
		if e.SourceRegister {
			s.ctMark = s.ctMark || e.Key == expr.CtKeyMARK
			return yes
		}
		s.conntrack(e)
	case *expr.Fib:
		switch {
		case e.ResultADDRTYPE && e.FlagDADDR:
			s.store(e.Register, native.PutUint32(unix.RTN_LOCAL))
		case e.ResultADDRTYPE:
			s.store(e.Register, native.PutUint32(unix.RTN_UNICAST))
		case e.FlagPRESENT:
			s.store(e.Register, []byte{1})
		case e.ResultOIF && s.iif != "":
			s.store(e.Register, native.PutUint32(uint32(s.iifIndex)))
		default:
			s.forget(e.Register, 16)
		}
	case *expr.Payload:
		if e.DestRegister != 0 {
			s.payload(e)
		}
	case *expr.Bitwise:
		data, known := s.load(e.SourceRegister, int(e.Len))
		if !known || len(e.Mask) < int(e.Len) || len(e.Xor) < int(e.Len) {
			s.forget(e.DestRegister, int(e.Len))
			return yes
		}
		out := make([]byte, len(data))
		for i := range data {
			out[i] = data[i]&e.Mask[i] ^ e.Xor[i]
		}
		s.store(e.DestRegister, out)
	case *expr.Byteorder:
		data, known := s.load(e.SourceRegister, int(e.Len))
		if !known || e.Size == 0 || e.Len%e.Size != 0 {
			s.forget(e.DestRegister, int(e.Len))
			return yes
		}
		out := slices.Clone(data)
		for part := range slices.Chunk(out, int(e.Size)) {
			slices.Reverse(part) // this host is little-endian, or else it costs only a "cannot tell"
		}
		s.store(e.DestRegister, out)
	case *expr.Cmp:
		data, known := s.load(e.Register, len(e.Data))
		if !known && s.regs[index(e.Register)].iif && bytes.HasPrefix(e.Data, []byte("lo\x00")) {
			return when(e.Op == expr.CmpOpNeq)
		}
		if !known {
			return maybe
		}
		c := bytes.Compare(data, e.Data)
		switch e.Op {
		case expr.CmpOpEq:
			return when(c == 0)
		case expr.CmpOpNeq:
			return when(c != 0)
		case expr.CmpOpLt:
			return when(c < 0)
		case expr.CmpOpLte:
			return when(c <= 0)
		case expr.CmpOpGt:
			return when(c > 0)
		case expr.CmpOpGte:
			return when(c >= 0)
		}
		return maybe
	case *expr.Range:
		data, known := s.load(e.Register, len(e.FromData))
		if !known {
			return maybe
		}
		inside := bytes.Compare(data, e.FromData) >= 0 && bytes.Compare(data, e.ToData) <= 0
		return when(inside == (e.Op == expr.CmpOpEq))
	case *expr.Match:
		return s.match(e)
	default:
		return maybe
	}
	return yes
}

func (s *walk) meta(e *expr.Meta) {
	native := binaryutil.NativeEndian
	is4 := s.to.Is4()
	pick := func(four, six []byte) []byte {
		if is4 {
			return four
		}
		return six
	}
	switch e.Key {
	case expr.MetaKeyNFPROTO:
		s.store(e.Register, pick([]byte{unix.NFPROTO_IPV4}, []byte{unix.NFPROTO_IPV6}))
	case expr.MetaKeyPROTOCOL:
		s.store(e.Register, pick([]byte{0x08, 0x00}, []byte{0x86, 0xdd}))
	case expr.MetaKeyL4PROTO:
		s.store(e.Register, []byte{byte(s.protocol)})
	case expr.MetaKeyMARK:
		s.store(e.Register, native.PutUint32(s.mark))
	case expr.MetaKeyPKTTYPE:
		s.store(e.Register, []byte{0}) // to this host
	case expr.MetaKeyIIFNAME:
		s.forget(e.Register, 16)
		if s.iif != "" {
			s.store(e.Register, append([]byte(s.iif), make([]byte, unix.IFNAMSIZ-len(s.iif))...))
		} else {
			s.regs[index(e.Register)].iif = true
		}
	case expr.MetaKeyIIF:
		s.forget(e.Register, 4)
		if s.iif != "" {
			s.store(e.Register, native.PutUint32(uint32(s.iifIndex)))
		}
	default:
		s.forget(e.Register, 16)
	}
}

func (s *walk) conntrack(e *expr.Ct) {
	native := binaryutil.NativeEndian
	const conntrackPriority = -200
	switch {
	case int(*s.base.base.Priority) <= conntrackPriority && s.hook == *nftables.ChainHookPrerouting:
		s.forget(e.Register, 16)
	case e.Key == expr.CtKeySTATE && s.tracked:
		s.store(e.Register, native.PutUint32(expr.CtStateBitNEW))
	case e.Key == expr.CtKeySTATE:
		s.store(e.Register, native.PutUint32(expr.CtStateBitUNTRACKED))
	case e.Key == expr.CtKeyDIRECTION:
		s.store(e.Register, []byte{0})
	case e.Key == expr.CtKeySTATUS:
		status := uint32(0)
		if s.natDone {
			status = 1 << 5 // IPS_DST_NAT
		}
		s.store(e.Register, native.PutUint32(status))
	case e.Key == expr.CtKeyMARK && !s.ctMark:
		s.store(e.Register, native.PutUint32(0))
	default:
		s.forget(e.Register, 16)
	}
}

func (s *walk) payload(e *expr.Payload) {
	// What is known of the headers; the rest is not.
	var header []byte
	var known []bool
	put := func(at int, data ...byte) {
		for i, b := range data {
			header[at+i], known[at+i] = b, true
		}
	}
	switch {
	case e.Base == expr.PayloadBaseNetworkHeader && s.to.Is4():
		header, known = make([]byte, 20), make([]bool, 20)
		put(0, 0x45)
		put(9, byte(s.protocol))
		put(12, s.from.AsSlice()...)
		put(16, s.to.AsSlice()...)
	case e.Base == expr.PayloadBaseNetworkHeader:
		header, known = make([]byte, 40), make([]bool, 40)
		put(6, byte(s.protocol))
		put(8, s.from.AsSlice()...)
		put(24, s.to.AsSlice()...)
	case e.Base == expr.PayloadBaseTransportHeader:
		header, known = make([]byte, 20), make([]bool, 20)
		put(2, binaryutil.BigEndian.PutUint16(s.port)...)
		if s.protocol == firewall.TCP {
			put(13, 0x02) // SYN
		}
	}
	end := int(e.Offset + e.Len)
	if end > len(header) || slices.Contains(known[e.Offset:end], false) {
		s.forget(e.DestRegister, int(e.Len))
		return
	}
	s.store(e.DestRegister, header[e.Offset:end])
}

// match answers a match of x_tables, as iptables-nft uses them.
func (s *walk) match(e *expr.Match) answer {
	ports := func(r [2]uint16) bool { return r[0] <= s.port && s.port <= r[1] }
	anyPort := func(r [2]uint16) bool { return r[0] == 0 && r[1] == 0xffff }
	switch info := e.Info.(type) {
	case *xt.Comment:
		return yes
	case *xt.Tcp:
		if s.protocol != firewall.TCP || ports(info.DstPorts) == (info.InvFlags&xt.TcpInvDestPorts != 0) {
			return no
		}
		const syn = 0x02
		if info.FlagsMask != 0 && (syn&info.FlagsMask == info.FlagsCmp) == (info.InvFlags&xt.TcpInvFlags != 0) {
			return no
		}
		if !anyPort(info.SrcPorts) || info.Option != 0 {
			return maybe
		}
		return yes
	case *xt.Udp:
		if s.protocol != firewall.UDP || ports(info.DstPorts) == (info.InvFlags&xt.UdpInvDestPorts != 0) {
			return no
		}
		if !anyPort(info.SrcPorts) {
			return maybe
		}
		return yes
	case *xt.ConntrackMtinfo3:
		flags := xt.ConntrackFlags(info.MatchFlags)
		const stateNew, stateDNAT, stateUntracked = 1 << 3, 1 << 7, 1 << 6 // XT_CONNTRACK_STATE_*
		state := uint16(stateNew)
		if !s.tracked {
			state = stateUntracked
		}
		if s.natDone {
			state |= stateDNAT
		}
		if flags&^(xt.ConntrackState|xt.ConntrackStateAlias) != 0 {
			return maybe
		}
		if flags&xt.ConntrackState == 0 {
			return yes
		}
		return when((info.StateMask&state != 0) != (info.InvertFlags&uint16(xt.ConntrackState) != 0))
	case *xt.AddrTypeV1:
		if info.Source != 0 || info.Flags&^xt.AddrTypeFlags(2) != 0 { // XT_ADDRTYPE_INVERT_DEST
			return maybe
		}
		local := info.Dest&(1<<unix.RTN_LOCAL) != 0
		if s.hook == *nftables.ChainHookForward {
			return maybe
		}
		return when(local != (info.Flags&2 != 0))
	}
	raw := xtBytes(e.Info)
	switch e.Name {
	case "limit": // one packet is within it
		return yes
	case "mark": // struct xt_mark_mtinfo1: mark, mask, invert
		if len(raw) >= 9 {
			mark, mask := binary.NativeEndian.Uint32(raw), binary.NativeEndian.Uint32(raw[4:])
			return when((s.mark&mask == mark) != (raw[8] != 0))
		}
	case "multiport": // struct xt_multiport_v1: flags, count, ports[15], pflags[15], invert
		if len(raw) >= 48 && (raw[0] == 1 || raw[0] == 2) { // destination, either
			if raw[0] == 2 {
				return maybe
			}
			inside := false
			for i := 0; i < int(raw[1]) && i < 15; i++ {
				port := func(i int) uint16 { return binary.NativeEndian.Uint16(raw[2+2*i:]) }
				first, last := port(i), port(i)
				if raw[32+i] != 0 && i+1 < 15 {
					i++
					last = port(i)
				}
				inside = inside || first <= s.port && s.port <= last
			}
			return when(inside != (raw[47] != 0))
		}
	case "icmp", "icmp6", "icmpv6":
		return no
	}
	return maybe
}

func xtBytes(info xt.InfoAny) []byte {
	if u, ok := info.(*xt.Unknown); ok {
		return []byte(*u)
	}
	return nil
}

func xtDNAT(info xt.InfoAny) (netip.AddrPort, bool) {
	var r xt.NatRange
	switch info := info.(type) {
	case *xt.NatRange:
		r = *info
	case *xt.NatRange2:
		r = info.NatRange
	case *xt.NatIPv4MultiRangeCompat:
		if len(*info) != 1 {
			return netip.AddrPort{}, false
		}
		to, ok := netip.AddrFromSlice((*info)[0].MinIP)
		return netip.AddrPortFrom(to.Unmap(), (*info)[0].MinPort), ok
	default:
		return netip.AddrPort{}, false
	}
	to, ok := netip.AddrFromSlice(r.MinIP)
	return netip.AddrPortFrom(to.Unmap(), r.MinPort), ok && slices.Equal(r.MinIP, r.MaxIP)
}

// lookup answers whether a set holds what is in a register; for a map of
// verdicts it returns the verdict.
func (w *walker) lookup(s *walk, table tableID, e *expr.Lookup) (answer, *expr.Verdict) {
	id := setID{table, e.SetName}
	set := w.rules.sets[id]
	if set == nil {
		return maybe, nil
	}
	invert := func(a answer) answer {
		if e.Invert && a != maybe {
			return when(a == no)
		}
		return a
	}
	if table == w.table {
		if granted, ok := w.granted[e.SetName]; ok {
			return invert(when(granted)), nil
		}
	}
	if len(set.elements) == 0 {
		return invert(no), nil
	}
	key, known := s.load(e.SourceRegister, len(set.elements[0].Key))
	if !known {
		return maybe, nil
	}
	found, ok := set.find(key)
	switch {
	case !ok:
		return invert(no), nil
	case e.IsDestRegSet && e.DestRegister == unix.NFT_REG_VERDICT:
		if v := parseVerdict(found.Val); v != nil {
			return yes, v
		}
		return maybe, nil
	case e.IsDestRegSet:
		s.store(e.DestRegister, found.Val)
	}
	return invert(yes), nil
}

// find returns the element that a key is in.
func (s *set) find(key []byte) (nftables.SetElement, bool) {
	if s.Interval && !s.Concatenation {
		// Each element begins a range, which lasts to the next.
		var best *nftables.SetElement
		for i := range s.elements {
			e := &s.elements[i]
			if bytes.Compare(e.Key, key) > 0 {
				continue
			}
			if best == nil || bytes.Compare(e.Key, best.Key) > 0 || bytes.Equal(e.Key, best.Key) && best.IntervalEnd {
				best = e
			}
		}
		if best == nil || best.IntervalEnd {
			return nftables.SetElement{}, false
		}
		return *best, true
	}
	for _, e := range s.elements {
		if len(e.KeyEnd) == 0 {
			if bytes.Equal(e.Key, key) {
				return e, true
			}
			continue
		}
		inside := len(e.Key) == len(key) && len(e.KeyEnd) == len(key)
		for i := 0; inside && i < len(key); i += 4 { // a field of a concatenation fills words
			end := min(i+4, len(key))
			inside = bytes.Compare(e.Key[i:end], key[i:end]) <= 0 && bytes.Compare(key[i:end], e.KeyEnd[i:end]) <= 0
		}
		if inside {
			return e, true
		}
	}
	return nftables.SetElement{}, false
}
