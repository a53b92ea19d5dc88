package nftsim

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// kind says how a value is written.
type kind int

const (
	hexadecimal kind = iota
	number
	numberHost // in the host's byte order
	port
	ipAddress
	protocol
	ifname
	markNumber
	ctState
	ctStatus
	ctDirection
	family
	etherType
	addrType
	tcpFlags
	ctLabel
	pktType
)

// A phrase describes the content of a register as nft(8) writes it: the name, such as
// "tcp dport", and the notation of its values.
type phrase struct {
	text string
	kind kind
	size int
	more []phrase // a concatenation's parts
	mask string
}

// Text renders a rule as nft would print it, as far as possible. What nft would
// print otherwise stands in its place by its name.
func (r *Ruleset) Text(c *Chain, index int) string {
	if index < 0 || index >= len(c.Rules) {
		return ""
	}
	t := texter{ruleset: r, chain: c, regs: map[int]phrase{}}
	for _, e := range c.Rules[index].exprs {
		t.expression(e)
	}
	t.settle("")
	return strings.Join(t.words, " ")
}

type texter struct {
	ruleset *Ruleset
	chain   *Chain
	regs    map[int]phrase
	words   []string
	// dependencies are conditions that nft leaves out if the next one implies them.
	dependencies []dependency
	l4, ip       string
}

type dependency struct{ text, implied string }

func (t *texter) say(format string, args ...any) {
	t.settle("")
	t.words = append(t.words, fmt.Sprintf(format, args...))
}

// settle writes the dependencies that the next words do not imply, as "tcp" in
// "tcp dport" does.
func (t *texter) settle(next string) {
	words := strings.Fields(next)
	for _, d := range t.dependencies {
		if !slices.Contains(words, d.implied) {
			t.words = append(t.words, d.text)
		}
	}
	t.dependencies = nil
}

func (t *texter) reg(register uint32) phrase {
	at, _ := index(register)
	return t.regs[at]
}

func (t *texter) put(register uint32, p phrase) {
	if at, ok := index(register); ok {
		t.regs[at] = p
	}
}

// key puts together what a set's key is made of.
func (t *texter) key(register uint32, length int) phrase {
	at, ok := index(register)
	first := t.regs[at]
	if !ok || first.size == 0 || (first.size+3)&^3 >= length {
		return first
	}
	var parts []phrase
	for used := 0; used < length; {
		p, ok := t.regs[at+used]
		if !ok || p.size == 0 {
			break
		}
		parts = append(parts, p)
		used += (p.size + 3) &^ 3
	}
	var names []string
	for _, p := range parts {
		names = append(names, p.text)
	}
	return phrase{text: strings.Join(names, " . "), more: parts, size: length}
}

var metaPhrases = map[uint32]phrase{
	unix.NFT_META_LEN: {text: "meta length", kind: numberHost, size: 4}, unix.NFT_META_PROTOCOL: {text: "meta protocol", kind: etherType, size: 2},
	unix.NFT_META_PRIORITY: {text: "meta priority", kind: numberHost, size: 4}, unix.NFT_META_MARK: {text: "meta mark", kind: markNumber, size: 4},
	unix.NFT_META_IIF: {text: "iif", kind: numberHost, size: 4}, unix.NFT_META_OIF: {text: "oif", kind: numberHost, size: 4},
	unix.NFT_META_IIFNAME: {text: "iifname", kind: ifname, size: 16}, unix.NFT_META_OIFNAME: {text: "oifname", kind: ifname, size: 16},
	unix.NFT_META_IIFGROUP: {text: "iifgroup", kind: numberHost, size: 4}, unix.NFT_META_OIFGROUP: {text: "oifgroup", kind: numberHost, size: 4},
	unix.NFT_META_IIFTYPE: {text: "iiftype", kind: numberHost, size: 2}, unix.NFT_META_SKUID: {text: "meta skuid", kind: numberHost, size: 4},
	unix.NFT_META_NFPROTO: {text: "meta nfproto", kind: family, size: 1}, unix.NFT_META_L4PROTO: {text: "meta l4proto", kind: protocol, size: 1},
	unix.NFT_META_PKTTYPE: {text: "meta pkttype", kind: pktType, size: 1}, unix.NFT_META_CPU: {text: "meta cpu", kind: numberHost, size: 4},
	unix.NFT_META_CGROUP: {text: "meta cgroup", kind: numberHost, size: 4}, unix.NFT_META_PRANDOM: {text: "meta random", kind: hexadecimal, size: 4},
}

