// Package track remembers how far clients are in their sequences.
//
// A [Tracker] holds the clients of one shard. It is owned by one goroutine and
// has no lock of its own; a [Bound] shared by all trackers limits how many
// clients are in progress at once.
package track

import (
	"math"
	"net/netip"
	"sync/atomic"
	"time"

	gocache "github.com/patrickmn/go-cache"

	"webknock/sequence"
)

// Widen returns the address under which a client is remembered: an
// IPv4-mapped IPv6 address is the IPv4 client, zones do not count, and of
// addresses the first bits4 bits do (IPv4, 1 to 32) or the first bits6 (IPv6, 1
// to 128).
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

// A Bound limits the clients in progress of all trackers that share it. The
// zero Bound allows none. It may be used from several goroutines.
type Bound struct {
	max, count atomic.Int64
}

// NewBound returns a bound of max clients.
func NewBound(max int) *Bound {
	b := new(Bound)
	b.SetMax(max)
	return b
}

// SetMax changes the bound. Clients beyond it stay until they are done.
func (b *Bound) SetMax(max int) { b.max.Store(int64(max)) }

// Count returns how many clients are in progress, those included whose
// progress has ended and was not swept up yet.
func (b *Bound) Count() int { return int(b.count.Load()) }

func (b *Bound) take() bool {
	if b.count.Add(1) > b.max.Load() {
		b.count.Add(-1)
		return false
	}
	return true
}

// A Tracker holds the progress of one shard's clients in a go-cache without a
// janitor and without its expiry, which compares the wall clock: that may be set
// to another time. All is decided on the monotonic clock, by the deadlines of the
// states.
type Tracker struct {
	bound *Bound
	cache *gocache.Cache
	taken int           // places taken in bound
	peak  int           // most clients since the cache was last made
	next  time.Duration // no client's progress ends before
}

// client is what is remembered of one client.
type client struct {
	last     time.Duration // its latest knock
	progress               // nearly always the only one
}

// progress is a client's state in one sequence; its machine is nil if there is
// none.
type progress struct {
	machine *sequence.Machine
	state   sequence.State
	next    *progress // in another sequence
}

// New returns an empty tracker. The instants given to its methods are the time
// since some instant, by the monotonic clock.
func New(bound *Bound) *Tracker {
	return &Tracker{bound: bound, cache: gocache.New(gocache.NoExpiration, 0)}
}

// A Completion is a sequence that a client has completed.
type Completion struct {
	Machine    *sequence.Machine
	Credential *sequence.Credential // of the run; nil: it had no one-time step
}

// Knows reports whether a client, as Widen returned it, has begun a sequence.
func (t *Tracker) Knows(addr netip.Addr) bool { return t.get(addr.As16()) != nil }

// State returns how far a client, as Widen returned it, is in a sequence.
func (t *Tracker) State(addr netip.Addr, m *sequence.Machine) sequence.State {
	if c := t.get(addr.As16()); c != nil {
		for p := range c.all {
			if p.machine == m {
				return p.state
			}
		}
	}
	return sequence.State{}
}

// Advance takes a knock of a client, as Widen returned it, and returns the
// sequences that it completes. It reports full if the knock
// would have begun a sequence, but the bound is reached: then the client is
// not remembered. Only a first step makes a client take up memory.
func (t *Tracker) Advance(addr netip.Addr, match sequence.Match, now time.Duration) (completed []Completion, full bool) {
	key := addr.As16()
	known := t.get(key)
	if known == nil && len(match.Hits) == 0 {
		return nil, false
	}
	next := client{last: now}
	advance := func(m *sequence.Machine, state sequence.State, hit sequence.Hit) {
		state, complete, credential := m.AdvanceWith(state, hit.Steps, hit.Credential, now)
		if complete {
			completed = append(completed, Completion{m, credential})
		}
		next.add(m, state)
	}
	if known != nil {
		for p := range known.all {
			if hit, counts := match.Hit(p.machine); counts {
				advance(p.machine, p.state, hit)
			} else {
				next.add(p.machine, p.state)
			}
		}
	}
	for _, hit := range match.Hits {
		if known == nil || !known.has(hit.Machine) {
			advance(hit.Machine, sequence.State{}, hit)
		}
	}
	if rest := next.deadline() - now; next.machine != nil && rest >= 0 {
		return completed, !t.put(key, known, next)
	}
	if known != nil {
		t.cache.Delete(string(key[:]))
		t.settle()
	}
	return completed, false
}

