package doctor

import (
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"webknock/firewall"
	"webknock/internal/doctor/nftsim"
)

// A network is what this host knows of its own.
type network struct {
	nftsim.Host
	interfaces []nftsim.Interface // where strangers may come in
	addresses  []netip.Addr       // that packets from outside are delivered to
}

// maxAddresses bounds for how many addresses of this host, of a family, doors
// are judged.
const maxAddresses = 64

// readNetwork reads the interfaces and the routing tables.
func readNetwork() (*network, error) {
	n := &network{}
	links, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	bridges := map[int]bool{}
	for _, l := range links {
		if l.Type() == "bridge" {
			bridges[l.Attrs().Index] = true
		}
	}
	arp := map[string]uint16{"ether": unix.ARPHRD_ETHER, "none": unix.ARPHRD_NONE, "ppp": unix.ARPHRD_PPP, "loopback": unix.ARPHRD_LOOPBACK}
	for _, l := range links {
		a := l.Attrs()
		n.Interfaces = append(n.Interfaces, nftsim.Interface{Name: a.Name, Index: a.Index, Group: a.Group})
		if a.Flags&1 == 0 || a.RawFlags&unix.IFF_LOOPBACK != 0 || bridges[a.MasterIndex] {
			continue // down; no way in from outside; packets come in by the bridge
		}
		in := nftsim.Interface{Name: a.Name, Index: a.Index, Group: a.Group, Type: arp[a.EncapType]}
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return nil, err
		}
		for _, addr := range addrs {
			if ip, ok := netip.AddrFromSlice(addr.IP); ok {
				in.Addresses = append(in.Addresses, ip.Unmap())
			}
		}
		n.interfaces = append(n.interfaces, in)
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		if err := n.readRoutes(family); err != nil {
			return nil, err
		}
	}
	for _, in := range n.interfaces { // an address may be so new that it has no route yet
		for _, a := range in.Addresses {
			if !n.hasAddress(a) {
				n.Local = append(n.Local, netip.PrefixFrom(a, a.BitLen()))
				if !a.IsLinkLocalUnicast() {
					n.addresses = append(n.addresses, a)
				}
			}
		}
	}
	policy, err := policyRouting()
	if err != nil || policy {
		return n, err
	}
	routes := map[netip.Addr]int{}
	n.Route = func(a netip.Addr) (int, bool) {
		index, ok := routes[a]
		if !ok {
			index = -1
			if found, err := netlink.RouteGet(a.AsSlice()); err == nil && len(found) > 0 {
				index = found[0].LinkIndex
			}
			routes[a] = index
		}
		return index, index >= 0
	}
	return n, nil
}

// hasAddress reports whether packets to an address are delivered here.
func (n *network) hasAddress(a netip.Addr) bool {
	has := func(p netip.Prefix) bool { return p.Contains(a) }
	return slices.ContainsFunc(n.Local, has) || slices.ContainsFunc(n.Elsewhere, has)
}

// policyRouting reports whether there are other rules than the kernel's own, or
// routes with several next hops: then a route depends on more than the
// destination.
func policyRouting() (bool, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil || slices.ContainsFunc(routes, func(r netlink.Route) bool { return len(r.MultiPath) > 1 }) {
		return err == nil, err
	}
	rules, err := netlink.RuleList(netlink.FAMILY_ALL)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(rules, func(r netlink.Rule) bool {
		return r.Table != unix.RT_TABLE_LOCAL && r.Table != unix.RT_TABLE_MAIN && r.Table != unix.RT_TABLE_DEFAULT
	}), nil
}

// readRoutes reads which addresses are this host's, in all routing tables.
func (n *network) readRoutes(family int) error {
	for _, typ := range []int{unix.RTN_LOCAL, unix.RTN_ANYCAST, unix.RTN_BROADCAST} {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC, Type: typ}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
		if err != nil {
			return err
		}
		seen := 0
		for _, r := range routes {
			if r.Dst == nil {
				continue
			}
			ip, ok := netip.AddrFromSlice(r.Dst.IP)
			bits, _ := r.Dst.Mask.Size()
			if !ok {
				continue
			}
			prefix := netip.PrefixFrom(ip.Unmap(), bits)
			switch {
			case typ == unix.RTN_BROADCAST:
				n.Broadcast = append(n.Broadcast, prefix.Addr())
				continue
			case r.Table == unix.RT_TABLE_LOCAL:
				n.Local = append(n.Local, prefix)
			default:
				n.Elsewhere = append(n.Elsewhere, prefix)
			}
			a := prefix.Addr()
			if typ == unix.RTN_LOCAL && !a.IsLoopback() && !a.IsLinkLocalUnicast() && !a.IsMulticast() && !slices.Contains(n.addresses, a) && seen < maxAddresses {
				n.addresses = append(n.addresses, a)
				seen++
			}
		}
	}
	return nil
}

