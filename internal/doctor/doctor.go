// Package doctor judges whether doors are really shut to a stranger, and really
// open to a client with a grant, by following a packet through the kernel's
// whole ruleset. It never guesses: where rules depend on what it cannot know,
// it says so, and names the rule.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"webknock/config"
	"webknock/firewall"
	"webknock/firewall/nft"
	"webknock/httpd/admin"
)

// Status says how well something is.
type Status string

// What a finding may say.
const (
	OK      Status = "ok"
	Warning Status = "warning"
	Fail    Status = "fail"
)

// A Finding is one line of the doctor's.
type Finding struct {
	Check   string `json:"check"`   // what was looked at
	Subject string `json:"subject"` // of which door, listener or file
	Family  string `json:"family,omitempty"`
	Status  Status `json:"status"`
	Detail  string `json:"detail"`
}

// Report is all findings.
type Report struct {
	Status   Status    `json:"status"` // the worst
	Findings []Finding `json:"findings"`
}

// Options are what an examination is made with.
type Options struct {
	Config *config.Config
	API    admin.API  // of the daemon, if one runs
	From   netip.Addr // the stranger; zero: one from the internet for each family
}

// Strangers are ordinary addresses of the internet. Nothing is sent to them.
var strangers = []netip.Addr{netip.MustParseAddr("1.2.3.4"), netip.MustParseAddr("2a00::1:2:3:4")}

type exam struct {
	Options
	report Report
	rules  *ruleset
}

func (x *exam) say(check, subject, family string, status Status, format string, args ...any) {
	x.report.Findings = append(x.report.Findings, Finding{check, subject, family, status, fmt.Sprintf(format, args...)})
}

// Examine makes a report. It changes nothing.
func Examine(ctx context.Context, o Options) Report {
	x := &exam{Options: o, report: Report{Findings: []Finding{}}}
	x.daemon(ctx)
	x.system()
	if x.kernel() {
		for _, from := range x.from() {
			x.doors(from)
			x.listeners(from)
		}
	}
	x.report.Status = OK
	for _, f := range x.report.Findings {
		if f.Status == Fail || f.Status == Warning && x.report.Status == OK {
			x.report.Status = f.Status
		}
	}
	return x.report
}

func (x *exam) from() []netip.Addr {
	if x.From.IsValid() {
		return []netip.Addr{x.From.Unmap()}
	}
	return strangers
}

func (x *exam) daemon(ctx context.Context) {
	s, err := x.API.Status(ctx)
	switch {
	case errors.Is(err, admin.ErrNoDaemon):
		x.say("daemon", x.API.Socket, "", Warning, "no daemon answers; nobody receives knocks")
	case err != nil:
		x.say("daemon", x.API.Socket, "", Warning, "%v", err)
	case s.State != admin.OK:
		x.say("daemon", x.API.Socket, "", Fail, "degraded: %s", strings.Join(s.Problems, "; "))
	default:
		x.say("daemon", x.API.Socket, "", OK, "webknock %s serves", s.Version)
	}
}

// system looks at what the kernel and the host are.
func (x *exam) system() {
	if _, err := user.LookupGroup(admin.Group); err != nil {
		x.say("group", admin.Group, "", Warning, "there is no such group; only root and the daemon's user may use the admin socket (groupadd --system %s)", admin.Group)
	}
	var t unix.Timex
	if state, err := unix.Adjtimex(&t); err != nil {
		x.say("clock", "", "", Warning, "cannot tell whether it is synchronised: %v", err)
	} else if state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0 {
		x.say("clock", "", "", Warning, "not synchronised (one-time codes and tickets need the right time; timedatectl set-ntp true)")
	} else {
		x.say("clock", "", "", OK, "synchronised")
	}
	if names := legacy(); names != "" {
		x.say("legacy", names, "", Warning, "iptables-legacy has tables, which nf_tables does not show: whether they drop or let through is not looked at (iptables-legacy-save)")
	}
	for _, door := range x.Config.Doors {
		x.ephemeral(door)
		if to := door.Forward; to.IsValid() {
			file, key := "/proc/sys/net/ipv4/ip_forward", "net.ipv4.ip_forward"
			if !to.Addr().Is4() {
				file, key = "/proc/sys/net/ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding"
			}
			if text, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(text)) == "0" {
				x.say("forwarding", door.Name, "", Fail, "%s is off, so nothing is sent on to %s (sysctl -w %s=1)", key, to, key)
			} else {
				x.say("forwarding", door.Name, "", OK, "%s is on", key)
			}
		}
	}
}

// legacy returns the names of the tables of iptables-legacy, if any.
func legacy() string {
	var names []string
	for _, file := range []string{"/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"} {
		text, _ := os.ReadFile(file)
		names = append(names, strings.Fields(string(text))...)
	}
	return strings.Join(names, ", ")
}