var ctPhrases = map[uint32]phrase{
	unix.NFT_CT_STATE: {text: "ct state", kind: ctState, size: 4}, unix.NFT_CT_DIRECTION: {text: "ct direction", kind: ctDirection, size: 1},
	unix.NFT_CT_STATUS: {text: "ct status", kind: ctStatus, size: 4}, unix.NFT_CT_MARK: {text: "ct mark", kind: markNumber, size: 4},
	unix.NFT_CT_HELPER: {text: "ct helper", kind: ifname, size: 16}, unix.NFT_CT_LABELS: {text: "ct label", kind: ctLabel, size: 16},
	unix.NFT_CT_PROTO_SRC: {text: "proto-src", kind: port, size: 2}, unix.NFT_CT_PROTO_DST: {text: "proto-dst", kind: port, size: 2},
	unix.NFT_CT_SRC: {text: "saddr", kind: ipAddress, size: 4}, unix.NFT_CT_DST: {text: "daddr", kind: ipAddress, size: 4},
	unix.NFT_CT_SRC_IP: {text: "ip saddr", kind: ipAddress, size: 4}, unix.NFT_CT_DST_IP: {text: "ip daddr", kind: ipAddress, size: 4},
	unix.NFT_CT_SRC_IP6: {text: "ip6 saddr", kind: ipAddress, size: 16}, unix.NFT_CT_DST_IP6: {text: "ip6 daddr", kind: ipAddress, size: 16},
	unix.NFT_CT_PROTOCOL: {text: "protocol", kind: protocol, size: 1}, unix.NFT_CT_ZONE: {text: "ct zone", kind: numberHost, size: 2},
	unix.NFT_CT_BYTES: {text: "ct bytes", kind: numberHost, size: 8}, unix.NFT_CT_PKTS: {text: "ct packets", kind: numberHost, size: 8},
}

