package keeper

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"webknock/config"
	"webknock/firewall"
	"webknock/httpd"
	"webknock/httpd/admin"
	"webknock/internal/notice"
)

// maxBanned bounds the clients that are banned at once; the firewall's sets have
// as much room. Further ones are not banned until others no longer are.
const maxBanned = 65536

// A banned is the clients whose knocks are not looked at, and those of them that
// the firewall has yet to be told of.
type banned struct {
	mu      sync.RWMutex
	until   map[netip.Prefix]time.Time
	swept   time.Time
	waiting []firewall.Ban
	more    chan struct{} // something waits
}

func newBanned() *banned {
	return &banned{until: map[netip.Prefix]time.Time{}, more: make(chan struct{}, 1)}
}

func (b *banned) has(client netip.Prefix) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return len(b.until) > 0 && time.Now().Before(b.until[client])
}

// add bans a client. It reports false if there are too many already.
func (b *banned) add(ban firewall.Ban) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if len(b.until) >= maxBanned && now.Sub(b.swept) >= time.Second {
		b.swept = now
		maps.DeleteFunc(b.until, func(_ netip.Prefix, until time.Time) bool { return !now.Before(until) })
	}
	if _, known := b.until[ban.Client]; !known && len(b.until) >= maxBanned {
		return false
	}
	b.until[ban.Client] = ban.Until
	return true
}

func (b *banned) remove(client netip.Prefix) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.until, client)
}

// tell has the firewall told of a ban.
func (b *banned) tell(ban firewall.Ban) {
	b.mu.Lock()
	b.waiting = append(b.waiting, ban)
	b.mu.Unlock()
	select {
	case b.more <- struct{}{}:
	default:
	}
}

// untold returns some of the bans that the firewall has yet to be told of, and
// that have not been lifted meanwhile.
func (b *banned) untold() []firewall.Ban {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(len(b.waiting), maxTold)
	bans := slices.DeleteFunc(slices.Clone(b.waiting[:n]), func(ban firewall.Ban) bool { return !b.until[ban.Client].Equal(ban.Until) })
	if b.waiting = b.waiting[n:]; len(b.waiting) == 0 {
		b.waiting = nil
		return bans
	}
	select {
	case b.more <- struct{}{}:
	default:
	}
	return bans
}

// maxTold is how many bans are one order to the gate.
const maxTold = 1024

func (b *banned) all() (all []firewall.Ban) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for client, until := range b.until {
		if until.After(time.Now()) {
			all = append(all, firewall.Ban{Client: client, Until: until})
		}
	}
	slices.SortFunc(all, func(a, b firewall.Ban) int { return cmp.Or(a.Client.Compare(b.Client)) })
	return all
}

// spared returns the networks that are never banned.
func spared(cfg *config.Config) []netip.Prefix {
	all := slices.Clone(cfg.Firewall.Guard.Allow)
	for _, listener := range cfg.Listeners {
		all = append(all, listener.Proxies...)
	}
	return all
}

// ban bans the client of a letter. It is called by its shard, and does not
// wait.
func (d *Daemon) ban(l httpd.Knock, reason string) {
	cfg := d.config.Load()
	client := firewall.Offender(l.Client)
	if slices.ContainsFunc(spared(cfg), client.Overlaps) {
		return
	}
	ban := firewall.Ban{Client: client, Until: time.Now().Add(cfg.Shield.Ban.For)}
	if !d.shards.banned.add(ban) {
		d.shards.unbanned.Add(1)
		return
	}
	d.Log.Warn("client banned", "client", firewall.ClientString(client), "reason", reason, "until", ban.Until)
	d.notices.Send(notice.Notice{Event: notice.Ban, Time: l.At, Client: firewall.ClientString(client), Expires: ban.Until, Reason: reason})
	if !l.ViaProxy || cfg.Shield.Ban.Doors { // otherwise the firewall sees the proxy alone
		d.shards.banned.tell(ban)
	}
}

