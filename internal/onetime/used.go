package onetime

import (
	"maps"

	"webknock/internal/ticket"
)

// Used is what was used of all secrets. A complete one promises: what it does not
// hold, and is not refused for its time, was never used. A ticket is forgotten
// only when Mark has gone past it.
type Used struct {
	Mark    int64                   `json:"mark"` // the latest time at which a ticket was accepted, in seconds since 1970
	Secrets map[ticket.KeyID]*Spent `json:"secrets"`
}

// Spent is what was used of one secret, configured or not: a user that is
// removed and comes back finds it.
type Spent struct {
	Counter int64                  `json:"counter"` // the latest of TOTP; 0: none
	Tickets map[ticket.Nonce]int64 `json:"tickets"` // the time of each
}

// NewUsed returns one that holds nothing.
func NewUsed() Used { return Used{Secrets: map[ticket.KeyID]*Spent{}} }

// Of returns what was used of a secret, to be added to.
func (b *Used) Of(id ticket.KeyID) *Spent {
	s := b.Secrets[id]
	if s == nil {
		s = &Spent{Tickets: map[ticket.Nonce]int64{}}
		b.Secrets[id] = s
	}
	return s
}

func (b *Used) counter(id ticket.KeyID) int64 {
	if s := b.Secrets[id]; s != nil {
		return s.Counter
	}
	return 0
}

func (b *Used) has(id ticket.KeyID, n ticket.Nonce) bool {
	if s := b.Secrets[id]; s != nil {
		_, has := s.Tickets[n]
		return has
	}
	return false
}

func (b *Used) full(id ticket.KeyID) bool {
	return b.Secrets[id] != nil && len(b.Secrets[id].Tickets) >= maxTickets
}

// Add adds what another knows to be used.
func (b *Used) Add(o Used) {
	for id, s := range o.Secrets {
		to := b.Of(id)
		to.Counter = max(to.Counter, s.Counter)
		maps.Copy(to.Tickets, s.Tickets)
	}
	b.advance(o.Mark)
}

// clone returns a copy that shares nothing with b.
func (b *Used) clone() Used {
	c := NewUsed()
	c.Add(*b)
	return c
}

// Forgotten returns the time before which tickets may have been forgotten.
func (b *Used) Forgotten() int64 { return b.Mark - validity }

// advance moves the mark, and forgets tickets that it makes too old.
func (b *Used) advance(now int64) {
	if now <= b.Mark {
		return
	}
	b.Mark = now
	for id, s := range b.Secrets {
		for n, at := range s.Tickets {
			if at < b.Forgotten() {
				delete(s.Tickets, n)
			}
		}
		if s.Counter == 0 && len(s.Tickets) == 0 {
			delete(b.Secrets, id)
		}
	}
}
