package nft

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"webknock/firewall"
)

const (
	setSize = 65536
	// connectionsSuffix ends the names of sets that count connections.
	connectionsSuffix = ".connections"
	allowPrefix       = "allow."  // begins the names of the sets of networks that need no grant
	exemptPrefix      = "exempt." // begins those of networks that are never banned or limited
	// setTimeout is the default timeout of a set. Without it, an element that somebody adds
	// without a timeout would stay for ever.
	setTimeout = 24 * 60 * 60 * 1e9
	// reservedDoor cannot be the name of a door: the sets of sessions from before the
	// guard are called before4 and before6.
	reservedDoor = "before"
)

// family is IPv4 or IPv6. A door has a set for each.
type family struct {
	suffix     string
	keyword    string // in nft(8)
	nfproto    byte
	saddr      uint32 // offset of the source address in the network header
	size       uint32 // of an address
	address    nftables.SetDatatype
	isIPv4     bool
	beforeType nftables.SetDatatype
}

var families = [2]family{
	{"4", "ip", unix.NFPROTO_IPV4, 12, 4, nftables.TypeIPAddr, true,
		nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService, nftables.TypeIPAddr, nftables.TypeInetService)},
	{"6", "ip6", unix.NFPROTO_IPV6, 8, 16, nftables.TypeIP6Addr, false,
		nftables.MustConcatSetType(nftables.TypeIP6Addr, nftables.TypeInetService, nftables.TypeIP6Addr, nftables.TypeInetService)},
}

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return families[0]
	}
	return families[1]
}

// bits returns how many bits of a client's address identify it at a door.
func (f family) bits(door firewall.Door) int {
	bits, all := door.Prefix6, 128
	if f.isIPv4 {
		bits, all = door.Prefix4, 32
	}
	if bits < 1 || bits > all {
		return all
	}
	return bits
}

// grantSetName returns the name of the set of a door's grants. It contains the prefix
// length, unless that is the whole address, so that a set never mixes prefixes of two
// lengths: ssh4, for example, or ssh6.64.
func (f family) grantSetName(door firewall.Door) string {
	if bits := f.bits(door); bits < int(f.size)*8 {
		return fmt.Sprintf("%s%s.%d", door.Name, f.suffix, bits)
	}
	return door.Name + f.suffix
}

// grantSet returns the set of a door's grants in one family.
func (b *Backend) grantSet(door firewall.Door, f family) *nftables.Set {
	return &nftables.Set{
		Table: b.table, Name: f.grantSetName(door), KeyType: f.address, KeyByteOrder: binaryutil.BigEndian,
		HasTimeout: true, Timeout: setTimeout, Counter: true, Size: setSize,
	}
}

// connectionSet returns the set that counts the new connections of each grant.
func (b *Backend) connectionSet(door firewall.Door, f family) *nftables.Set {
	return &nftables.Set{
		Table: b.table, Name: f.grantSetName(door) + connectionsSuffix, KeyType: f.address, KeyByteOrder: binaryutil.BigEndian,
		HasTimeout: true, Timeout: setTimeout, Dynamic: true, Size: setSize,
	}
}

// beforeSet returns the set of the TCP sessions from before the guard. Its key is the
// client's address and port and this host's address and port.
func (b *Backend) beforeSet(f family) *nftables.Set {
	return &nftables.Set{
		Table: b.table, Name: reservedDoor + f.suffix, KeyType: f.beforeType, KeyByteOrder: binaryutil.BigEndian,
		HasTimeout: true, Timeout: setTimeout, Size: setSize,
	}
}

// allowSet returns the set of networks that need no grant.
func (b *Backend) allowSet(f family) *nftables.Set {
	return &nftables.Set{Table: b.table, Name: allowPrefix + f.suffix, KeyType: f.address, KeyByteOrder: binaryutil.BigEndian, Interval: true}
}

// exemptSet returns the set of networks that are never banned or limited.
func (b *Backend) exemptSet(f family) *nftables.Set {
	return &nftables.Set{Table: b.table, Name: exemptPrefix + f.suffix, KeyType: f.address, KeyByteOrder: binaryutil.BigEndian, Interval: true}
}