func (t *texter) expression(e expression) {
	a := e.attr
	switch e.name {
	case "counter", "log", "notrack", "last":
		t.say("%s", e.name)
	case "immediate":
		data, v := a.data(immediateData)
		if v != nil {
			t.say("%s", v)
			return
		}
		t.put(a.uint32(immediateReg), phrase{text: string(data), kind: -1, size: len(data)})
	case "meta":
		t.load(a, unix.NFTA_META_DREG, unix.NFTA_META_SREG, metaPhrases[a.uint32(unix.NFTA_META_KEY)], fmt.Sprintf("meta key %d", a.uint32(unix.NFTA_META_KEY)))
	case "ct":
		p := ctPhrases[a.uint32(unix.NFTA_CT_KEY)]
		if a.has(unix.NFTA_CT_DIRECTION) {
			p.text = "ct " + map[uint32]string{0: "original ", 1: "reply "}[a.uint32(unix.NFTA_CT_DIRECTION)] + strings.TrimPrefix(p.text, "ct ")
		}
		t.load(a, unix.NFTA_CT_DREG, unix.NFTA_CT_SREG, p, fmt.Sprintf("ct key %d", a.uint32(unix.NFTA_CT_KEY)))
	case "payload":
		p := t.payload(a.uint32(unix.NFTA_PAYLOAD_BASE), a.uint32(unix.NFTA_PAYLOAD_OFFSET), a.uint32(unix.NFTA_PAYLOAD_LEN))
		t.load(a, unix.NFTA_PAYLOAD_DREG, unix.NFTA_PAYLOAD_SREG, p, "payload")
	case "fib":
		var of []string
		for _, f := range []struct {
			bit  uint32
			name string
		}{{unix.NFTA_FIB_F_SADDR, "saddr"}, {unix.NFTA_FIB_F_DADDR, "daddr"}, {unix.NFTA_FIB_F_MARK, "mark"}, {unix.NFTA_FIB_F_IIF, "iif"}, {unix.NFTA_FIB_F_OIF, "oif"}} {
			if a.uint32(unix.NFTA_FIB_FLAGS)&f.bit != 0 {
				of = append(of, f.name)
			}
		}
		result := map[uint32]phrase{1: {text: "oif", kind: numberHost, size: 4}, 2: {text: "oifname", kind: ifname, size: 16}, 3: {text: "type", kind: addrType, size: 4}}[a.uint32(unix.NFTA_FIB_RESULT)]
		result.text = "fib " + strings.Join(of, " . ") + " " + result.text
		t.put(a.uint32(unix.NFTA_FIB_DREG), result)
	case "exthdr":
		if a.uint32(unix.NFTA_EXTHDR_OP) == exthdrIPv6 && a.uint32(unix.NFTA_EXTHDR_TYPE) == unix.IPPROTO_ROUTING && a.uint32(unix.NFTA_EXTHDR_OFFSET) == 2 {
			t.put(a.uint32(unix.NFTA_EXTHDR_DREG), phrase{text: "rt type", kind: number, size: 1})
			return
		}
		t.put(a.uint32(unix.NFTA_EXTHDR_DREG), phrase{text: fmt.Sprintf("exthdr %d", a.uint32(unix.NFTA_EXTHDR_TYPE)), kind: number, size: int(a.uint32(unix.NFTA_EXTHDR_LEN))})
	case "bitwise":
		t.bitwise(a)
	case "byteorder":
		p := t.reg(a.uint32(unix.NFTA_BYTEORDER_SREG))
		if p.kind == numberHost || p.kind == markNumber {
			p.kind = number
		}
		t.put(a.uint32(unix.NFTA_BYTEORDER_DREG), p)
	case "cmp":
		data, _ := a.data(unix.NFTA_CMP_DATA)
		t.compare(t.key(a.uint32(unix.NFTA_CMP_SREG), len(data)), a.uint32(unix.NFTA_CMP_OP), data)
	case "range":
		from, _ := a.data(unix.NFTA_RANGE_FROM_DATA)
		to, _ := a.data(unix.NFTA_RANGE_TO_DATA)
		p := t.reg(a.uint32(unix.NFTA_RANGE_SREG))
		t.condition(p, bang(a.uint32(unix.NFTA_RANGE_OP) == unix.NFT_RANGE_NEQ)+p.kind.text(from)+"-"+p.kind.text(to))
	case "lookup":
		set := t.ruleset.Sets[SetID{t.chain.Table, a.text(unix.NFTA_LOOKUP_SET)}]
		if set == nil {
			t.say("@%s", a.text(unix.NFTA_LOOKUP_SET))
			return
		}
		p := t.key(a.uint32(unix.NFTA_LOOKUP_SREG), set.keyLen)
		switch to := a.uint32(unix.NFTA_LOOKUP_DREG); {
		case !a.has(unix.NFTA_LOOKUP_DREG):
			t.condition(p, bang(a.uint32(unix.NFTA_LOOKUP_FLAGS)&unix.NFT_LOOKUP_F_INV != 0)+t.set(set, p))
		case to == unix.NFT_REG_VERDICT:
			t.condition(p, "vmap "+t.set(set, p))
		default:
			t.put(to, phrase{text: p.text + " map " + t.set(set, p), size: 16})
		}
	case "dynset":
		op := map[uint32]string{0: "add", 1: "update", 2: "delete"}[a.uint32(unix.NFTA_DYNSET_OP)]
		name := a.text(unix.NFTA_DYNSET_SET_NAME)
		p := phrase{}
		if set := t.ruleset.Sets[SetID{t.chain.Table, name}]; set != nil {
			p = t.key(a.uint32(unix.NFTA_DYNSET_SREG_KEY), set.keyLen)
		}
		t.settle(p.text)
		t.say("%s @%s { %s }", op, name, p.text)
	case "limit":
		over := ""
		if a.uint32(unix.NFTA_LIMIT_FLAGS)&unix.NFT_LIMIT_F_INV != 0 {
			over = "over "
		}
		unit := map[uint64]string{1: "second", 60: "minute", 3600: "hour", 86400: "day", 604800: "week"}[a.uint64(unix.NFTA_LIMIT_UNIT)]
		t.say("limit rate %s%d/%s", over, a.uint64(unix.NFTA_LIMIT_RATE), unit)
	case "reject":
		if a.uint32(unix.NFTA_REJECT_TYPE) == unix.NFT_REJECT_TCP_RST {
			t.settle("tcp")
			t.say("reject with tcp reset")
			return
		}
		t.say("reject")
	case "nat":
		what := "snat"
		if a.uint32(unix.NFTA_NAT_TYPE) == unix.NFT_NAT_DNAT {
			what = "dnat"
		}
		to := t.value(a.uint32(unix.NFTA_NAT_REG_ADDR_MIN), ipAddress)
		ports := t.natPorts(a, unix.NFTA_NAT_REG_PROTO_MIN, unix.NFTA_NAT_REG_PROTO_MAX)
		if strings.Contains(to, ":") && ports != "" {
			to = "[" + to + "]"
		}
		if t.chain.Table.Family == INet {
			what += map[uint32]string{2: " ip", 10: " ip6"}[a.uint32(unix.NFTA_NAT_FAMILY)]
		}
		t.say("%s to %s%s", what, to, ports)
	case "redir":
		if ports := t.natPorts(a, unix.NFTA_REDIR_REG_PROTO_MIN, unix.NFTA_REDIR_REG_PROTO_MAX); ports != "" {
			t.say("redirect to %s", ports)
			return
		}
		t.say("redirect")
	case "masq":
		t.say("masquerade")
	case "tproxy":
		to := ""
		if a.has(tproxyAddr) {
			to = t.value(a.uint32(tproxyAddr), ipAddress)
		}
		if a.has(tproxyPort) {
			to += ":" + t.value(a.uint32(tproxyPort), port)
		}
		t.say("tproxy to %s", to)
	case "flow_offload":
		t.say("flow add @%s", a.text(1))
	case "queue":
		t.say("queue to %d", binary.BigEndian.Uint16(append(a[unix.NFTA_QUEUE_NUM], 0, 0)))
	case "objref":
		what := map[uint32]string{1: "counter", 2: "quota", 3: "ct helper set", 4: "limit", 7: "ct timeout set", 8: "meta secmark set", 9: "ct expectation set", 10: "synproxy"}[a.uint32(unix.NFTA_OBJREF_IMM_TYPE)]
		t.say("%s name %s", what, quote(a.text(unix.NFTA_OBJREF_IMM_NAME)))
	case "match":
		t.say("%s", xtText(a.text(unix.NFTA_MATCH_NAME), a.uint32(unix.NFTA_MATCH_REV), a[unix.NFTA_MATCH_INFO], false))
	case "target":
		t.say("%s", xtText(a.text(unix.NFTA_TARGET_NAME), a.uint32(unix.NFTA_TARGET_REV), a[unix.NFTA_TARGET_INFO], true))
	case "connlimit":
		over := ""
		if a.uint32(connlimitFlags)&1 != 0 {
			over = "over "
		}
		t.say("ct count %s%d", over, a.uint32(1))
	case "quota":
		over := ""
		if a.uint32(unix.NFTA_QUOTA_FLAGS)&unix.NFT_QUOTA_F_INV != 0 {
			over = "over "
		}
		t.say("quota %s%d bytes", over, a.uint64(unix.NFTA_QUOTA_BYTES))
	case "rt", "socket", "osf", "hash", "numgen", "xfrm", "tunnel":
		t.put(a.uint32(1), phrase{text: e.name, size: 16})
		if e.name == "socket" || e.name == "osf" {
			t.put(a.uint32(2), phrase{text: e.name, size: 16})
			t.put(a.uint32(1), phrase{text: e.name, size: 16})
		}
	default:
		t.say("%s", e.name)
	}
}

