package nft

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/google/nftables"

	"webknock/firewall"
)

// chunk is the most elements with comments in one message. An element takes up to 260
// bytes, and a message over 64 KiB would lose elements without an error.
const chunk = 200

// Commit implements firewall.Backend.
func (b *Backend) Commit(ctx context.Context, changes []firewall.Change) error {
	return b.call(ctx, func() error { return b.commitLocked(changes) })
}

// commitLocked is Commit for a caller that holds b.lock.
func (b *Backend) commitLocked(changes []firewall.Change) error {
	if b.guard == nil {
		return firewall.ErrNotGuarded
	}
	for _, c := range changes {
		if !hasDoor(*b.guard, c.Grant.Door) {
			return fmt.Errorf("door %s: %w", c.Grant.Door, firewall.ErrNoDoor)
		}
	}
	err := b.write("change grants", *b.guard, wanted(changes))
	if errors.Is(err, syscall.ENOBUFS) && b.carriedOut(changes) {
		// The kernel has committed the transaction; only its answers were lost.
		err = nil
	}
	if err == nil {
		b.counted(*b.guard, changes)
		var begun []firewall.Grant
		for _, c := range changes {
			if !c.Close {
				begun = append(begun, c.Grant)
			}
		}
		b.sendOn(begun)
	}
	return err
}

// change is a firewall.Change with the comment for its element.
type change struct {
	*firewall.Change
	comment string
}

// wanted adds comments to changes.
func wanted(changes []firewall.Change) []change {
	now := clock()
	all := make([]change, len(changes))
	for i := range changes {
		c := &changes[i]
		all[i].Change = c
		if !c.Close {
			all[i].comment = comment(c.Grant, now)
		}
	}
	return all
}

const (
	// endMargin is how much earlier an element ends than its grant. The kernel starts to
	// count when it reads the element, which another program's transaction may delay. It
	// must let nobody in after the promised time.
	endMargin = 60 * time.Millisecond
	// endMarginEach is added for each element that is written in the same transaction.
	endMarginEach = 5 * time.Microsecond
	// maxEndMargin is less than nearEnd of the gate, which does not miss an element that
	// ends so early.
	maxEndMargin = 80 * time.Millisecond
	// clockTick is the longest tick of the clock by which the kernel counts (HZ=100).
	clockTick = 10 * time.Millisecond
	// rewritten is how many late elements are written again in one transaction, and
	// maxRewrites how many times.
	rewritten   = 256
	maxRewrites = 10
)

// write carries out changes in one transaction.
func (b *Backend) write(what string, guard firewall.Guard, changes []change) error {
	began := time.Now()
	err := b.do(what, func(c *nftables.Conn) error {
		if err := b.queue(c, guard, changes); err != nil {
			return err
		}
		return c.Flush()
	})
	if err != nil {
		return err
	}
	return b.correct(guard, changes, time.Since(began))
}

// correct writes the elements of changes again if their transaction took so long that they
// may outlive their grants.
func (b *Backend) correct(guard firewall.Guard, changes []change, took time.Duration) error {
	if took <= tolerable(len(changes)) {
		return nil
	}
	var again []change
	for _, c := range changes {
		if !c.Close {
			same := *c.Change
			same.New, same.Again = false, true
			again = append(again, change{&same, c.comment})
		}
	}
	for part := range slices.Chunk(again, rewritten) {
		for try := 1; ; try++ {
			began := time.Now()
			err := b.do("correct the time of grants", func(c *nftables.Conn) error {
				return errors.Join(b.queue(c, guard, part), c.Flush())
			})
			if err != nil {
				return err
			}
			if took = time.Since(began); took <= tolerable(len(part)) {
				break
			}
			if try == maxRewrites {
				b.log.Warn("nftables: the kernel is slow; some grants may end late", "by", took)
				break
			}
		}
	}
	return nil
}

// tolerable returns how long a transaction may take before an element can outlive its grant.
func tolerable(elements int) time.Duration { return endMarginOf(elements) - clockTick }

// endMarginOf returns how much earlier elements end than their grants if so many are written
// in one transaction.
func endMarginOf(elements int) time.Duration {
	return min(endMargin+time.Duration(elements)*endMarginEach, maxEndMargin)
}

