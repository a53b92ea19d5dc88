package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"time"

	"webknock/firewall"
	"webknock/internal/hostname"
	"webknock/sequence"
)

// check reports what is wrong with a configuration as a whole, though each of its
// values is valid by itself: sequences that nobody could complete, steps that no
// request could match, and what is allowed but rarely meant. It leaves out what has
// an error already, so that one mistake is one error. What would keep a configuration
// from being loaded is a lack for Restore: an earlier version may have allowed it.
func (d *decoder) check(cfg *Config) {
	if !d.wrong("doors", "listeners", "firewall") {
		d.checkListeners(cfg)
	}
	if !d.wrong("doors", "listeners", "firewall", "admin") {
		d.checkMetrics(cfg)
	}
	for i := range cfg.Sequences {
		if key := fmt.Sprintf("sequences[%d]", i); !d.wrong(key) {
			d.checkSequence(cfg, &cfg.Sequences[i], key)
		}
	}
	if cfg.Firewall.Guard.Mode == firewall.Sets {
		d.checkSets(cfg)
	}
}

// checkSets looks for what mode sets cannot do.
func (d *decoder) checkSets(cfg *Config) {
	if cfg.Firewall.Guard.Mark == 0 && !d.wrong("firewall") {
		d.lackAt("firewall.mark", "0 marks no packet, and in mode sets nothing else is done with granted ones (write a mark that your rules accept, like 0x40000000)")
	}
	for i, door := range cfg.Doors {
		if door.Established == firewall.Cut {
			d.lackAt(fmt.Sprintf("doors[%d].established", i), "cut needs firewall.mode guard (in mode sets your own rules decide what lives on)")
		}
	}
}

// checkListeners looks for listeners that nobody can reach because a door covers
// their port, and for proxy covers that lead back to a listener.
func (d *decoder) checkListeners(cfg *Config) {
	covered := map[int]string{} // the key of the door over a listener
	for i, l := range cfg.Listeners {
		if door := cfg.doorOver(l); door != nil {
			covered[i] = fmt.Sprintf("doors[%d]", slices.IndexFunc(cfg.Doors, func(o firewall.Door) bool { return o.Name == door.Name }))
		}
		if p := l.Cover.Proxy; p != nil && slices.ContainsFunc(cfg.Listeners, func(o Listener) bool { return o.serves(p) }) {
			d.lackAt(fmt.Sprintf("listeners[%d].cover.proxy", i), "%s is a listener of webknock itself, so that requests would loop for ever (write the address of the real site)", p)
		}
	}
	for i, l := range cfg.Listeners {
		door, ok := covered[i]
		switch key := fmt.Sprintf("listeners[%d].address", i); {
		case !ok:
		case len(covered) == len(cfg.Listeners) && len(cfg.Listeners) == 1:
			d.lackAt(door+".ports", "the door covers the port of the only listener, %s, so that nobody could knock (leave that port out)", l.Address)
		case len(covered) == len(cfg.Listeners):
			d.lackAt(door+".ports", "the doors cover the ports of all listeners, %s among them, so that nobody could knock (leave out the port of at least one)", l.Address)
		default:
			d.warnAt(key, "only clients that have passed door %q can knock here (take port %d out of the door)", cfg.doorOver(l).Name, l.port())
		}
	}
}

// doorOver returns the door that keeps strangers from a listener, or nil. Loopback
// and the networks in firewall.allow pass every door, so a listener on loopback has
// none, and neither has one whose proxies are all on loopback or in firewall.allow.
func (cfg *Config) doorOver(l Listener) *firewall.Door {
	return cfg.DoorOver(l, netip.AddrPortFrom(l.addr(), l.port()))
}

// DoorOver returns the door that keeps strangers from a listener that is bound to an
// address, or nil. Of a socket from systemd, the address is known only once it is
// bound.
func (cfg *Config) DoorOver(l Listener, bound netip.AddrPort) *firewall.Door {
	if cfg.Firewall.Guard.Mode == firewall.Sets || cfg.Firewall.Backend == BackendMemory || bound.Addr().IsLoopback() || len(l.Proxies) > 0 && !slices.ContainsFunc(l.Proxies, func(p netip.Prefix) bool {
		return !p.Addr().IsLoopback() && !slices.ContainsFunc(cfg.Firewall.Guard.Allow, func(a netip.Prefix) bool { return a.Bits() <= p.Bits() && a.Contains(p.Addr()) })
	}) {
		return nil
	}
	for i, door := range cfg.Doors {
		for _, p := range door.Ports {
			if port := bound.Port(); port != 0 && p.Protocol == firewall.TCP && p.First <= port && port <= p.Last {
				return &cfg.Doors[i]
			}
		}
	}
	return nil
}