// load is an expression that fills a register, or writes one somewhere.
func (t *texter) load(a attributes, to, from uint16, p phrase, otherwise string) {
	if p.text == "" {
		p = phrase{text: otherwise, size: 16}
	}
	if !a.has(from) {
		t.put(a.uint32(to), p)
		return
	}
	value := t.value(a.uint32(from), p.kind)
	t.say("%s set %s", p.text, value)
}

// value is what is in a register, if a rule put it there, or what it is.
func (t *texter) value(register uint32, k kind) string {
	p := t.reg(register)
	if p.kind == -1 {
		return k.text([]byte(p.text))
	}
	return p.text + p.mask
}

func (t *texter) natPorts(a attributes, least, greatest uint16) string {
	if !a.has(least) {
		return ""
	}
	text := ":" + t.value(a.uint32(least), port)
	if a.has(greatest) && a.uint32(greatest) != a.uint32(least) {
		text += "-" + t.value(a.uint32(greatest), port)
	}
	return text
}

// A place is where something stands in a packet, in bytes.
type place struct{ base, offset, length uint32 }

// fields are what stands at places of packets. In the transport header the name of the
// protocol comes before.
var fields = map[place]phrase{
	{unix.NFT_PAYLOAD_NETWORK_HEADER, 12, 4}:   {text: "ip saddr", kind: ipAddress},
	{unix.NFT_PAYLOAD_NETWORK_HEADER, 16, 4}:   {text: "ip daddr", kind: ipAddress},
	{unix.NFT_PAYLOAD_NETWORK_HEADER, 9, 1}:    {text: "ip protocol", kind: protocol},
	{unix.NFT_PAYLOAD_NETWORK_HEADER, 8, 1}:    {text: "ip ttl", kind: number},
	{unix.NFT_PAYLOAD_NETWORK_HEADER, 2, 2}:    {text: "ip length", kind: number},
	{unix.NFT_PAYLOAD_NETWORK_HEADER, 6, 1}:    {text: "ip6 nexthdr", kind: protocol},
	{unix.NFT_PAYLOAD_NETWORK_HEADER, 8, 16}:   {text: "ip6 saddr", kind: ipAddress},
	{unix.NFT_PAYLOAD_NETWORK_HEADER, 24, 16}:  {text: "ip6 daddr", kind: ipAddress},
	{unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2}:  {text: "sport", kind: port},
	{unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2}:  {text: "dport", kind: port},
	{unix.NFT_PAYLOAD_TRANSPORT_HEADER, 13, 1}: {text: "flags", kind: tcpFlags},
	{unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1}:  {text: "type", kind: number},
}

