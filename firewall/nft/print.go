package nft

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"webknock/firewall"
)

// Print writes a guard as a file for nft(8): what Guard puts into the kernel,
// without grants, and without the sessions that are up. Loading it again keeps
// the grants that run.
func Print(w io.Writer, table string, g firewall.Guard) error {
	b := Backend{table: tableNamed(table)}
	r, err := b.ruleset(g)
	if err != nil {
		return err
	}
	var s strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&s, format+"\n", args...) }
	line("table inet %s {", table)
	for _, f := range families {
		typ := f.address.Name
		line("\tset %s { type %s . inet_service . %s . inet_service; size %d; flags timeout; timeout 1d; }", b.beforeSet(f).Name, typ, typ, setSize)
		if len(g.Allow) > 0 {
			line("\tset %s { type %s; flags interval; }", b.allowSet(f).Name, typ)
		}
		if shielded(g) {
			line("\tset %s { type %s; flags interval; }", b.exemptSet(f).Name, typ)
			line("\tset %s { type %s; size %d; flags timeout; timeout 1d; }", b.banSet(f).Name, typ, setSize)
			line("\tset %s { type %s; size %d; flags dynamic,timeout; timeout 1m; }", b.rateSet(f).Name, typ, setSize)
		}
	}
	for _, door := range g.Doors {
		for _, f := range families {
			line("\tset %s { type %s; size %d; flags timeout; timeout 1d; counter; }", f.grantSetName(door), f.address.Name, setSize)
			if door.Connections > 0 {
				line("\tset %s { type %s; size %d; flags dynamic,timeout; timeout 1d; }", b.connectionSet(door, f).Name, f.address.Name, setSize)
			}
		}
	}
	line("\tchain %s { type filter hook prerouting priority mangle; policy accept; }", guardChain)
	for _, c := range r.chains {
		if c.name == forwardChain {
			line("\tchain %s { type nat hook prerouting priority dstnat - 5; policy accept; }", forwardChain)
		} else {
			line("\tchain %s { }", c.name)
		}
	}
	line("}")
	for _, c := range r.chains {
		line("flush chain inet %s %s", table, c.name)
	}
	line("flush chain inet %s %s", table, guardChain)
	for _, f := range r.fills {
		line("flush set inet %s %s", table, f.set.Name)
	}
	line("table inet %s {", table)
	for _, f := range families {
		for _, name := range []string{b.allowSet(f).Name, b.exemptSet(f).Name} {
			networks := g.Allow
			if name == b.exemptSet(f).Name {
				networks = slices.Concat(g.Allow, g.Exempt)
			}
			set, err := allowedNetworks(networks, f)
			if err != nil {
				return err
			}
			var prefixes []string
			for _, p := range set.Prefixes() {
				prefixes = append(prefixes, p.String())
			}
			if len(prefixes) > 0 && slices.ContainsFunc(r.fills, func(f fill) bool { return f.set.Name == name }) {
				line("\tset %s { type %s; flags interval; elements = { %s } }", name, f.address.Name, strings.Join(prefixes, ", "))
			}
		}
	}
	if shielded(g) {
		b.printShield(line, g)
	}
	for _, door := range g.Doors {
		line("\tchain %s%s {", chainPrefix, door.Name)
		b.printDoor(line, g, door)
		line("\t}")
	}
	line("\tchain %s {", guardChain)
	line("\t\tiifname \"lo\" accept")
	line("\t\tfib daddr type unicast accept")
	if shielded(g) {
		for _, p := range g.BanPorts {
			line("\t\ttcp dport %d jump %s", p, banChain)
		}
		for _, p := range g.RatePorts {
			line("\t\ttcp dport %d jump %s", p, rateChain)
		}
	}
	var verdicts []string
	for _, door := range g.Doors {
		for _, p := range printPorts(door) {
			verdicts = append(verdicts, p+" : goto "+chainPrefix+door.Name)
		}
	}
	line("\t\tmeta l4proto . th dport vmap { %s }", strings.Join(verdicts, ", "))
	line("\t}")
	if r.chains[len(r.chains)-1].name == forwardChain {
		b.printForward(line, g)
	}
	line("}")
	_, err = io.WriteString(w, s.String())
	return err
}

