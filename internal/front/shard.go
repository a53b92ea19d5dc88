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
	"webknock/internal/banlist"
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
	unbanned  atomic.Uint64 // clients that were not banned, since there are too many bans
	forgotten atomic.Uint64 // clients whose knocks were no longer counted, since there were too many

	draining atomic.Bool // drainTimer runs
	drain    *time.Timer // wakes the shards that have something to read
	stopped  chan struct{}

	bans     *banlist.List
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
	ignored   []string     // paths that all sequences ignore
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
	r.ignored = ignoredByAll(cfg.Sequences)
	return r, nil
}

// ignoredByAll returns the paths that all sequences ignore.
func ignoredByAll(sequences []seam.Sequence) (paths []string) {
	if len(sequences) == 0 {
		return nil
	}
	for _, path := range sequences[0].Ignore {
		if !slices.ContainsFunc(sequences, func(s seam.Sequence) bool { return !slices.Contains(s.Ignore, path) }) {
			paths = append(paths, path)
		}
	}
	return paths
}

// client returns the address under which the client of a knock is remembered.
func (r *rules) client(addr netip.Addr) netip.Addr {
	return track.Widen(addr, r.clients.IPv4Prefix, r.clients.IPv6Prefix)
}

// prefix returns the addresses of a client, as client returned it.
func (r *rules) prefix(client netip.Addr) netip.Prefix {
	if client.Is4() {
		return netip.PrefixFrom(client, r.clients.IPv4Prefix)
	}
	return netip.PrefixFrom(client, r.clients.IPv6Prefix)
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
	traces  traces         // what became of the latest knocks
	current knock          // the one on its way through the pipeline

	unparsedPath []byte // of the current knock, if it is plain; cut at maxPath
}

// newShards returns shards for max clients in progress. Complete and ban are
// called by shards, and must not wait.
func newShards(max int, r *rules, verifier *onetime.Verifier, complete func(completion), ban func(httpd.Knock, string)) *shards {
	all := &shards{
		seed: maphash.MakeSeed(), origin: time.Now(), bound: track.NewBound(max), bans: banlist.New(), verifier: verifier,
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
			traces:  newTraces(),
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
	s := all.of(all.rules.Load().client(k.Client))
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

// of returns the shard of a client, as rules.client returned it.
func (all *shards) of(client netip.Addr) *shard {
	return all.shards[maphash.Comparable(all.seed, client)%shardCount]
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
		if err := all.do(ctx, s, f); err != nil {
			return err
		}
	}
	return nil
}

// do has a shard's goroutine call f. Its errors are those of each.
func (all *shards) do(ctx context.Context, s *shard, f func(s *shard, now time.Duration)) error {
	done := make(chan struct{})
	select {
	case s.calls <- func() { f(s, time.Since(all.origin)); close(done) }:
		<-done
		return nil
	case <-all.stopped:
		return seam.ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
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
	client := rules.client(received.Client)
	if s.all.bans.Has(received.Client) {
		path, _ := received.PlainPath()
		s.unparsed(&received, client, path, event.Banned)
		received.Release()
		return
	}
	path, skippable := s.skippable(rules, &received, client)
	if skippable {
		outcome := event.Missed
		if slices.Contains(rules.ignored, path) {
			outcome = event.Ignored
		}
		s.unparsed(&received, client, path, outcome)
		received.Release()
		return
	}
	s.unparsedPath = append(s.unparsedPath[:0], path[:min(len(path), maxPath)]...)
	k := s.begin(rules, &received, client)
	request, err := received.Parse(s.reader)
	k.received = received // without its head, whose memory is given back
	if err != nil {
		k.outcome, request = event.Malformed, malformed
		k.malformation = malformationOf(err)
	} else {
		k.request = request
	}
	rules.router.ServeHTTP(nobody{}, request.WithContext(k))
	s.parsed(k)
}

// standing appends to all how far a client is in its sequences, or was when its progress
// expired.
func (s *shard) standing(client netip.Addr, all []track.Standing) []track.Standing {
	all = s.tracker.Standing(client, all)
	if of := s.traces.trail(client); of != nil {
		for _, was := range of.standing {
			if !slices.ContainsFunc(all, func(is track.Standing) bool { return is.Machine == was.Machine }) {
				all = append(all, was)
			}
		}
	}
	return all
}

// skippable reports whether a knock certainly has no effect, malformed or not, so
// that it can be dropped without being parsed: its client has begun nothing and
// has brought no code just now, its path is no part of any step or decoy, and no
// knocks are counted for bans. Most requests of strangers are like that. It also returns
// the path if that is plain, which is valid as long as the knock.
func (s *shard) skippable(r *rules, received *httpd.Knock, client netip.Addr) (path string, ok bool) {
	path, plain := received.PlainPath()
	return path, plain && r.ban.Knocks == 0 && !s.counts.watch(received.Client, s.latest) && !r.set.Concerns(path) && !slices.Contains(r.decoys, path) &&
		!s.tracker.Knows(client)
}
