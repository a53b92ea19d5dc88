package front

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"webknock/httpd"
	"webknock/internal/event"
	"webknock/internal/hostname"
	"webknock/internal/onetime"
	"webknock/sequence"
	"webknock/sequence/track"
)

// newRouter returns the pipeline of a configuration. Every knock that is parsed
// goes through its middlewares, in this order, to its only route:
//
//   - prefetch drops requests that no user has made;
//   - ban counts what is left against its client, when the rest is known;
//   - codes matches the request and verifies its one-time codes;
//   - the route, progress, advances the client in its sequences.
//
// What they tell each other is in the request's context: a [knock].
func newRouter() http.Handler {
	return httpd.Router(progress, prefetch, ban, codes)
}

// A knock is a request on its way through the pipeline, and the context of that
// request. It belongs to the goroutine of its shard, which uses one for all its
// knocks: no part of the pipeline keeps it.
type knock struct {
	context.Context
	route chi.Context // so that chi makes none, and does not copy the request

	shard    *shard
	rules    *rules
	received httpd.Knock
	request  *http.Request // nil: it was malformed
	client   netip.Addr    // under which it is remembered
	at       time.Duration // when it came, since the origin of the shards
	head     uint64        // hash of its head, if anything is counted
	again    bool          // its head is the same as that of its client's previous knock

	// What the pipeline has found out.
	path      string
	match     sequence.Match
	replayed  bool // its client has used the code itself
	wrongCode bool // it brought a code that passes no step
	advances  bool // it has come to progress
	completed []track.Completion
	full      bool // it would have begun a sequence, but the bound of clients is reached
	outcome   event.Outcome

	// What explains that, should somebody ask.
	malformation uint8                // place in malformations
	candidate    sequence.Candidate   // whose code was used before or is wrong
	usedFor      time.Duration        // since its client has used the code
	refusal      onetime.Refusal      // of the code
	unreached    []sequence.Candidate // one-time steps that it matches and that were not awaited
	standing     []track.Standing     // how far the client was, expired or not
	banFor       string               // why its client is banned; empty: it is not for this
}

// begin makes the shard's knock stand for another request.
func (s *shard) begin(r *rules, received *httpd.Knock, client netip.Addr) *knock {
	k := &s.current
	k.route.Reset()
	unreached, standing := k.unreached[:0], k.standing[:0]
	head, again := s.sentAgain(r, received)
	*k = knock{
		Context: context.Background(), route: k.route, shard: s, rules: r,
		client: client, at: s.latest, head: head, again: again,
		unreached: unreached, standing: standing,
	}
	return k
}

type knockKey struct{}

// Value implements context.Context.
func (k *knock) Value(key any) any {
	switch key {
	case knockKey{}:
		return k
	case chi.RouteCtxKey:
		return &k.route
	}
	return nil
}

func knockOf(r *http.Request) *knock { return r.Context().Value(knockKey{}).(*knock) }

// malformed stands in the pipeline for a request that could not be parsed. It
// matches nothing.
var malformed = &http.Request{URL: new(url.URL)}

// prefetch drops what a browser requests ahead of its user: that is no knock.
func prefetch(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if httpd.Prefetch(r.Header) {
			knockOf(r).outcome = event.Prefetch
			return
		}
		next.ServeHTTP(w, r)
	})
}

// ban counts a knock against its client, after it is known what it completes and
// whether its code was wrong, and bans the client if it is one too many. What the
// client sends again after it has been let in does not count.
func ban(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r)
		k := knockOf(r)
		if k.replayed {
			return
		}
		if k.banFor = k.offends(); k.banFor != "" {
			k.shard.all.ban(k.received, k.banFor)
		}
	})
}

// codes finds the steps that a knock matches, and verifies the codes of the
// one-time steps among them.
func codes(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		k := knockOf(r)
		s := k.shard
		k.path = r.URL.Path
		k.match = k.rules.set.Match(k.asked(r), s.hits[:0])
		if k.replayed = k.bringsUsedCode(); k.replayed {
			k.match.Strike()
			k.count() // the code may be too old when the same head comes again
		}
		if k.wrongCode = k.verify(); k.wrongCode && !k.again {
			s.all.wrong.Add(1)
		}
		s.hits = k.match.Hits
		next.ServeHTTP(w, r)
	})
}

// progress advances the client in its sequences, and hands over what that
// completes.
func progress(_ http.ResponseWriter, r *http.Request) {
	k := knockOf(r)
	s := k.shard
	k.advances = true
	k.standing = s.standing(k.client, k.standing)
	k.completed, k.full = s.tracker.Advance(k.client, k.match, k.at)
	if k.full {
		s.all.full.Add(1)
	}
	for _, done := range k.completed {
		s.all.complete(completion{k.rules.sequences[done.Machine], k.received, k.request, done.Credential})
	}
	if k.outcome == "" {
		k.outcome = k.result()
	}
}

// result says what became of a knock that was well-formed and no prefetch.
func (k *knock) result() event.Outcome {
	switch {
	case k.replayed:
		return event.Replayed
	case len(k.completed) > 0:
		return event.Completed
	case k.full:
		return event.Untracked
	case k.wrongCode:
		return event.WrongCode
	case k.advanced():
		return event.Matched
	case len(k.match.Hits) == 0 && k.rules.set.Ignores(k.path):
		return event.Ignored
	}
	return event.Missed
}

// advanced reports whether the knock has taken its client to a step of a sequence, or
// matches the step where the client is.
func (k *knock) advanced() bool {
	return slices.ContainsFunc(k.match.Hits, func(hit sequence.Hit) bool {
		return k.shard.tracker.State(k.client, hit.Machine).Step() > 0
	})
}

// asked returns what the triggers look at.
func (k *knock) asked(r *http.Request) sequence.Request {
	if k.request == nil {
		return sequence.Request{}
	}
	return sequence.Request{Method: r.Method, Host: asciiHost(r.Host), Path: r.URL.Path, RawQuery: r.URL.RawQuery, Scheme: k.received.Scheme()}
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

// nobody discards the answer to a knock, whose connection is gone.
type nobody struct{}

func (nobody) Header() http.Header         { return http.Header{} }
func (nobody) Write(p []byte) (int, error) { return len(p), nil }
func (nobody) WriteHeader(int)             {}