func (t *texter) payload(base, offset, length uint32) phrase {
	p, known := fields[place{base, offset, length}]
	p.size = int(length)
	switch {
	case known && base == unix.NFT_PAYLOAD_TRANSPORT_HEADER:
		p.text = cmp.Or(t.l4, "th") + " " + p.text
		return p
	case known:
		return p
	}
	if base == unix.NFT_PAYLOAD_NETWORK_HEADER { // a prefix of an address, on a byte's boundary
		p.kind = ipAddress
		switch {
		case offset == 12 && length < 4:
			p.text = "ip saddr"
			return p
		case offset == 16 && length < 4:
			p.text = "ip daddr"
			return p
		case t.ip != "ip" && offset == 8 && length < 16:
			p.text = "ip6 saddr"
			return p
		case t.ip != "ip" && offset == 24 && length < 16:
			p.text = "ip6 daddr"
			return p
		}
	}
	names := map[uint32]string{unix.NFT_PAYLOAD_LL_HEADER: "ll", unix.NFT_PAYLOAD_NETWORK_HEADER: "nh", unix.NFT_PAYLOAD_TRANSPORT_HEADER: "th"}
	return phrase{text: fmt.Sprintf("@%s,%d,%d", names[base], offset*8, length*8), size: int(length)}
}

