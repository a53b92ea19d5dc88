package keeper

import (
	"context"
	"slices"
	"sync"
	"time"

	"webknock/httpd/admin"
	"webknock/internal/event"
)

// How many spans are kept of each length. Their number and size are fixed, whatever
// strangers send.
const (
	keptMinutes = 60
	keptHours   = 24
)

// A tally is how often something happened.
type tally struct {
	knocks              map[event.Outcome]uint64
	completions, grants uint64
}

// since returns what was added to an earlier tally. A count that is lower than before
// has started again at 0.
func (t tally) since(earlier tally) tally {
	grown := func(now, before uint64) uint64 {
		if now < before {
			return now
		}
		return now - before
	}
	d := tally{map[event.Outcome]uint64{}, grown(t.completions, earlier.completions), grown(t.grants, earlier.grants)}
	for outcome, n := range t.knocks {
		d.knocks[outcome] = grown(n, earlier.knocks[outcome])
	}
	return d
}

func (t *tally) add(o tally) {
	t.completions += o.completions
	t.grants += o.grants
	for outcome, n := range o.knocks {
		if t.knocks == nil {
			t.knocks = map[event.Outcome]uint64{}
		}
		t.knocks[outcome] += n
	}
}

// stats has what happened in each of the latest minutes and hours.
type stats struct {
	mu             sync.Mutex
	latest         tally // as of the latest record
	minutes, hours series
}

func newStats(now time.Time) *stats {
	return &stats{minutes: newSeries(now, time.Minute, keptMinutes), hours: newSeries(now, time.Hour, keptHours)}
}

// record takes the tally of a time. What has been added since the record before belongs
// to the minute and the hour of that one.
func (s *stats) record(now time.Time, t tally) {
	s.mu.Lock()
	defer s.mu.Unlock()
	added := t.since(s.latest)
	s.latest = t
	for _, series := range []*series{&s.minutes, &s.hours} {
		series.current().add(added)
		series.advance(now)
	}
}

// list returns the spans as the admin API shows them.
func (s *stats) list() admin.Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return admin.Stats{Minutes: s.minutes.list(), Hours: s.hours.list()}
}

// A series is a number of spans of one length, each after the other.
type series struct {
	length time.Duration
	start  time.Time // of the last span
	spans  []tally   // oldest first
}

func newSeries(now time.Time, length time.Duration, spans int) series {
	return series{length, now.Truncate(length), make([]tally, spans)}
}

func (s *series) current() *tally { return &s.spans[len(s.spans)-1] }

// advance makes the span of a time the current one. If the clock was set back, the spans
// keep their order and the current one goes on.
func (s *series) advance(now time.Time) {
	start := now.Truncate(s.length)
	passed := int(min(max(0, start.Sub(s.start)/s.length), time.Duration(len(s.spans))))
	s.start = start
	s.spans = append(slices.Clone(s.spans[passed:]), make([]tally, passed)...)
}

func (s *series) list() (all []admin.Span) {
	for i, t := range s.spans {
		span := admin.Span{
			At: s.start.Add(-s.length * time.Duration(len(s.spans)-1-i)), Knocks: map[string]uint64{}, Completions: t.completions, Grants: t.grants,
		}
		for _, outcome := range event.Outcomes() {
			span.Knocks[string(outcome)] = t.knocks[outcome]
		}
		all = append(all, span)
	}
	return all
}

// tally returns how often everything has happened since the daemon started.
func (k *Keeper) tally() tally {
	t := tally{knocks: map[event.Outcome]uint64{}, grants: k.opened.n.Load()}
	for _, c := range k.front.State().Knocks {
		t.knocks[c.Outcome] += c.Count
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, n := range k.completions {
		t.completions += n
	}
	return t
}

// recordStats records the tally when each minute ends, until ctx is done.
func (k *Keeper) recordStats(ctx context.Context) {
	for {
		now := time.Now()
		select {
		case <-ctx.Done():
			return
		case <-time.After(now.Truncate(time.Minute).Add(time.Minute).Sub(now.Round(0))):
			k.stats.record(time.Now(), k.tally())
		}
	}
}

// Stats implements admin.Control.
func (k *Keeper) Stats(context.Context) (admin.Stats, error) {
	k.stats.record(time.Now(), k.tally())
	return k.stats.list(), nil
}
