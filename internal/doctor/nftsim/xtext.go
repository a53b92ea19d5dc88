package nftsim

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
)

// xtText renders a match or target, as far as it is worth it.
func xtText(name string, revision uint32, i info, target bool) string {
	text := strings.ToLower(name)
	if target {
		text = name
	}
	between := func(first, last uint16) string { return portText(first, last) }
	switch {
	case name == "comment":
		return "comment " + quote(strings.TrimRight(string(i), "\x00"))
	case name == "tcp" && !target || name == "udp" && !target:
		inv := i.byte(11)
		if name == "udp" {
			inv = i.byte(8)
		}
		for _, p := range []struct {
			what string
			at   int
			bit  byte
		}{{"sport", 0, 1}, {"dport", 4, 2}} {
			first, last := i.uint16(p.at), i.uint16(p.at+2)
			if first != 0 || last != 0xffff || inv&p.bit != 0 {
				text += " " + p.what + " " + bang(inv&p.bit != 0) + between(first, last)
			}
		}
		return text
	case name == "mark" || name == "connmark":
		return text + " " + bang(i.byte(8) != 0) + markText(i.uint32(0), i.uint32(4))
	case name == "multiport":
		var ports []string
		for n := 0; n < int(i.byte(1)) && n < 15; n++ {
			first := i.uint16(2 + 2*n)
			last := first
			if i.byte(32+n) != 0 {
				n++
				last = i.uint16(2 + 2*n)
			}
			ports = append(ports, between(first, last))
		}
		what := "dports "
		if i.byte(0) == 0 {
			what = "sports "
		}
		return text + " " + what + bang(i.byte(47) != 0) + strings.Join(ports, ",")
	case name == "conntrack" && !target:
		const state = 1
		if i.uint16(146)&^8192 == state {
			var names []string
			for bit, n := range map[uint16]string{1: "INVALID", 2: "ESTABLISHED", 4: "RELATED", 8: "NEW", 64: "SNAT", 128: "DNAT", 256: "UNTRACKED"} {
				if i.uint16(150)&bit != 0 {
					names = append(names, n)
				}
			}
			slices.Sort(names)
			return "ctstate " + bang(i.uint16(148)&state != 0) + strings.Join(names, ",")
		}
	case name == "DNAT" || name == "REDIRECT" || name == "MASQUERADE" || name == "SNAT":
		var to string
		if len(i) == 20 && i.uint32(0) == 1 {
			if i.uint32(4)&1 != 0 {
				a, _ := netip.AddrFromSlice(i.bytes(8, 4))
				to = a.String()
			}
			if i.uint32(4)&2 != 0 {
				to += ":" + portText(i.port(16), i.port(18))
			}
		} else if len(i) >= 40 {
			if i.uint32(0)&1 != 0 {
				a, _ := netip.AddrFromSlice(i.bytes(4, 16))
				if bytes.Equal(i.bytes(8, 12), make([]byte, 12)) {
					a, _ = netip.AddrFromSlice(i.bytes(4, 4))
				}
				to = a.String()
			}
			if i.uint32(0)&2 != 0 {
				to += ":" + portText(i.port(36), i.port(38))
			}
		}
		return strings.TrimSpace(name + " " + to)
	case name == "MARK" && revision == 2:
		return "MARK " + markText(i.uint32(0), i.uint32(4))
	case name == "CONNMARK":
		mode := i.byte(12)
		if revision >= 2 {
			mode = i.byte(14)
		}
		return "CONNMARK " + map[byte]string{0: "set", 1: "save", 2: "restore"}[mode]
	case name == "TPROXY":
		port := i.port(24)
		if revision == 0 {
			port = i.port(12)
		}
		return "TPROXY to :" + portText(port, port)
	case name == "CT" && i.uint16(0)&1 != 0:
		return "CT notrack"
	}
	return text
}

func bang(invert bool) string {
	if invert {
		return "!= "
	}
	return ""
}
