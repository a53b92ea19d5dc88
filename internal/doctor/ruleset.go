package doctor

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A ruleset is all that nf_tables would do with packets of the families inet,
// ip and ip6.
type ruleset struct {
	chains map[chainID]*chain
	sets   map[setID]*set
}

type tableID struct {
	family nftables.TableFamily
	name   string
}

type chainID struct {
	tableID
	name string
}

type setID struct {
	tableID
	name string
}

type chain struct {
	chainID
	base  *nftables.Chain // nil: not hooked anywhere
	rules []rule
}

type rule struct {
	handle uint64
	exprs  []expr.Any
}

type set struct {
	*nftables.Set
	elements []nftables.SetElement
}

// opaque is an expression that the library cannot read.
type opaque struct {
	expr.Any
	name string
}

func (t tableID) String() string {
	family := map[nftables.TableFamily]string{nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6"}[t.family]
	return family + " " + t.name
}

func (c chainID) String() string { return "chain " + c.tableID.String() + " " + c.name }

func (r rule) in(c *chain) string { return fmt.Sprintf("rule %d of %s", r.handle, c.chainID) }

// readRuleset reads the kernel's whole ruleset.
func readRuleset() (*ruleset, error) {
	r := &ruleset{chains: map[chainID]*chain{}, sets: map[setID]*set{}}
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	chains, err := conn.ListChains()
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	tables := map[tableID]bool{}
	for _, c := range chains {
		id := tableID{c.Table.Family, c.Table.Name}
		if !ours(id.family) {
			continue
		}
		tables[id] = true
		read := &chain{chainID: chainID{id, c.Name}}
		if c.Hooknum != nil && c.Priority != nil {
			read.base = c
		}
		r.chains[read.chainID] = read
	}
	for id := range tables {
		t := &nftables.Table{Family: id.family, Name: id.name}
		sets, err := conn.GetSets(t)
		if err != nil {
			return nil, fmt.Errorf("list sets of table %s: %w", id, err)
		}
		for _, s := range sets {
			elements, err := conn.GetSetElements(s)
			if err != nil {
				return nil, fmt.Errorf("list set %s of table %s: %w", s.Name, id, err)
			}
			r.sets[setID{id, s.Name}] = &set{s, elements}
		}
	}
	return r, r.readRules()
}

func ours(f nftables.TableFamily) bool {
	return f == nftables.TableFamilyINet || f == nftables.TableFamilyIPv4 || f == nftables.TableFamilyIPv6
}

// readRules reads all rules, in their order. The library would leave out the
// expressions that it does not know.
func (r *ruleset) readRules() error {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	messages, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETRULE, Flags: netlink.Request | netlink.Dump},
		Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0},
	})
	if err != nil {
		return fmt.Errorf("list rules: %w", err)
	}
	for _, m := range messages {
		if len(m.Data) < 4 {
			continue
		}
		id := chainID{tableID: tableID{family: nftables.TableFamily(m.Data[0])}}
		ad, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return err
		}
		ad.ByteOrder = binary.BigEndian
		var read rule
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_RULE_TABLE:
				id.tableID.name = ad.String()
			case unix.NFTA_RULE_CHAIN:
				id.name = ad.String()
			case unix.NFTA_RULE_HANDLE:
				read.handle = ad.Uint64()
			case unix.NFTA_RULE_EXPRESSIONS:
				ad.Nested(func(list *netlink.AttributeDecoder) error {
					for list.Next() {
						list.Nested(func(e *netlink.AttributeDecoder) error {
							read.exprs = append(read.exprs, parse(byte(id.family), e))
							return nil
						})
					}
					return nil
				})
			}
		}
		if err := ad.Err(); err != nil {
			return err
		}
		if c := r.chains[id]; c != nil {
			c.rules = append(c.rules, read)
		}
	}
	return nil
}

// parse reads one expression.
func parse(family byte, ad *netlink.AttributeDecoder) expr.Any {
	var name string
	var data []byte
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_EXPR_NAME:
			name = ad.String()
		case unix.NFTA_EXPR_DATA:
			data = ad.Bytes()
		}
	}
	var e expr.Any
	switch name {
	case "notrack":
		return &expr.Notrack{}
	case "masq":
		return &expr.Masq{}
	case "bitwise":
		e = &expr.Bitwise{}
	case "byteorder":
		return parseByteorder(data)
	case "cmp":
		e = &expr.Cmp{}
	case "connlimit":
		e = &expr.Connlimit{}
	case "counter":
		e = &expr.Counter{}
	case "ct":
		e = &expr.Ct{}
	case "dynset":
		e = &expr.Dynset{}
	case "fib":
		e = &expr.Fib{}
	case "immediate":
		imm := &expr.Immediate{}
		if expr.Unmarshal(family, data, imm) == nil && len(imm.Data) > 0 {
			return imm
		}
		e = &expr.Verdict{}
	case "limit":
		e = &expr.Limit{}
	case "log":
		e = &expr.Log{}
	case "lookup":
		e = &expr.Lookup{}
	case "match":
		e = &expr.Match{}
	case "meta":
		e = &expr.Meta{}
	case "nat":
		e = &expr.NAT{}
	case "objref":
		e = &expr.Objref{}
	case "payload":
		e = &expr.Payload{}
	case "quota":
		e = &expr.Quota{}
	case "range":
		e = &expr.Range{}
	case "redir":
		e = &expr.Redir{}
	case "reject":
		e = &expr.Reject{}
	case "target":
		e = &expr.Target{}
	}
	if e == nil || expr.Unmarshal(family, data, e) != nil {
		return opaque{name: name}
	}
	return e
}

// parseByteorder reads what the library does not.
func parseByteorder(data []byte) expr.Any {
	ad, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return opaque{name: "byteorder"}
	}
	ad.ByteOrder = binary.BigEndian
	e := new(expr.Byteorder)
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_BYTEORDER_SREG:
			e.SourceRegister = ad.Uint32()
		case unix.NFTA_BYTEORDER_DREG:
			e.DestRegister = ad.Uint32()
		case unix.NFTA_BYTEORDER_LEN:
			e.Len = ad.Uint32()
		case unix.NFTA_BYTEORDER_SIZE:
			e.Size = ad.Uint32()
		}
	}
	if ad.Err() != nil {
		return opaque{name: "byteorder"}
	}
	return e
}

// parseVerdict reads the value of an element of a map of verdicts.
func parseVerdict(data []byte) *expr.Verdict {
	ad, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return nil
	}
	ad.ByteOrder = binary.BigEndian
	v := new(expr.Verdict)
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_VERDICT_CODE:
			v.Kind = expr.VerdictKind(int32(ad.Uint32()))
		case unix.NFTA_VERDICT_CHAIN:
			v.Chain = ad.String()
		}
	}
	if ad.Err() != nil {
		return nil
	}
	return v
}

// at returns the base chains at a hook that see packets of a family, in the
// order of their priorities.
func (r *ruleset) at(hook nftables.ChainHook, family nftables.TableFamily) (chains []*chain) {
	for _, c := range r.chains {
		if c.base != nil && *c.base.Hooknum == hook && (c.family == family || c.family == nftables.TableFamilyINet) {
			chains = append(chains, c)
		}
	}
	slices.SortStableFunc(chains, func(a, b *chain) int {
		if d := int(*a.base.Priority) - int(*b.base.Priority); d != 0 {
			return d
		}
		return strings.Compare(a.chainID.String(), b.chainID.String())
	})
	return chains
}
