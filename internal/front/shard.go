package front

import (
	"bufio"
	"context"
	"hash/maphash"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"webknock/httpd"
	"webknock/internal/event"
	"webknock/internal/onetime"
	"webknock/internal/seam"
	"webknock/sequence"
	"webknock/sequence/track"
)

const (
	shardCount    = 128         // so many that sweeping one of a million clients takes under 5 ms
	queueSize     = 256         // knocks that may wait for one shard
	sweepInterval = time.Second // between two sweeps of a shard

	// Queues are drained after a random delay. Handling a knock takes a processor
	// for some microseconds, more for a hit than for a miss; without the delay that
	// could be measured on a request that comes just behind.
	minDrainDelay, maxDrainDelay = 500 * time.Microsecond, 1500 * time.Microsecond
)

// shards reads the knocks of all listeners. Each shard belongs to one
// goroutine and reads the knocks of its clients in the order they came.
type shards struct {
	shards    [shardCount]*shard
	seed      maphash.Seed
	origin    time.Time
	bound     *track.Bound
	rules     atomic.Pointer[rules]
	lost      atomic.Uint64 // knocks that found their queue full
	full      atomic.Uint64 // knocks that would have begun a sequence beyond the bound of clients
	wrong     atomic.Uint64 // knocks with a one-time code that passed no step
	forgotten atomic.Uint64 // clients whose knocks were no longer counted, since there were too many

	draining atomic.Bool // drainTimer runs
	drain    *time.Timer // wakes the shards that have something to read
	stopped  chan struct{}

	bans     *bans
	verifier *onetime.Verifier
	tallies  tallies
	watch    *watch // nil: nobody reads what becomes of knocks
	complete func(completion)
	ban      func(k httpd.Knock, reason string)
}

// A completion is a client that has completed a sequence.
type completion struct {
	sequence   *seam.Sequence
	knock      httpd.Knock
	request    *http.Request        // the knock that completed it; nil: it was malformed
	credential *sequence.Credential // of its one-time steps; nil: it has none
}

// rules is what a configuration says of knocks.
type rules struct {
	set       *sequence.Set
	clients   seam.Clients
	ban       seam.BanRule
	decoys    []string
	oneTime   bool // some step needs a one-time code
	sequences map[*sequence.Machine]*seam.Sequence
	router    http.Handler // what every knock that is parsed goes through
}

// newRules returns what cfg says of knocks. Progress under old goes on in
// sequences that stand unchanged.
func newRules(cfg seam.Configuration, old *rules) (*rules, error) {
	var oldSet *sequence.Set
	if old != nil {
		oldSet = old.set
	}
	specs := make([]sequence.Spec, len(cfg.Sequences))
	for i, s := range cfg.Sequences {
		var err error
		if specs[i], err = s.Spec(); err != nil {
			return nil, err
		}
	}
	set, err := sequence.NewSet(specs, oldSet)
	if err != nil {
		return nil, err
	}
	r := &rules{set: set, clients: cfg.Clients, ban: cfg.Ban, decoys: cfg.Decoys, sequences: map[*sequence.Machine]*seam.Sequence{}, router: newRouter()}
	for i, m := range set.Machines() {
		r.sequences[m] = &cfg.Sequences[i]
		r.oneTime = r.oneTime || cfg.Sequences[i].OneTime()
	}
	return r, nil
}

// client returns the address under which the client of a knock is remembered.
func (r *rules) client(addr netip.Addr) netip.Addr {
	return track.Widen(addr, r.clients.IPv4Prefix, r.clients.IPv6Prefix)
}

// shard is one goroutine's clients.
type shard struct {
	all   *shards
	index int
	queue chan httpd.Knock
	wake  chan struct{} // the queue is to be drained
	calls chan func()   // to be run by the shard's goroutine

	tracker *track.Tracker
	counts  counts
	used    usedCodes
	reader  *bufio.Reader
	hits    []sequence.Hit // memory for the next match
	latest  time.Duration  // when the latest knock came
	current knock          // the one on its way through the pipeline
}

// newShards returns shards for max clients in progress. Complete and ban are
// called by shards, and must not wait.
func newShards(max int, r *rules, verifier *onetime.Verifier, complete func(completion), ban func(httpd.Knock, string)) *shards {
	all := &shards{
		seed: maphash.MakeSeed(), origin: time.Now(), bound: track.NewBound(max), bans: newBans(), verifier: verifier,
		complete: complete, ban: ban, stopped: make(chan struct{}),
	}
	all.rules.Store(r)
	all.drain = time.AfterFunc(time.Hour, all.wakeAll)
	for i := range all.shards {
		all.shards[i] = &shard{
			all:     all,
			index:   i,
			queue:   make(chan httpd.Knock, queueSize),
			wake:    make(chan struct{}, 1),
			calls:   make(chan func()),
			tracker: track.New(all.bound),
			counts:  newCounts(),
			used:    usedCodes{},
			reader:  bufio.NewReaderSize(nil, httpd.MaxHead),
		}
	}
	return all
}

