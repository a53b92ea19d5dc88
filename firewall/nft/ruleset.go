package nft

import (
	"encoding/binary"
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
	guardChain   = "guard"
	forwardChain = "forward"
	banChain     = "ban"
	rateChain    = "rate"
	chainPrefix  = "door_"
	setSize      = 65536
	// setTimeout is what an element without a timeout of its own would get;
	// without it, such an element would stay for ever.
	setTimeout = 24 * 60 * 60 * 1e9
	// reservedDoor would give its sets the names of the sets of sessions that
	// were there before the guard.
	reservedDoor = "before"
)

// forwardPriority comes before that of other programs' DNAT, and after the
// guard.
var forwardPriority = nftables.ChainPriorityRef(*nftables.ChainPriorityNATDest - 5)

// family is one of the two that a door has a set for.
type family struct {
	suffix     string
	nfproto    byte
	saddr      uint32 // offset of the source address in the network header
	size       uint32 // of an address
	address    nftables.SetDatatype
	isIPv4     bool
	beforeType nftables.SetDatatype
}

var families = [2]family{
	{"4", unix.NFPROTO_IPV4, 12, 4, nftables.TypeIPAddr, true,
		nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService, nftables.TypeIPAddr, nftables.TypeInetService)},
	{"6", unix.NFPROTO_IPV6, 8, 16, nftables.TypeIP6Addr, false,
		nftables.MustConcatSetType(nftables.TypeIP6Addr, nftables.TypeInetService, nftables.TypeIP6Addr, nftables.TypeInetService)},
}

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return families[0]
	}
	return families[1]
}

// bits returns how many bits of a client's address a grant at a door covers.
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

// grantSetName names the set of a door's grants. Addresses masked to another
// length mean something else, so they are in a set of another name.
func (f family) grantSetName(door firewall.Door) string {
	if bits := f.bits(door); bits < int(f.size)*8 {
		return fmt.Sprintf("%s%s.%d", door.Name, f.suffix, bits)
	}
	return door.Name + f.suffix
}

// grantSet is the set of a door's grants in one family.
func (b *Backend) grantSet(door firewall.Door, f family) *nftables.Set {
	return &nftables.Set{
		Table: b.table, Name: f.grantSetName(door), KeyType: f.address, KeyByteOrder: binaryutil.BigEndian,
		HasTimeout: true, Timeout: setTimeout, Counter: true, Size: setSize,
	}
}

// connectionSet is the set that counts the new connections of each grant.
func (b *Backend) connectionSet(door firewall.Door, f family) *nftables.Set {
	return &nftables.Set{
		Table: b.table, Name: f.grantSetName(door) + ".connections", KeyType: f.address, KeyByteOrder: binaryutil.BigEndian,
		HasTimeout: true, Timeout: setTimeout, Dynamic: true, Size: setSize,
	}
}

// beforeSet is the set of the TCP sessions that were up before the guard:
// client, its port, our address, our port.
func (b *Backend) beforeSet(f family) *nftables.Set {
	return &nftables.Set{
		Table: b.table, Name: reservedDoor + f.suffix, KeyType: f.beforeType, KeyByteOrder: binaryutil.BigEndian,
		HasTimeout: true, Timeout: setTimeout, Size: setSize,
	}
}

// allowSet is the set of networks that need no grant.
func (b *Backend) allowSet(f family) *nftables.Set {
	return &nftables.Set{Table: b.table, Name: "allow." + f.suffix, KeyType: f.address, KeyByteOrder: binaryutil.BigEndian, Interval: true}
}

// exemptSet is the set of networks that are never kept from a listener.
func (b *Backend) exemptSet(f family) *nftables.Set {
	return &nftables.Set{Table: b.table, Name: "exempt." + f.suffix, KeyType: f.address, KeyByteOrder: binaryutil.BigEndian, Interval: true}
}

// banSet is the set of clients that are kept from the listeners.
func (b *Backend) banSet(f family) *nftables.Set {
	return &nftables.Set{
		Table: b.table, Name: "banned." + f.suffix, KeyType: f.address, KeyByteOrder: binaryutil.BigEndian,
		HasTimeout: true, Timeout: setTimeout, Size: setSize,
	}
}

