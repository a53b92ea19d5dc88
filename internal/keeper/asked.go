package keeper

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"webknock/config"
	"webknock/firewall"
	"webknock/internal/event"
	"webknock/internal/keeper/forfront"
	"webknock/internal/seam"
	"webknock/sequence"
)

// The front talks to strangers, and one of them may have taken it over. So the keeper
// believes nothing that the front says: it looks up in its own configuration what a
// completion opens and whom the front may ban, and bounds how often it is asked.

// asked bounds what the front asks for, and counts what is refused.
type asked struct {
	completions, bans, knocks, loads *bucket
	refusals                         *bucket // that are told one by one
	lines                            *bucket // of the log, for completions and extensions

	unbanning chan struct{} // has room for as many bans as are being taken back

	log *slog.Logger

	mu      sync.Mutex
	refused uint64
	logged  time.Time // when a refusal was last logged
}

// What the front may ask for: each is beyond what an honest one ever does. A gate on two
// processors carries out some 25,000 completions a second.
func newAsked(log *slog.Logger) *asked {
	return &asked{
		completions: newBucket(50_000, 100_000),
		bans:        newBucket(10_000, 1<<16),
		knocks:      newBucket(2*float64(time.Second/seam.KnocksInterval), 100), // messages, of many knocks
		loads:       newBucket(5, 20),                                           // of the record of used codes
		refusals:    newBucket(refusalsInHour/time.Hour.Seconds(), refusalsInHour),
		lines:       newBucket(500, 10_000),
		unbanning:   make(chan struct{}, 64),
		log:         log,
	}
}

// refuse counts a refusal, and logs the first in a while.
func (a *asked) refuse(what string, why error) {
	a.mu.Lock()
	a.refused++
	now := time.Now()
	first := now.Sub(a.logged) >= lossInterval
	if first {
		a.logged = now
	}
	a.mu.Unlock()
	if first {
		a.log.Error("the front has asked for what it may not have, and got nothing", "asked", what, "error", why)
	}
}

// unban has the front lift a ban that the keeper does not take. It does not wait: the
// front is waited for by whoever asks.
func (a *asked) unban(front seam.Front, client netip.Prefix) {
	select {
	case a.unbanning <- struct{}{}:
		go func() {
			front.Unban(client)
			<-a.unbanning
		}()
	default:
	}
}

func (a *asked) count() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.refused
}

// A bucket bounds a rate.
type bucket struct {
	rate, burst float64

	mu     sync.Mutex
	tokens float64
	last   time.Time
}

func newBucket(rate, burst float64) *bucket { return &bucket{rate: rate, burst: burst, tokens: burst} }

// take takes a token, and reports whether there was one.
func (b *bucket) take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if passed := now.Sub(b.last); passed > 0 {
		b.tokens = min(b.burst, b.tokens+b.rate*passed.Seconds())
		b.last = now
	}
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// Why the front gets nothing.
var (
	errTooOften  = errors.New("too often")
	errMalformed = errors.New("no front says that")
	errNoBans    = errors.New("by the configuration nobody is banned for that")
	errExempt    = errors.New("a network that is never banned")
	errTooMany   = errors.New("too many are banned")
)

// mostEarly and mostLate bound how far off the time of a knock may be when the front
// tells of it: it waits for answers, and for the record of used codes.
const (
	mostEarly = time.Second
	mostLate  = time.Minute
)

// timeOf returns the time of a knock, within bounds.
func timeOf(at, now time.Time) time.Time {
	if at.After(now.Add(mostEarly)) || at.Before(now.Add(-mostLate)) {
		return now
	}
	return at
}

// wellFormed returns a completion as an honest front sends it, or false if no honest
// front sends it, whatever the configuration is.
func wellFormed(c seam.Completion, now time.Time) (seam.Completion, bool) {
	if !isName(c.Sequence) || c.User != "" && !isName(c.User) || !isAddress(c.Client) {
		return c, false
	}
	if (c.User == "") != (c.Code == nil) || c.Ticket != nil && c.User == "" || c.Code != nil && c.Code.Counter < 0 {
		return c, false
	}
	if t := c.Ticket; t != nil {
		if t.TTL < 0 || t.Address.IsValid() && !isAddress(t.Address) || len(t.Doors) > len(slices.Compact(slices.Sorted(slices.Values(t.Doors)))) {
			return c, false
		}
	}
	c.At = timeOf(c.At, now)
	if c.Request != nil {
		request := *c.Request
		request.Client = c.Client
		c.Request = &request
	}
	return c, true
}

// isAddress reports whether an address is written as the front writes those of clients.
func isAddress(a netip.Addr) bool { return a.IsValid() && a.Zone() == "" && !a.Is4In6() }

// isName reports whether a text can be the name of a sequence, a door or a user.
func isName(s string) bool {
	return s != "" && len(s) <= 32 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_-") == ""
}