// banSet returns the set of banned clients.
func (b *Backend) banSet(f family) *nftables.Set {
	return &nftables.Set{
		Table: b.table, Name: "banned." + f.suffix, KeyType: f.address, KeyByteOrder: binaryutil.BigEndian,
		HasTimeout: true, Timeout: setTimeout, Size: setSize,
	}
}

// rateSet returns the set that counts the new connections of each client to listeners. An
// element expires after a minute without a connection.
func (b *Backend) rateSet(f family) *nftables.Set {
	return &nftables.Set{
		Table: b.table, Name: "rate." + f.suffix, KeyType: f.address, KeyByteOrder: binaryutil.BigEndian,
		HasTimeout: true, Timeout: time.Minute, Dynamic: true, Size: setSize,
	}
}

// shielded reports whether the table keeps banned or too fast clients from listeners.
func shielded(g firewall.Guard) bool {
	return g.Mode == firewall.Guarded && len(g.BanPorts)+len(g.RatePorts) > 0
}

// allowedNetworks merges the networks of one family, so that none overlap.
func allowedNetworks(networks []netip.Prefix, f family) (*netipx.IPSet, error) {
	var set netipx.IPSetBuilder
	for _, p := range networks {
		if p.Addr().Is4() == f.isIPv4 {
			set.AddPrefix(p)
		}
	}
	return set.IPSet()
}