func (t *Tracker) get(key [16]byte) *client {
	if v, ok := t.cache.Get(string(key[:])); ok {
		return v.(*client)
	}
	return nil
}

// put remembers a client, and reports whether there was room for it.
func (t *Tracker) put(key [16]byte, known *client, next client) bool {
	if known == nil {
		if !t.bound.take() {
			return false
		}
		t.taken++
		known = new(client)
		t.cache.Set(string(key[:]), known, gocache.NoExpiration)
	}
	*known = next
	t.next = min(t.next, next.deadline())
	t.settle()
	return true
}

// settle makes the places taken those of the clients in the cache.
func (t *Tracker) settle() {
	n := t.cache.ItemCount()
	t.bound.count.Add(int64(n - t.taken))
	t.taken = n
	t.peak = max(t.peak, n)
}

// Empty reports whether nobody is remembered, so that there is nothing to sweep.
func (t *Tracker) Empty() bool { return t.taken == 0 }

// Sweep forgets the clients whose progress has ended. Call it now and then;
// how often decides only how soon their memory and their places are free.
func (t *Tracker) Sweep(now time.Duration) {
	if now <= t.next {
		return
	}
	t.next = math.MaxInt64
	for key, item := range t.cache.Items() {
		c := item.Object.(*client)
		if end := c.deadline(); end < now {
			t.cache.Delete(key)
		} else {
			t.next = min(t.next, end)
		}
	}
	if n := t.cache.ItemCount(); t.peak > 1024 && n < t.peak/4 {
		t.rebuild(now)
	}
	t.settle()
}

// Retain forgets progress in all sequences but those for which keep returns
// true.
func (t *Tracker) Retain(keep func(*sequence.Machine) bool, now time.Duration) {
	for _, item := range t.cache.Items() {
		c := item.Object.(*client)
		next := client{last: c.last}
		for p := range c.all {
			if keep(p.machine) {
				next.add(p.machine, p.state)
			}
		}
		*c = next
	}
	t.rebuild(now)
	t.settle()
}

// rebuild moves the clients whose progress goes on into a new cache, with a map
// of the right size, since maps do not shrink.
func (t *Tracker) rebuild(now time.Duration) {
	items := t.cache.Items()
	t.cache = gocache.New(gocache.NoExpiration, 0)
	t.next = math.MaxInt64
	for key, item := range items {
		c := item.Object.(*client)
		if end := c.deadline(); c.machine != nil && end >= now {
			t.cache.Set(key, c, gocache.NoExpiration)
			t.next = min(t.next, end)
		}
	}
	t.peak = 0
}

// Progress is how far one client is in one sequence.
type Progress struct {
	Client   netip.Addr // as Widen returned it
	Machine  *sequence.Machine
	Step     int           // steps matched
	Last     time.Duration // the client's latest knock
	Deadline time.Duration // when the next step comes too late
}

// Progress returns the progress of all clients that still counts, in no order.
func (t *Tracker) Progress(now time.Duration) []Progress {
	var all []Progress
	for key, item := range t.cache.Items() {
		c := item.Object.(*client)
		for p := range c.all {
			if deadline := p.machine.Deadline(p.state); deadline >= now {
				addr, _ := netip.AddrFromSlice([]byte(key))
				all = append(all, Progress{addr.Unmap(), p.machine, p.state.Step(), c.last, deadline})
			}
		}
	}
	return all
}

func (c *client) all(yield func(*progress) bool) {
	for p := &c.progress; p != nil && p.machine != nil; p = p.next {
		if !yield(p) {
			return
		}
	}
}

func (c *client) has(m *sequence.Machine) bool {
	for p := range c.all {
		if p.machine == m {
			return true
		}
	}
	return false
}

// add remembers a client's state in a sequence, unless it has not begun.
func (c *client) add(m *sequence.Machine, s sequence.State) {
	if s == (sequence.State{}) {
		return
	}
	if c.machine == nil {
		c.progress = progress{machine: m, state: s}
		return
	}
	c.next = &progress{m, s, c.next}
}

func (c *client) deadline() time.Duration {
	var d time.Duration
	for p := range c.all {
		d = max(d, p.machine.Deadline(p.state))
	}
	return d
}
