package front

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"webknock/internal/seam"
	"webknock/sequence"
	"webknock/sequence/track"
)

// What a shard remembers of knocks, so that somebody can ask later what became of them.
// All of it is bounded, and strangers have a place of their own: however many there are,
// they push out nobody who has known a path.
const (
	maxTrail   = seam.MaxRecalled // knocks of one client
	maxKnown   = 640
	knownTotal = 2048 // knocks of all those clients
	maxBanned  = 64
	banTotal   = 256
	maxStrange = 64 // knocks of clients that have done nothing that matters

	strangeInterval = 20 * time.Millisecond // between two of those under a flood
	strangeBurst    = 32                    // so many may come at once

	// Bytes of a path; what is longer is cut.
	maxPath        = seam.MaxPath
	maxStrangePath = 33
)

// A trace is what is remembered of one knock.
type trace struct {
	at       int64             // by the wall clock, in nanoseconds since 1970
	listener *tally            // nil: unknown
	machine  *sequence.Machine // the sequence that it matters to most; nil: to none
	over     *sequence.Machine // in which it made its client start over; nil: in none
	path     string
	span     time.Duration // see the causes
	outcome  uint8         // place in outcomes
	cause    cause
	step     uint8 // of machine that the knock matches, from 1; 0: none
	awaited  uint8 // the step of machine that came next, from 1; 0: there is no machine
	detail   uint8 // see the causes
	flags    traceFlags
}

// traceFlags are marks on a trace.
type traceFlags uint8

const (
	viaProxy  traceFlags = 1 << iota // a proxy has named the client
	bansFor                          // its client was banned for it
	bansDecoy                        // because it asked for a decoy
)

// A trail is what is remembered of one client.
type trail struct {
	traces   []trace          // the oldest first
	standing []track.Standing // its progress after the latest of them, expired or not
}

// trails are those of the clients of a shard, or of some of them. When there is no more
// room, those whose latest knock is the longest ago go.
type trails struct {
	byClient *simplelru.LRU[netip.Addr, *trail]
	traces   int // of all clients
	max      int
}

func newTrails(clients, traces int) *trails {
	t := &trails{max: traces}
	t.byClient, _ = simplelru.NewLRU(clients, func(_ netip.Addr, gone *trail) { t.traces -= len(gone.traces) }) // fails only for size 0
	return t
}

// get returns the trail of a client; nil: it has none.
func (t *trails) get(client netip.Addr) *trail {
	if t.byClient.Len() == 0 {
		return nil
	}
	of, _ := t.byClient.Peek(client)
	return of
}

// add adds a trace to the trail of a client, which it makes if need be.
func (t *trails) add(client netip.Addr, one trace) *trail {
	of, known := t.byClient.Get(client)
	if !known {
		of = new(trail)
		t.byClient.Add(client, of)
	}
	t.append(of, one)
	return of
}

func (t *trails) append(to *trail, one trace) {
	if len(to.traces) == maxTrail {
		to.traces = slices.Delete(to.traces, 0, 1)
		t.traces--
	}
	to.traces = append(to.traces, one)
	for t.traces++; t.traces > t.max; {
		t.byClient.RemoveOldest() // never the client of this trace: that is the newest, and has less than max
	}
}

// remove takes the trail of a client out, and returns it; nil: there is none.
func (t *trails) remove(client netip.Addr) *trail {
	of := t.get(client)
	if of != nil {
		t.byClient.Remove(client)
	}
	return of
}

// A stranger is a trace of a client that has no trail. Every request of every stranger is
// remembered so, so it has the size of one cache line and no pointers.
type stranger struct {
	at       int64
	client   [16]byte
	listener uint16 // place in the tallies, from 1; 0: unknown
	outcome  uint8
	cause    cause
	detail   uint8
	flags    traceFlags
	length   uint8 // of the path
	path     [maxStrangePath]byte
}

