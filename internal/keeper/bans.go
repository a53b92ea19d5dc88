package keeper

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"webknock/config"
	"webknock/firewall"
	"webknock/httpd/admin"
	"webknock/internal/banlist"
	"webknock/internal/event"
	"webknock/internal/keeper/forfront"
	"webknock/internal/seam"
)

const (
	maxBansAtOnce = 1024 // in one request to the gate
	banTimeout    = 30 * time.Second
)

// A banQueue holds the bans, and knows which of them the gate does not know yet.
type banQueue struct {
	list *banlist.List // those that hold; the front has them too

	telling sync.Mutex    // held while the gate is told of bans, so that none is lifted before the firewall has it
	more    chan struct{} // holds a value while bans wait

	mu      sync.Mutex
	waiting []firewall.Ban
}

func newBanQueue() banQueue { return banQueue{list: banlist.New(), more: make(chan struct{}, 1)} }

func (q *banQueue) add(ban firewall.Ban) {
	q.mu.Lock()
	q.waiting = append(q.waiting, ban)
	q.mu.Unlock()
	q.wake()
}

func (q *banQueue) wake() {
	select {
	case q.more <- struct{}{}:
	default:
	}
}

// remove removes the bans of a client.
func (q *banQueue) remove(client netip.Prefix) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = slices.DeleteFunc(q.waiting, func(ban firewall.Ban) bool { return ban.Client == client })
}

// take returns some of the bans that wait.
func (q *banQueue) take() []firewall.Ban {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(len(q.waiting), maxBansAtOnce)
	bans := slices.Clone(q.waiting[:n])
	if q.waiting = q.waiting[n:]; len(q.waiting) == 0 {
		q.waiting = nil
	} else {
		q.wake()
	}
	return bans
}

// Ban implements seam.Keeper.
func (k *Keeper) Ban(b seam.Ban) {
	now := time.Now()
	if !k.asked.bans.take(now) {
		k.asked.refuse("a ban", errTooOften)
		return
	}
	cfg := k.config.Load()
	b, err := banOf(cfg, b, now)
	if err == nil && !k.bans.list.Add(b.Ban) {
		err = errTooMany
	}
	if err != nil {
		if err == errMalformed {
			k.asked.refuse("a ban", err)
		}
		k.asked.unban(k.front, b.Client) // the front has another configuration, for a moment
		return
	}
	k.events.Publish(event.Ban{Ban: b.Ban, At: b.At, Reason: b.Reason})
	if !b.ViaProxy || cfg.Shield.Ban.Doors { // otherwise the firewall sees only the proxy
		k.bans.add(b.Ban)
	}
}

// enforceBans tells the gate of bans until ctx is done. Many bans make few requests,
// because the gate has doors to open meanwhile.
func (k *Keeper) enforceBans(ctx context.Context) {
	for {
		select {
		case <-k.bans.more:
			k.enforceSome(ctx)
		case <-ctx.Done():
			k.enforceSome(context.WithoutCancel(ctx))
			return
		}
	}
}

func (k *Keeper) enforceSome(ctx context.Context) {
	k.bans.telling.Lock()
	defer k.bans.telling.Unlock()
	bans := k.bans.take()
	if len(bans) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, banTimeout)
	defer cancel()
	if err := k.gate.Ban(ctx, bans, k.config.Load().Shield.Ban.Doors); err != nil {
		k.log.Error("the firewall does not know of bans", "count", len(bans), "error", err)
	}
}

// liftExempt lifts the bans of networks that are never banned.
func (k *Keeper) liftExempt(ctx context.Context, cfg *config.Config) error {
	networks := forfront.Exempt(cfg)
	k.bans.telling.Lock()
	defer k.bans.telling.Unlock()
	var lifted []firewall.Ban
	for _, ban := range k.bans.list.All() {
		if slices.ContainsFunc(networks, ban.Client.Overlaps) {
			k.bans.list.Remove(ban.Client)
			k.front.Unban(ban.Client)
			k.bans.remove(ban.Client)
			lifted = append(lifted, firewall.Ban{Client: ban.Client})
		}
	}
	if len(lifted) == 0 {
		return nil
	}
	return k.gate.Ban(ctx, lifted, false)
}

// Bans implements admin.Control.
func (k *Keeper) Bans(context.Context) ([]admin.Ban, error) {
	var all []admin.Ban
	for _, b := range k.bans.list.All() {
		all = append(all, admin.Ban{Client: firewall.ClientString(b.Client), ExpiresAt: b.Until, Remaining: time.Until(b.Until).Seconds()})
	}
	return all, nil
}

// Unban implements admin.Control.
func (k *Keeper) Unban(ctx context.Context, address string) error {
	addr, err := netip.ParseAddr(address)
	if p, prefixErr := netip.ParsePrefix(address); prefixErr == nil {
		addr, err = p.Addr(), nil
	}
	if err != nil {
		return admin.NewProblem(http.StatusBadRequest, "not an IP address (like 192.0.2.7 or 2001:db8::7)")
	}
	client := firewall.Offender(addr)
	k.bans.telling.Lock()
	defer k.bans.telling.Unlock()
	if !k.bans.list.Remove(client) {
		return admin.NewProblem(http.StatusNotFound, address+" is not banned")
	}
	k.front.Unban(client)
	k.bans.remove(client)
	if err := k.gate.Ban(ctx, []firewall.Ban{{Client: client}}, false); err != nil {
		return problemOf(err)
	}
	k.events.Publish(event.Unban{Client: client})
	k.acted(ctx, event.Admin{Act: "lifted the ban of " + firewall.ClientString(client), Client: firewall.ClientString(client)})
	return nil
}

// guardOf returns what the gate has to keep: the guard of the configuration, with
// the shield before the addresses that the listeners have.
func guardOf(cfg *config.Config, listeners []listener) firewall.Guard {
	guard := cfg.Firewall.Guard
	guard.Shield = shield(cfg, listeners)
	return guard
}

// shield returns from which ports the firewall keeps banned and too fast clients. A
// port is rate-limited if one of its listeners drops. Loopback addresses are left
// out: the guard accepts all that comes over loopback.
func shield(cfg *config.Config, listeners []listener) (s firewall.Shield) {
	s.Rate, s.Per, s.Burst = cfg.Shield.Rate, cfg.Shield.Per, 2*cfg.Shield.Rate
	for i, l := range listeners {
		s.Exempt = append(s.Exempt, cfg.Listeners[i].Proxies...)
		if l.Bound.Addr().IsLoopback() {
			continue
		}
		port := l.Bound.Port()
		if !slices.Contains(s.BanPorts, port) {
			s.BanPorts = append(s.BanPorts, port)
		}
		if l.Drops && cfg.Shield.Rate > 0 && !slices.Contains(s.RatePorts, port) {
			s.RatePorts = append(s.RatePorts, port)
		}
	}
	return s
}
