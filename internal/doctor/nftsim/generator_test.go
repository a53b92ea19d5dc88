package nftsim

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// generator makes rulesets and packets at random.
type generator struct{ *rand.Rand }

func (g *generator) of(texts ...string) string { return texts[g.IntN(len(texts))] }

func (g *generator) port() string {
	return g.of("21", "22", "23", "80", "443", "1000", "8080")
}

func (g *generator) ports() string {
	return g.of(g.port(), "!= "+g.port(), "1-22", "22-80", "> 100", "<= 443", "{ 22, 80 }", "{ 1-21, 23-442, 8080 }", "@ports", "!= @ports")
}

func (g *generator) condition(family string) string {
	four := []string{
		"ip saddr 192.0.2.7", "ip saddr 192.0.2.0/24", "ip saddr 192.0.0.0/9", "ip saddr != 10.0.0.0/8", "ip daddr 10.9.0.1", "ip daddr { 10.8.0.1, 10.7.0.9 }", "ip daddr != { 10.8.0.0/16, 10.7.0.9 }",
		"ip saddr . tcp dport { 192.0.2.7 . 22, 10.9.0.2 . 80 }", "ip saddr . th dport @nets", "ip protocol tcp", "ip protocol udp th dport " + g.ports(), "ct original ip daddr 10.9.0.1", "ct original ip saddr 192.0.2.0/24",
		"ip version 4", "ip frag-off & 0x1fff != 0", "ip saddr & 255.0.255.0 == 192.0.2.0", "ip saddr 10.0.0.0-192.0.2.9",
	}
	six := []string{
		"ip6 saddr 2001:db8::7", "ip6 saddr 2001:db8::/32", "ip6 daddr fd09::1", "ip6 daddr { fd08::/16, fd07::9 }", "ip6 saddr . tcp dport { 2001:db8::7 . 22 }", "ip6 saddr . th dport @nets6", "ip6 nexthdr tcp", "rt type 0", "exthdr frag exists",
	}
	any := []string{
		"tcp dport " + g.ports(), "tcp dport " + g.ports(), "udp dport " + g.ports(), "th dport " + g.ports(), "meta l4proto tcp", "meta l4proto { tcp, udp } th dport " + g.port(), "meta l4proto != udp", "meta l4proto . th dport { tcp . 22, udp . 1-100 }",
		`iifname "in0"`, `iifname "in*"`, `iifname != "in1"`, `oifname "d0"`, `oifname != "in0"`, "oif d0", "oifgroup 0", "iifgroup 5 oifgroup 5", `iifname { "in1", "lo" }`, "iif in1", "iif lo", "iifgroup 6", "iifname . tcp dport { in0 . 22, in1 . 80 }", "iiftype ether", "meta protocol ip6", "meta pkttype host",
		"ct state new", "ct state established,related", "ct state invalid", "ct state untracked", "ct state { new, untracked }", "ct direction original", "ct status dnat", "ct status snat,dnat", "ct mark 7", "ct mark & 0xf == 5", "ct label 3", "meta l4proto tcp ct original proto-dst " + g.port(), "meta l4proto udp ct original proto-dst 1-100", "ct protocol udp",
		"meta mark 0", "meta mark 7", "meta mark & 0x4 != 0", "meta mark & 0xf0 == 0x10", "meta mark and 0x40000000 == 0", "meta mark { 1, 7 }", "meta mark 0x5-0x70", "meta mark != 0x10",
		"tcp flags & (syn | ack) == syn", "tcp flags & (fin | syn | rst | ack) != syn", "tcp flags ack", "tcp flags syn / fin,syn,rst,ack", "fib daddr type local", "fib daddr type { local, broadcast }", "fib saddr type unicast", "fib saddr . iif oif exists", "fib saddr . iif oif missing", "fib daddr oif d0", "icmp type echo-request",
		"tcp sport 3000-9000", "th sport & 1 == 1", "numgen random mod 2 0", "meta length > 50", "tcp option maxseg exists", "limit rate 100/second burst 100 packets", "limit rate over 1000000/second", "quota over 1000 mbytes", "tcp dport & 0x0f == 6", "@th,16,16 22", "counter", "log",
	}
	if family == "inet" {
		any = append(any, "meta nfproto ipv4", "meta nfproto ipv6")
	}
	if family == "ip" || family == "inet" && g.IntN(3) == 0 {
		any = append(any, four...)
	}
	if family == "ip6" || family == "inet" && g.IntN(3) == 0 {
		any = append(any, six...)
	}
	return g.of(any...)
}