// rateSet is the set that counts the new connections of each client to
// listeners. It forgets whoever stays away for a minute.
func (b *Backend) rateSet(f family) *nftables.Set {
	return &nftables.Set{
		Table: b.table, Name: "rate." + f.suffix, KeyType: f.address, KeyByteOrder: binaryutil.BigEndian,
		HasTimeout: true, Timeout: time.Minute, Dynamic: true, Size: setSize,
	}
}

// shielded reports whether listeners are shielded.
func shielded(g firewall.Guard) bool {
	return g.Mode == firewall.Guarded && len(g.BanPorts)+len(g.RatePorts) > 0
}

// allowedNetworks returns networks of a family, without overlaps.
func allowedNetworks(networks []netip.Prefix, f family) (*netipx.IPSet, error) {
	var set netipx.IPSetBuilder
	for _, p := range networks {
		if p.Addr().Is4() == f.isIPv4 {
			set.AddPrefix(p)
		}
	}
	return set.IPSet()
}

// intervals returns networks of a family as elements of a set of intervals.
func intervals(networks []netip.Prefix, f family) ([]nftables.SetElement, error) {
	set, err := allowedNetworks(networks, f)
	if err != nil {
		return nil, err
	}
	var elements []nftables.SetElement
	for _, r := range set.Ranges() {
		elements = append(elements, nftables.SetElement{Key: r.From().AsSlice()})
		if end := r.To().Next(); end.IsValid() {
			elements = append(elements, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return elements, nil
}

func (b *Backend) chain(name string) *nftables.Chain {
	c := &nftables.Chain{Table: b.table, Name: name}
	policy := nftables.ChainPolicyAccept
	switch name {
	case guardChain:
		c.Type, c.Hooknum, c.Priority, c.Policy = nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityMangle, &policy
	case forwardChain:
		c.Type, c.Hooknum, c.Priority, c.Policy = nftables.ChainTypeNAT, nftables.ChainHookPrerouting, forwardPriority, &policy
	}
	return c
}

// A fill is a set, and all that is to be in it.
type fill struct {
	set      *nftables.Set
	elements []nftables.SetElement
}

// A written chain is what the guard wants in it.
type written struct {
	name  string
	rules [][]expr.Any
}

// A ruleset is all that a guard is, grants apart.
type ruleset struct {
	sets     []*nftables.Set // named ones
	ports    *nftables.Set   // the map of the guard chain
	verdicts []nftables.SetElement
	fills    []fill    // of sets of networks
	guard    int       // how many rules the guard chain has
	chains   []written // all other chains
}

// ruleset returns what keeps g.
func (b *Backend) ruleset(g firewall.Guard) (*ruleset, error) {
	r := new(ruleset)
	networks := func(set *nftables.Set, f family, networks []netip.Prefix) error {
		elements, err := intervals(networks, f)
		if err != nil {
			return fmt.Errorf("set %s: %w", set.Name, err)
		}
		r.sets = append(r.sets, set)
		r.fills = append(r.fills, fill{set, elements})
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
	r.ports, r.verdicts = b.portMap(g)
	r.guard = len(guardRules(g, r.ports))
	if shielded(g) {
		ban, rate := b.shieldRules(g)
		r.chains = append(r.chains, written{banChain, ban}, written{rateChain, rate})
	}
	for _, door := range g.Doors {
		r.chains = append(r.chains, written{chainPrefix + door.Name, b.doorRules(g, door)})
	}
	if rules := forwardRules(g); len(rules) > 0 {
		r.chains = append(r.chains, written{forwardChain, rules})
	}
	return r, nil
}

// names returns the names of the sets, and how many rules each chain has.
func (r *ruleset) names() (sets []string, rules map[string]int) {
	rules = map[string]int{guardChain: r.guard}
	for _, s := range r.sets {
		sets = append(sets, s.Name)
	}
	slices.Sort(sets)
	for _, c := range r.chains {
		rules[c.name] = len(c.rules)
	}
	return sets, rules
}

// portMap tells the chain of each guarded port, as one lookup however many
// ports there are.
func (b *Backend) portMap(g firewall.Guard) (*nftables.Set, []nftables.SetElement) {
	set := &nftables.Set{
		Table: b.table, Anonymous: true, Constant: true, IsMap: true, Interval: true, Concatenation: true,
		KeyType: nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService), DataType: nftables.TypeVerdict,
	}
	var elements []nftables.SetElement
	for _, door := range g.Doors {
		for _, p := range door.Ports {
			// Each part of a concatenated key fills a word.
			key := func(n uint16) []byte { return append([]byte{byte(p.Protocol), 0, 0, 0}, append(port(n), 0, 0)...) }
			elements = append(elements, nftables.SetElement{
				Key: key(p.First), KeyEnd: key(p.Last),
				VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: chainPrefix + door.Name},
			})
		}
	}
	return set, elements
}

// guardRules send packets to listeners through the shield, and packets to
// guarded ports into the chains of their doors.
func guardRules(g firewall.Guard, ports *nftables.Set) [][]expr.Any {
	rules := [][]expr.Any{
		{ // what this host sends itself
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: append([]byte("lo"), make([]byte, unix.IFNAMSIZ-2)...)},
			accept,
		},
		{ // transit; packets to this host, broadcast and multicast go on
			&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_UNICAST)},
			accept,
		},
	}
	if shielded(g) {
		for _, jump := range []struct {
			ports []uint16
			chain string
		}{{g.BanPorts, banChain}, {g.RatePorts, rateChain}} {
			for _, p := range jump.ports {
				rules = append(rules, slices.Concat(tcp(), []expr.Any{
					transport(2, 1),
					&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: port(p)},
					&expr.Verdict{Kind: expr.VerdictJump, Chain: jump.chain},
				}))
			}
		}
	}
	return append(rules, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: unix.NFT_REG32_00},
		transport(2, unix.NFT_REG32_01),
		&expr.Lookup{SourceRegister: unix.NFT_REG32_00, SetID: ports.ID, SetName: ports.Name, IsDestRegSet: true},
	})
}