// maskAddr returns the netmask with so many bits.
func (f family) maskAddr(bits int) netip.Addr {
	mask := make([]byte, f.size)
	for i := range bits {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	addr, _ := netip.AddrFromSlice(mask)
	return addr
}

// The base chains are at hooks after the routing decision. Input sees all packets to this
// host, whichever routing table, redirect or DNAT has led them there. Forward sees the
// packets that DNAT sends on to other hosts. At prerouting the destination is not known
// yet, and other programs may still change the mark.
const (
	inputChain   = "input"
	forwardChain = "forward"
	outputChain  = "output"
	sendOnChain  = "send_on"
	askedChain   = "asked_for"
	banChain     = "ban"
	rateChain    = "rate"
	chainPrefix  = "door_"
)

// sendOnPriority is before the priority of other programs' DNAT.
var sendOnPriority = nftables.ChainPriorityRef(*nftables.ChainPriorityNATDest - 5)

func (b *Backend) chain(name string) *nftables.Chain {
	c := &nftables.Chain{Table: b.table, Name: name}
	policy := nftables.ChainPolicyAccept
	switch name {
	case inputChain:
		c.Type, c.Hooknum, c.Priority, c.Policy = nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityMangle, &policy
	case forwardChain:
		c.Type, c.Hooknum, c.Priority, c.Policy = nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityMangle, &policy
	case outputChain:
		c.Type, c.Hooknum, c.Priority, c.Policy = nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityMangle, &policy
	case sendOnChain:
		c.Type, c.Hooknum, c.Priority, c.Policy = nftables.ChainTypeNAT, nftables.ChainHookPrerouting, sendOnPriority, &policy
	}
	return c
}

// setContents are the networks that belong into a set.
type setContents struct {
	set      *nftables.Set
	networks *netipx.IPSet
}

// A ruleChain is a chain with its rules.
type ruleChain struct {
	*nftables.Chain
	rules []rule
}

// A ruleset is the table that a guard needs, without grants and bans.
type ruleset struct {
	sets     []*nftables.Set
	contents []setContents
	chains   []ruleChain
}

// ruleset returns the ruleset for g.
func (b *Backend) ruleset(g firewall.Guard) (*ruleset, error) {
	r := new(ruleset)
	networks := func(set *nftables.Set, f family, networks []netip.Prefix) error {
		all, err := allowedNetworks(networks, f)
		if err != nil {
			return fmt.Errorf("set %s: %w", set.Name, err)
		}
		r.sets = append(r.sets, set)
		r.contents = append(r.contents, setContents{set, all})
		return nil
	}
	for _, f := range families {
		r.sets = append(r.sets, b.beforeSet(f))
		if len(g.Allow) > 0 {
			if err := networks(b.allowSet(f), f, g.Allow); err != nil {
				return nil, err
			}
		}
		if shielded(g) {
			if err := networks(b.exemptSet(f), f, slices.Concat(g.Allow, g.Exempt)); err != nil {
				return nil, err
			}
			r.sets = append(r.sets, b.banSet(f), b.rateSet(f))
		}
	}
	for _, door := range g.Doors {
		for _, f := range families {
			r.sets = append(r.sets, b.grantSet(door, f))
			if door.Connections > 0 {
				r.sets = append(r.sets, b.connectionSet(door, f))
			}
		}
	}
	write := func(name string, rules []rule) { r.chains = append(r.chains, ruleChain{b.chain(name), rules}) }
	for _, door := range g.Doors {
		write(chainPrefix+door.Name, b.doorRules(g, door))
	}
	write(askedChain, byDoor(g, askedForPorts))
	if shielded(g) {
		ban, rate := b.shieldRules(g)
		write(banChain, ban)
		write(rateChain, rate)
	}
	write(inputChain, b.inputRules(g))
	write(forwardChain, forwardRules())
	if rules := b.outputRules(g); len(rules) > 0 {
		write(outputChain, rules)
	}
	if rules := b.sendOnRules(g); len(rules) > 0 {
		write(sendOnChain, rules)
	}
	return r, nil
}

// byDoor returns rules that send packets into the chains of their doors, one rule for each
// range of ports. A verdict map would be shorter, but while a map with ranges is replaced,
// it is empty for some milliseconds, and every door would be open.
func byDoor(g firewall.Guard, match func(firewall.Ports) part) (rules []rule) {
	for _, door := range g.Doors {
		for _, p := range door.Ports {
			rules = append(rules, rule{match(p), goTo(chainPrefix + door.Name)})
		}
	}
	return rules
}

// replies returns rules that accept the answers in connections that this host, or a host
// behind it, opened. A SYN without an ACK is never an answer: it begins a connection that
// connection tracking may take for an old one.
func replies() []rule {
	return []rule{{notTCP, isReply, accept}, {isReply, noNewTCP, accept}}
}

// inputRules returns the rules for packets to this host. They go by the destination port.
// Packets that DNAT has redirected also go by the port that the client asked for.
//
// At guarded ports, connection tracking is not enough to recognise an answer. If it first
// sees a session in the middle, because it was inactive or has lost the entry, it takes
// the side that sends first for the client. The client's packets then look like answers
// of a server. So packets to a guarded TCP port count as answers only if this host is
// known to have opened the connection (hasBegun).
func (b *Backend) inputRules(g firewall.Guard) []rule {
	rules := []rule{{loopback, accept}}
	if shielded(g) {
		for _, to := range []struct {
			ports []uint16
			chain string
		}{{g.BanPorts, banChain}, {g.RatePorts, rateChain}} {
			for _, p := range to.ports {
				rules = append(rules, rule{toPorts(firewall.Ports{Protocol: firewall.TCP, First: p, Last: p}), jump(to.chain)})
			}
		}
	}
	before, after := replies(), []rule(nil)
	if b.knowsBegun(g) {
		udp, tcp := before[0], before[1]
		before, after = []rule{udp, slices.Insert(slices.Clone(tcp), len(tcp)-1, hasBegun)}, []rule{tcp}
	}
	return slices.Concat(rules, before, byDoor(g, toPorts), after, []rule{{isDNATed, goTo(askedChain)}})
}

// knowsBegun reports whether the table labels the connections that this host opens.
func (b *Backend) knowsBegun(g firewall.Guard) bool {
	return g.Mode == firewall.Guarded && !b.noLabels.Load()
}

// outputRules returns the rules that label connections that this host opens from a guarded
// port.
func (b *Backend) outputRules(g firewall.Guard) (rules []rule) {
	if !b.knowsBegun(g) {
		return nil
	}
	for _, door := range g.Doors {
		for _, p := range door.Ports {
			if p.Protocol == firewall.TCP {
				rules = append(rules, rule{fromPorts(p), setBegun})
			}
		}
	}
	if len(rules) == 0 {
		return nil
	}
	return append([]rule{{noNewTCP, accept}}, rules...)
}

// forwardRules returns the rules for packets that DNAT sends on to other hosts: those to a
// container's published port, or to a door that forwards.
func forwardRules() []rule { return append(replies(), rule{isDNATed, goTo(askedChain)}) }

// shieldRules returns the rules that drop packets of banned clients, and new connections of
// clients that exceed the rate.
func (b *Backend) shieldRules(g firewall.Guard) (ban, rate []rule) {
	for _, f := range families {
		exempt := rule{f.from(f.whole(), b.exemptSet(f).Name), goBack}
		ban = append(ban, exempt, rule{f.from(f.offenderBits(), b.banSet(f).Name), drop})
		if g.Rate > 0 {
			rate = append(rate, exempt, rule{isNew, {exprs: f.is()}, f.count(f.offenderBits(), b.rateSet(f).Name, g.Rate, g.Per, g.Burst), drop})
		}
	}
	return ban, rate
}

// offenderBits returns how many bits of an address identify a client for bans and rates.
func (f family) offenderBits() int {
	if f.isIPv4 {
		return 32
	}
	return 64
}

// sendOnRules returns the rules that forward the packets of clients with a grant, for doors
// that forward to another host.
func (b *Backend) sendOnRules(g firewall.Guard) (rules []rule) {
	for _, door := range g.Doors {
		to := door.Forward
		if !to.IsValid() {
			continue
		}
		f := familyOf(to.Addr())
		dnat := part{
			fmt.Sprintf("dnat %s to %s", f.keyword, to),
			[]expr.Any{
				&expr.Immediate{Register: 1, Data: to.Addr().AsSlice()},
				&expr.Immediate{Register: 2, Data: port(to.Port())},
				&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.nfproto), RegAddrMin: 1, RegAddrMax: 1, RegProtoMin: 2, RegProtoMax: 2, Specified: true},
			},
		}
		for _, p := range door.Ports {
			if len(g.Allow) > 0 {
				rules = append(rules, rule{toThisHost, f.from(f.whole(), b.allowSet(f).Name), toPorts(p), dnat})
			}
			rules = append(rules, rule{toThisHost, f.from(f.bits(door), f.grantSetName(door)), toPorts(p), dnat})
		}
	}
	return rules
}

