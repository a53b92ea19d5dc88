package nftsim

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"
)

// stream deals out the bytes of a fuzzer's input, and zeros after them.
type stream []byte

func (s *stream) byte() byte {
	if len(*s) == 0 {
		return 0
	}
	b := (*s)[0]
	*s = (*s)[1:]
	return b
}

func (s *stream) below(n int) int { return int(s.byte()) % n }

func (s *stream) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = s.byte()
	}
	return b
}

func attr(typ uint16, value []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func attr32(typ uint16, n uint32) []byte { return attr(typ, binary.BigEndian.AppendUint32(nil, n)) }

func value(typ uint16, data []byte) []byte { return attr(typ, attr(unix.NFTA_DATA_VALUE, data)) }

func verdictAttr(typ uint16, code int32, chain string) []byte {
	v := attr32(unix.NFTA_VERDICT_CODE, uint32(code))
	if chain != "" {
		v = append(v, attr(unix.NFTA_VERDICT_CHAIN, []byte(chain+"\x00"))...)
	}
	return attr(typ, attr(unix.NFTA_DATA_VERDICT, v))
}

// expr makes an expression as netlink has it.
func expr(name string, attrs ...[]byte) expression {
	var all []byte
	for _, a := range attrs {
		all = append(all, a...)
	}
	return parseExpression(append(attr(unix.NFTA_EXPR_NAME, []byte(name+"\x00")), attr(unix.NFTA_EXPR_DATA, all)...))
}

var fuzzNames = []string{
	"meta", "payload", "cmp", "range", "bitwise", "byteorder", "lookup", "immediate", "ct", "fib", "dynset", "nat", "redir", "masq", "tproxy", "exthdr", "match", "target",
	"limit", "quota", "objref", "connlimit", "notrack", "queue", "reject", "counter", "numgen", "socket", "rt", "synproxy", "flow_offload", "from the future", "payload", "cmp", "cmp",
}

var fuzzXT = []string{"tcp", "udp", "multiport", "conntrack", "mark", "connmark", "addrtype", "iprange", "devgroup", "policy", "hashlimit", "recent", "rpfilter", "MARK", "CONNMARK", "DNAT", "REDIRECT", "TPROXY", "CT", "state"}

func (s *stream) expression() expression {
	register := func() uint32 { return []uint32{1, 2, 8, 9, 10, 0, 23, 99}[s.below(8)] }
	name := fuzzNames[s.below(len(fuzzNames))]
	switch name {
	case "payload": // mostly a port
		if s.below(4) > 0 {
			return expr(name, attr32(unix.NFTA_PAYLOAD_DREG, register()), attr32(unix.NFTA_PAYLOAD_BASE, 2), attr32(unix.NFTA_PAYLOAD_OFFSET, uint32(s.below(4))), attr32(unix.NFTA_PAYLOAD_LEN, uint32(s.below(5))))
		}
	case "cmp":
		if s.below(4) > 0 {
			return expr(name, attr32(unix.NFTA_CMP_SREG, register()), attr32(unix.NFTA_CMP_OP, uint32(s.below(6))), value(unix.NFTA_CMP_DATA, s.bytes(s.below(5))))
		}
	case "range":
		return expr(name, attr32(unix.NFTA_RANGE_SREG, register()), attr32(unix.NFTA_RANGE_OP, uint32(s.below(2))), value(unix.NFTA_RANGE_FROM_DATA, s.bytes(2)), value(unix.NFTA_RANGE_TO_DATA, s.bytes(2)))
	case "bitwise":
		n := 1 + s.below(4)
		return expr(name, attr32(unix.NFTA_BITWISE_SREG, register()), attr32(unix.NFTA_BITWISE_DREG, register()), attr32(unix.NFTA_BITWISE_LEN, uint32(n)), attr32(bitwiseOp, uint32(s.below(7))), value(unix.NFTA_BITWISE_MASK, s.bytes(n)), value(unix.NFTA_BITWISE_XOR, s.bytes(n)), value(bitwiseData, s.bytes(4)))
	case "lookup":
		attrs := [][]byte{attr(unix.NFTA_LOOKUP_SET, []byte("s\x00")), attr32(unix.NFTA_LOOKUP_SREG, register()), attr32(unix.NFTA_LOOKUP_FLAGS, uint32(s.below(2)))}
		if s.below(3) == 0 {
			attrs = append(attrs, attr32(unix.NFTA_LOOKUP_DREG, register()))
		}
		return expr(name, attrs...)
	case "immediate":
		if s.below(2) == 0 {
			return expr(name, attr32(immediateReg, 0), verdictAttr(immediateData, int32(s.below(8))-6, []string{"a", "b", "none"}[s.below(3)]))
		}
		return expr(name, attr32(immediateReg, register()), value(immediateData, s.bytes(s.below(17))))
	case "match", "target":
		return expr(name, attr(1, []byte(fuzzXT[s.below(len(fuzzXT))]+"\x00")), attr32(2, uint32(s.below(4))), attr(3, s.bytes(s.below(200))))
	}
	var attrs [][]byte
	for range s.below(6) {
		typ := uint16(s.below(10))
		switch s.below(4) {
		case 0:
			attrs = append(attrs, value(typ, s.bytes(s.below(20))))
		case 1:
			attrs = append(attrs, attr(typ, s.bytes(s.below(12))))
		default:
			attrs = append(attrs, attr32(typ, uint32(s.byte())))
		}
	}
	return expr(name, attrs...)
}

func (s *stream) ruleset() *Ruleset {
	r := newRuleset()
	table := TableID{[]Family{INet, IPv4, IPv6}[s.below(3)], "t"}
	r.Tables = []TableID{table}
	add := func(name string, base *Base) {
		c := &Chain{Table: table, Name: name, Base: base, made: len(r.Chains)}
		for range s.below(5) {
			var rule Rule
			for range s.below(8) {
				rule.exprs = append(rule.exprs, s.expression())
			}
			c.Rules = append(c.Rules, rule)
		}
		r.Chains = append(r.Chains, c)
		r.chains[chainID{table, name}] = c
	}
	add("a", nil)
	add("b", nil)
	add("pre", &Base{Hook: Prerouting, Priority: -300 + 50*s.below(7), Type: "filter"})
	add("nat", &Base{Hook: Prerouting, Priority: -100, Type: "nat"})
	add("in", &Base{Hook: Input, Type: "filter", Drop: s.below(2) == 0})
	set := &Set{Name: "s", keyLen: 1 + s.below(8)}
	if s.below(2) == 0 {
		set.elements = []element{}
		set.fields = []int{4, 4}
	}
	var list []byte
	for range s.below(5) {
		e := append(value(unix.NFTA_SET_ELEM_KEY, s.bytes(set.keyLen)), attr32(unix.NFTA_SET_ELEM_FLAGS, uint32(s.below(4)))...)
		if s.below(2) == 0 {
			e = append(e, value(setKeyEnd, s.bytes(set.keyLen))...)
		}
		if s.below(2) == 0 {
			e = append(e, verdictAttr(unix.NFTA_SET_ELEM_DATA, int32(s.below(6))-5, "a")...)
		} else {
			e = append(e, value(unix.NFTA_SET_ELEM_DATA, s.bytes(4))...)
		}
		list = append(list, attr(1, e)...)
	}
	set.fill([][]byte{list})
	r.Sets[SetID{table, "s"}] = set
	return r
}

// Whatever a ruleset holds, a packet gets to an end, and all ports of the
// interval that is named end alike.
func FuzzFollow(f *testing.F) {
	for seed := range uint64(40) {
		g := rand.New(rand.NewPCG(seed, 0))
		data := make([]byte, 400)
		for i := range data {
			data[i] = byte(g.Uint32())
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s := stream(data)
		p := syn(binary.BigEndian.Uint16(s.bytes(2)))
		if s.below(2) == 0 {
			p = syn6(p.Port)
		}
		if s.below(3) == 0 {
			p = udp(p)
		}
		r := s.ruleset()
		o := Options{Host: testHost(), Watch: 0x40}
		out := r.Follow(p, o)
		if p.Port < out.First || p.Port > out.Last {
			t.Fatalf("port %d is not in its own interval: %s", p.Port, describe(out))
		}
		for _, c := range r.Chains {
			for i := range c.Rules {
				r.Text(c, i)
				place := &Place{r, c, i}
				place.MatchesMark(0x40)
				place.TProxy()
			}
		}
		for _, port := range []uint16{out.First, out.Last, out.First + (out.Last-out.First)/2} {
			q := p
			q.Port = port
			other := r.Follow(q, o)
			if out.To.Port() == p.Port && other.To.Port() == port { // it stays, whichever it is
				other.To = out.To
			}
			if out.TProxyTo == p.Port && other.TProxyTo == port {
				other.TProxyTo = out.TProxyTo
			}
			if !out.same(&other) && out.Verdict != Unknown && other.Verdict != Unknown {
				t.Fatalf("port %d:\n%s\nport %d:\n%s", p.Port, describe(out), port, describe(other))
			}
		}
	})
}

// FuzzRead reads messages that no kernel sends.
func FuzzRead(f *testing.F) {
	f.Add([]byte{8, 0, 1, 0, 'a', 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := newRuleset()
		m := message{INet, parseAttributes(data)}
		r.addTable(m)
		r.addChain(m)
		r.addRule(m)
		r.addSet(m)
		r.addObject(m)
		r.addFlowtable(m)
		for _, s := range r.Sets {
			s.fill([][]byte{data})
		}
		r.finish()
		r.Follow(syn(22), Options{Host: testHost()})
	})
}
