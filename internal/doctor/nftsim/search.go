package nftsim

import (
	"encoding/binary"
	"iter"

	"golang.org/x/sys/unix"
)

// Rules yields the rules of the chains that packets can get to from a hook.
func (r *Ruleset) Rules(hook Hook) iter.Seq[*Place] {
	return func(yield func(*Place) bool) {
		seen := map[*Chain]bool{}
		var visit func(c *Chain) bool
		visit = func(c *Chain) bool {
			if c == nil || seen[c] {
				return true
			}
			seen[c] = true
			for i, rule := range c.Rules {
				if !yield(&Place{r, c, i}) {
					return false
				}
				for _, to := range r.jumps(c, rule) {
					if !visit(r.Chain(c.Table, to)) {
						return false
					}
				}
			}
			return true
		}
		for _, c := range r.Chains {
			if c.Base != nil && c.Base.Hook == hook && followed(c.Table.Family) && !visit(c) {
				return
			}
		}
	}
}

// jumps returns the chains that a rule may send packets to.
func (r *Ruleset) jumps(c *Chain, rule Rule) (to []string) {
	for _, e := range rule.exprs {
		switch e.name {
		case "immediate":
			if _, v := e.attr.data(immediateData); v != nil && v.chain != "" {
				to = append(to, v.chain)
			}
		case "lookup":
			if set := r.Sets[SetID{c.Table, e.attr.text(unix.NFTA_LOOKUP_SET)}]; set != nil && set.isMap {
				for _, el := range set.elements {
					if el.verdict != nil && el.verdict.chain != "" {
						to = append(to, el.verdict.chain)
					}
				}
			}
		}
	}
	return to
}

// MatchesMark reports whether a rule asks whether packets carry a mark (all of
// its bits, or by itself), or do not.
func (p *Place) MatchesMark(mark uint32) bool {
	if mark == 0 {
		return false
	}
	masks := map[int]uint32{} // registers that hold the packet's mark, and what is left of it
	for _, e := range p.Chain.Rules[p.Index].exprs {
		a := e.attr
		switch e.name {
		case "meta":
			if at, ok := index(a.uint32(unix.NFTA_META_DREG)); ok && a.uint32(unix.NFTA_META_KEY) == unix.NFT_META_MARK {
				masks[at] = ^uint32(0)
			}
		case "bitwise":
			from, _ := index(a.uint32(unix.NFTA_BITWISE_SREG))
			to, _ := index(a.uint32(unix.NFTA_BITWISE_DREG))
			mask, _ := a.data(unix.NFTA_BITWISE_MASK)
			if left, ok := masks[from]; ok {
				delete(masks, from)
				if len(mask) == 4 {
					masks[to] = left & binary.NativeEndian.Uint32(mask)
				}
			}
		case "cmp":
			at, _ := index(a.uint32(unix.NFTA_CMP_SREG))
			mask, ok := masks[at]
			data, _ := a.data(unix.NFTA_CMP_DATA)
			if !ok || len(data) != 4 || mask&mark != mark {
				continue
			}
			value, op := binary.NativeEndian.Uint32(data), a.uint32(unix.NFTA_CMP_OP)
			if op == unix.NFT_CMP_EQ && value&mark == mark || op == unix.NFT_CMP_NEQ && value == 0 || mask == mark {
				return true
			}
		case "match":
			i := info(a[unix.NFTA_MATCH_INFO])
			if a.text(unix.NFTA_MATCH_NAME) == "mark" && i.uint32(4)&mark == mark && (i.uint32(0)&mark == mark || i.uint32(4) == mark) {
				return true
			}
		}
	}
	return false
}

// TProxy reports whether a rule hands packets to another socket, and at which
// port; 0: at the packet's own, or at one that cannot be told.
func (p *Place) TProxy() (port uint16, ok bool) {
	immediate := map[int][]byte{}
	for _, e := range p.Chain.Rules[p.Index].exprs {
		a := e.attr
		switch e.name {
		case "immediate":
			if at, ok := index(a.uint32(immediateReg)); ok {
				immediate[at], _ = a.data(immediateData)
			}
		case "tproxy":
			at, _ := index(a.uint32(tproxyPort))
			if data := immediate[at]; a.has(tproxyPort) && len(data) >= 2 {
				port = binary.BigEndian.Uint16(data)
			}
			return port, true
		case "target":
			i := info(a[unix.NFTA_TARGET_INFO])
			if a.text(unix.NFTA_TARGET_NAME) == "TPROXY" {
				if a.uint32(unix.NFTA_TARGET_REV) == 0 {
					return i.port(12), true
				}
				return i.port(24), true
			}
		}
	}
	return 0, false
}

// Offloads reports whether a rule gives connections to a flowtable, and to which.
func (p *Place) Offloads() (flowtable string, ok bool) {
	for _, e := range p.Chain.Rules[p.Index].exprs {
		if e.name == "flow_offload" {
			return e.attr.text(1), true
		}
	}
	return "", false
}
