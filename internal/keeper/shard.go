package keeper

import (
	"bufio"
	"context"
	"hash/maphash"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"webknock/config"
	"webknock/firewall"
	"webknock/httpd"
	"webknock/internal/hostname"
	"webknock/internal/onetime"
	"webknock/sequence"
	"webknock/sequence/track"
)

const (
	shardCount    = 128         // so many that sweeping one of a million clients takes under 5 ms
	mailboxSize   = 256         // letters that may wait for one shard
	sweepInterval = time.Second // between two sweeps of a shard

	// Letters lie in their mailboxes for a time by chance. What is done with them
	// takes a processor for some microseconds, more for a hit than for a miss; in
	// the answer to a request that comes just behind that could be measured.
	leastRest, mostRest = 500 * time.Microsecond, 1500 * time.Microsecond
)

// shards reads the letters of all listeners. Each shard belongs to one
// goroutine and reads the letters of its clients in the order they came.
type shards struct {
	shards    [shardCount]*shard
	seed      maphash.Seed
	origin    time.Time
	bound     *track.Bound
	rules     atomic.Pointer[rules]
	lost      atomic.Uint64 // letters that found their mailbox full
	full      atomic.Uint64 // knocks that would have begun a sequence beyond the bound of clients
	wrong     atomic.Uint64 // knocks with a one-time code that passed no step
	forgotten atomic.Uint64 // clients whose knocks were no longer counted, since there were too many

	resting atomic.Bool // delivery will come
	rest    *time.Timer // until delivery

	banned   *banned
	unbanned atomic.Uint64 // clients that would have been banned beyond the bound of bans
	verifier *onetime.Verifier
	complete func(completion)
	ban      func(l httpd.Knock, reason string)
}

// A completion is a client that has completed a sequence.
type completion struct {
	sequence *config.Sequence
	letter   httpd.Knock
	request  *http.Request        // the knock that completed it
	by       *sequence.Credential // of its one-time steps; nil: it has none
}

// rules is what a configuration says of knocks.
type rules struct {
	set       *sequence.Set
	clients   config.Clients
	ban       config.Ban
	decoys    []string
	oneTime   bool // some step needs a one-time code
	sequences map[*sequence.Machine]*config.Sequence
}

// client returns the address under which the client of a knock is remembered.
func (r *rules) client(addr netip.Addr) netip.Addr {
	return track.Widen(addr, r.clients.IPv4Prefix, r.clients.IPv6Prefix)
}

// shard is one goroutine's clients.
type shard struct {
	*shards
	mailbox chan httpd.Knock
	bell    chan struct{} // there are letters to read
	asked   chan func()   // work on the tracker, from other goroutines

	tracker *track.Tracker
	router  http.Handler
	reader  *bufio.Reader
	hits    []sequence.Hit
	offenders
	used    usedCodes
	rules   *rules        // of the letter being read
	letter  httpd.Knock   // being read
	request *http.Request // of the letter being read; nil: malformed
	again   bool          // the letter being read has the same head as the client's previous one
	now     time.Duration
}

// newShards returns shards for max clients in progress. Complete and ban are
// called by shards, and must not wait.
func newShards(max int, r *rules, verifier *onetime.Verifier, complete func(completion), ban func(httpd.Knock, string)) *shards {
	all := &shards{seed: maphash.MakeSeed(), origin: time.Now(), bound: track.NewBound(max), banned: newBanned(), verifier: verifier, complete: complete, ban: ban}
	all.rules.Store(r)
	all.rest = time.AfterFunc(time.Hour, all.deliver)
	for i := range all.shards {
		s := &shard{
			shards:    all,
			mailbox:   make(chan httpd.Knock, mailboxSize),
			bell:      make(chan struct{}, 1),
			asked:     make(chan func()),
			tracker:   track.New(all.bound),
			offenders: newOffenders(),
			used:      usedCodes{},
			reader:    bufio.NewReaderSize(nil, httpd.MaxHead),
		}
		s.router = httpd.Router(s.knock)
		all.shards[i] = s
	}
	return all
}

// run works until ctx is done and all mailboxes are empty.
func (all *shards) run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, s := range all.shards {
		wg.Go(func() { s.run(ctx) })
	}
	wg.Wait()
	all.rest.Stop()
}

// post puts a letter into the mailbox of its client's shard. A letter that
// finds the mailbox full is lost.
func (all *shards) post(l httpd.Knock) {
	client := all.rules.Load().client(l.Client)
	s := all.shards[maphash.Comparable(all.seed, client)%shardCount]
	select {
	case s.mailbox <- l:
	default:
		all.lost.Add(1)
		l.Release()
		return
	}
	if len(s.mailbox) > mailboxSize/2 {
		s.ring()
	} else if !all.resting.Swap(true) {
		all.rest.Reset(leastRest + rand.N(mostRest-leastRest))
	}
}

