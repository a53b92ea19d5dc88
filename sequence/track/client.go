package track

import (
	"net/netip"
	"time"

	"webknock/sequence"
)

// Widen returns the address under which a client is remembered: the first bits4
// bits of an IPv4 address (1 to 32), or the first bits6 bits of an IPv6 address
// (1 to 128). An IPv4-mapped IPv6 address is the IPv4 client, and zones do not
// count. For example, 192.0.2.7 with bits4 24 is remembered as 192.0.2.0.
func Widen(addr netip.Addr, bits4, bits6 int) netip.Addr {
	addr = addr.Unmap().WithZone("")
	bits := bits6
	if addr.Is4() {
		bits = bits4
	}
	p, err := addr.Prefix(bits)
	if err != nil {
		return addr
	}
	return p.Addr()
}

// client is the entry of one client.
type client struct {
	last  time.Duration // its latest knock
	first progress      // nearly always the only one; its machine is nil if there is none
}

// progress is a client's state in one sequence.
type progress struct {
	machine *sequence.Machine
	state   sequence.State
	next    *progress // in another sequence
}

// all yields the client's progress in each sequence that it has begun.
func (c *client) all(yield func(*progress) bool) {
	for p := &c.first; p != nil && p.machine != nil; p = p.next {
		if !yield(p) {
			return
		}
	}
}

// has reports whether the client has begun a sequence.
func (c *client) has(m *sequence.Machine) bool {
	for p := range c.all {
		if p.machine == m {
			return true
		}
	}
	return false
}

// empty reports whether the client has begun no sequence.
func (c *client) empty() bool { return c.first.machine == nil }

// add adds a client's state in a sequence, unless the client has not begun it.
func (c *client) add(m *sequence.Machine, s sequence.State) {
	if s == (sequence.State{}) {
		return
	}
	if c.empty() {
		c.first = progress{machine: m, state: s}
		return
	}
	c.first.next = &progress{m, s, c.first.next}
}

// deadline returns the last instant at which a knock can build on the client's
// progress.
func (c *client) deadline() time.Duration {
	var d time.Duration
	for p := range c.all {
		d = max(d, p.machine.Deadline(p.state))
	}
	return d
}

// expired reports whether nothing of the client need be remembered.
func (c *client) expired(now time.Duration) bool { return c.empty() || c.deadline() < now }