func (t *texter) bitwise(a attributes) {
	p := t.reg(a.uint32(unix.NFTA_BITWISE_SREG))
	op := a.uint32(bitwiseOp)
	value := func(data []byte) string { return p.kind.text(data) }
	data, _ := a.data(bitwiseData)
	switch op {
	case opMaskXor:
		mask, _ := a.data(unix.NFTA_BITWISE_MASK)
		xor, _ := a.data(unix.NFTA_BITWISE_XOR)
		set := make([]byte, len(mask))
		for i := range set {
			set[i] = ^mask[i]
		}
		switch {
		case len(xor) == len(mask) && string(xor) == string(set) && !zero(xor): // x & ^v ^ v
			p.mask += " | " + value(xor)
		case zero(xor):
			p.mask += " & " + maskOf(p.kind, mask)
		case len(xor) == len(mask) && zero(set):
			p.mask += " ^ " + value(xor)
		default:
			p.mask += " & " + maskOf(p.kind, mask) + " ^ " + value(xor)
		}
	case opLeft, opRight:
		if len(data) >= 4 {
			p.mask += map[uint32]string{opLeft: " << ", opRight: " >> "}[op] + strconv.Itoa(int(binary.NativeEndian.Uint32(data)))
		}
	case opAnd, opOr, opXor:
		p.mask += map[uint32]string{opAnd: " & ", opOr: " | ", opXor: " ^ "}[op]
		if a.has(bitwiseReg2) {
			p.mask += t.value(a.uint32(bitwiseReg2), p.kind)
		} else {
			p.mask += value(data)
		}
	}
	t.put(a.uint32(unix.NFTA_BITWISE_DREG), p)
}

func zero(data []byte) bool { return strings.Trim(string(data), "\x00") == "" }

// maskOf writes a mask: a prefix of an address by its length.
func maskOf(k kind, mask []byte) string {
	if k == ipAddress {
		return "/" + strconv.Itoa(ones(mask))
	}
	return k.text(mask)
}

func ones(mask []byte) (n int) {
	for _, b := range mask {
		for ; b&0x80 != 0; b <<= 1 {
			n++
		}
	}
	return n
}

// compare is a condition, like `tcp dport 22` or `tcp flags & (syn | ack) == syn`.
func (t *texter) compare(p phrase, op uint32, data []byte) {
	ops := map[uint32]string{unix.NFT_CMP_EQ: "", unix.NFT_CMP_NEQ: "!= ", unix.NFT_CMP_LT: "< ", unix.NFT_CMP_LTE: "<= ", unix.NFT_CMP_GT: "> ", unix.NFT_CMP_GTE: ">= "}
	sign := ops[op]
	if p.more != nil {
		t.condition(p, sign+concatenated(p, data, data))
		return
	}
	value := p.kind.text(data)
	switch {
	case p.kind == ipAddress && p.mask == "" && (p.size < 4 || p.size < 16 && strings.HasPrefix(p.text, "ip6")): // a prefix
		length := 4
		if strings.HasPrefix(p.text, "ip6") {
			length = 16
		}
		full := append(append([]byte(nil), data...), make([]byte, max(0, length-len(data)))...)
		value = ipAddress.text(full) + "/" + strconv.Itoa(8*len(data))
	case p.kind == ipAddress && strings.HasPrefix(p.mask, " & /"):
		value += strings.TrimPrefix(p.mask, " & ")
		p.mask = ""
	case p.kind == ifname && len(data) < unix.IFNAMSIZ && len(data) > 0 && data[len(data)-1] != 0:
		value = quote(string(data) + "*")
	case p.mask != "" && zero(data) && op == unix.NFT_CMP_NEQ && strings.HasPrefix(p.mask, " & "): // any of these bits
		switch p.kind {
		case ctState, ctStatus, ctLabel, tcpFlags:
			value, sign = strings.TrimPrefix(p.mask, " & "), ""
			value = strings.Trim(strings.ReplaceAll(value, " | ", ","), "()")
			p.mask = ""
		}
	}
	if p.mask != "" && sign == "" {
		sign = "== "
	}
	if op == unix.NFT_CMP_EQ {
		switch p.text {
		case "meta l4proto", "ip protocol", "ip6 nexthdr":
			t.l4 = value
			t.dependencies = append(t.dependencies, dependency{p.text + " " + value, value})
			return
		case "meta nfproto":
			t.ip = map[string]string{"ipv4": "ip", "ipv6": "ip6"}[value]
			t.dependencies = append(t.dependencies, dependency{p.text + " " + value, t.ip})
			return
		case "meta protocol":
			t.ip = value
			t.dependencies = append(t.dependencies, dependency{p.text + " " + value, value})
			return
		}
	}
	if n := len(t.words) - 1; op == unix.NFT_CMP_LTE && n >= 0 && len(t.dependencies) == 0 {
		if from, ok := strings.CutPrefix(t.words[n], p.text+p.mask+" >= "); ok && !strings.Contains(from, " ") {
			t.words[n] = p.text + p.mask + " " + from + "-" + value
			return
		}
	}
	t.condition(p, sign+value)
}