// run works until ctx is done and all queues are empty.
func (all *shards) run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, s := range all.shards {
		wg.Go(func() { s.run(ctx) })
	}
	wg.Wait()
	all.drain.Stop()
	close(all.stopped)
}

// post puts a knock into the queue of its client's shard. A knock that finds
// the queue full is lost.
func (all *shards) post(k httpd.Knock) {
	client := all.rules.Load().client(k.Client)
	s := all.shards[maphash.Comparable(all.seed, client)%shardCount]
	select {
	case s.queue <- k:
	default:
		all.lost.Add(1)
		k.Release()
		return
	}
	if len(s.queue) > queueSize/2 {
		s.wakeUp()
	} else if !all.draining.Swap(true) {
		all.drain.Reset(minDrainDelay + rand.N(maxDrainDelay-minDrainDelay))
	}
}

// wakeAll wakes the shards that have something to read.
func (all *shards) wakeAll() {
	all.draining.Store(false)
	for _, s := range all.shards {
		if len(s.queue) > 0 {
			s.wakeUp()
		}
	}
}

func (s *shard) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// each has every shard's goroutine call f, one after the other. It returns
// ErrStopped once the shards have stopped.
func (all *shards) each(ctx context.Context, f func(s *shard, now time.Duration)) error {
	for _, s := range all.shards {
		done := make(chan struct{})
		select {
		case s.calls <- func() { f(s, time.Since(all.origin)); close(done) }:
			<-done
		case <-all.stopped:
			return seam.ErrStopped
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// use puts other rules in force. Progress in sequences that stand unchanged in
// them goes on.
func (all *shards) use(ctx context.Context, r *rules) error {
	all.rules.Store(r)
	return all.each(ctx, func(s *shard, now time.Duration) {
		s.tracker.Retain(func(m *sequence.Machine) bool { return r.sequences[m] != nil }, now)
	})
}

// run works until ctx is done and the queue is empty. While nobody is in
// progress it has no timer.
func (s *shard) run(ctx context.Context) {
	var sweep <-chan time.Time
	for {
		if sweep == nil && !s.tracker.Empty() {
			sweep = time.After(sweepInterval)
		}
		select {
		case <-s.wake:
			s.readQueue()
		case f := <-s.calls:
			f()
		case <-sweep:
			s.tracker.Sweep(time.Since(s.all.origin))
			sweep = nil
		case <-ctx.Done():
			for len(s.queue) > 0 {
				s.readQueue()
			}
			return
		}
	}
}

// readQueue reads the knocks that are in the queue when it is called.
func (s *shard) readQueue() {
	for range len(s.queue) {
		s.read(<-s.queue)
	}
}

// read parses a knock and sends it through the pipeline, unless it certainly has
// no effect. A malformed request is a knock that matches nothing.
func (s *shard) read(received httpd.Knock) {
	rules := s.all.rules.Load()
	// Knocks of one client may come in by several goroutines; time does not
	// run backwards for it.
	s.latest = max(s.latest, received.At.Sub(s.all.origin))
	if s.all.bans.has(received.Client) {
		s.became(&received, event.Banned)
		received.Release()
		return
	}
	if s.skippable(rules, &received) {
		s.became(&received, event.Missed)
		received.Release()
		return
	}
	k := s.begin(rules, &received)
	request, err := received.Parse(s.reader)
	k.received = received // without its head, whose memory is given back
	if err != nil {
		k.outcome, request = event.Malformed, malformed
	} else {
		k.request = request
	}
	rules.router.ServeHTTP(nobody{}, request.WithContext(k))
	s.became(&k.received, k.outcome)
}

// became counts what became of a knock, and tells the keeper if that wants to know.
func (s *shard) became(received *httpd.Knock, outcome event.Outcome) {
	s.all.tallies.count(s.index, received.Listener, outcome)
	if s.all.watch.wanted() {
		s.all.watch.tell(event.Knock{At: received.At, Client: received.Client, Listener: received.Listener, Outcome: outcome})
	}
}

// skippable reports whether a knock certainly has no effect, malformed or not, so
// that it can be dropped without being parsed: its client has begun nothing and
// has brought no code just now, its path is no part of any step or decoy, and no
// knocks are counted for bans. Most requests of strangers are like that.
func (s *shard) skippable(r *rules, received *httpd.Knock) bool {
	if r.ban.Knocks > 0 {
		return false
	}
	path, plain := received.PlainPath()
	return plain && !s.counts.watch(received.Client, s.latest) && !r.set.Concerns(path) && !slices.Contains(r.decoys, path) &&
		!s.tracker.Knows(r.client(received.Client))
}
