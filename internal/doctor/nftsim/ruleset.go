// Package nftsim follows one packet through a ruleset of nf_tables, as the
// kernel would, and says what becomes of it and which rule decides. Read takes
// the ruleset from the kernel over netlink; Ruleset.Follow is where to start.
//
// What it emulates: the first packet of a connection (a SYN, or a datagram), or
// one of a connection that Packet.Conn describes, from an interface through the
// hooks prerouting, then, by a routing decision, input or forward. At each hook
// base chains run by priority, and of one priority the one registered last runs
// first; connection tracking begins at priority -200; all chains of type nat
// run together at priority -100. It knows the tables of the families inet, ip
// and ip6, jump, goto, return, sets and maps (of intervals, concatenations,
// verdicts), marks of packets and connections, labels, DNAT and redirects, and
// the matches and targets of iptables-nft.
//
// It is three-valued: a condition holds, does not hold, or cannot be told,
// because it depends on what the ruleset and the Host do not say (a source port,
// a time of day, a random number, an ipset, a socket). Then both ways are
// followed, and where they end differently the verdict is Unknown, and names the
// rule. A bit of a header may be unknown while its neighbour is known.
//
// What it takes for granted: a packet has no IPv6 extension headers and no IPv4
// options, it is no fragment and came by no tunnel; it is within every limit
// that a rule sets (limit, hashlimit, ct count), and a quota stands where the
// kernel has it now; nobody else's packet changes a set on the way.
//
// What it does not look at: postrouting and output; the tables of the families
// netdev, bridge and arp, and ingress hooks (Ruleset.NotFollowed lists them);
// BPF and XDP programs, traffic control, the tables of iptables-legacy; what
// conntrack helpers, IPsec and fragments do. Of chains of one priority in two
// tables the kernel does not tell which it registered first: they are followed in
// both orders, and where they end differently the verdict is Unknown.
package nftsim

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"sync"
)

// Family is that of a table, as the kernel numbers it.
type Family uint8

// The families that packets of IPv4 and IPv6 pass.
const (
	INet Family = 1
	IPv4 Family = 2
	IPv6 Family = 10
)

func (f Family) String() string {
	names := map[Family]string{INet: "inet", IPv4: "ip", IPv6: "ip6", 3: "arp", 5: "netdev", 7: "bridge"}
	if name, ok := names[f]; ok {
		return name
	}
	return fmt.Sprintf("family %d", uint8(f))
}

// TableID names a table.
type TableID struct {
	Family Family
	Name   string
}

func (t TableID) String() string { return t.Family.String() + " " + t.Name }

// SetID names a set or map.
type SetID struct {
	Table TableID
	Name  string
}

// A Hook is a place on a packet's way where base chains run.
type Hook uint32

// The hooks that are followed.
const (
	Prerouting Hook = 0
	Input      Hook = 1
	Forward    Hook = 2
)

// A Ruleset is all that nf_tables would do with packets.
type Ruleset struct {
	Tables      []TableID // in the order they were made
	Chains      []*Chain  // likewise within a table
	Sets        map[SetID]*Set
	Objects     map[SetID]Object // by SetID and type, see objectKey
	Flowtables  []SetID
	NotFollowed []string // base chains, with rules, of other families and hooks

	chains map[chainID]*Chain

	ordersOnce sync.Once
	ordersMade []order
}

type chainID struct {
	table TableID
	name  string
}

// A Chain holds rules. The kernel calls a chain with a Base; rules jump to the others.
type Chain struct {
	Table TableID
	Name  string
	Base  *Base // nil: only reached by a jump
	Rules []Rule

	made int // position among all chains
}

func (c *Chain) String() string { return "chain " + c.Table.String() + " " + c.Name }

// A Base says where the kernel calls a chain.
type Base struct {
	Hook     Hook
	Priority int
	Type     string // filter, nat, route
	Drop     bool   // by its policy
}

// A Rule is a list of expressions.
type Rule struct {
	Handle uint64
	exprs  []expression
}

// An expression is one of a rule, with its attributes as netlink has them.
type expression struct {
	name string
	attr attributes
}

// A Set is a set or a map.
type Set struct {
	Name     string
	elements []element
	fields   []int // lengths of the parts of a concatenation in bytes, padded; empty: one part
	keyLen   int
	keyType  uint32
	isMap    bool
	dataType uint32
}

// An element is a range of keys, and what a map gives for it.
type element struct {
	from, to []byte // equal: a single key
	any      bool   // the catch-all element
	data     []byte
	verdict  *verdict
	object   string
	exprs    []expression // carried out whenever the element is found
}

// An Object is a named counter, quota or limit.
type Object struct {
	kind uint32
	attr attributes
}

// A verdict is one of a rule: accept, drop, jump to a chain.
type verdict struct {
	code  int32
	chain string
}

// Codes of verdicts.
const (
	codeDrop     = 0
	codeAccept   = 1
	codeContinue = -1
	codeBreak    = -2
	codeJump     = -3
	codeGoto     = -4
	codeReturn   = -5
)

// A Place is a rule, or the policy of a base chain (Index -1).
type Place struct {
	Ruleset *Ruleset
	Chain   *Chain
	Index   int
}