func (t *texter) condition(p phrase, rest string) {
	if strings.HasPrefix(p.text, "rt ") {
		t.settle("ip6")
	}
	t.settle(p.text)
	t.words = append(t.words, strings.TrimSpace(p.text+p.mask+" "+rest))
}

// maxElements is how many of an anonymous set's elements are written.
const maxElements = 8

func (t *texter) set(s *Set, p phrase) string {
	if !strings.HasPrefix(s.Name, "__") {
		return "@" + s.Name
	}
	var parts []string
	elements := slices.Clone(s.elements)
	slices.SortStableFunc(elements, func(a, b element) int { return bytes.Compare(a.from, b.from) })
	for i, e := range elements {
		if i == maxElements {
			parts = append(parts, fmt.Sprintf("and %d more", len(elements)-i))
			break
		}
		text := "*"
		if !e.any {
			text = concatenated(p, e.from, e.to)
		}
		switch {
		case e.verdict != nil:
			text += " : " + e.verdict.String()
		case e.data != nil:
			text += " : " + dataKind(s.dataType).text(e.data)
		}
		parts = append(parts, text)
	}
	return "{ " + strings.Join(parts, ", ") + " }"
}

// dataKind is of nft's own numbers of data types.
func dataKind(typ uint32) kind {
	switch typ {
	case 7, 8:
		return ipAddress
	case 13:
		return port
	case 19:
		return markNumber
	}
	return hexadecimal
}

// concatenated writes a key, of several parts perhaps, or a range of keys.
func concatenated(p phrase, from, to []byte) string {
	if p.more == nil {
		p.more = []phrase{p}
	}
	var parts []string
	at := 0
	for _, part := range p.more {
		end := min(at+part.size, len(from), len(to))
		if at > end || part.size == 0 {
			break
		}
		low, high := from[at:end], to[at:end]
		text := part.kind.text(low)
		switch {
		case string(low) == string(high):
		case part.kind == ipAddress && prefixLength(low, high) >= 0:
			text += "/" + strconv.Itoa(prefixLength(low, high))
		default:
			text += "-" + part.kind.text(high)
		}
		parts = append(parts, text)
		at += (part.size + 3) &^ 3
	}
	return strings.Join(parts, " . ")
}

// prefixLength returns the length of the prefix that is a range of addresses;
// -1: it is none.
func prefixLength(low, high []byte) int {
	mask := make([]byte, len(low))
	for i := range low {
		mask[i] = ^(low[i] ^ high[i])
		if low[i]&^mask[i] != 0 {
			return -1
		}
	}
	n := ones(mask)
	for i := range mask {
		want := byte(0)
		if k := n - 8*i; k >= 8 {
			want = 0xff
		} else if k > 0 {
			want = ^byte(0xff >> k)
		}
		if mask[i] != want {
			return -1
		}
	}
	return n
}