// traces is what a shard remembers.
type traces struct {
	trails    int           // how many there are, so that most knocks need no look at them
	full      time.Duration // until when no more of strangers is remembered, less the burst
	strangers []stranger    // pointers that lead elsewhere cost a cache miss each
	oldest    int           // place of the oldest among strangers, once they are maxStrange
	known     *trails       // of clients whose knock has matched the path of a step
	banned    *trails       // of others that are banned
}

func newTraces() traces {
	return traces{known: newTrails(maxKnown, knownTotal), banned: newTrails(maxBanned, banTotal), strangers: make([]stranger, 0, maxStrange)}
}

// trail returns what is remembered of a client that matters; nil: nothing is.
func (t *traces) trail(client netip.Addr) *trail {
	if t.trails == 0 {
		return nil
	}
	if of := t.known.get(client); of != nil {
		return of
	}
	return t.banned.get(client)
}

// stranger remembers a knock of a client that has no trail.
func (t *traces) stranger(client netip.Addr, one *trace, path string) {
	if len(t.strangers) < maxStrange {
		t.strangers = append(t.strangers, stranger{})
		t.oldest = len(t.strangers) - 1
	}
	s := &t.strangers[t.oldest]
	if t.oldest++; t.oldest == len(t.strangers) {
		t.oldest = 0
	}
	s.at, s.client, s.outcome, s.cause, s.detail, s.flags = one.at, client.As16(), one.outcome, one.cause, one.detail, one.flags
	s.listener = 0
	if one.listener != nil {
		s.listener = one.listener.place
	}
	s.length = uint8(copy(s.path[:], path))
}

// trace returns a stranger's knock as one of a client with a trail.
func (s *stranger) trace(listeners []*tally) trace {
	one := trace{at: s.at, outcome: s.outcome, cause: s.cause, detail: s.detail, flags: s.flags, path: string(s.path[:s.length])}
	if s.listener > 0 {
		one.listener = listeners[s.listener-1]
	}
	return one
}

// takes reports whether a knock of a client without a trail is to be remembered: under a
// flood only some are, so that it costs little, and the ring reaches back further.
func (t *traces) takes(now time.Duration) bool {
	if t.full >= now+strangeBurst*strangeInterval {
		return false
	}
	t.full = max(t.full, now) + strangeInterval
	return true
}

// keep remembers a knock: in the trail of its client, which it makes if the client knows
// a path of a step or is banned for the knock, or else, if it is to be, among those of
// strangers. It returns the trail; nil: the client has none.
func (t *traces) keep(client netip.Addr, one *trace, path string, knows bool, now time.Duration) *trail {
	if !knows && one.flags&bansFor == 0 && t.trail(client) == nil {
		if t.takes(now) {
			t.stranger(client, one, path)
		}
		return nil
	}
	one.path = strings.Clone(path[:min(len(path), maxPath)])
	defer func() { t.trails = t.known.byClient.Len() + t.banned.byClient.Len() }()
	if !knows && t.known.get(client) == nil {
		return t.banned.add(client, *one)
	}
	if before := t.banned.remove(client); before != nil {
		for _, earlier := range before.traces {
			t.known.add(client, earlier)
		}
	}
	return t.known.add(client, *one)
}

// of returns the traces of a client, the newest first.
func (t *traces) of(client netip.Addr, listeners []*tally) (all []trace) {
	if of := t.trail(client); of != nil {
		all = slices.Clone(of.traces)
		slices.Reverse(all)
	}
	key := client.As16()
	for i := range t.strangers {
		if s := &t.strangers[(t.oldest+len(t.strangers)-1-i)%len(t.strangers)]; s.client == key {
			all = append(all, s.trace(listeners))
		}
	}
	slices.SortStableFunc(all, func(a, b trace) int { return int(min(max(b.at-a.at, -1), 1)) })
	return all[:min(len(all), maxTrail)]
}