// String says where the place is and what stands there, like
// `rule 3 of chain inet filter input (tcp dport 22 drop)`.
func (p *Place) String() string {
	if p.Index < 0 {
		return fmt.Sprintf("the policy of %s (drop)", p.Chain)
	}
	return fmt.Sprintf("rule %d of %s (%s)", p.Index+1, p.Chain, p.Ruleset.Text(p.Chain, p.Index))
}

// Chain returns a chain, or nil.
func (r *Ruleset) Chain(table TableID, name string) *Chain { return r.chains[chainID{table, name}] }

// HasTable reports whether there is such a table.
func (r *Ruleset) HasTable(table TableID) bool { return slices.Contains(r.Tables, table) }

// step is a base chain, or what the kernel itself does at a hook.
type step struct {
	chain *Chain
	nat   []*Chain
	track bool
}

const (
	priorityTrack = -200
	priorityNAT   = -100 // of DNAT
)

// An order is one of the possible orders of chains with the same priority at the same hook.
// Within a table the latest chain comes first. The order between tables, and between a chain
// and the kernel's own conntrack or NAT, depends on which was registered first, which the
// ruleset does not show.
type order struct {
	reversed    bool // the chains of the table made first come first
	kernelFirst bool
}

// orders returns the orders that differ for this ruleset.
func (r *Ruleset) orders() []order {
	r.ordersOnce.Do(func() {
		var seen [][]step
		for _, o := range []order{{}, {true, false}, {false, true}, {true, true}} {
			var all []step
			for _, hook := range []Hook{Prerouting, Input, Forward} {
				for _, family := range []Family{IPv4, IPv6} {
					all = append(all, r.at(hook, family, o)...)
				}
			}
			same := func(other []step) bool {
				return slices.EqualFunc(all, other, func(a, b step) bool {
					return a.chain == b.chain && a.track == b.track && slices.Equal(a.nat, b.nat)
				})
			}
			if !slices.ContainsFunc(seen, same) {
				seen = append(seen, all)
				r.ordersMade = append(r.ordersMade, o)
			}
		}
	})
	return r.ordersMade
}

// at returns what happens at a hook to packets of a family, in order.
func (r *Ruleset) at(hook Hook, family Family, o order) []step {
	type placed struct {
		step
		priority, made, table int // table: that the chain is in; 0: the kernel itself
	}
	var all []placed
	var nat []*Chain
	for _, c := range r.Chains {
		if c.Base == nil || c.Base.Hook != hook || c.Table.Family != family && c.Table.Family != INet {
			continue
		}
		if c.Base.Type == "nat" {
			nat = append(nat, c)
			continue
		}
		all = append(all, placed{step{chain: c}, c.Base.Priority, c.made, 1 + slices.Index(r.Tables, c.Table)})
	}
	if hook == Prerouting {
		all = append(all, placed{step{track: true}, priorityTrack, 0, 0})
	}
	byPriority := func(priority1, priority2, table1, table2, made1, made2 int) int {
		switch {
		case priority1 != priority2:
			return cmp.Compare(priority1, priority2)
		case table1 == table2:
			return made2 - made1 // the last made comes first
		case table1 == 0 || table2 == 0:
			if o.kernelFirst {
				return table1 - table2
			}
			return table2 - table1
		case o.reversed:
			return table1 - table2
		}
		return table2 - table1
	}
	if len(nat) > 0 {
		priority := priorityNAT
		if hook != Prerouting {
			priority = 100
		}
		all = append(all, placed{step{nat: nat}, priority, 0, 0})
		slices.SortStableFunc(nat, func(a, b *Chain) int {
			return byPriority(a.Base.Priority, b.Base.Priority, 1+slices.Index(r.Tables, a.Table), 1+slices.Index(r.Tables, b.Table), a.made, b.made)
		})
	}
	slices.SortStableFunc(all, func(a, b placed) int {
		return byPriority(a.priority, b.priority, a.table, b.table, a.made, b.made)
	})
	steps := make([]step, len(all))
	for i, p := range all {
		steps[i] = p.step
	}
	return steps
}

// An Interface is where a packet comes in.
type Interface struct {
	Name      string
	Index     int
	Group     uint32
	Type      uint16 // ARPHRD
	Addresses []netip.Addr
}

// A Host says what routing knows.
type Host struct {
	// Local are the addresses of routes of type local in the table "local",
	// Elsewhere those in other tables. Packets to both are delivered to this host.
	Local, Elsewhere []netip.Prefix
	Broadcast        []netip.Addr
	// Route returns the interface by which packets to an address leave; false:
	// there is no route. Nil: not known, as where rules of policy routing ask for
	// more than the destination.
	Route func(netip.Addr) (index int, ok bool)
	// Interfaces are those that Route names.
	Interfaces []Interface
}

func contains(prefixes []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// delivers reports whether packets to an address are for this host itself.
func (h *Host) delivers(a netip.Addr) bool {
	return a.IsMulticast() || slices.Contains(h.Broadcast, a) || contains(h.Local, a) || contains(h.Elsewhere, a)
}