// shieldRules drop what comes from banned clients, and new connections that
// come too fast.
func (b *Backend) shieldRules(g firewall.Guard) (ban, rate [][]expr.Any) {
	for _, f := range families {
		exempt := slices.Concat(f.is(), []expr.Any{network(f.saddr, f.size, 1), &expr.Lookup{SourceRegister: 1, SetName: b.exemptSet(f).Name},
			&expr.Verdict{Kind: expr.VerdictReturn}})
		offender := slices.Concat(f.is(), f.masked(f.offenderBits()))
		ban = append(ban, exempt, slices.Concat(offender, []expr.Any{&expr.Lookup{SourceRegister: 1, SetName: b.banSet(f).Name}, drop}))
		if g.Rate > 0 {
			over := &expr.Limit{Type: expr.LimitTypePkts, Rate: uint64(g.Rate), Unit: expr.LimitTime(g.Per / time.Second), Burst: uint32(g.Burst), Over: true}
			rate = append(rate, exempt, slices.Concat(state(expr.CtStateBitNEW), offender, []expr.Any{
				&expr.Dynset{SrcRegKey: 1, SetName: b.rateSet(f).Name, Operation: unix.NFT_DYNSET_OP_UPDATE, Exprs: []expr.Any{over}}, drop}))
		}
	}
	return ban, rate
}

// offenderBits is how many bits of an address the shield goes by.
func (f family) offenderBits() int {
	if f.isIPv4 {
		return 32
	}
	return 64
}

// forwardRules send the granted packets of doors to other hosts, by the mark
// that they carry: a rule for each range of ports, since nft cannot load what
// it lists of a rule for several protocols.
func forwardRules(g firewall.Guard) (rules [][]expr.Any) {
	for _, door := range g.Doors {
		to := door.Forward
		if !to.IsValid() {
			continue
		}
		for _, p := range door.Ports {
			rules = append(rules, slices.Concat(
				familyOf(to.Addr()).is(),
				[]expr.Any{
					&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
					&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(g.Mark), Xor: make([]byte, 4)},
					&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(g.Mark)},
					&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
					&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
					&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
					&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(p.Protocol)}},
					transport(2, 1),
					&expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: port(p.First)},
					&expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: port(p.Last)},
					&expr.Immediate{Register: 1, Data: to.Addr().AsSlice()},
					&expr.Immediate{Register: 2, Data: port(to.Port())},
					&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(familyOf(to.Addr()).nfproto), RegAddrMin: 1, RegProtoMin: 2, Specified: true},
				},
			))
		}
	}
	return rules
}

