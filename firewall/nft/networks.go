package nft

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"go4.org/netipx"
)

// A fillChange is what is to happen to a set of networks.
type fillChange struct {
	set         *nftables.Set
	flush       bool // first
	remove, add []nftables.SetElement
}

// fillChanges compares the sets of networks that are there with what is to be in
// them. Only what differs is changed: the kernel shows what is added to a set of
// intervals some milliseconds later than what is removed from it, so that a set
// which is filled anew matches nothing meanwhile.
func (b *Backend) fillChanges(c *nftables.Conn, r *ruleset, there func(set string) bool) (changes []fillChange, err error) {
	for _, f := range r.fills {
		var elements []nftables.SetElement
		if there(f.set.Name) {
			if elements, err = c.GetSetElements(f.set); err != nil {
				return nil, fmt.Errorf("read set %s: %w", f.set.Name, err)
			}
		}
		change := fillChange{set: f.set}
		has, err := rangesOf(elements)
		if err != nil {
			change.flush = true
		}
		want := f.networks.Ranges()
		for _, r := range has {
			if !slices.Contains(want, r) {
				change.remove = append(change.remove, interval(r)...)
			}
		}
		for _, r := range want {
			if !slices.Contains(has, r) {
				change.add = append(change.add, interval(r)...)
			}
		}
		if change.flush || len(change.remove)+len(change.add) > 0 {
			changes = append(changes, change)
		}
	}
	return changes, nil
}

// apply has c change the sets.
func applyFills(c *nftables.Conn, changes []fillChange) (failed error) {
	for _, change := range changes {
		if change.flush {
			c.FlushSet(change.set)
		}
		for part := range slices.Chunk(change.remove, 2*chunk) {
			failed = errors.Join(failed, c.SetDeleteElements(change.set, part))
		}
		for part := range slices.Chunk(change.add, 2*chunk) {
			failed = errors.Join(failed, c.SetAddElements(change.set, part))
		}
	}
	return failed
}

// interval returns a range as elements of a set: its first address, and the one
// behind its last, if there is one.
func interval(r netipx.IPRange) []nftables.SetElement {
	elements := []nftables.SetElement{{Key: r.From().AsSlice()}}
	if end := r.To().Next(); end.IsValid() {
		elements = append(elements, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
	}
	return elements
}

// rangesOf is the reverse. It fails if elements are not ranges side by side.
func rangesOf(elements []nftables.SetElement) (ranges []netipx.IPRange, err error) {
	elements = slices.Clone(elements)
	slices.SortFunc(elements, func(a, b nftables.SetElement) int {
		ends := func(e nftables.SetElement) int {
			if e.IntervalEnd {
				return 0
			}
			return 1
		}
		return cmp.Or(bytes.Compare(a.Key, b.Key), ends(a)-ends(b))
	})
	var from netip.Addr
	for i, e := range elements {
		addr, ok := netip.AddrFromSlice(e.Key)
		switch {
		case !ok, !e.IntervalEnd && from.IsValid(), e.IntervalEnd && !from.IsValid() && i > 0:
			return nil, fmt.Errorf("the set has an interval that is none, at %x", e.Key)
		case !e.IntervalEnd:
			from = addr
		case from.IsValid():
			ranges = append(ranges, netipx.IPRangeFrom(from, addr.Prev()))
			from = netip.Addr{}
		} // an end in the beginning is how nft(8) says that nothing was before it
	}
	if from.IsValid() {
		last := netipx.RangeOfPrefix(netip.PrefixFrom(from, 0)).To()
		ranges = append(ranges, netipx.IPRangeFrom(from, last))
	}
	return ranges, nil
}