func (g *generator) action(family, hook string, priority int) string {
	actions := []string{
		"accept", "drop", "drop", "accept", "return", "continue", "jump one", "goto one", "jump two", "goto two", "counter",
		"meta mark set 7", "meta mark set meta mark | 0x40000000", "meta mark set meta mark & 0xfffffff0", "meta mark set meta mark ^ 5", "meta mark set tcp dport map { 22 : 0x16, 80 : 0x7, 100-500 : 0x55 }", "meta mark set 0x11 accept",
		"tcp dport vmap { 22 : drop, 80 : jump one, 100-1000 : goto two }", "meta l4proto . th dport vmap @verdicts", "meta mark vmap { 0x7 : drop, 0x10 : return }", "th dport vmap { 1-100 : continue, 443 : drop }",
		"ct mark set 5", "ct mark set meta mark", "meta mark set ct mark", "ct label set 3",
	}
	if hook == "input" || hook == "forward" {
		actions = append(actions, "reject", "meta l4proto tcp reject with tcp reset")
	}
	if priority < -200 && hook == "prerouting" {
		actions = append(actions, "notrack", "notrack", "notrack")
	}
	if hook == "prerouting" {
		actions = append(actions, "tcp dport set 80")
	}
	if family == "ip" || family == "inet" {
		actions = append(actions, "add @seen { ip saddr } ip saddr @seen meta mark set meta mark | 0x100", "update @met { ip saddr limit rate over 1000/second burst 500 packets }")
	}
	return g.of(actions...)
}

func (g *generator) rules(family, hook string, priority, most int, jumps bool) string {
	var text strings.Builder
	for range g.IntN(most) + 1 {
		n := g.IntN(3)
		var parts []string
		for range n {
			parts = append(parts, g.condition(family))
		}
		action := g.action(family, hook, priority)
		for !jumps && (strings.Contains(action, "one") || strings.Contains(action, "two") || strings.Contains(action, "@verdicts")) {
			action = g.action(family, hook, priority)
		}
		fmt.Fprintf(&text, "  %s %s\n", strings.Join(parts, " "), action)
	}
	return text.String()
}

func (g *generator) ruleset() (nft, iptables, ip6tables string) {
	var text strings.Builder
	for t := range g.IntN(3) + 1 {
		family := g.of("inet", "inet", "ip", "ip6")
		fmt.Fprintf(&text, "table %s t%d {\n", family, t)
		fmt.Fprintf(&text, " set ports { type inet_service; flags interval; elements = { 22-30, 443, 1000-2000 } }\n")
		fmt.Fprintf(&text, " set nets { type ipv4_addr . inet_service; flags interval; elements = { 192.0.2.0/24 . 22-80, 10.0.0.0/8 . 443 } }\n")
		fmt.Fprintf(&text, " set nets6 { type ipv6_addr . inet_service; flags interval; elements = { 2001:db8::/32 . 22-80, fd00::/8 . 443 } }\n")
		fmt.Fprintf(&text, " set met { type ipv4_addr; flags dynamic; size 1000; timeout 10m; }\n")
		fmt.Fprintf(&text, " set seen { type ipv4_addr; flags dynamic; size 1000; timeout 10m; }\n")
		fmt.Fprintf(&text, " chain two {\n%s }\n", g.rules(family, "", 0, 3, false))
		fmt.Fprintf(&text, " chain one {\n%s }\n", strings.ReplaceAll(g.rules(family, "", 0, 3, false), "counter", g.of("counter", "jump two")))
		fmt.Fprintf(&text, " map verdicts { type inet_proto . inet_service : verdict; elements = { tcp . 22 : jump one, udp . 80 : drop, tcp . 443 : goto two } }\n")
		for c := range g.IntN(4) + 1 {
			hook := g.of("prerouting", "input", "input", "forward")
			priority := []int{-300, -250, -199, -150, -101, -100, -99, -5, 0, 0, 10}[g.IntN(11)]
			policy := g.of("accept", "accept", "accept", "drop")
			if hook == "prerouting" {
				policy = "accept"
			}
			fmt.Fprintf(&text, " chain b%d {\n  type filter hook %s priority %d; policy %s;\n%s }\n", c, hook, priority, policy, g.rules(family, hook, priority, 6, true))
		}
		if g.IntN(2) == 0 {
			fmt.Fprintf(&text, " chain nat {\n  type nat hook prerouting priority %s; policy accept;\n", g.of("-150", "-105", "-100", "-90", "0"))
			for range g.IntN(3) + 1 {
				to := []string{"redirect", "tcp dport 80 redirect to :22", "meta l4proto { tcp, udp } redirect to :443", "accept", "counter", "meta mark set 9"}
				switch family {
				case "ip":
					to = append(to, "dnat to 10.7.0.9", "tcp dport 22 dnat to 10.7.0.9:80", "meta l4proto udp dnat to 10.8.0.1:22", "dnat to tcp dport map { 22 : 10.7.0.8, 80 : 10.9.0.1 }", "meta l4proto tcp dnat to :8080")
				case "inet":
					to = append(to, "meta nfproto ipv4 dnat ip to 10.7.0.9", "tcp dport 80 dnat ip6 to [fd07::9]:22", "tcp dport 22 dnat ip to 10.9.0.1:1000")
				case "ip6":
					to = append(to, "dnat to fd07::9", "meta l4proto tcp dnat to [fd07::9]:443")
				}
				fmt.Fprintf(&text, "  %s %s\n", g.of("", g.condition(family), g.condition(family)), g.of(to...))
			}
			text.WriteString(" }\n")
		}
		text.WriteString("}\n")
	}
	if g.IntN(2) == 0 {
		iptables = g.xtables(false)
	}
	if g.IntN(3) == 0 {
		ip6tables = g.xtables(true)
	}
	return text.String(), iptables, ip6tables
}

