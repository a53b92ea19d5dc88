package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"webknock/firewall"
	"webknock/internal/doctor/nftsim"
)

// sideways follows packets to all ports that no door guards, and looks where
// they end up: at a guarded port, by a redirect, or at another host, as Docker's
// published ports do.
func (x *exam) sideways(from netip.Addr) {
	ways, main := x.network.ways(from)
	found := map[string]*side{}
	var order []string
	asked := map[netip.Addr]bool{}
	o := x.options("")
	begin, whole := time.Now(), true
	for i, w := range ways {
		if i >= main && w.in.Name != ways[0].in.Name && w.to != ways[0].to {
			continue // each interface, and each address, once
		}
		for _, protocol := range []firewall.Protocol{firewall.TCP, firewall.UDP} {
			for p := 1; p <= 0xffff; {
				if time.Since(begin) > sidewaysTime {
					whole = false
					break
				}
				out := x.rules.Follow(w.packet(from, uint8(protocol), uint16(p)), o)
				for _, a := range out.Addresses {
					asked[a] = true
				}
				s := x.side(from, protocol, uint16(p), w, out)
				first, last := p, int(out.Last)
				p = last + 1
				if s == nil {
					continue
				}
				s.ports = firewall.Ports{Protocol: protocol, First: uint16(first), Last: uint16(last)}
				key := fmt.Sprint(s.ports, s.check, s.detail)
				if found[key] == nil {
					found[key] = s
					order = append(order, key)
				}
			}
		}
	}
	for _, key := range order {
		s := found[key]
		x.say(s.check, s.ports.String(), familyName(from), s.status, "%s", s.detail)
	}
	if !whole {
		x.say("ruleset", "all", familyName(from), Warning, "so large that packets to all ports were followed for %s only by some interfaces and addresses: other ways around a guarded port, and other published ports, may be there", sidewaysTime)
	}
	x.transit(from, ways[0], asked)
}

// sidewaysTime bounds how long packets to all ports are followed. Tens of
// thousands of rules are gone through in it some hundred times.
const sidewaysTime = 10 * time.Second

type side struct {
	check  string
	ports  firewall.Ports
	status Status
	detail string
}

// side judges one packet to a port that no door guards; nil: nothing is to be
// said.
func (x *exam) side(from netip.Addr, protocol firewall.Protocol, port uint16, w way, out nftsim.Outcome) *side {
	if out.Verdict != nftsim.Accepted || x.doorAt(protocol, port) != nil {
		return nil
	}
	if out.TProxy != nil {
		if d := x.doorAt(protocol, out.TProxyTo); d != nil {
			return &side{check: "redirect", status: Fail, detail: fmt.Sprintf("open to strangers: %s hands it to port %d of door %s, and the guard sees the port that was asked for", out.TProxy, out.TProxyTo, d.Name)}
		}
		return nil
	}
	if out.DNAT == nil {
		return nil
	}
	if out.Delivered {
		if d := x.doorAt(protocol, out.To.Port()); d != nil {
			return &side{check: "redirect", status: Fail, detail: fmt.Sprintf("open to strangers: %s sends it to port %d of door %s", out.DNAT, out.To.Port(), d.Name)}
		}
		return nil
	}
	for _, d := range x.Config.Doors {
		if d.Forward.IsValid() && d.Forward == out.To {
			return &side{check: "redirect", status: Fail, detail: fmt.Sprintf("open to strangers: %s sends it to %s, where door %s leads", out.DNAT, out.To, d.Name)}
		}
	}
	// The port may be published on purpose. But if this host's own rules would drop it
	// without the DNAT, the administrator may believe that it is closed.
	s := &side{check: "published", status: OK, detail: fmt.Sprintf("open to everybody, and no door covers it: sent on to %s by %s", target(out), out.DNAT)}
	o := x.options("")
	o.WithoutNAT = true
	if own := x.rules.Follow(w.packet(from, uint8(protocol), port), o); own.Verdict == nftsim.Dropped || own.Verdict == nftsim.Rejected {
		s.status = Warning
		s.detail += fmt.Sprintf("; %s, which would keep a service of this host's own shut, does not see it", own.By)
	}
	return s
}

// doorAt returns the door that guards a port.
func (x *exam) doorAt(protocol firewall.Protocol, port uint16) *firewall.Door {
	for i, d := range x.Config.Doors {
		if slices.ContainsFunc(d.Ports, func(p firewall.Ports) bool {
			return p.Protocol == protocol && p.First <= port && port <= p.Last
		}) {
			return &x.Config.Doors[i]
		}
	}
	return nil
}

// transit says which connections to other addresses the guard keeps out because
// a rule sends them on and their port is guarded, as a cluster's service
// addresses are.
func (x *exam) transit(from netip.Addr, w way, asked map[netip.Addr]bool) {
	const most = 2000
	o := x.options("")
	addresses := make([]netip.Addr, 0, len(asked))
	for a := range asked {
		if a.Is4() == from.Is4() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && !slices.Contains(x.network.addresses, a) {
			addresses = append(addresses, a)
		}
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	for _, d := range x.Config.Doors {
		for _, ports := range d.Ports {
			var to []string
			var rule *nftsim.Place
			for i, a := range addresses {
				if i == most {
					break
				}
				for p := int(ports.First); p <= int(ports.Last); {
					out := x.rules.Follow(way{w.in, a}.packet(from, uint8(ports.Protocol), uint16(p)), o)
					if out.Verdict != nftsim.Accepted && out.Verdict != nftsim.Unknown && x.ours(out.By) && out.DNAT != nil {
						to, rule = append(to, netip.AddrPortFrom(a, uint16(p)).String()), out.DNAT
					}
					p = int(out.Last) + 1
				}
			}
			if to == nil {
				continue
			}
			status := OK
			if len(x.Config.Firewall.Guard.Allow) == 0 {
				status = Warning
			}
			x.say("transit", d.Name+" "+ports.String(), familyName(from), status, "connections through this host to %s, which %s sends on, are shut as well, because the port is the door's (networks that need them belong into firewall.allow)", shortened(to), rule)
		}
	}
}