// doorRules returns the rules of a door's chain. They accept clients with a grant and
// running sessions, and drop everything else. In mode Sets they only mark the packets of
// clients with a grant.
//
// A session is running if a rule of a grant has accepted one of its packets and so
// labelled its connection. The state "established" alone is not enough: the connection may
// have begun while the table was gone, a SYN may belong to an old connection whose other
// end has died, and a stranger may make a helper of connection tracking expect a
// connection.
func (b *Backend) doorRules(g firewall.Guard, door firewall.Door) (rules []rule) {
	add := func(parts ...part) { rules = append(rules, parts) }
	labels := g.Mode == firewall.Guarded && door.Established == firewall.Keep && !b.noLabels.Load()
	pass := func(who part) {
		r := rule{who}
		if labels {
			r = append(r, setLabel)
		}
		if g.Mark != 0 {
			r = append(r, setMark(g.Mark))
		}
		add(append(r, accept)...)
	}
	for _, f := range families {
		if door.Forward.IsValid() && door.Forward.Addr().Is4() != f.isIPv4 {
			continue // the door has no destination for this family
		}
		if len(g.Allow) > 0 {
			pass(f.from(f.whole(), b.allowSet(f).Name))
		}
		granted := f.from(f.bits(door), f.grantSetName(door))
		if door.Connections > 0 {
			tooMany := drop
			if g.Mode == firewall.Sets {
				tooMany = goBack
			}
			add(granted, isNew, f.count(f.bits(door), b.connectionSet(door, f).Name, 1, week, door.Connections), tooMany)
		}
		pass(granted)
	}
	if g.Mode == firewall.Sets {
		return rules
	}
	if door.Established == firewall.Keep {
		running := rule{isEstablished, hasLabel, accept}
		if b.noLabels.Load() {
			running = rule{isEstablished, accept}
		}
		add(append(rule{noNewTCP}, running...)...)
		add(append(rule{isUDP}, running...)...)
	}
	for _, f := range families {
		add(noNewTCP, f.fromBefore(), accept)
	}
	if door.Established == firewall.Cut {
		add(isTCP, isEstablished, reset)
	}
	add(counted, drop)
	return rules
}

// GrantSets returns the names of the sets of a door's grants.
func GrantSets(door firewall.Door) (names []string) {
	for _, f := range families {
		names = append(names, f.grantSetName(door))
	}
	return names
}

// SessionSets returns the names of the sets of sessions from before the guard.
func SessionSets() (names []string) {
	for _, f := range families {
		names = append(names, reservedDoor+f.suffix)
	}
	return names
}