// doorRules let the clients with a grant and running sessions through, and
// nobody else. In the mode that guards nothing they only mark the packets of
// clients with a grant.
func (b *Backend) doorRules(g firewall.Guard, door firewall.Door) (rules [][]expr.Any) {
	add := func(parts ...[]expr.Any) { rules = append(rules, slices.Concat(parts...)) }
	pass := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(^g.Mark), Xor: binaryutil.NativeEndian.PutUint32(g.Mark)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
		accept,
	}
	for _, f := range families {
		if door.Forward.IsValid() && door.Forward.Addr().Is4() != f.isIPv4 {
			continue // nowhere to send them
		}
		if len(g.Allow) > 0 {
			add(f.is(), []expr.Any{network(f.saddr, f.size, 1), &expr.Lookup{SourceRegister: 1, SetName: b.allowSet(f).Name}}, pass)
		}
		granted := slices.Concat(f.is(), f.client(door), []expr.Any{&expr.Lookup{SourceRegister: 1, SetName: f.grantSetName(door)}})
		if door.Connections > 0 {
			over := &expr.Limit{Type: expr.LimitTypePkts, Rate: 1, Unit: expr.LimitTimeWeek, Burst: uint32(door.Connections), Over: true}
			verdict := drop
			if g.Mode == firewall.Sets {
				verdict = &expr.Verdict{Kind: expr.VerdictReturn}
			}
			add(granted, state(expr.CtStateBitNEW), f.client(door), []expr.Any{
				&expr.Dynset{SrcRegKey: 1, SetName: b.connectionSet(door, f).Name, Operation: unix.NFT_DYNSET_OP_UPDATE, Exprs: []expr.Any{over}},
				verdict,
			})
		}
		add(granted, pass)
	}
	if g.Mode == firewall.Sets {
		return rules
	}
	running := state(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
	if door.Established == firewall.Keep {
		add(running, []expr.Any{accept})
	} else { // only what this host began itself
		add(running, []expr.Any{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{1}}, accept})
	}
	for _, f := range families {
		// A concatenated key fills 32-bit registers one after the other.
		const first = unix.NFT_REG32_00
		words := f.size / 4
		add(f.is(), tcp(), []expr.Any{
			network(f.saddr, f.size, first),
			transport(0, first+words),
			network(f.saddr+f.size, f.size, first+words+1),
			transport(2, first+2*words+1),
			&expr.Lookup{SourceRegister: first, SetName: reservedDoor + f.suffix},
			accept,
		})
	}
	if door.Established == firewall.Cut {
		add(tcp(), state(expr.CtStateBitESTABLISHED), []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
	}
	add([]expr.Any{&expr.Counter{}, drop})
	return rules
}

var (
	accept = &expr.Verdict{Kind: expr.VerdictAccept}
	drop   = &expr.Verdict{Kind: expr.VerdictDrop}
)

func (f family) is() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{f.nfproto}},
	}
}

// client loads what a grant at a door goes by: the source address, masked.
func (f family) client(door firewall.Door) []expr.Any { return f.masked(f.bits(door)) }

// masked loads the first bits of the source address.
func (f family) masked(bits int) []expr.Any {
	load := []expr.Any{network(f.saddr, f.size, 1)}
	if bits < int(f.size)*8 {
		load = append(load, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: f.size, Mask: f.mask(bits), Xor: make([]byte, f.size)})
	}
	return load
}

// mask returns an address whose first bits are set.
func (f family) mask(bits int) []byte {
	mask := make([]byte, f.size)
	for i := range bits {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return mask
}

// state matches packets of which conntrack says one of the given things.
func state(bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

func tcp() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
	}
}

func network(offset, size, register uint32) expr.Any {
	return &expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size, DestRegister: register}
}

// transport loads a port: at offset 0 the source's, at 2 the destination's.
func transport(offset, register uint32) expr.Any {
	return &expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2, DestRegister: register}
}

func port(p uint16) []byte { return binary.BigEndian.AppendUint16(nil, p) }

// GrantSets returns the names of the sets that hold a door's grants.
func GrantSets(door firewall.Door) (names []string) {
	for _, f := range families {
		names = append(names, f.grantSetName(door))
	}
	return names
}

// SessionSets returns the names of the sets that hold sessions from before the
// guard.
func SessionSets() (names []string) {
	for _, f := range families {
		names = append(names, reservedDoor+f.suffix)
	}
	return names
}
