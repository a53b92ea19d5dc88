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
