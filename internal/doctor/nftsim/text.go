package nftsim

import (
	"encoding/binary"
	"fmt"
	"slices"
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