func (v *verdict) String() string {
	switch v.code {
	case codeAccept:
		return "accept"
	case codeDrop:
		return "drop"
	case codeContinue:
		return "continue"
	case codeReturn:
		return "return"
	case codeJump:
		return "jump " + v.chain
	case codeGoto:
		return "goto " + v.chain
	}
	return fmt.Sprintf("verdict %d", v.code)
}

func quote(s string) string { return `"` + s + `"` }

func portText(first, last uint16) string {
	if first == last {
		return strconv.Itoa(int(first))
	}
	return fmt.Sprintf("%d-%d", first, last)
}

func markText(mark, mask uint32) string {
	if mask == 0xffffffff {
		return fmt.Sprintf("0x%x", mark)
	}
	return fmt.Sprintf("0x%x/0x%x", mark, mask)
}

func bitNames(n uint32, names []string, between string) string {
	var set []string
	for i, name := range names {
		if n&(1<<i) != 0 && name != "" {
			set = append(set, name)
		}
	}
	if len(set) == 0 {
		return "0x0"
	}
	text := strings.Join(set, between)
	if between == " | " && len(set) > 1 {
		return "(" + text + ")"
	}
	return text
}

// text writes a value.
func (k kind) text(data []byte) string {
	var host, network uint64
	if len(data) <= 8 {
		for i, b := range data {
			network = network<<8 | uint64(b)
			host |= uint64(b) << (8 * i)
		}
		if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
			host = network
		}
	}
	choose := func(names map[uint64]string, n uint64) string {
		if name, ok := names[n]; ok {
			return name
		}
		return strconv.FormatUint(n, 10)
	}
	switch k {
	case number, port:
		return strconv.FormatUint(network, 10)
	case numberHost:
		return strconv.FormatUint(host, 10)
	case markNumber:
		return fmt.Sprintf("0x%08x", host)
	case ipAddress:
		if a, ok := netip.AddrFromSlice(data); ok {
			return a.String()
		}
	case protocol:
		return choose(map[uint64]string{1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 33: "dccp", 47: "gre", 50: "esp", 51: "ah", 58: "ipv6-icmp", 132: "sctp", 136: "udplite"}, network)
	case ifname:
		return quote(strings.TrimRight(string(data), "\x00"))
	case ctState:
		return bitNames(uint32(host), []string{"invalid", "established", "related", "new", "", "", "untracked"}, ",")
	case ctStatus:
		return bitNames(uint32(host), []string{"expected", "seen-reply", "assured", "confirmed", "snat", "dnat", "", "", "", "dying"}, ",")
	case ctDirection:
		return choose(map[uint64]string{0: "original", 1: "reply"}, network)
	case family:
		return choose(map[uint64]string{2: "ipv4", 10: "ipv6"}, network)
	case etherType:
		return choose(map[uint64]string{0x0800: "ip", 0x86dd: "ip6"}, network)
	case addrType:
		return choose(map[uint64]string{1: "unicast", 2: "local", 3: "broadcast", 4: "anycast", 5: "multicast", 6: "blackhole", 7: "unreachable", 8: "prohibit"}, host)
	case tcpFlags:
		return bitNames(uint32(network), []string{"fin", "syn", "rst", "psh", "ack", "urg", "ecn", "cwr"}, " | ")
	case ctLabel:
		var labels []string
		for i, b := range data {
			for bit := range 8 {
				if b&(1<<bit) != 0 {
					labels = append(labels, strconv.Itoa(8*i+bit))
				}
			}
		}
		return strings.Join(labels, ",")
	case pktType:
		return choose(map[uint64]string{0: "host", 1: "broadcast", 2: "multicast", 3: "other"}, network)
	}
	return fmt.Sprintf("0x%x", data)
}
