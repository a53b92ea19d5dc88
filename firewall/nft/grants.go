package nft

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/nftables"

	"webknock/firewall"
)

// chunk bounds the elements with comments in one message: a message over 64
// KiB would lose elements in silence, and one element takes at most 180 bytes.
const chunk = 300

// Commit implements firewall.Backend.
func (b *Backend) Commit(ctx context.Context, changes []firewall.Change) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.guard == nil {
		return firewall.ErrNotGuarded
	}
	for _, c := range changes {
		if !hasDoor(*b.guard, c.Grant.Door) {
			return fmt.Errorf("door %s: %w", c.Grant.Door, firewall.ErrNoDoor)
		}
	}
	err := b.talk("change grants", func(c *nftables.Conn) error {
		if err := b.queue(c, *b.guard, changes, time.Now()); err != nil {
			return err
		}
		return c.Flush()
	})
	if errors.Is(err, syscall.ENOBUFS) && b.carriedOut(changes) {
		// The kernel has committed and only its answers were lost.
		return nil
	}
	return err
}

// queue puts the messages of changes into c. An element that may be there is
// added, deleted and added as wanted: adding what is there would change
// nothing, and deleting what is not there would fail the whole.
func (b *Backend) queue(c *nftables.Conn, guard firewall.Guard, changes []firewall.Change, now time.Time) error {
	type elements struct {
		set          *nftables.Set
		before, want []nftables.SetElement
	}
	var sets []*elements
	byName := map[string]*elements{}
	of := func(set *nftables.Set) *elements {
		e := byName[set.Name]
		if e == nil {
			e = &elements{set: set}
			byName[set.Name] = e
			sets = append(sets, e)
		}
		return e
	}
	for _, change := range changes {
		g := change.Grant
		door := guard.Door(g.Door)
		f := familyOf(g.Client.Addr())
		key := g.Client.Addr().AsSlice()
		// A timeout that rounds to 0 would be the set's default.
		left := g.Expires.Sub(now).Truncate(time.Millisecond)
		if !change.Close && left <= 0 {
			continue
		}
		e := of(b.grantSet(*door, f))
		if !change.New {
			e.before = append(e.before, nftables.SetElement{Key: key})
		}
		if !change.Close {
			e.want = append(e.want, nftables.SetElement{Key: key, Timeout: left, Comment: comment(g)})
		}
		if door.Connections > 0 { // counted anew
			e := of(b.connectionSet(*door, f))
			e.before = append(e.before, nftables.SetElement{Key: key})
		}
	}
	for _, e := range sets {
		for part := range slices.Chunk(e.before, chunk) {
			if err := errors.Join(c.SetAddElements(e.set, part), c.SetDeleteElements(e.set, part)); err != nil {
				return err
			}
		}
		for part := range slices.Chunk(e.want, chunk) {
			if err := c.SetAddElements(e.set, part); err != nil {
				return err
			}
		}
	}
	return nil
}

// carriedOut reports whether the firewall is as changes want it.
func (b *Backend) carriedOut(changes []firewall.Change) bool {
	grants, err := b.grants()
	if err != nil {
		return false
	}
	expires := make(map[grantKey]time.Time, len(grants))
	for _, g := range grants {
		expires[grantKey{g.Door, g.Client}] = g.Expires
	}
	for _, c := range changes {
		at, there := expires[grantKey{c.Grant.Door, c.Grant.Client}]
		if there == c.Close || there && at.Sub(c.Grant.Expires).Abs() > time.Second {
			return false
		}
	}
	return true
}

// Read implements firewall.Backend.
func (b *Backend) Read(ctx context.Context) ([]firewall.Grant, error) {
	if err := b.Check(ctx); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.grants()
}

// grants reads the elements of all doors' sets.
func (b *Backend) grants() (grants []firewall.Grant, err error) {
	err = b.talk("read grants", func(c *nftables.Conn) error {
		grants, err = b.elements(c, *b.guard, func(string) bool { return true })
		return err
	})
	return grants, err
}

// elements reads the elements of those sets of the doors of g for which there
// returns true.
func (b *Backend) elements(c *nftables.Conn, g firewall.Guard, there func(set string) bool) (grants []firewall.Grant, err error) {
	for _, door := range g.Doors {
		for _, f := range families {
			if !there(f.grantSetName(door)) {
				continue
			}
			elements, err := c.GetSetElements(b.grantSet(door, f))
			if err != nil {
				return nil, err
			}
			now := time.Now()
			for _, e := range elements {
				if g, ok := grantOf(door, f, e, now); ok {
					grants = append(grants, g)
				}
			}
		}
	}
	return grants, nil
}

// grantOf reads an element, and reports whether it still runs.
func grantOf(door firewall.Door, f family, e nftables.SetElement, now time.Time) (firewall.Grant, bool) {
	addr, ok := netip.AddrFromSlice(e.Key)
	if !ok || e.Expires <= 0 {
		return firewall.Grant{}, false
	}
	client, err := addr.Prefix(f.bits(door))
	if err != nil || client.Addr() != addr { // matches no packet
		return firewall.Grant{}, false
	}
	g := firewall.Grant{Door: door.Name, Client: client, Opened: now, Expires: now.Add(e.Expires)}
	parseComment(e.Comment, &g)
	if e.Counter != nil {
		g.Packets += e.Counter.Packets
		g.Bytes += e.Counter.Bytes
	}
	return g, true
}

// commentVersion begins the comment of an element. After it come key=value
// pairs: the grant's id, when it was opened (Unix time in ms), its sequence
// and user, and the packets and bytes that it had counted when it was last
// renewed, since a renewal makes a new element, with a new counter.
const commentVersion = "webknock1"

func comment(g firewall.Grant) string {
	var s strings.Builder
	s.WriteString(commentVersion)
	add := func(key, value string) {
		if value != "" {
			s.WriteString(" " + key + "=" + clean(value))
		}
	}
	add("id", g.ID)
	add("at", strconv.FormatInt(g.Opened.UnixMilli(), 10))
	add("seq", g.Sequence)
	add("user", g.User)
	if g.Packets > 0 {
		add("p", strconv.FormatUint(g.Packets, 10))
		add("b", strconv.FormatUint(g.Bytes, 10))
	}
	return s.String()
}

// clean keeps a value from breaking out of the comment. All but damaged names
// pass as they are.
func clean(value string) string {
	value = strings.Map(func(r rune) rune {
		if r <= ' ' || r >= 0x7f || r == '"' || r == '\\' {
			return '?'
		}
		return r
	}, value)
	return value[:min(len(value), 32)]
}

// parseComment fills in what a comment tells of a grant. An element without
// our comment is somebody else's, and a grant all the same.
func parseComment(comment string, g *firewall.Grant) {
	fields := strings.Fields(comment)
	if len(fields) == 0 || fields[0] != commentVersion {
		return
	}
	for _, field := range fields[1:] {
		switch key, value, _ := strings.Cut(field, "="); key {
		case "id":
			g.ID = value
		case "seq":
			g.Sequence = value
		case "user":
			g.User = value
		case "at":
			if ms, err := strconv.ParseInt(value, 10, 64); err == nil {
				g.Opened = time.UnixMilli(ms)
			}
		case "p":
			g.Packets, _ = strconv.ParseUint(value, 10, 64)
		case "b":
			g.Bytes, _ = strconv.ParseUint(value, 10, 64)
		}
	}
}
