// Package event tells every part that wants to know what happened: the log,
// notices, commands, and whatever subscribes next.
//
// A part of the daemon that does something calls [Bus.Publish] once, with one of
// the types in types.go. Each subscriber reads a bounded queue of its own, mostly
// with [Subscription.Each]. Publish never blocks: a full queue drops its oldest
// event, and its reader learns how many it missed. So no subscriber delays
// another, nor the part that publishes. A subscriber that must not miss anything
// asks the owner of the truth when it has missed something: the gate for grants.
package event

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// ErrClosed is what Next returns when the bus or the subscription is closed and
// all events have been read.
var ErrClosed = errors.New("the event subscription is closed")

// A Record is an event with its place among all events.
type Record struct {
	ID    uint64 // 1 for the first event since the daemon started, then one more each
	Time  time.Time
	Event Event
}

// A Bus passes events on. The zero value is ready. It may be used from several
// goroutines.
type Bus struct {
	mu     sync.Mutex
	last   uint64
	closed bool
	subs   []*Subscription
	wanted atomic.Pointer[map[Kind]int] // subscriptions by kind; never written to

	watching sync.Mutex // held while watches are told
	watches  []watch
}

// A watch is told when a kind becomes wanted or unwanted.
type watch struct {
	kind   Kind
	wanted bool // what it was told last
	tell   func(wanted bool)
}

// everyKind counts the subscriptions to all kinds in Bus.wanted.
const everyKind Kind = ""

// Wanted reports whether somebody subscribes to a kind, so that the publisher of
// a frequent event can leave out the work of making one that nobody reads.
func (b *Bus) Wanted(k Kind) bool {
	wanted := b.wanted.Load()
	return wanted != nil && ((*wanted)[k] > 0 || (*wanted)[everyKind] > 0)
}

// OnWanted has tell called each time that a kind becomes wanted or unwanted, and now
// if it is wanted. Calls come one after the other. Subscribe and Close return when tell
// has: a publisher that listens to it knows of a subscription that has been made. Tell
// must not subscribe, nor close a subscription.
func (b *Bus) OnWanted(k Kind, tell func(wanted bool)) {
	b.watching.Lock()
	b.watches = append(b.watches, watch{kind: k, tell: tell})
	b.watching.Unlock()
	b.tellWatches()
}

func (b *Bus) tellWatches() {
	b.watching.Lock()
	defer b.watching.Unlock()
	for i := range b.watches {
		w := &b.watches[i]
		if wanted := b.Wanted(w.kind); wanted != w.wanted {
			w.wanted = wanted
			w.tell(wanted)
		}
	}
}

// Miss tells the subscribers of a kind that n events of it were lost before they could be
// published. Each lost event takes an ID.
func (b *Bus) Miss(k Kind, n uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	b.last += n
	for _, s := range b.subs {
		if s.wants(k) {
			s.miss(n)
		}
	}
}

// Publish hands an event to everybody who subscribes to its kind. It never
// blocks. After Close it does nothing.
func (b *Bus) Publish(e Event) { b.PublishAt(time.Now(), e) }

// PublishAt is Publish for an event that happened at a given time.
func (b *Bus) PublishAt(at time.Time, e Event) {
	kind := e.Kind()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	b.last++
	r := Record{ID: b.last, Time: at, Event: e}
	for _, s := range b.subs {
		if s.wants(kind) {
			s.add(r)
		}
	}
}

// Last returns the ID of the latest event, 0 before the first.
func (b *Bus) Last() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last
}

// Subscribe returns a subscription to kinds, or to all kinds if none is named.
// Its queue holds size events, at least 1. Call Close in the end. The
// subscription of a closed bus is closed.
func (b *Bus) Subscribe(size int, kinds ...Kind) *Subscription {
	s := &Subscription{bus: b, ready: make(chan struct{}, 1), size: max(size, 1), kinds: setOf(kinds)}
	b.mu.Lock()
	closed := b.closed
	if !closed {
		b.subs = append(b.subs, s)
		b.count(s, 1)
	}
	b.mu.Unlock()
	if closed {
		s.close()
		return s
	}
	b.tellWatches()
	return s
}

func setOf(kinds []Kind) map[Kind]bool {
	if len(kinds) == 0 {
		return nil
	}
	set := map[Kind]bool{}
	for _, k := range kinds {
		set[k] = true
	}
	return set
}

// count adds n to the number of subscriptions of each kind that s wants: 1 for a new
// subscription, -1 for one that ends. The caller holds b.mu.
func (b *Bus) count(s *Subscription, n int) {
	wanted := map[Kind]int{}
	if old := b.wanted.Load(); old != nil {
		maps.Copy(wanted, *old)
	}
	if s.kinds == nil {
		wanted[everyKind] += n
	}
	for k := range s.kinds {
		wanted[k] += n
	}
	b.wanted.Store(&wanted)
}

