package keeper

import (
	"net/netip"
	"sync"
	"time"

	"webknock/internal/event"
)

// maxRefusals is how many refused completions are remembered, so that explain can tell
// of them.
const maxRefusals = 1024

// A refusedCompletion is why a completion has opened nothing.
type refusedCompletion struct {
	client   netip.Addr
	sequence string
	at       time.Time
	err      error
}

// refusals are the latest ones.
type refusals struct {
	mu   sync.Mutex
	ring []refusedCompletion
	next int
}

func (r *refusals) add(one refusedCompletion) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.ring) < maxRefusals {
		r.ring = append(r.ring, one)
		return
	}
	r.ring[r.next] = one
	r.next = (r.next + 1) % maxRefusals
}

// of returns why the completion of a sequence at a time has opened nothing; nil: that is
// not known.
func (r *refusals) of(client netip.Prefix, sequence string, at time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, one := range r.ring {
		if one.sequence == sequence && one.at.UnixNano() == at.UnixNano() && client.Contains(one.client) {
			return one.err
		}
	}
	return nil
}

// What is told of refused completions one by one, in an hour. A front that was taken over
// can have any number of them, and must not push out of the log and of the history who
// came in.
const refusalsInHour = 300

// refuse tells that a completion opens and closes nothing.
func (k *Keeper) refuse(e event.GrantRefused) {
	if !k.asked.refusals.take(time.Now()) {
		k.untold.add(1)
		return
	}
	k.refusals.add(refusedCompletion{client: e.Completion.Client, sequence: e.Completion.Sequence, at: e.Completion.At, err: e.Err})
	k.events.Publish(e)
}
