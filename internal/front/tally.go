package front

import (
	"math"
	"slices"
	"sync/atomic"

	"webknock/internal/event"
	"webknock/internal/seam"
)

// outcomes are all outcomes of a knock, in the order in which they are counted.
var outcomes = event.Outcomes()

// A tally is what became of the knocks of one listener. Each shard counts for itself, so
// that no two processors contend for a count.
type tally struct {
	listener string // its address, as configured
	place    uint16 // among the tallies, from 1; 0: there are too many
	shards   [shardCount][16]atomic.Uint64
}

// tallies are those of all listeners that there have been since the start. A count never
// falls, so none is taken away.
type tallies struct{ all atomic.Pointer[[]*tally] }

// add makes ready for the knocks of a listener. Only one goroutine may call it at a time.
func (t *tallies) add(listener string) {
	all := t.list()
	if slices.ContainsFunc(all, func(one *tally) bool { return one.listener == listener }) {
		return
	}
	one := &tally{listener: listener}
	if len(all) < math.MaxUint16 {
		one.place = uint16(len(all) + 1)
	}
	all = append(slices.Clone(all), one)
	t.all.Store(&all)
}

func (t *tallies) list() []*tally {
	if all := t.all.Load(); all != nil {
		return *all
	}
	return nil
}

// of returns the tally of a listener; nil: there is none.
func (t *tallies) of(listener string) *tally {
	for _, one := range t.list() {
		if one.listener == listener {
			return one
		}
	}
	return nil
}

// count counts a knock that a shard has read, whose outcome has a place among outcomes.
func (t *tally) count(shard, outcome int) {
	if t != nil {
		t.shards[shard][outcome].Add(1)
	}
}

// place returns the place of an outcome among outcomes.
func place(outcome event.Outcome) int {
	if outcome == event.Missed { // nearly every knock of a stranger
		return missedPlace
	}
	return slices.Index(outcomes, outcome)
}

var missedPlace = slices.Index(outcomes, event.Missed)

// counts returns the counts of all listeners.
func (t *tallies) counts() (all []seam.KnockCount) {
	for _, one := range t.list() {
		for i, outcome := range outcomes {
			count := seam.KnockCount{Listener: one.listener, Outcome: outcome}
			for shard := range one.shards {
				count.Count += one.shards[shard][i].Load()
			}
			all = append(all, count)
		}
	}
	return all
}
