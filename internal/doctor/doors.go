package doctor

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"webknock/firewall"
	"webknock/internal/doctor/nftsim"
)

// A fate is what becomes of packets that come by a way.
type fate struct {
	way
	nftsim.Outcome
}

// A judgement is the finding about packets to a range of ports.
type judgement struct {
	status Status
	detail string
}

// doors judges all doors for one stranger.
func (x *exam) doors(from netip.Addr) {
	family := familyName(from)
	ways, main := x.network.ways(from)
	for _, door := range x.Config.Doors {
		if slices.ContainsFunc(x.Config.Firewall.Guard.Allow, func(p netip.Prefix) bool { return p.Contains(from) }) {
			x.say("shut", door.Name, family, OK, "%s is in firewall.allow and needs no knock", from)
			continue
		}
		for _, ports := range door.Ports {
			x.each("shut", door, ports, family, ways, x.options(""), from, func(fates []fate) judgement { return x.shut(from, fates, ways, main) })
			to := door.Forward
			if to.IsValid() && to.Addr().Is4() != from.Is4() {
				continue
			}
			var untracked *nftsim.Place
			x.each("passes", door, ports, family, ways[:main], x.options(door.Name), from, func(fates []fate) judgement {
				for _, f := range fates {
					if f.Untracked != nil {
						untracked = f.Untracked
					}
				}
				return x.passes(door, fates, ways[:main])
			})
			subject := door.Name + " " + ports.String()
			if untracked != nil {
				x.say("tracking", subject, family, Warning, "%s keeps its packets from connection tracking: sessions end with their grant, whatever `established` says, and nothing is forwarded", untracked)
			}
			if !to.IsValid() && !slices.ContainsFunc(x.open, func(s socket) bool { return s.serves(ports, ways[0].to) }) {
				x.say("service", subject, family, Warning, "nothing listens there")
			}
		}
	}
}

// each says what judge finds for all ports of a range. Ports are followed one
// by one only where rules tell them apart.
func (x *exam) each(check string, door firewall.Door, ports firewall.Ports, family string, ways []way, o nftsim.Options, from netip.Addr, judge func([]fate) judgement) {
	var last judgement
	first := -1
	say := func(end int) {
		subject := door.Name + " " + firewall.Ports{Protocol: ports.Protocol, First: uint16(first), Last: uint16(end)}.String()
		x.say(check, subject, family, last.status, "%s", last.detail)
	}
	for p := int(ports.First); p <= int(ports.Last); {
		end := int(ports.Last)
		fates := make([]fate, len(ways))
		for i, w := range ways {
			fates[i] = fate{w, x.rules.Follow(w.packet(from, uint8(ports.Protocol), uint16(p)), o)}
			end = min(end, int(fates[i].Last))
		}
		j := judge(fates)
		if first >= 0 && j != last {
			say(p - 1)
			first = -1
		}
		if first < 0 {
			first, last = p, j
		}
		p = end + 1
	}
	say(int(ports.Last))
}

// some returns the fates for which is returns true, and the ways that lead to them.
func some(fates []fate, is func(fate) bool) (found []fate, ways []way) {
	for _, f := range fates {
		if is(f) {
			found, ways = append(found, f), append(ways, f.way)
		}
	}
	return found, ways
}

// at returns the ways as the beginning of a finding, or nothing if some has all of them.
func at(some, of []way) string {
	if text := where(some, of); text != "" {
		return text + ": "
	}
	return ""
}

// names lists the rules that decide.
func names(fates []fate) string {
	var rules []string
	for _, f := range fates {
		if name := f.By.String(); !slices.Contains(rules, name) {
			rules = append(rules, name)
		}
	}
	return shortened(rules)
}

