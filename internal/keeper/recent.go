package keeper

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"webknock/httpd/admin"
	"webknock/internal/event"
)

// recent keeps the latest events for those who read them by the admin API. Its memory is
// bounded: two rings have the latest knocks, and the latest of everything else, so that a
// flood of knocks pushes out nothing but knocks.
//
// Readers read the rings, each at its own pace. So a reader costs no queue, and one that
// does not read delays nothing: it is overtaken, and told how many events it has missed.
//
// Knocks are subscribed to only while a reader wants them, and some time longer, so that
// one that connects again gets those of in between.
type recent struct {
	bus          *event.Bus
	subscription *event.Subscription
	run          string // names this run of the daemon in IDs

	mu           sync.Mutex
	rings        [2]ring
	last         uint64        // ID of the latest event that has come
	arrived      chan struct{} // closed when something comes; nil: nobody waits
	closed       bool          // nothing comes any more
	readers      int
	knockReaders int
	knocksSince  uint64      // if knocks are subscribed to: no knock after this ID is missing
	noKnocks     *time.Timer // ends the subscription to knocks; nil: it has not ended, or nobody wants them
	knocks       bool        // they are subscribed to
}

// The rings.
const (
	others = iota
	knocks
)

const (
	keptEvents = 4096 // without knocks
	keptKnocks = 1024
	maxReaders = 32
	batchSize  = 512 // events that a reader gets at once
	// knocksLinger is how long knocks stay subscribed to when nobody reads them any more.
	knocksLinger = time.Minute
	recentQueue  = 1 << 14 // is emptied as fast as memory can be written
)

// withoutKnocks are all kinds but knocks.
var withoutKnocks = slices.DeleteFunc(slices.Clone(event.Kinds), func(k event.Kind) bool { return k == event.KindKnock })

func newRecent(bus *event.Bus) *recent {
	run := make([]byte, 6)
	rand.Read(run) // never fails
	return &recent{
		bus: bus, subscription: bus.Subscribe(recentQueue, withoutKnocks...), run: hex.EncodeToString(run),
		rings: [2]ring{others: {size: keptEvents}, knocks: {size: keptKnocks}},
	}
}

// follow keeps what is published until the bus is closed.
func (r *recent) follow(ctx context.Context) {
	for {
		records, missed, err := r.subscription.Next(ctx)
		if err != nil {
			break
		}
		r.add(records, missed)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	r.wake()
}

// add keeps records. Missed is how many before or among them were lost.
func (r *recent) add(records []event.Record, missed uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if missed > 0 {
		// The front loses knocks under a flood (see event.Bus.Miss). Anything may be lost if
		// the queue was full.
		r.rings[knocks].add(remembered{
			id: records[0].ID - 1, event: admin.Event{Time: records[0].Time}, lost: missed, lostAny: len(records) == recentQueue,
		})
	}
	for _, record := range records {
		to := others
		if record.Event.Kind() == event.KindKnock {
			to = knocks
		}
		r.rings[to].add(remember(record))
		r.last = record.ID
	}
	r.wake()
}

// wake wakes the readers that wait. The caller holds r.mu.
func (r *recent) wake() {
	if r.arrived != nil {
		close(r.arrived)
		r.arrived = nil
	}
}

// A remembered is an event that is kept, or a gap.
type remembered struct {
	id      uint64
	event   admin.Event // without its ID
	who     clients     // whom it is about, for filters
	lost    uint64      // above 0: so many events are missing here
	lostAny bool        // of any kind; else knocks
}

// A ring has the latest of what was added to it.
type ring struct {
	size    int
	kept    []remembered // from the index next % size on, if it is full
	next    uint64       // position of what is added next: how much was added
	evicted uint64       // ID of the latest that is not kept any more; 0: none
}

func (r *ring) add(e remembered) {
	if len(r.kept) < r.size {
		r.kept = append(r.kept, e)
	} else {
		oldest := &r.kept[r.next%uint64(r.size)]
		r.evicted = oldest.id
		*oldest = e
	}
	r.next++
}

// first returns the position of the oldest that is kept.
func (r *ring) first() uint64 { return r.next - uint64(len(r.kept)) }

// at returns what is kept at a position.
func (r *ring) at(position uint64) *remembered { return &r.kept[position%uint64(r.size)] }

// after returns the position of the first that is kept with an ID above id.
func (r *ring) after(id uint64) uint64 {
	for position := r.next; ; position-- {
		if position == r.first() || r.at(position-1).id <= id {
			return position
		}
	}
}

// read returns a reader of what a query asks for. Its error is a *admin.Problem.
func (r *recent) read(q admin.EventQuery) (*eventReader, error) {
	f, err := newEventFilter(q)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.readers == maxReaders {
		return nil, admin.NewProblem(http.StatusServiceUnavailable, fmt.Sprintf("there are %d readers of events already (end one of them)", maxReaders))
	}
	reader := &eventReader{recent: r, filter: f, live: !q.Once}
	if q.After.Run == r.run && q.After.N > r.last {
		return nil, admin.NewProblem(http.StatusBadRequest, fmt.Sprintf("Last-Event-ID: there has been no event %s yet (the latest is %s)", q.After, r.id(r.last)))
	}
	reader.place(q)
	r.readers++
	if reader.live && f.ring[knocks] {
		r.wantKnocks()
	}
	return reader, nil
}

// wantKnocks notes one more reader of knocks. The caller holds r.mu.
func (r *recent) wantKnocks() {
	r.knockReaders++
	if r.noKnocks != nil {
		r.noKnocks.Stop()
		r.noKnocks = nil
	}
	if !r.knocks {
		r.knocks = true
		r.knocksSince = r.subscription.SetKinds()
	}
}

// done notes that a reader has ended.
func (r *recent) done(reader *eventReader) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.readers--
	if !reader.live || !reader.filter.ring[knocks] {
		return
	}
	if r.knockReaders--; r.knockReaders > 0 {
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(knocksLinger, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.noKnocks == timer { // no reader has come meanwhile
			r.noKnocks, r.knocks = nil, false
			r.subscription.SetKinds(withoutKnocks...)
		}
	})
	r.noKnocks = timer
}