// ephemeral warns of doors that this host's own connections may begin at.
func (x *exam) ephemeral(door firewall.Door) {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return
	}
	var first, last int
	if _, err := fmt.Sscan(string(text), &first, &last); err != nil {
		return
	}
	for _, p := range door.Ports {
		if int(p.First) <= last && int(p.Last) >= first {
			x.say("ports", door.Name, "", Warning, "%s overlaps the ports that this host's own connections begin at, %d to %d (reserve them: sysctl net.ipv4.ip_local_reserved_ports=%d-%d)", p, first, last, p.First, p.Last)
		}
	}
}

// kernel reads the ruleset.
func (x *exam) kernel() bool {
	var err error
	if x.rules, err = readRuleset(); err != nil {
		hint := "run as root, or with CAP_NET_ADMIN"
		if errors.Is(err, unix.EPROTONOSUPPORT) {
			hint = "modprobe nf_tables"
		}
		x.say("kernel", "nf_tables", "", Fail, "the ruleset cannot be read: %v (%s)", err, hint)
		return false
	}
	table := x.table()
	there := slices.ContainsFunc(slices.Collect(chainsOf(x.rules)), func(c *chain) bool { return c.tableID == table })
	if !there {
		x.say("guard", table.String(), "", Fail, "there is no such table: nothing is guarded (webknock serve, or webknock reload after an unguard)")
	} else {
		x.say("guard", table.String(), "", OK, "is there")
	}
	return true
}

func chainsOf(r *ruleset) func(func(*chain) bool) {
	return func(yield func(*chain) bool) {
		for _, c := range r.chains {
			if !yield(c) {
				return
			}
		}
	}
}

func (x *exam) table() tableID {
	return tableID{nftables.TableFamilyINet, x.Config.Firewall.Table}
}

// packetFrom returns a packet as one from an address comes in.
func packetFrom(from netip.Addr) packet {
	p := packet{from: from}
	routes, err := netlink.RouteGet(from.AsSlice())
	if err == nil && len(routes) > 0 {
		if link, err := netlink.LinkByIndex(routes[0].LinkIndex); err == nil {
			p.iif, p.iifIndex = link.Attrs().Name, routes[0].LinkIndex
		}
		if to, ok := netip.AddrFromSlice(routes[0].Src); ok {
			p.to = to.Unmap()
		}
	}
	if !p.to.IsValid() { // this host has no route there; an address that no rule names
		p.to = netip.MustParseAddr("192.0.2.1")
		if from.Is6() {
			p.to = netip.MustParseAddr("2001:db8::1")
		}
	}
	return p
}

func familyName(a netip.Addr) string {
	if a.Is4() {
		return "ipv4"
	}
	return "ipv6"
}

// follow returns what becomes of packets to a port, from somebody with or
// without a grant for a door.
func (x *exam) follow(p packet, door string, granted bool) outcome {
	w := walker{rules: x.rules, table: x.table(), granted: map[string]bool{}}
	for _, d := range x.Config.Doors {
		for _, name := range nft.GrantSets(d) {
			w.granted[name] = granted && d.Name == door
		}
	}
	for _, name := range nft.SessionSets() {
		w.granted[name] = false
	}
	return w.follow(p)
}

// doors judges all doors for one stranger.
func (x *exam) doors(from netip.Addr) {
	base := packetFrom(from)
	family := familyName(from)
	open := listening()
	for _, door := range x.Config.Doors {
		if slices.ContainsFunc(x.Config.Firewall.Guard.Allow, func(p netip.Prefix) bool { return p.Contains(from) }) {
			x.say("shut", door.Name, family, OK, "%s is in firewall.allow and needs no knock", from)
			continue
		}
		for _, ports := range door.Ports {
			x.shut(base, door, ports, family)
			if to := door.Forward; to.IsValid() {
				if to.Addr().Is4() == from.Is4() {
					x.passes(base, door, ports, family)
				}
				continue
			}
			x.passes(base, door, ports, family)
			if !slices.ContainsFunc(open, func(s socket) bool { return s.serves(ports, base.to) }) {
				x.say("service", door.Name+" "+ports.String(), family, Warning, "nothing listens there")
			}
		}
	}
}

// shut judges whether a stranger is kept out.
func (x *exam) shut(base packet, door firewall.Door, ports firewall.Ports, family string) {
	for o, at := range x.each(base, door, ports, false) {
		subject := door.Name + " " + at
		switch {
		case o.verdict == accepted:
			x.say("shut", subject, family, Fail, "open to strangers: no rule keeps %s out", base.from)
		case o.verdict == untold:
			x.say("shut", subject, family, Warning, "cannot tell: it depends on %s", o.by)
		case o.byUs:
			x.say("shut", subject, family, OK, "dropped by webknock")
		case o.verdict == rejected:
			x.say("shut", subject, family, Warning, "kept out, but answered, by %s", o.by)
		default:
			x.say("shut", subject, family, OK, "dropped by %s", o.by)
		}
	}
}