// shut judges whether a stranger is kept out.
func (x *exam) shut(from netip.Addr, fates []fate, ways []way, main int) judgement {
	open, by := some(fates, func(f fate) bool { return f.Verdict == nftsim.Accepted })
	if len(open) > 0 {
		detail := at(by, ways) + "open to strangers: no rule keeps " + from.String() + " out"
		switch f := open[0]; {
		case f.TProxy != nil:
			detail += ", and " + f.TProxy.String() + " hands it to another socket"
		case f.DNAT != nil:
			detail += ", and " + f.DNAT.String() + " sends it to " + target(f.Outcome)
		}
		status := Fail
		if x.Config.Firewall.Guard.Mode == firewall.Sets && !slices.ContainsFunc(fates[:main], func(f fate) bool { return f.Verdict == nftsim.Accepted }) {
			status = Warning // the administrator's own rules may mean it: from a network of their own, say
		}
		return judgement{status, detail}
	}
	if unknown, by := some(fates, func(f fate) bool { return f.Verdict == nftsim.Unknown }); len(unknown) > 0 {
		return judgement{Warning, at(by, ways) + "cannot tell: it depends on " + names(unknown)}
	}
	if answered, by := some(fates, func(f fate) bool { return f.Verdict == nftsim.Rejected && !x.ours(f.By) }); len(answered) > 0 {
		return judgement{Warning, at(by, ways) + "kept out, but answered, by " + names(answered)}
	}
	if others, by := some(fates, func(f fate) bool { return !x.ours(f.By) }); len(others) > 0 {
		return judgement{OK, at(by, ways) + "dropped by " + names(others)}
	}
	return judgement{OK, "dropped by webknock"}
}

// target says where a packet ends up.
func target(o nftsim.Outcome) string {
	text := "an address of this host"
	if o.To.Addr().IsValid() {
		text = o.To.Addr().String()
	}
	if o.To.Port() == 0 {
		return text
	}
	if o.To.Addr().IsValid() {
		return o.To.String()
	}
	return text + ", port " + strconv.Itoa(int(o.To.Port()))
}

// passes judges whether a grant gets through.
func (x *exam) passes(door firewall.Door, fates []fate, ways []way) judgement {
	stopped, by := some(fates, func(f fate) bool { return f.Verdict == nftsim.Dropped || f.Verdict == nftsim.Rejected })
	if len(stopped) > 0 {
		status := Fail
		if len(stopped) < len(fates) { // there is no route to the client that would tell
			status = Warning
		}
		detail := at(by, ways) + "a grant does not get through: " + names(stopped) + " stops it"
		if f := stopped[0]; f.Unmarked != nil {
			return judgement{status, detail + ", after " + f.Unmarked.String() + " has cleared the mark"}
		}
		mark := fmt.Sprintf("the mark 0x%x", x.Config.Firewall.Guard.Mark)
		hint := "accept " + mark + " there, see docs/doors.md"
		switch {
		case x.ours(stopped[0].By):
			return judgement{status, detail}
		case x.Config.Firewall.Guard.Mark == 0:
			hint = "let the port be there, or set firewall.mark and accept that"
		case stopped[0].Hook == nftsim.Prerouting:
			hint = "at prerouting no packet has " + mark + " yet: move the rule to input or forward, and accept the mark before it"
		}
		return judgement{status, detail + " (" + hint + ")"}
	}
	if unknown, by := some(fates, func(f fate) bool { return f.Verdict == nftsim.Unknown }); len(unknown) > 0 {
		return judgement{Warning, at(by, ways) + "cannot tell: it depends on " + names(unknown)}
	}
	for _, f := range fates {
		elsewhere := f.DNAT != nil && !x.ours(f.DNAT)
		switch {
		case f.TProxy != nil:
			return judgement{Warning, at([]way{f.way}, ways) + "a grant gets through, but " + f.TProxy.String() + " hands it to another socket"}
		case door.Forward.IsValid() && f.To != door.Forward:
			return judgement{Fail, at([]way{f.way}, ways) + "a grant gets through, but to " + target(f.Outcome) + " and not to " + door.Forward.String()}
		case elsewhere && !door.Forward.IsValid():
			return judgement{OK, "a grant gets through, to " + target(f.Outcome) + ", by " + f.DNAT.String()}
		}
	}
	return judgement{OK, "a grant gets through"}
}