// queue queues the messages of changes on c. An element that may exist is added, deleted
// and added again: adding an existing element changes nothing, and deleting a missing
// element makes the transaction fail.
func (b *Backend) queue(c *nftables.Conn, guard firewall.Guard, changes []change) error {
	now := time.Now()
	margin := endMarginOf(len(changes))
	type setKey struct {
		door             string
		isIPv4, ofCounts bool
	}
	type elements struct {
		set              *nftables.Set
		previous, wanted []nftables.SetElement
	}
	var sets []*elements
	byKey := map[setKey]*elements{}
	for _, change := range changes {
		g := &change.Grant
		key := g.Client.Addr().AsSlice()
		left := g.Expires.Sub(now)
		if !change.Close && left < time.Millisecond { // it would round to 0, which means the set's default
			continue
		}
		left = max(left-margin, time.Millisecond).Truncate(time.Millisecond)
		of := func(door *firewall.Door, f family, connections bool) *elements {
			k := setKey{g.Door, f.isIPv4, connections}
			e := byKey[k]
			if e == nil {
				e = new(elements)
				if connections {
					e.set = b.connectionSet(*door, f)
				} else {
					e.set = b.grantSet(*door, f)
				}
				byKey[k] = e
				sets = append(sets, e)
			}
			return e
		}
		door := guard.Door(g.Door)
		f := familyOf(g.Client.Addr())
		e := of(door, f, false)
		if !change.New {
			e.previous = append(e.previous, nftables.SetElement{Key: key})
		}
		if !change.Close {
			e.wanted = append(e.wanted, nftables.SetElement{Key: key, Timeout: left, Comment: change.comment})
		}
		if door.Connections > 0 && (!change.Again || change.Spent) { // its count starts again
			e := of(door, f, true)
			e.previous = append(e.previous, nftables.SetElement{Key: key})
			if change.Spent && !change.Close {
				// An element without a limit counts as one whose limit is exceeded,
				// so the rule's verdict applies.
				e.wanted = append(e.wanted, nftables.SetElement{Key: key, Timeout: left})
			}
		}
	}
	for _, e := range sets {
		for part := range slices.Chunk(e.previous, chunk) {
			if err := errors.Join(c.SetAddElements(e.set, part), c.SetDeleteElements(e.set, part)); err != nil {
				return err
			}
		}
		for part := range slices.Chunk(e.wanted, chunk) {
			if err := c.SetAddElements(e.set, part); err != nil {
				return err
			}
		}
	}
	return nil
}

// carriedOut reports whether the changes have taken effect in the firewall.
func (b *Backend) carriedOut(changes []firewall.Change) bool {
	elements, err := b.grants()
	if err != nil {
		return false
	}
	found := make(map[grantKey]element, len(elements))
	for _, e := range elements {
		found[grantKey{e.Door, e.Client}] = e
	}
	for _, c := range changes {
		e, there := found[grantKey{c.Grant.Door, c.Grant.Client}]
		if there == c.Close || there && (e.ID != c.Grant.ID || e.Ends.Sub(c.Grant.Expires).Abs() > time.Second) {
			return false
		}
	}
	return true
}

// Read implements firewall.Backend.
func (b *Backend) Read(ctx context.Context) ([]firewall.Held, error) {
	return call(ctx, b, func() ([]firewall.Held, error) {
		if err := b.checkLocked(); err != nil {
			return nil, err
		}
		elements, err := b.grants()
		held := make([]firewall.Held, len(elements))
		for i, e := range elements {
			held[i] = e.Held
		}
		return held, err
	})
}

// element is an element of a door's set.
type element struct {
	firewall.Held
	comment string
}

// grants reads the elements of all doors' sets.
func (b *Backend) grants() (all []element, err error) {
	err = b.do("read grants", func(c *nftables.Conn) error {
		all, err = b.elements(c, *b.guard, func(string) bool { return true })
		return err
	})
	return all, err
}

// elements reads the elements of the doors' sets that exist.
func (b *Backend) elements(c *nftables.Conn, g firewall.Guard, exists func(set string) bool) (all []element, err error) {
	for _, door := range g.Doors {
		for _, f := range families {
			if !exists(f.grantSetName(door)) {
				continue
			}
			asked := time.Now()
			elements, err := c.GetSetElements(b.grantSet(door, f))
			if err != nil {
				return nil, err
			}
			now := clock()
			for _, e := range elements {
				if read, ok := readElement(door, f, e, asked, now); ok {
					read.Spent = door.Connections > 0 && b.tampered.has(b.connectionSet(door, f).Name, e.Key)
					all = append(all, read)
				}
			}
		}
	}
	return all, nil
}

// ending returns when the kernel will remove an element. Its remaining time was read between
// asked and now. If that agrees with wanted to the second, ending returns wanted.
func ending(e nftables.SetElement, wanted, asked, now time.Time) time.Time {
	left := e.Expires
	if left <= 0 {
		// The element has no timeout, or less than a millisecond. The kernel does not list
		// expired elements.
		left = setTimeout
	}
	if first, last := asked.Add(left-time.Second), now.Add(left+time.Second); wanted.After(first) && wanted.Before(last) {
		return wanted
	}
	return now.Add(left)
}

// readElement decodes an element of a door's set, which was listed between asked and now.
func readElement(door firewall.Door, f family, e nftables.SetElement, asked time.Time, now moment) (element, bool) {
	addr, ok := netip.AddrFromSlice(e.Key)
	if !ok {
		return element{}, false
	}
	ends := ending(e, time.Time{}, asked, now.wall)
	h := firewall.Held{Grant: firewall.Grant{Door: door.Name, Client: netip.PrefixFrom(addr, f.bits(door)), Opened: now.wall, Expires: ends}}
	if h.Client == h.Client.Masked() { // otherwise the element matches no packet
		parseComment(e.Comment, &h, now)
	}
	h.Ends = ending(e, h.Expires, asked, now.wall)
	if e.Counter != nil && h.Origin != firewall.Foreign {
		h.Packets += e.Counter.Packets
		h.Bytes += e.Counter.Bytes
	}
	return element{h, e.Comment}, true
}

// counted clears the record of tampered counts, for the counts that changes have reset.
func (b *Backend) counted(g firewall.Guard, changes []firewall.Change) {
	for _, c := range changes {
		if door := g.Door(c.Grant.Door); door.Connections > 0 && (!c.Again || c.Spent) {
			f := familyOf(c.Grant.Client.Addr())
			b.tampered.drop(b.connectionSet(*door, f).Name, c.Grant.Client.Addr().AsSlice())
		}
	}
}