// Flush waits until every subscription that is read by Each has handled what was
// published before the call, or ctx is done.
func (b *Bus) Flush(ctx context.Context) error {
	b.mu.Lock()
	subs, last := slices.Clone(b.subs), b.last
	b.mu.Unlock()
	for _, s := range subs {
		if err := s.flushed(ctx, last); err != nil {
			return err
		}
	}
	return nil
}

// Close ends all subscriptions. Their readers get the queued events, and then ErrClosed.
// Later events are dropped.
func (b *Bus) Close() {
	b.mu.Lock()
	subs := slices.Clone(b.subs)
	b.closed = true
	b.mu.Unlock()
	for _, s := range subs {
		s.Close()
	}
}

// A Subscription is one reader's queue of events.
type Subscription struct {
	bus   *Bus
	kinds map[Kind]bool // nil: all; bus.mu guards it
	ready chan struct{} // holds a value while there may be something to read
	size  int

	mu       sync.Mutex
	queue    []Record
	first    int // index of the oldest event in queue, once that is full
	missed   uint64
	closed   bool
	handling uint64          // ID of the latest event that Each has taken and not yet handled; 0: none
	flushing []chan struct{} // closed when Each has handled all
}

// SetKinds changes what s subscribes to: from now on to kinds, or to all kinds if none
// is named. It returns the ID of the latest event before the change.
func (s *Subscription) SetKinds(kinds ...Kind) (last uint64) {
	defer s.bus.tellWatches()
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	open := slices.Contains(s.bus.subs, s)
	if open {
		s.bus.count(s, -1)
	}
	s.kinds = setOf(kinds)
	if open {
		s.bus.count(s, 1)
	}
	return s.bus.last
}

func (s *Subscription) wants(k Kind) bool { return s.kinds == nil || s.kinds[k] }

func (s *Subscription) add(r Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	if len(s.queue) < s.size {
		s.queue = append(s.queue, r)
	} else {
		s.queue[s.first] = r
		s.first = (s.first + 1) % s.size
		s.missed++
	}
	s.wake()
}

// miss has the reader told that it misses n events. It learns so with the next event.
func (s *Subscription) miss(n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.missed += n
}

func (s *Subscription) wake() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// Next waits for events. It returns all that have come, oldest first, and how many
// were missed before or among them: the queue was full, or see [Bus.Miss]. When nothing is left
// to read it returns ErrClosed after Close, or the error of ctx if that is done.
func (s *Subscription) Next(ctx context.Context) (records []Record, missed uint64, err error) {
	for {
		records, missed, closed := s.take()
		switch {
		case len(records) > 0:
			return records, missed, nil
		case closed:
			return nil, 0, ErrClosed
		case ctx.Err() != nil:
			return nil, 0, ctx.Err()
		}
		select {
		case <-s.ready:
		case <-ctx.Done():
		}
	}
}

// take empties the queue. A call says that what was taken before is handled.
func (s *Subscription) take() (records []Record, missed uint64, closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if records = s.queue; s.first > 0 {
		records = slices.Concat(s.queue[s.first:], s.queue[:s.first])
	}
	s.queue, s.first, s.handling = nil, 0, 0
	if len(records) > 0 {
		missed, s.missed = s.missed, 0
		s.handling = records[len(records)-1].ID
	} else {
		s.release()
	}
	return records, missed, s.closed
}

// release ends the waiting of flushed. The caller holds s.mu.
func (s *Subscription) release() {
	for _, done := range s.flushing {
		close(done)
	}
	s.flushing = nil
}

// Flush waits until Each has handled what was published before the call, or ctx is
// done.
func (s *Subscription) Flush(ctx context.Context) error { return s.flushed(ctx, s.bus.Last()) }

// flushed waits until the events up to an ID have been handled.
func (s *Subscription) flushed(ctx context.Context, id uint64) error {
	s.mu.Lock()
	if s.handling == 0 && (len(s.queue) == 0 || s.queue[s.first].ID > id) {
		s.mu.Unlock()
		return nil
	}
	done := make(chan struct{})
	s.flushing = append(s.flushing, done)
	s.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Each calls f for each event, and before it gap if events were missed, until the
// subscription is closed or ctx is done, and all that was published before has
// been read. Gap may be nil.
func (s *Subscription) Each(ctx context.Context, gap func(missed uint64), f func(Record)) {
	for {
		records, missed, err := s.Next(ctx)
		if err != nil {
			return
		}
		if missed > 0 && gap != nil {
			gap(missed)
		}
		for _, r := range records {
			f(r)
		}
	}
}

// Close ends the subscription. Its reader gets what is queued and then ErrClosed.
func (s *Subscription) Close() {
	s.bus.mu.Lock()
	if i := slices.Index(s.bus.subs, s); i >= 0 {
		s.bus.subs = slices.Delete(slices.Clone(s.bus.subs), i, i+1)
		s.bus.count(s, -1)
	}
	s.bus.mu.Unlock()
	s.bus.tellWatches()
	s.close()
}

func (s *Subscription) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.wake()
}
