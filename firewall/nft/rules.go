package nft

import (
	"encoding/binary"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A readRule is a rule as read from the kernel, without counters.
type readRule struct {
	handle uint64
	exprs  []expr.Any
}

// readRules returns the rules of our table by chain, in their order. The library cannot
// decode a ct expression with a direction. The caller is within do.
func (b *Backend) readRules() (map[string][]readRule, error) {
	answers, err := b.sock.Execute(b.message(unix.NFT_MSG_GETRULE, netlink.Request|netlink.Dump,
		netlink.Attribute{Type: unix.NFTA_RULE_TABLE, Data: append([]byte(b.table.Name), 0)}))
	if err != nil {
		return nil, err
	}
	rules := map[string][]readRule{}
	for _, m := range answers {
		if len(m.Data) < 4 {
			continue
		}
		ad, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return nil, err
		}
		ad.ByteOrder = binary.BigEndian
		var table, chain string
		var r readRule
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_RULE_TABLE:
				table = ad.String()
			case unix.NFTA_RULE_CHAIN:
				chain = ad.String()
			case unix.NFTA_RULE_HANDLE:
				r.handle = ad.Uint64()
			case unix.NFTA_RULE_EXPRESSIONS:
				ad.Nested(func(list *netlink.AttributeDecoder) error {
					for list.Next() {
						list.Nested(func(e *netlink.AttributeDecoder) error {
							r.exprs = append(r.exprs, readExpr(byte(b.table.Family), e))
							return nil
						})
					}
					return nil
				})
			}
		}
		if err := ad.Err(); err != nil {
			return nil, err
		}
		if table == b.table.Name {
			rules[chain] = append(rules[chain], r)
		}
	}
	return rules, nil
}

// unknownExpr is an expression that no rule of ours has.
type unknownExpr struct {
	expr.Any
	name, data string
}

func readExpr(family byte, ad *netlink.AttributeDecoder) expr.Any {
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
	case "bitwise":
		e = &expr.Bitwise{}
	case "cmp":
		e = &expr.Cmp{}
	case "counter":
		return &expr.Counter{}
	case "ct":
		if ct, err := readCt(data); err == nil {
			return ct
		}
	case "dynset":
		e = &expr.Dynset{}
	case "fib":
		e = &expr.Fib{}
	case "immediate":
		if imm := new(expr.Immediate); expr.Unmarshal(family, data, imm) == nil && len(imm.Data) > 0 {
			return imm
		}
		e = &expr.Verdict{}
	case "lookup":
		e = &expr.Lookup{}
	case "meta":
		e = &expr.Meta{}
	case "nat":
		e = &expr.NAT{}
	case "payload":
		e = &expr.Payload{}
	case "reject":
		e = &expr.Reject{}
	}
	if e == nil || expr.Unmarshal(family, data, e) != nil {
		return unknownExpr{name: name, data: string(data)}
	}
	return e
}

// readCt decodes a ct expression. The library fails if it has a direction, and ignores the
// source register of one that sets a value.
func readCt(data []byte) (*expr.Ct, error) {
	ad, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return nil, err
	}
	ad.ByteOrder = binary.BigEndian
	e := new(expr.Ct)
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_CT_KEY:
			e.Key = expr.CtKey(ad.Uint32())
		case unix.NFTA_CT_DREG:
			e.Register = ad.Uint32()
		case unix.NFTA_CT_SREG:
			e.Register, e.SourceRegister = ad.Uint32(), true
		case unix.NFTA_CT_DIRECTION:
			e.Direction = uint32(ad.Uint8())
		}
	}
	return e, ad.Err()
}