// A way is how a stranger's packet may come to this host.
type way struct {
	in nftsim.Interface
	to netip.Addr
}

// maxWays bounds how many ways are followed for each door.
const maxWays = 512

// ways returns how packets from an address may come in: first those that the
// routing tables name, which are all of main ones; then every other interface and
// address of this host.
func (n *network) ways(from netip.Addr) (ways []way, main int) {
	add := func(w way) {
		if !slices.ContainsFunc(ways, func(o way) bool { return o.in.Name == w.in.Name && o.to == w.to }) && len(ways) < maxWays {
			ways = append(ways, w)
		}
	}
	if routes, err := netlink.RouteGet(from.AsSlice()); err == nil && len(routes) > 0 {
		to, ok := netip.AddrFromSlice(routes[0].Src)
		for _, in := range n.interfaces {
			if ok && in.Index == routes[0].LinkIndex && to.Unmap().Is4() == from.Is4() {
				add(way{in, to.Unmap()})
			}
		}
	}
	if len(ways) == 0 { // no route there: any interface may be the one, by its own address
		for _, in := range n.interfaces {
			for _, a := range in.Addresses {
				if a.Is4() == from.Is4() && !a.IsLinkLocalUnicast() {
					add(way{in, a})
				}
			}
		}
	}
	main = len(ways)
	for _, in := range n.interfaces {
		for _, a := range n.addresses {
			if a.Is4() == from.Is4() {
				add(way{in, a})
			}
		}
	}
	if len(ways) == 0 { // no network at all: an address that no rule names
		to := netip.MustParseAddr("192.0.2.1")
		if from.Is6() {
			to = netip.MustParseAddr("2001:db8::1")
		}
		n.Local = append(n.Local, netip.PrefixFrom(to, to.BitLen()))
		in := nftsim.Interface{Name: "none", Index: 1 << 30} // which is not lo, at least
		if len(n.interfaces) > 0 {
			in = n.interfaces[0]
		}
		add(way{in, to})
	}
	return ways, max(main, 1)
}

// where says which of all ways some are, if they are not all.
func where(some, of []way) string {
	if len(some) == len(of) {
		return ""
	}
	interfaces, addresses := map[string]bool{}, map[netip.Addr]bool{}
	var names, to []string
	for _, w := range some {
		if !interfaces[w.in.Name] {
			interfaces[w.in.Name] = true
			names = append(names, w.in.Name)
		}
		if !addresses[w.to] {
			addresses[w.to] = true
			to = append(to, w.to.String())
		}
	}
	all := func(has func(way) bool) bool { return !slices.ContainsFunc(of, func(w way) bool { return !has(w) }) }
	var text []string
	if !all(func(w way) bool { return interfaces[w.in.Name] }) {
		text = append(text, "through "+strings.Join(names, ", "))
	}
	if !all(func(w way) bool { return addresses[w.to] }) {
		text = append(text, "at "+shortened(to))
	}
	if text == nil {
		text = append(text, "through "+strings.Join(names, ", ")+" at "+shortened(to))
	}
	return strings.Join(text, " ")
}

func shortened(names []string) string {
	const most = 4
	if len(names) > most {
		return strings.Join(names[:most], ", ") + " and " + strconv.Itoa(len(names)-most) + " more"
	}
	return strings.Join(names, ", ")
}

// A socket waits for packets.
type socket struct {
	protocol firewall.Protocol
	addr     netip.AddrPort
	inode    uint32
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
				open = append(open, socket{protocol, netip.AddrPortFrom(addr, s.ID.SourcePort), s.INode})
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

// socketsOf returns the inodes of a process's sockets.
func socketsOf(pid int) map[uint32]bool {
	dir := "/proc/" + strconv.Itoa(pid) + "/fd/"
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	inodes := map[uint32]bool{}
	for _, f := range files {
		to, err := os.Readlink(dir + f.Name())
		if err != nil {
			continue
		}
		if text, ok := strings.CutPrefix(to, "socket:["); ok {
			if n, err := strconv.ParseUint(strings.TrimSuffix(text, "]"), 10, 32); err == nil {
				inodes[uint32(n)] = true
			}
		}
	}
	return inodes
}