// mayComplete returns why a completion opens nothing, or nil. The configuration may
// be another than when the front looked at the run's codes.
func mayComplete(s *config.Sequence, c seam.Completion) error {
	switch {
	case s == nil:
		return errNoSequence
	case c.User == "" && hasVariable(s, sequence.TOTP, sequence.Ticket):
		return errNoCode
	case c.User != "" && !(s.Admits(c.User) && c.Ticket.Permitted(s.Opens, s.AllowAddress)), c.Ticket != nil && !hasVariable(s, sequence.Ticket):
		return errNotPermitted
	case c.Ticket != nil && c.Ticket.Address.IsValid() && !firewall.ValidClient(c.Ticket.Address):
		return errNobody
	// A proxy may name any address. The guard lets all loopback traffic pass, but a
	// sequence may run commands for it.
	case c.Client.IsValid() && !c.Client.IsLoopback() && !firewall.ValidClient(c.Client):
		return errNobody
	}
	return nil
}

var errNobody = errors.New("it is for an address that is nobody's")

// banOf returns a ban as it is put in force, or why it is not.
func banOf(cfg *config.Config, b seam.Ban, now time.Time) (seam.Ban, error) {
	addr := b.Client.Addr()
	if !addr.IsValid() || addr.Zone() != "" || b.Client != firewall.Offender(addr) {
		return b, errMalformed
	}
	switch {
	case b.Reason == event.TooManyKnocks && cfg.Shield.Ban.Knocks > 0:
	case b.Reason == event.Decoy && len(cfg.Shield.Decoys) > 0:
	default:
		return b, errNoBans
	}
	if slices.ContainsFunc(forfront.Exempt(cfg), b.Client.Overlaps) {
		return b, errExempt
	}
	if most := now.Add(cfg.Shield.Ban.For); b.Until.After(most) {
		b.Until = most
	}
	if !b.Until.After(now) {
		return b, errMalformed
	}
	b.At = timeOf(b.At, now)
	return b, nil
}

const maxWhy = 256 // bytes of why a knock did what it did

// publishable returns a knock as it is published, or false if no honest front tells of it.
func publishable(cfg *config.Config, listeners []listener, k event.Knock, now time.Time) (event.Knock, bool) {
	if !isAddress(k.Client) || !slices.Contains(event.Outcomes(), k.Outcome) || len(k.Why) > maxWhy || strings.ContainsFunc(k.Why, isControl) {
		return k, false
	}
	if k.Step < 0 || k.Steps < 0 || k.Step > k.Steps || k.Steps > sequence.MaxSteps {
		return k, false
	}
	// Another configuration may have been in force a moment ago.
	if k.Sequence != "" && sequenceOf(cfg, k.Sequence) == nil {
		k.Sequence, k.Step, k.Steps = "", 0, 0
	}
	if !slices.ContainsFunc(listeners, func(l listener) bool { return l.Address == k.Listener }) {
		k.Listener = ""
	}
	k.At = timeOf(k.At, now)
	return k, true
}

func isControl(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }

// A checkedFront is the front, of whose answers the keeper takes only what an honest one
// says.
type checkedFront struct {
	seam.Front
	keeper *Keeper
}

const (
	maxProblems = 32
	maxLosses   = 64
	maxLine     = 1024 // bytes
)

// State implements seam.Front. It leaves out what is none of the keeper's listeners, so
// that no metric has a label of a stranger's. Its counters never fall.
func (f checkedFront) State() seam.State { return f.keeper.counted.state(f.state) }

func (f checkedFront) state() seam.State {
	s := f.Front.State()
	s.Clients, s.Bans = max(0, s.Clients), max(0, s.Bans)
	s.Problems = slices.Clone(s.Problems[:min(len(s.Problems), maxProblems)])
	for i, problem := range s.Problems {
		s.Problems[i] = line(problem)
	}
	s.Losses = slices.DeleteFunc(slices.Clone(s.Losses[:min(len(s.Losses), maxLosses)]), func(l seam.Loss) bool { return !isName(l.Kind) })
	for i := range s.Losses {
		s.Losses[i].Message = line(s.Losses[i].Message)
	}
	known := f.keeper.addresses()
	s.Knocks = slices.DeleteFunc(slices.Clone(s.Knocks), func(c seam.KnockCount) bool {
		return !known[c.Listener] || !slices.Contains(event.Outcomes(), c.Outcome)
	})
	s.Connections = slices.DeleteFunc(slices.Clone(s.Connections), func(c seam.ConnectionCount) bool { return !known[c.Listener] || c.Open < 0 })
	return s
}

// Clients implements seam.Front. It leaves out progress that no client can have.
func (f checkedFront) Clients(ctx context.Context) ([]seam.Client, error) {
	all, err := f.Front.Clients(ctx)
	cfg := f.keeper.config.Load()
	return slices.DeleteFunc(slices.Clone(all), func(c seam.Client) bool {
		return !c.Client.IsValid() || !isAddress(c.Client.Addr()) || sequenceOf(cfg, c.Sequence) == nil ||
			c.Step < 0 || c.Step > c.Steps || c.Steps > sequence.MaxSteps
	}), err
}

// line returns a text as one line of bounded length.
func line(s string) string {
	return strings.Map(func(r rune) rune {
		if isControl(r) {
			return ' '
		}
		return r
	}, s[:min(len(s), maxLine)])
}

// addresses returns the addresses of all listeners that there have been.
func (k *Keeper) addresses() map[string]bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	known := make(map[string]bool, len(k.listened))
	for address := range k.listened {
		known[address] = true
	}
	return known
}
