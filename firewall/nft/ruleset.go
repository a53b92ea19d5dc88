package nft

import (
	"encoding/binary"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"webknock/firewall"
)

const (
	guardChain  = "guard"
	chainPrefix = "door_"
	setSize     = 65536
	// setTimeout is what an element without a timeout of its own would get;
	// without it, such an element would stay for ever.
	setTimeout = 24 * 60 * 60 * 1e9
	// reservedDoor would give its sets the names of the sets of sessions that
	// were there before the guard.
	reservedDoor = "before"
)

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

// grantSet is the set of a door's grants in one family.
func (b *Backend) grantSet(door string, f family) *nftables.Set {
	return &nftables.Set{
		Table: b.table, Name: door + f.suffix, KeyType: f.address, KeyByteOrder: binaryutil.BigEndian,
		HasTimeout: true, Timeout: setTimeout, Counter: true, Size: setSize,
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

func (b *Backend) chain(name string) *nftables.Chain {
	c := &nftables.Chain{Table: b.table, Name: name}
	if name == guardChain {
		policy := nftables.ChainPolicyAccept
		c.Type, c.Hooknum, c.Priority, c.Policy = nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityMangle, &policy
	}
	return c
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

// guardRules send packets to guarded ports into the chains of their doors.
func guardRules(ports *nftables.Set) [][]expr.Any {
	return [][]expr.Any{
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
		{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: unix.NFT_REG32_00},
			transport(2, unix.NFT_REG32_01),
			&expr.Lookup{SourceRegister: unix.NFT_REG32_00, SetID: ports.ID, SetName: ports.Name, IsDestRegSet: true},
		},
	}
}

// doorRules let the clients with a grant and running sessions through, and
// nobody else.
func (b *Backend) doorRules(door firewall.Door, mark uint32) [][]expr.Any {
	var rules [][]expr.Any
	for _, f := range families {
		rules = append(rules, join(f.is(), []expr.Any{
			network(f.saddr, f.size, 1),
			&expr.Lookup{SourceRegister: 1, SetName: door.Name + f.suffix},
			&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4,
				Mask: binaryutil.NativeEndian.PutUint32(^mark), Xor: binaryutil.NativeEndian.PutUint32(mark)},
			&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
			accept,
		}))
	}
	rules = append(rules, []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
		accept,
	})
	for _, f := range families {
		// A concatenated key fills 32-bit registers one after the other.
		const first = unix.NFT_REG32_00
		words := f.size / 4
		rules = append(rules, join(f.is(), []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
			network(f.saddr, f.size, first),
			transport(0, first+words),
			network(f.saddr+f.size, f.size, first+words+1),
			transport(2, first+2*words+1),
			&expr.Lookup{SourceRegister: first, SetName: reservedDoor + f.suffix},
			accept,
		}))
	}
	return append(rules, []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}})
}

var accept = &expr.Verdict{Kind: expr.VerdictAccept}

func (f family) is() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{f.nfproto}},
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

func join(a, b []expr.Any) []expr.Any { return append(a[:len(a):len(a)], b...) }
