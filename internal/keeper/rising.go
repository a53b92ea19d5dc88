package keeper

import (
	"sync"

	"webknock/internal/seam"
)

// rising keeps the counters of the front from falling when a front has ended and another
// has begun at 0.
type rising struct {
	mu     sync.Mutex                       // held while the front is asked, so that its answers keep their order
	knocks map[seam.KnockCount]*risingCount // by all but the count
	losses map[string]*risingCount
	kinds  []seam.Loss // of losses, in their order
}

type risingCount struct{ before, latest uint64 }

// add takes the latest count, and returns the sum over all fronts.
func (c *risingCount) add(n uint64) uint64 {
	if n < c.latest { // of another front
		c.before += c.latest
	}
	c.latest = n
	return c.before + n
}

// state asks the front, and returns its state with counters that never fall. What a front
// does not count any more, or not yet, stays as it was.
func (r *rising) state(ask func() seam.State) seam.State {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := ask()
	if r.knocks == nil {
		r.knocks, r.losses = map[seam.KnockCount]*risingCount{}, map[string]*risingCount{}
	}
	for _, c := range s.Knocks {
		n := c.Count
		c.Count = 0
		if r.knocks[c] == nil {
			r.knocks[c] = new(risingCount)
		}
		r.knocks[c].add(n)
	}
	for _, l := range s.Losses {
		if r.losses[l.Kind] == nil && len(r.kinds) == maxLosses {
			continue
		} else if r.losses[l.Kind] == nil {
			r.losses[l.Kind] = new(risingCount)
			r.kinds = append(r.kinds, l)
		}
		r.losses[l.Kind].add(l.Count)
	}
	s.Knocks, s.Losses = nil, nil
	for c, n := range r.knocks {
		c.Count = n.before + n.latest
		s.Knocks = append(s.Knocks, c)
	}
	for _, l := range r.kinds {
		l.Count = r.losses[l.Kind].before + r.losses[l.Kind].latest
		s.Losses = append(s.Losses, l)
	}
	return s
}
