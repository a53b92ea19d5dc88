package track

import (
	"math"
	"net/netip"
	"time"

	gocache "github.com/patrickmn/go-cache"

	"webknock/sequence"
)

// A Tracker holds the progress of one shard's clients.
type Tracker struct {
	bound *Bound
	cache *gocache.Cache // of *client, by the 16 bytes of their address
	peak  int            // most clients since the cache was made
	next  time.Duration  // no client expires before
}

// New returns an empty tracker. The instants given to its methods are the time
// since some origin, on the monotonic clock.
func New(bound *Bound) *Tracker {
	t := &Tracker{bound: bound}
	t.cache = t.newCache()
	return t
}

func (t *Tracker) newCache() *gocache.Cache {
	const noGoroutine = 0
	cache := gocache.New(gocache.NoExpiration, noGoroutine)
	cache.OnEvicted(func(string, any) { t.bound.release() })
	return cache
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

// A Standing is how far a client is in one sequence, whether or not that has expired.
type Standing struct {
	Machine *sequence.Machine
	State   sequence.State
}

// Standing appends to all how far a client, as Widen returned it, is in each sequence
// that it has begun.
func (t *Tracker) Standing(addr netip.Addr, all []Standing) []Standing {
	if c := t.get(addr.As16()); c != nil {
		for p := range c.all {
			all = append(all, Standing{p.machine, p.state})
		}
	}
	return all
}

// Advance takes a knock of a client, as Widen returned it, and returns the
// sequences that the knock completes. It reports full if the knock would have
// begun a sequence but the bound is reached; such a client is not remembered.
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
	switch {
	case !next.expired(now):
		return completed, !t.put(key, known, next)
	case known != nil:
		t.cache.Delete(string(key[:]))
	}
	return completed, false
}

func (t *Tracker) get(key [16]byte) *client {
	if v, ok := t.cache.Get(string(key[:])); ok {
		return v.(*client)
	}
	return nil
}

// put remembers a client, and reports whether there was a place for it. Known is
// its entry, or nil.
func (t *Tracker) put(key [16]byte, known *client, next client) bool {
	if known == nil {
		if !t.bound.take() {
			return false
		}
		known = new(client)
		t.cache.Set(string(key[:]), known, gocache.NoExpiration)
		t.peak = max(t.peak, t.cache.ItemCount())
	}
	*known = next
	t.next = min(t.next, next.deadline())
	return true
}

// Empty reports whether no client is remembered, so that there is nothing to
// sweep.
func (t *Tracker) Empty() bool { return t.cache.ItemCount() == 0 }

// Sweep deletes the expired clients. Call it now and then; how often decides
// only how soon their memory and their places are free.
func (t *Tracker) Sweep(now time.Duration) {
	if now <= t.next {
		return
	}
	t.deleteExpired(now)
	if n := t.cache.ItemCount(); t.peak > 1024 && n < t.peak/4 {
		t.shrink()
	}
}

func (t *Tracker) deleteExpired(now time.Duration) {
	t.next = math.MaxInt64
	for key, item := range t.cache.Items() {
		c := item.Object.(*client)
		if c.expired(now) {
			t.cache.Delete(key)
		} else {
			t.next = min(t.next, c.deadline())
		}
	}
}

// shrink moves the clients into a new cache of the right size, because maps do
// not shrink.
func (t *Tracker) shrink() {
	old := t.cache
	t.cache = t.newCache()
	for key, item := range old.Items() {
		t.cache.Set(key, item.Object, gocache.NoExpiration)
	}
	t.peak = t.cache.ItemCount()
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
	t.deleteExpired(now)
	t.shrink()
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
		addr, _ := netip.AddrFromSlice([]byte(key))
		all = item.Object.(*client).progress(addr.Unmap(), now, all)
	}
	return all
}

// ProgressOf is Progress for one client, as Widen returned it.
func (t *Tracker) ProgressOf(addr netip.Addr, now time.Duration) []Progress {
	if c := t.get(addr.As16()); c != nil {
		return c.progress(addr, now, nil)
	}
	return nil
}

// progress appends to all the progress that still counts.
func (c *client) progress(addr netip.Addr, now time.Duration, all []Progress) []Progress {
	for p := range c.all {
		if deadline := p.machine.Deadline(p.state); deadline >= now {
			all = append(all, Progress{addr, p.machine, p.state.Step(), c.last, deadline})
		}
	}
	return all
}
