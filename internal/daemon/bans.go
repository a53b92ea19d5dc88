package daemon

import (
	"cmp"
	"context"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"webknock/config"
	"webknock/firewall"
	"webknock/httpd"
	"webknock/httpd/admin"
)

// Why a client is banned.
const (
	tooManyKnocks = "too many knocks without a completion"
	decoy         = "a decoy"
)

// maxCounted bounds the clients of a shard whose knocks are counted. Under a
// flood of addresses all are forgotten, and counting begins anew.
const maxCounted = 4096

// count is how many knocks a client has made since a time.
type count struct {
	knocks int
	since  time.Duration
}

// counted counts a knock, and reports whether it is one too many.
func (s *shard) counted(client netip.Prefix) bool {
	ban := s.rules.ban
	c, known := s.counts[client]
	if !known && len(s.counts) >= maxCounted {
		clear(s.counts)
	}
	if !known || s.now-c.since > ban.Within {
		c = count{since: s.now}
	}
	c.knocks++
	s.counts[client] = c
	return c.knocks >= ban.Knocks
}

// offends counts a knock against its client, and returns why that is banned for
// it; empty: it is not. It is asked after what the knock completes is known, and
// whether it brought a wrong one-time code: visitors of a site bring none.
func (s *shard) offends(path string, completed, wrong bool) (reason string) {
	client := firewall.Offender(s.letter.Client)
	switch {
	case slices.Contains(s.rules.decoys, path):
		return decoy
	case s.rules.ban.Knocks == 0 || s.letter.Site && !wrong || s.rules.set.Ignores(path):
	case completed:
		delete(s.counts, client)
	case s.counted(client):
		delete(s.counts, client)
		return tooManyKnocks
	}
	return ""
}

// A banned is the clients whose knocks are not looked at.
type banned struct {
	mu    sync.RWMutex
	until map[netip.Prefix]time.Time
}

func (b *banned) has(client netip.Prefix) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return len(b.until) > 0 && time.Now().Before(b.until[client])
}

func (b *banned) set(client netip.Prefix, until time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.until == nil {
		b.until = map[netip.Prefix]time.Time{}
	}
	now := time.Now()
	for other, end := range b.until {
		if !now.Before(end) {
			delete(b.until, other)
		}
	}
	if until.After(now) {
		b.until[client] = until
	} else {
		delete(b.until, client)
	}
}

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

// ban bans the client of a letter. It is called by its shard, and does not
// wait.
func (d *Daemon) ban(l httpd.Letter, reason string) {
	cfg := d.config.Load()
	client := firewall.Offender(l.Client)
	spared := append([]netip.Prefix{}, cfg.Firewall.Guard.Allow...)
	for _, listener := range cfg.Listeners {
		spared = append(spared, listener.Proxies...)
	}
	if slices.ContainsFunc(spared, client.Overlaps) {
		return
	}
	until := time.Now().Add(cfg.Shield.Ban.For)
	d.shards.banned.set(client, until)
	d.Log.Warn("client banned", "client", clientString(client), "reason", reason, "until", until)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), banTimeout)
		defer cancel()
		bans := []firewall.Ban{{Client: client, Until: until}}
		if l.Named && !cfg.Shield.Ban.Doors {
			return // the firewall sees the proxy alone
		}
		if err := d.gate.Ban(ctx, bans, cfg.Shield.Ban.Doors); err != nil {
			d.Log.Error("the firewall does not know of a ban", "client", clientString(client), "error", err)
		}
	}()
}

const banTimeout = 30 * time.Second

// adoptBans takes over the bans that the firewall holds from an earlier run.
func (d *Daemon) adoptBans(ctx context.Context) error {
	bans, err := d.gate.Bans(ctx)
	for _, b := range bans {
		d.shards.banned.set(b.Client, b.Until)
	}
	return err
}

// Bans implements admin.Control.
func (d *Daemon) Bans(context.Context) ([]admin.Ban, error) {
	var all []admin.Ban
	for _, b := range d.shards.banned.all() {
		all = append(all, admin.Ban{Client: clientString(b.Client), ExpiresAt: b.Until, Remaining: time.Until(b.Until).Seconds()})
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
	if !d.shards.banned.has(client) {
		return admin.NewProblem(http.StatusNotFound, address+" is not banned")
	}
	d.shards.banned.set(client, time.Time{})
	if err := d.gate.Ban(ctx, []firewall.Ban{{Client: client}}, false); err != nil {
		return problemOf(err)
	}
	d.Log.Info("ban lifted", "client", clientString(client))
	return nil
}

// shield returns what the firewall keeps from the listeners.
func shield(cfg *config.Config, listeners []*listener) (s firewall.Shield) {
	s.Rate, s.Per, s.Burst = cfg.Shield.Rate, cfg.Shield.Per, 2*cfg.Shield.Rate
	for i, l := range listeners {
		c := cfg.Listeners[i]
		port := l.Addr().Port()
		s.Exempt = append(s.Exempt, c.Proxies...)
		if slices.Contains(s.BanPorts, port) {
			continue
		}
		s.BanPorts = append(s.BanPorts, port)
		if l.options.Cover.Drops() && cfg.Shield.Rate > 0 {
			s.RatePorts = append(s.RatePorts, port)
		}
	}
	return s
}