// printDoor writes what doorRules returns.
func (b *Backend) printDoor(line func(string, ...any), g firewall.Guard, door firewall.Door) {
	pass := fmt.Sprintf("meta mark set meta mark | 0x%08x accept", g.Mark)
	for _, f := range families {
		if door.Forward.IsValid() && door.Forward.Addr().Is4() != f.isIPv4 {
			continue
		}
		saddr, all := "ip saddr", 32
		if !f.isIPv4 {
			saddr, all = "ip6 saddr", 128
		}
		if len(g.Allow) > 0 {
			line("\t\t%s @%s %s", saddr, b.allowSet(f).Name, pass)
		}
		client := saddr
		if bits := f.bits(door); bits < all {
			mask, _ := netip.AddrFromSlice(f.mask(bits))
			client += " & " + mask.String()
		}
		granted := client + " @" + f.grantSetName(door)
		if door.Connections > 0 {
			verdict := "drop"
			if g.Mode == firewall.Sets {
				verdict = "return"
			}
			line("\t\t%s ct state new update @%s { %s limit rate over 1/week burst %d packets } %s", granted, b.connectionSet(door, f).Name, client, door.Connections, verdict)
		}
		line("\t\t%s %s", granted, pass)
	}
	if g.Mode == firewall.Sets {
		return
	}
	if door.Established == firewall.Keep {
		line("\t\tct state established,related accept")
	} else {
		line("\t\tct state established,related ct direction reply accept")
	}
	line("\t\tip saddr . tcp sport . ip daddr . tcp dport @before4 accept")
	line("\t\tip6 saddr . tcp sport . ip6 daddr . tcp dport @before6 accept")
	if door.Established == firewall.Cut {
		line("\t\tmeta l4proto tcp ct state established reject with tcp reset")
	}
	line("\t\tcounter drop")
}

// printShield writes what shieldRules returns.
func (b *Backend) printShield(line func(string, ...any), g firewall.Guard) {
	each := func(f func(family, string, string)) {
		f(families[0], "ip saddr", "ip saddr")
		f(families[1], "ip6 saddr", "ip6 saddr & ffff:ffff:ffff:ffff::")
	}
	line("\tchain %s {", banChain)
	each(func(f family, saddr, offender string) {
		line("\t\t%s @%s return", saddr, b.exemptSet(f).Name)
		line("\t\t%s @%s drop", offender, b.banSet(f).Name)
	})
	line("\t}")
	line("\tchain %s {", rateChain)
	if g.Rate > 0 {
		per := map[time.Duration]string{time.Second: "second", time.Minute: "minute", time.Hour: "hour"}[g.Per]
		each(func(f family, saddr, offender string) {
			line("\t\t%s @%s return", saddr, b.exemptSet(f).Name)
			line("\t\tct state new update @%s { %s limit rate over %d/%s burst %d packets } drop", b.rateSet(f).Name, offender, g.Rate, per, g.Burst)
		})
	}
	line("\t}")
}

// printForward writes what forwardRules returns.
func (b *Backend) printForward(line func(string, ...any), g firewall.Guard) {
	line("\tchain %s {", forwardChain)
	for _, door := range g.Doors {
		to := door.Forward
		if !to.IsValid() {
			continue
		}
		nfproto, family := "ipv6", "ip6"
		if to.Addr().Is4() {
			nfproto, family = "ipv4", "ip"
		}
		for _, p := range door.Ports {
			line("\t\tmeta nfproto %s meta mark & 0x%08x == 0x%08x fib daddr type local %s dport >= %d %s dport <= %d dnat %s to %s",
				nfproto, g.Mark, g.Mark, p.Protocol, p.First, p.Protocol, p.Last, family, to)
		}
	}
	line("\t}")
}

func printPorts(door firewall.Door) (ports []string) {
	for _, p := range door.Ports {
		if p.First == p.Last {
			ports = append(ports, fmt.Sprintf("%s . %d", p.Protocol, p.First))
		} else {
			ports = append(ports, fmt.Sprintf("%s . %d-%d", p.Protocol, p.First, p.Last))
		}
	}
	return ports
}