// enforce tells the firewall of bans until ctx is done. However many come at
// once, they are few orders to the gate, which has doors to open.
func (d *Daemon) enforce(ctx context.Context) {
	for {
		select {
		case <-d.shards.banned.more:
			d.enforceSome(ctx)
		case <-ctx.Done():
			d.enforceSome(context.WithoutCancel(ctx))
			return
		}
	}
}

func (d *Daemon) enforceSome(ctx context.Context) {
	d.banning.Lock() // so that no ban is lifted before the firewall knows of it
	defer d.banning.Unlock()
	bans := d.shards.banned.untold()
	if len(bans) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, banTimeout)
	defer cancel()
	if err := d.gate.Ban(ctx, bans, d.config.Load().Shield.Ban.Doors); err != nil {
		d.Log.Error("the firewall does not know of bans", "count", len(bans), "error", err)
	}
}

const banTimeout = 30 * time.Second

// pardon lifts the bans of those that are never banned.
func (d *Daemon) pardon(ctx context.Context, cfg *config.Config) error {
	networks := spared(cfg)
	d.banning.Lock()
	defer d.banning.Unlock()
	var lifted []firewall.Ban
	for _, ban := range d.shards.banned.all() {
		if slices.ContainsFunc(networks, ban.Client.Overlaps) {
			d.shards.banned.remove(ban.Client)
			lifted = append(lifted, firewall.Ban{Client: ban.Client})
		}
	}
	if len(lifted) == 0 {
		return nil
	}
	return d.gate.Ban(ctx, lifted, false)
}

// adoptBans takes over the bans that the firewall holds from an earlier run.
func (d *Daemon) adoptBans(ctx context.Context) error {
	bans, err := d.gate.Bans(ctx)
	for _, b := range bans {
		d.shards.banned.add(b)
	}
	return err
}

// Bans implements admin.Control.
func (d *Daemon) Bans(context.Context) ([]admin.Ban, error) {
	var all []admin.Ban
	for _, b := range d.shards.banned.all() {
		all = append(all, admin.Ban{Client: firewall.ClientString(b.Client), ExpiresAt: b.Until, Remaining: time.Until(b.Until).Seconds()})
	}
	return all, nil
}

// Unban implements admin.Control.
func (d *Daemon) Unban(ctx context.Context, address string) error {
	addr, err := netip.ParseAddr(address)
	if p, prefixErr := netip.ParsePrefix(address); prefixErr == nil {
		addr, err = p.Addr(), nil
	}
	if err != nil {
		return admin.NewProblem(http.StatusBadRequest, "not an IP address (like 192.0.2.7 or 2001:db8::7)")
	}
	client := firewall.Offender(addr)
	d.banning.Lock()
	defer d.banning.Unlock()
	if !d.shards.banned.has(client) {
		return admin.NewProblem(http.StatusNotFound, address+" is not banned")
	}
	d.shards.banned.remove(client)
	if err := d.gate.Ban(ctx, []firewall.Ban{{Client: client}}, false); err != nil {
		return problemOf(err)
	}
	d.Log.Info("ban lifted", "client", firewall.ClientString(client))
	return nil
}

// shield returns what the firewall keeps from the listeners. It goes by ports:
// one of several listeners that drops is enough for a limit. What comes over
// loopback it never sees.
func shield(cfg *config.Config, listeners []*listener) (s firewall.Shield) {
	s.Rate, s.Per, s.Burst = cfg.Shield.Rate, cfg.Shield.Per, 2*cfg.Shield.Rate
	for i, l := range listeners {
		at := l.Addr()
		s.Exempt = append(s.Exempt, cfg.Listeners[i].Proxies...)
		if at.Addr().IsLoopback() {
			continue
		}
		if !slices.Contains(s.BanPorts, at.Port()) {
			s.BanPorts = append(s.BanPorts, at.Port())
		}
		if l.options.Drops() && cfg.Shield.Rate > 0 && !slices.Contains(s.RatePorts, at.Port()) {
			s.RatePorts = append(s.RatePorts, at.Port())
		}
	}
	return s
}