// listeners judges whether knocks get here.
func (x *exam) listeners(from netip.Addr) {
	family := familyName(from)
	ways, main := x.network.ways(from)
	for _, l := range x.Config.Listeners {
		for _, at := range x.listensAt(l.Address, family) {
			bound := at.Addr().Unmap()
			if bound.IsValid() && !bound.IsUnspecified() && bound.Is4() != from.Is4() {
				continue
			}
			x.listener(l.Address, family, from, at, ways[:main])
		}
	}
}

// listensAt returns where a listener of the configuration is; an address that
// is not valid or unspecified: on all of this host's.
func (x *exam) listensAt(address, family string) (at []netip.AddrPort) {
	if strings.HasPrefix(address, "systemd:") {
		sockets := x.handedOver()
		if sockets == nil {
			x.say("listener", address, family, Warning, "cannot tell where it listens: systemd hands the socket to the daemon, and no daemon answers whose sockets can be looked at (start it, and run this as root)")
		}
		return sockets
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil
	}
	addr, _ := netip.ParseAddr(host)
	return []netip.AddrPort{netip.AddrPortFrom(addr, uint16(n))}
}

// handedOver returns where the daemon listens besides where its configuration
// says: by sockets from systemd.
func (x *exam) handedOver() (at []netip.AddrPort) {
	pid := peer(x.API.Socket)
	if pid == 0 {
		return nil
	}
	inodes := socketsOf(pid)
	var own []netip.AddrPort
	for _, l := range x.Config.Listeners {
		if !strings.HasPrefix(l.Address, "systemd:") {
			own = append(own, x.listensAt(l.Address, "")...)
		}
	}
	for _, s := range x.open {
		if s.protocol != firewall.TCP || !inodes[s.inode] {
			continue
		}
		if slices.ContainsFunc(own, func(o netip.AddrPort) bool { return o.Port() == s.addr.Port() }) {
			continue
		}
		at = append(at, s.addr)
	}
	return at
}

// peer returns the process that serves on a unix socket; 0: none, or not known.
func peer(path string) int {
	conn, err := (&net.Dialer{}).DialContext(context.Background(), "unix", path)
	if err != nil {
		return 0
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	raw.Control(func(fd uintptr) {
		if c, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(c.Pid)
		}
	})
	return pid
}

// listener judges whether knocks get to one address.
func (x *exam) listener(name, family string, from netip.Addr, bound netip.AddrPort, ways []way) {
	ports := firewall.Ports{Protocol: firewall.TCP, First: bound.Port(), Last: bound.Port()}
	var fates []fate
	var to netip.Addr
	for _, w := range ways {
		if a := bound.Addr().Unmap(); a.IsValid() && !a.IsUnspecified() {
			w.to = a
		}
		to = w.to
		fates = append(fates, fate{w, x.rules.Follow(w.packet(from, uint8(firewall.TCP), bound.Port()), x.options(""))})
	}
	stopped, by := some(fates, func(f fate) bool { return f.Verdict == nftsim.Dropped || f.Verdict == nftsim.Rejected })
	unknown, unknownBy := some(fates, func(f fate) bool { return f.Verdict == nftsim.Unknown })
	away, awayBy := some(fates, func(f fate) bool { return f.Verdict == nftsim.Accepted && (!f.Delivered || f.TProxy != nil) })
	switch {
	case len(stopped) == len(fates):
		x.say("listener", name, family, Fail, "knocks do not get here: %s stops them", names(stopped))
	case len(stopped) > 0:
		x.say("listener", name, family, Warning, "%sknocks do not get here: %s stops them", at(by, ways), names(stopped))
	case len(unknown) > 0:
		x.say("listener", name, family, Warning, "%scannot tell whether knocks get here: it depends on %s", at(unknownBy, ways), names(unknown))
	case len(away) > 0:
		by := "routing, because that is no address of this host,"
		if rule := cmp.Or(away[0].DNAT, away[0].TProxy); rule != nil {
			by = rule.String()
		}
		x.say("listener", name, family, Fail, "%sknocks do not get here: %s sends them elsewhere", at(awayBy, ways), by)
	case !slices.ContainsFunc(x.open, func(s socket) bool { return s.serves(ports, to) }):
		x.say("listener", name, family, Warning, "nothing listens there (webknock serve)")
	default:
		x.say("listener", name, family, OK, "knocks get here")
	}
}