func (r *recent) id(n uint64) admin.EventID { return admin.EventID{Run: r.run, N: n} }

// An eventReader reads what is kept, for one who asks for it by the admin API.
type eventReader struct {
	recent  *recent
	filter  *eventFilter
	live    bool // it waits for what comes
	closing sync.Once

	// recent.mu guards what follows.
	position [2]uint64 // in each ring, of what is read next
	last     uint64    // ID of the latest event that has been read or left out
	pending  []admin.Event
}

// place puts a reader where a query has it begin. The caller holds r.recent.mu.
func (r *eventReader) place(q admin.EventQuery) {
	rings := &r.recent.rings
	if q.After == (admin.EventID{}) {
		r.position = [2]uint64{rings[others].first(), rings[knocks].first()}
		if q.Once && q.Recent == 0 {
			return
		}
		var all []admin.Event
		for more := true; more; {
			var batch []admin.Event
			batch, more = r.collect()
			all = append(all, batch...)
		}
		r.pending = all[max(0, len(all)-q.Recent):]
		return
	}
	known := q.After.Run == r.recent.run
	if known {
		r.last = q.After.N
	}
	var kept uint64
	lost := !known
	for i := range rings {
		r.position[i] = rings[i].after(r.last)
		for position := r.position[i]; position < rings[i].next; position++ {
			kept += max(1, rings[i].at(position).lost)
		}
		lost = lost || r.filter.ring[i] && rings[i].evicted > r.last
	}
	unheard := r.live && r.filter.ring[knocks] && (!r.recent.knocks || r.last < r.recent.knocksSince)
	switch {
	case lost && known && !unheard && r.filter.all:
		n := r.recent.last - r.last - kept
		r.pending = []admin.Event{r.missed(&n, time.Now())}
	case lost, unheard:
		r.pending = []admin.Event{r.missed(nil, time.Now())}
	}
}

// missed returns the event that tells of a gap. Its number is known only if no filter
// would have left out any of what is missing.
func (r *eventReader) missed(n *uint64, at time.Time) admin.Event {
	if !r.filter.all {
		n = nil
	}
	return admin.Event{ID: r.recent.id(r.last).String(), Kind: admin.KindMissed, Time: at, Missed: n}
}

// Next implements admin.EventReader.
func (r *eventReader) Next(ctx context.Context) (admin.EventBatch, error) {
	for {
		batch, wait, err := r.take(ctx.Err() != nil)
		if wait == nil {
			return batch, err
		}
		select {
		case <-wait:
		case <-ctx.Done():
		}
	}
}

// take returns what there is to read, or what to wait for.
func (r *eventReader) take(atOnce bool) (admin.EventBatch, <-chan struct{}, error) {
	r.recent.mu.Lock()
	defer r.recent.mu.Unlock()
	events := r.pending
	r.pending = nil
	more := true
	for len(events) == 0 && more {
		events, more = r.collect()
	}
	batch := admin.EventBatch{Events: events, Last: r.recent.id(r.last), More: more}
	switch {
	case len(events) > 0 || atOnce:
		return batch, nil, nil
	case r.recent.closed:
		return batch, nil, event.ErrClosed
	}
	if r.recent.arrived == nil {
		r.recent.arrived = make(chan struct{})
	}
	return batch, r.recent.arrived, nil
}

// collect returns the next events that pass the filter, up to batchSize, in their order,
// and before them, if some are gone, how many. It reports whether there is more to read.
// The caller holds r.recent.mu.
func (r *eventReader) collect() (events []admin.Event, more bool) {
	rings := &r.recent.rings
	var lost uint64
	for i := range rings {
		if first := rings[i].first(); r.position[i] < first {
			if r.filter.ring[i] {
				lost += first - r.position[i]
			}
			r.position[i] = first
		}
	}
	if lost > 0 {
		events = append(events, r.missed(&lost, time.Now()))
	}
	for len(events) < batchSize {
		from := -1
		for i := range rings {
			if r.position[i] == rings[i].next {
				continue
			}
			if from < 0 || rings[i].at(r.position[i]).id < rings[from].at(r.position[from]).id {
				from = i
			}
		}
		if from < 0 {
			r.last = max(r.last, r.recent.last)
			return events, false
		}
		e := rings[from].at(r.position[from])
		r.position[from]++
		r.last = max(r.last, e.id)
		switch {
		case e.lost > 0 && (e.lostAny || r.filter.ring[knocks]):
			lost := e.lost // e is overwritten one day
			events = append(events, r.missed(&lost, e.event.Time))
		case e.lost == 0 && r.filter.passes(e):
			event := e.event
			event.ID = r.recent.id(e.id).String()
			events = append(events, event)
		}
	}
	return events, true
}

// Close implements admin.EventReader.
func (r *eventReader) Close() { r.closing.Do(func() { r.recent.done(r) }) }
