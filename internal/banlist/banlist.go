// Package banlist has the bans that hold, within a bound.
package banlist

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"webknock/firewall"
)

// Max bounds the clients that are banned at once; the firewall's sets have as much room.
// Further ones are not banned until others no longer are.
const Max = 65536

// A List has bans by client. Goroutines may share it.
type List struct {
	count atomic.Int64 // how many are in until, so that most knocks need no lock

	mu    sync.RWMutex
	until map[netip.Prefix]time.Time
	swept time.Time
}

// New returns an empty list.
func New() *List { return &List{until: map[netip.Prefix]time.Time{}} }

// Has reports whether a client is banned.
func (l *List) Has(client netip.Addr) bool {
	return l.count.Load() > 0 && time.Now().Before(l.End(client))
}

// End returns when the ban of a client ends or has ended; zero: there is none.
func (l *List) End(client netip.Addr) time.Time {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.until[firewall.Offender(client)]
}

// Add bans a client. It reports false if there are too many already.
func (l *List) Add(ban firewall.Ban) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if len(l.until) >= Max && now.Sub(l.swept) >= time.Second {
		l.swept = now
		maps.DeleteFunc(l.until, func(_ netip.Prefix, until time.Time) bool { return !now.Before(until) })
	}
	if _, known := l.until[ban.Client]; !known && len(l.until) >= Max {
		return false
	}
	l.until[ban.Client] = ban.Until
	l.count.Store(int64(len(l.until)))
	return true
}

// Remove lifts a ban. It reports whether there was one.
func (l *List) Remove(client netip.Prefix) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	until, known := l.until[client]
	delete(l.until, client)
	l.count.Store(int64(len(l.until)))
	return known && time.Now().Before(until)
}

// Count returns how many bans hold.
func (l *List) Count() (n int) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	now := time.Now()
	for _, until := range l.until {
		if until.After(now) {
			n++
		}
	}
	return n
}

// All returns all bans that hold, by client.
func (l *List) All() (all []firewall.Ban) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for client, until := range l.until {
		if until.After(time.Now()) {
			all = append(all, firewall.Ban{Client: client, Until: until})
		}
	}
	slices.SortFunc(all, func(a, b firewall.Ban) int { return a.Client.Compare(b.Client) })
	return all
}