// deliver has the shards read their letters.
func (all *shards) deliver() {
	all.resting.Store(false)
	for _, s := range all.shards {
		if len(s.mailbox) > 0 {
			s.ring()
		}
	}
}

func (s *shard) ring() {
	select {
	case s.bell <- struct{}{}:
	default:
	}
}

// each has every shard's goroutine call f, one after the other.
func (all *shards) each(ctx context.Context, f func(t *track.Tracker, now time.Duration)) error {
	done := make(chan struct{})
	for _, s := range all.shards {
		select {
		case s.asked <- func() { f(s.tracker, time.Since(all.origin)); done <- struct{}{} }:
			<-done
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
	return all.each(ctx, func(t *track.Tracker, now time.Duration) {
		t.Retain(func(m *sequence.Machine) bool { return r.sequences[m] != nil }, now)
	})
}

// run works until ctx is done and the mailbox is empty. While nobody is in
// progress it has no timer.
func (s *shard) run(ctx context.Context) {
	var sweep <-chan time.Time
	for {
		if sweep == nil && !s.tracker.Empty() {
			sweep = time.After(sweepInterval)
		}
		select {
		case <-s.bell:
			for range len(s.mailbox) {
				s.read(<-s.mailbox)
			}
		case f := <-s.asked:
			f()
		case <-sweep:
			s.tracker.Sweep(time.Since(s.origin))
			sweep = nil
		case <-ctx.Done():
			for len(s.mailbox) > 0 {
				s.read(<-s.mailbox)
			}
			return
		}
	}
}

// read opens a letter and hands its request to the router. A malformed request
// is a knock that matches nothing.
func (s *shard) read(l httpd.Knock) {
	s.rules = s.shards.rules.Load()
	// Letters of one client may come in by several goroutines; time does not
	// run backwards for it.
	s.now = max(s.now, l.At.Sub(s.origin))
	if s.banned.has(firewall.Offender(l.Client)) || s.moot(&l) {
		l.Release()
		return
	}
	s.again = s.sentAgain(&l)
	request, err := l.Parse(s.reader)
	s.letter, s.request = l, request // without its head, whose memory is given back
	if err != nil {
		s.advance(sequence.Request{})
		return
	}
	s.router.ServeHTTP(nobody{}, request)
}

// moot reports whether a letter surely changes nothing, malformed or not, so that
// it need not be opened: its client has begun nothing and has brought no code just
// now, it asks for what is no part of anything, and nobody counts. Most letters of
// strangers are such.
func (s *shard) moot(l *httpd.Knock) bool {
	if s.rules.ban.Knocks > 0 {
		return false
	}
	path, plain := l.PlainPath()
	return plain && !s.watches(l) && !s.rules.set.Concerns(path) && !slices.Contains(s.rules.decoys, path) &&
		!s.tracker.Knows(s.rules.client(l.Client))
}

// knock is what the router knows.
func (s *shard) knock(_ http.ResponseWriter, r *http.Request) {
	if !httpd.Prefetch(r.Header) {
		s.advance(sequence.Request{Method: r.Method, Host: asciiHost(r.Host), Path: r.URL.Path, RawQuery: r.URL.RawQuery, Scheme: s.letter.Scheme()})
	}
}

// asciiHost returns a Host field as it is compared. Most clients encode letters
// beyond ASCII themselves; what is not valid stays as it is and matches no step.
func asciiHost(host string) string {
	if !strings.ContainsFunc(host, func(r rune) bool { return r >= 0x80 }) {
		return host
	}
	name, _, _ := strings.Cut(host, ":")
	if ascii, err := hostname.ASCII(name); err == nil {
		return ascii
	}
	return host
}

func (s *shard) advance(r sequence.Request) {
	client := s.rules.client(s.letter.Client)
	knock := s.rules.set.Match(r, s.hits[:0])
	struck := s.usedBefore(client, knock)
	if struck {
		knock.Strike()
		s.count() // the code may be too old when the same head comes again
	}
	wrong := s.redeem(client, &knock)
	if wrong && !s.again {
		s.wrong.Add(1)
	}
	s.hits = knock.Hits
	completed, full := s.tracker.Advance(client, knock, s.now)
	if full {
		s.full.Add(1)
	}
	for _, done := range completed {
		s.complete(completion{s.rules.sequences[done.Machine], s.letter, s.request, done.Credential})
	}
	if struck {
		return
	}
	if reason := s.offends(r.Path, len(completed) > 0, wrong); reason != "" {
		s.ban(s.letter, reason)
	}
}

// nobody is who reads the answer to a knock whose connection is gone.
type nobody struct{}

func (nobody) Header() http.Header         { return http.Header{} }
func (nobody) Write(p []byte) (int, error) { return len(p), nil }
func (nobody) WriteHeader(int)             {}