// xtables makes rules as iptables has them.
func (g *generator) xtables(six bool) string {
	match := func() string {
		m := []string{
			"", "-p tcp", "-p udp", "! -p tcp", "-p tcp --dport 22", "-p udp --dport 20:80", "-p tcp ! --dport 80", "-p tcp --sport 1:6000", "-p tcp --syn", "-p tcp ! --syn", "-p tcp --tcp-flags ALL SYN", "-i in0", "! -i in1", "-i in+",
			"-p tcp -m multiport --dports 21,22,100:500", "-p udp -m multiport ! --dports 22,80", "-p tcp -m multiport --ports 22,80", "-p tcp -m multiport --sports 1:1024",
			"-m conntrack --ctstate NEW", "-m conntrack --ctstate RELATED,ESTABLISHED", "-m conntrack ! --ctstate NEW", "-m conntrack --ctstate INVALID", "-m conntrack --ctstate UNTRACKED", "-m conntrack --ctstate DNAT", "-m conntrack --ctdir ORIGINAL", "-p tcp -m conntrack --ctproto tcp --ctorigdstport 22", "-m conntrack --ctstatus NONE", "-m conntrack --ctstatus CONFIRMED", "-m state --state NEW",
			"-m addrtype --dst-type LOCAL", "-m addrtype ! --dst-type LOCAL", "-m addrtype --src-type UNICAST", "-m addrtype --dst-type MULTICAST",
			"-m mark --mark 0x7", "-m mark ! --mark 0x40000000/0x40000000", "-m mark --mark 0x10/0xf0", "-m connmark --mark 5", "-m connmark ! --mark 0/0xf",
			"-m comment --comment hello", "-m limit --limit 100/sec --limit-burst 100", "-m hashlimit --hashlimit-name a --hashlimit-upto 1000/sec --hashlimit-burst 100 --hashlimit-mode srcip", "-m hashlimit --hashlimit-name b --hashlimit-above 1000/sec --hashlimit-burst 100 --hashlimit-mode srcip",
			"-m pkttype --pkt-type unicast", "-m pkttype ! --pkt-type broadcast", "-m devgroup --src-group 6", "-m devgroup ! --src-group 5", "-m connlimit --connlimit-above 1000", "-m connlimit --connlimit-upto 1000", "-m helper --helper ftp", "-m rpfilter", "-m rpfilter --invert", "-m policy --dir in --pol none", "-m policy --dir in --pol ipsec", "-m statistic --mode random --probability 0.5", "-m length --length 40:100", "-m recent --name r --set", "-m recent --name s --update --seconds 60 --hitcount 9", "-p tcp -m tcpmss --mss 1:1000",
		}
		if six {
			m = append(m, "-s 2001:db8::/32", "-d fd09::1", "-m rt --rt-type 0", "-m frag --fragmore", "-m iprange --src-range 2001:db8::1-2001:db8::9", "-m hl --hl-gt 3")
		} else {
			m = append(m, "-s 192.0.2.0/24", "! -s 192.0.2.7", "-d 10.9.0.1", "! -d 10.8.0.0/16", "-m iprange --src-range 192.0.2.1-192.0.2.9", "-m iprange ! --dst-range 10.8.0.0-10.8.0.9", "-f", "! -f", "-m addrtype --dst-type BROADCAST,MULTICAST", "-m ttl --ttl-gt 3", "-m conntrack --ctorigdst 10.9.0.1", "-m conntrack ! --ctorigsrc 192.0.2.0/24")
		}
		return g.of(m...)
	}
	var text strings.Builder
	rules := func(chain string, targets ...string) {
		for range g.IntN(4) {
			one := match()
			if g.IntN(3) == 0 {
				if two := match(); !strings.Contains(two, "-p ") && !strings.Contains(one, "-m "+strings.Fields(two + " x x")[1]) && !strings.HasPrefix(strings.TrimPrefix(two, "! "), strings.TrimPrefix(one, "! ")[:min(2, len(strings.TrimPrefix(one, "! ")))]) {
					one += " " + two
				}
			}
			fmt.Fprintf(&text, "-A %s %s -j %s\n", chain, one, g.of(targets...))
		}
	}
	text.WriteString("*raw\n:PREROUTING ACCEPT [0:0]\n")
	rules("PREROUTING", "ACCEPT", "DROP", "CT --notrack", "MARK --set-mark 7", "NOTRACK")
	text.WriteString("COMMIT\n*mangle\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n")
	marks := []string{"MARK --set-mark 7", "MARK --set-xmark 0x40/0xf0", "MARK --or-mark 0x40000000", "MARK --and-mark 0xfffffff0", "MARK --xor-mark 3", "CONNMARK --set-mark 5", "CONNMARK --save-mark", "CONNMARK --restore-mark", "CONNMARK --restore-mark --mask 0xf", "ACCEPT", "DROP", "LOG", "RETURN"}
	rules("PREROUTING", marks...)
	rules("INPUT", marks...)
	text.WriteString("COMMIT\n*nat\n:PREROUTING ACCEPT [0:0]\n")
	if g.IntN(2) == 0 {
		fmt.Fprintf(&text, "-A PREROUTING -p tcp --dport %s -j %s\n", g.port(), g.of("REDIRECT --to-ports 22", "REDIRECT"))
		if !six {
			fmt.Fprintf(&text, "-A PREROUTING -p tcp %s -j %s\n", g.of("", "-m addrtype --dst-type LOCAL", "-m mark --mark 7"), g.of("DNAT --to-destination 10.7.0.9:80", "DNAT --to-destination 10.9.0.1", "RETURN"))
		} else {
			fmt.Fprintf(&text, "-A PREROUTING -p udp -j DNAT --to-destination %s\n", g.of("[fd07::9]:53", "fd07::9"))
		}
	}
	text.WriteString("COMMIT\n*filter\n:INPUT " + g.of("ACCEPT", "DROP") + " [0:0]\n:FORWARD " + g.of("ACCEPT", "DROP") + " [0:0]\n:OTHER - [0:0]\n")
	targets := []string{"ACCEPT", "ACCEPT", "DROP", "REJECT", "OTHER", "RETURN", "LOG"}
	rules("INPUT", targets...)
	rules("FORWARD", targets...)
	rules("OTHER", "ACCEPT", "DROP", "RETURN")
	text.WriteString("COMMIT\n")
	return text.String()
}

func (g *generator) packet(b *bench) (Packet, int) {
	in := g.IntN(2)
	b.sport++
	port, _ := strconv.Atoi(g.port())
	p := Packet{Protocol: uint8([]int{unix.IPPROTO_TCP, unix.IPPROTO_TCP, unix.IPPROTO_UDP}[g.IntN(3)]), Port: uint16(port), SourcePort: b.sport, In: b.in[in]}
	if g.IntN(3) > 0 {
		p.From = netip.MustParseAddr(g.of("192.0.2.7", "198.51.100.9", "10.9.0.2"))
		p.To = netip.MustParseAddr(g.of("10.9.0.1", "10.9.0.1", "10.8.0.1", "10.7.0.9"))
	} else {
		p.From = netip.MustParseAddr(g.of("2001:db8::7", "2001:db9::9", "fd09::2"))
		p.To = netip.MustParseAddr(g.of("fd09::1", "fd09::1", "fd08::1", "fd07::9"))
	}
	return p, in
}
