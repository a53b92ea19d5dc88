package nft

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"go4.org/netipx"

	"webknock/firewall"
)

// A contentChange is a change of the contents of a set of networks.
type contentChange struct {
	set         *nftables.Set
	flush       bool // first
	remove, add []nftables.SetElement
}

// contentChanges compares the sets of networks in the kernel with the ruleset and
// returns the differences. A set must not be emptied and filled again: in a set of intervals,
// the kernel hides removed elements some milliseconds before it shows added ones, so the set
// would match nothing meanwhile.
func (b *Backend) contentChanges(c *nftables.Conn, r *ruleset, there func(set string) bool) (changes []contentChange, err error) {
	for _, f := range r.contents {
		var elements []nftables.SetElement
		if there(f.set.Name) {
			if elements, err = c.GetSetElements(f.set); err != nil {
				return nil, fmt.Errorf("read set %s: %w", f.set.Name, err)
			}
		}
		change := contentChange{set: f.set}
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

// strangers returns the networks that somebody else has added to the sets of allowed
// networks since the table was written, once for each door. The caller is within do.
func (b *Backend) strangers(c *nftables.Conn, g firewall.Guard, before structure) (intruders []firewall.Grant, err error) {
	if b.guard == nil {
		return nil, nil
	}
	for _, f := range families {
		set := b.allowSet(f)
		if !slices.Contains(before.Sets, set.Name) || slices.Equal(before.Networks[set.Name], b.current.Networks[set.Name]) {
			continue
		}
		elements, err := c.GetSetElements(set)
		if err != nil {
			return nil, err
		}
		var added netipx.IPSetBuilder
		ranges, err := rangesOf(elements)
		if err != nil {
			continue // it is unknown what such a set matches
		}
		for _, r := range ranges {
			added.AddRange(r)
		}
		for _, p := range slices.Concat(b.guard.Allow, g.Allow) {
			added.RemovePrefix(p)
		}
		networks, err := added.IPSet()
		if err != nil {
			return nil, err
		}
		for _, p := range networks.Prefixes() {
			for _, door := range g.Doors {
				intruders = append(intruders, firewall.Grant{Door: door.Name, Client: p})
			}
		}
	}
	return intruders, nil
}

// expel expels intruders in the background. It does so twice, because a packet may have been
// on its way.
func (b *Backend) expel(intruders []firewall.Grant) {
	if len(intruders) == 0 {
		return
	}
	b.background.Go(func() {
		for _, wait := range []time.Duration{0, 50 * time.Millisecond} {
			time.Sleep(wait)
			ctx, cancel := context.WithTimeout(context.Background(), b.timeout)
			if err := b.Expel(ctx, intruders); err != nil {
				b.log.Error("nftables: sessions of networks that somebody else has allowed may live on", "error", err)
			}
			cancel()
		}
	})
}

// applyContents queues the changes on c.
func applyContents(c *nftables.Conn, changes []contentChange) (failed error) {
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

// interval returns a range as elements of a set: its first address, and the address after
// its last one, unless that is the highest address.
func interval(r netipx.IPRange) []nftables.SetElement {
	elements := []nftables.SetElement{{Key: r.From().AsSlice()}}
	if end := r.To().Next(); end.IsValid() {
		elements = append(elements, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
	}
	return elements
}

// rangesOf returns the ranges of the elements of a set, the reverse of interval. It fails if
// the elements are not separate ranges.
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
			return nil, fmt.Errorf("the set has an interval without a start or an end, at %x", e.Key)
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