// passes judges whether a grant gets through.
func (x *exam) passes(base packet, door firewall.Door, ports firewall.Ports, family string) {
	for o, at := range x.each(base, door, ports, true) {
		subject := door.Name + " " + at
		switch {
		case o.verdict == untold:
			x.say("passes", subject, family, Warning, "cannot tell: it depends on %s", o.by)
		case o.verdict != accepted:
			x.say("passes", subject, family, Fail, "a grant does not get through: %s stops it (accept the mark 0x%x there, see docs/doors.md)", o.by, x.Config.Firewall.Guard.Mark)
		case door.Forward.IsValid() && o.sentTo != door.Forward:
			x.say("passes", subject, family, Fail, "a grant gets through, but to %s and not to %s", sentTo(o, base), door.Forward)
		case o.sentTo.IsValid() && !door.Forward.IsValid():
			x.say("passes", subject, family, OK, "a grant gets through, to %s, by another program's DNAT", o.sentTo)
		default:
			x.say("passes", subject, family, OK, "a grant gets through")
		}
	}
}

func sentTo(o outcome, p packet) string {
	if o.sentTo.IsValid() {
		return o.sentTo.String()
	}
	return "this host, " + p.to.String()
}

// maxPorts bounds how many ports of a range are followed, each by itself.
const maxPorts = 2048

// each returns what becomes of packets to the ports of a range, with the ports
// that share an outcome.
func (x *exam) each(base packet, door firewall.Door, ports firewall.Ports, granted bool) func(func(outcome, string) bool) {
	return func(yield func(outcome, string) bool) {
		step := 1 + (int(ports.Last)-int(ports.First))/maxPorts
		var last outcome
		first := -1
		flush := func(end int) bool {
			return yield(last, firewall.Ports{Protocol: ports.Protocol, First: uint16(first), Last: uint16(end)}.String())
		}
		for p := int(ports.First); p <= int(ports.Last); p += step {
			base.protocol, base.port = ports.Protocol, uint16(p)
			o := x.follow(base, door.Name, granted)
			if first >= 0 && o != last {
				if !flush(p - 1) {
					return
				}
				first = -1
			}
			if first < 0 {
				first, last = p, o
			}
		}
		flush(int(ports.Last))
	}
}

// listeners judges whether knocks get here.
func (x *exam) listeners(from netip.Addr) {
	base := packetFrom(from)
	open := listening()
	for _, l := range x.Config.Listeners {
		host, port, err := net.SplitHostPort(l.Address)
		n, perr := strconv.ParseUint(port, 10, 16)
		if err != nil || perr != nil {
			continue
		}
		if bound, err := netip.ParseAddr(host); err == nil && !bound.IsUnspecified() {
			if bound.Unmap().Is4() != from.Is4() {
				continue
			}
			base.to = bound.Unmap()
		}
		base.protocol, base.port = firewall.TCP, uint16(n)
		family := familyName(from)
		ports := firewall.Ports{Protocol: firewall.TCP, First: uint16(n), Last: uint16(n)}
		switch o := x.follow(base, "", false); {
		case o.verdict == untold:
			x.say("listener", l.Address, family, Warning, "cannot tell whether knocks get here: it depends on %s", o.by)
		case o.verdict != accepted:
			x.say("listener", l.Address, family, Fail, "knocks do not get here: %s stops them", o.by)
		case !slices.ContainsFunc(open, func(s socket) bool { return s.serves(ports, base.to) }):
			x.say("listener", l.Address, family, Warning, "nothing listens there (webknock serve)")
		default:
			x.say("listener", l.Address, family, OK, "knocks get here")
		}
	}
}

// A socket waits for packets.
type socket struct {
	protocol firewall.Protocol
	addr     netip.AddrPort
}

// serves reports whether the socket takes packets to an address and one of
// some ports.
func (s socket) serves(ports firewall.Ports, to netip.Addr) bool {
	if s.protocol != ports.Protocol || s.addr.Port() < ports.First || s.addr.Port() > ports.Last {
		return false
	}
	a := s.addr.Addr().Unmap()
	return a == to || a == netip.IPv4Unspecified() && to.Is4() || a == netip.IPv6Unspecified()
}

// listening returns the sockets of this host that wait for packets.
func listening() (open []socket) {
	const tcpListen, udpBound = 10, 7
	add := func(protocol firewall.Protocol, sockets []*netlink.Socket, state uint8) {
		for _, s := range sockets {
			if addr, ok := netip.AddrFromSlice(s.ID.Source); ok && s.State == state {
				if s.Family == unix.AF_INET6 && addr.Is4() {
					addr = netip.IPv6Unspecified()
				}
				open = append(open, socket{protocol: protocol, addr: netip.AddrPortFrom(addr, s.ID.SourcePort)})
			}
		}
	}
	for _, f := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if sockets, err := netlink.SocketDiagTCP(f); err == nil {
			add(firewall.TCP, sockets, tcpListen)
		}
		if sockets, err := netlink.SocketDiagUDP(f); err == nil {
			add(firewall.UDP, sockets, udpBound)
		}
	}
	return open
}
