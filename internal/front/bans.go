package front

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"webknock/firewall"
	"webknock/httpd"
	"webknock/internal/seam"
)

// maxBans bounds the clients that are banned at once; the firewall's sets have
// as much room. Further ones are not banned until others no longer are.
const maxBans = 65536

// bans are the clients whose knocks are not looked at.
type bans struct {
	refused atomic.Uint64 // bans beyond the bound
	count   atomic.Int64  // how many are in until, so that most knocks need no lock

	mu    sync.RWMutex
	until map[netip.Prefix]time.Time
	swept time.Time
}

func newBans() *bans { return &bans{until: map[netip.Prefix]time.Time{}} }

func (b *bans) has(client netip.Addr) bool {
	return b.count.Load() > 0 && time.Now().Before(b.end(client))
}

// end returns when the ban of a client ends or has ended; zero: there is none.
func (b *bans) end(client netip.Addr) time.Time {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.until[firewall.Offender(client)]
}

// add bans a client. It reports false if there are too many already.
func (b *bans) add(ban firewall.Ban) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if len(b.until) >= maxBans && now.Sub(b.swept) >= time.Second {
		b.swept = now
		maps.DeleteFunc(b.until, func(_ netip.Prefix, until time.Time) bool { return !now.Before(until) })
	}
	if _, known := b.until[ban.Client]; !known && len(b.until) >= maxBans {
		return false
	}
	b.until[ban.Client] = ban.Until
	b.count.Store(int64(len(b.until)))
	return true
}

// remove lifts a ban. It reports whether there was one.
func (b *bans) remove(client netip.Prefix) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	until, known := b.until[client]
	delete(b.until, client)
	b.count.Store(int64(len(b.until)))
	return known && time.Now().Before(until)
}

// inForce returns how many bans hold.
func (b *bans) inForce() (n int) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	now := time.Now()
	for _, until := range b.until {
		if until.After(now) {
			n++
		}
	}
	return n
}

func (b *bans) list() (all []firewall.Ban) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for client, until := range b.until {
		if until.After(time.Now()) {
			all = append(all, firewall.Ban{Client: client, Until: until})
		}
	}
	slices.SortFunc(all, func(a, b firewall.Ban) int { return a.Client.Compare(b.Client) })
	return all
}

// ban bans the client of a knock. The client's shard calls it, so it does not
// wait.
func (f *Front) ban(k httpd.Knock, reason string) {
	cfg := &f.current.Load().cfg
	client := firewall.Offender(k.Client)
	if slices.ContainsFunc(cfg.Exempt, client.Overlaps) {
		return
	}
	ban := firewall.Ban{Client: client, Until: time.Now().Add(cfg.Ban.For)}
	if !f.shards.bans.add(ban) {
		f.shards.bans.refused.Add(1)
		return
	}
	f.keeper.Ban(seam.Ban{Ban: ban, At: k.At, ViaProxy: k.ViaProxy, Reason: reason})
}

// Bans implements seam.Front.
func (f *Front) Bans() []firewall.Ban { return f.shards.bans.list() }

// AdoptBans implements seam.Front.
func (f *Front) AdoptBans(bans []firewall.Ban) {
	for _, b := range bans {
		f.shards.bans.add(b)
	}
}

// Unban implements seam.Front.
func (f *Front) Unban(client netip.Prefix) bool { return f.shards.bans.remove(client) }