// serves reports whether a URL leads to this listener.
func (l Listener) serves(u *url.URL) bool {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	n, _ := strconv.ParseUint(port, 10, 16)
	if l.port() == 0 || l.port() != uint16(n) {
		return false
	}
	bound := l.addr()
	if u.Hostname() == "localhost" {
		return bound.IsLoopback() || bound.IsUnspecified()
	}
	addr, ok := hostname.Address(u.Hostname())
	return ok && (addr.Unmap() == bound || addr.IsLoopback() && bound.IsUnspecified())
}

// checkSequence looks for what keeps everybody from completing a sequence.
func (d *decoder) checkSequence(cfg *Config, s *Sequence, key string) {
	if ban := cfg.Shield.Ban.Knocks; ban > 0 && len(s.Steps) > ban && !d.wrong("shield") {
		d.lackAt("shield.ban.knocks", "%d, but sequence %q has %d steps: nobody could complete it (write at least that)", ban, s.Name, len(s.Steps))
	}
	d.checkRate(cfg, s)
	for i, step := range s.Steps {
		at := fmt.Sprintf("%s.steps[%d]", key, i)
		if matchesOneOf(step, cfg.Shield.Decoys) {
			d.lackAt(at, "is a decoy as well, so that a client that requests it is banned (take it out of shield.decoys)")
		}
		if d.wrong("listeners") || len(cfg.Listeners) == 0 {
			continue
		}
		if why := cannotMatch(cfg, step); why != "" {
			d.lackAt(at, "%s", why)
		} else if why := rarelyMatches(cfg, step); why != "" {
			d.warnAt(at, "%s", why)
		}
	}
	if clear, secure := cfg.reachable(); clear && secure && slices.ContainsFunc(s.Steps, func(o sequence.Step) bool { return o.Scheme == "" }) {
		d.warnAt(key+".steps", "they match in clear and by TLS, and browsers repeat in clear what TLS has dropped, where everybody on the way can read it (write scheme: https on each step)")
	}
	if s.Strict && slices.ContainsFunc(cfg.Listeners, func(l Listener) bool { return l.Cover.Proxy != nil }) {
		d.warnAt(key+".strict", "under a proxy cover, the requests that a page makes start the sequence over (write strict: false)")
	}
}

// checkRate reports a rate that lets fewer connections through than a sequence has
// steps. The burst is twice the rate.
func (d *decoder) checkRate(cfg *Config, s *Sequence) {
	count, per := cfg.Shield.Rate, cfg.Shield.Per
	if count == 0 || d.wrong("shield", "listeners") || slices.ContainsFunc(cfg.Listeners, func(l Listener) bool { return !l.limited() }) {
		return
	}
	lets := func(rate int) int { return 2*rate + int(s.time()*time.Duration(rate)/per) }
	if lets(count) >= len(s.Steps) {
		return
	}
	enough := count
	for lets(enough) < len(s.Steps) {
		enough++
	}
	d.lackAt("shield.rate", "lets %d connections through in the %v of sequence %q, which has %d steps: nobody could complete it (write at least %v)",
		lets(count), s.time(), s.Name, len(s.Steps), rate{enough, per})
}

// limited reports whether shield.rate limits all clients of a listener.
func (l Listener) limited() bool {
	return l.Cover.Drops() && !l.addr().IsLoopback() && len(l.Proxies) == 0
}

// reachable reports whether strangers can send requests in clear, and whether they
// can by TLS, to listeners without a proxy.
func (cfg *Config) reachable() (clear, secure bool) {
	for _, l := range cfg.Listeners {
		if len(l.Proxies) > 0 || l.addr().IsLoopback() {
			continue
		}
		clear = clear || l.TLS == nil
		secure = secure || l.TLS != nil
	}
	return clear, secure
}
