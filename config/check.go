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
	d.checkNetworks(cfg)
	for i := range cfg.Sequences {
		if key := fmt.Sprintf("sequences[%d]", i); !d.wrong(key) {
			d.checkSequence(cfg, &cfg.Sequences[i], key)
		}
	}
	for i, path := range cfg.Shield.Decoys {
		if slices.Contains(requestedByBrowsers, path) {
			d.warnAt(fmt.Sprintf("shield.decoys[%d]", i), "browsers request it on their own, so that clients who knock with a browser are banned (use another path)")
		}
	}
	if cfg.Firewall.Guard.Mode == firewall.Sets {
		if cfg.Firewall.Guard.Mark == 0 && !d.wrong("firewall") {
			d.lackAt("firewall.mark", "0 marks no packet, and in mode sets nothing else is done with granted ones (a mark that your rules accept, like 0x40000000)")
		}
		for i, door := range cfg.Doors {
			if door.Established == firewall.Cut {
				d.lackAt(fmt.Sprintf("doors[%d].established", i), "cut needs firewall.mode guard (in mode sets your own rules decide what lives on)")
			}
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

// checkNetworks warns of networks that hold a great part of the internet.
func (d *decoder) checkNetworks(cfg *Config) {
	huge := func(p netip.Prefix) bool { return p.Addr().Is4() && p.Bits() < 8 || p.Addr().Is6() && p.Bits() < 16 }
	for i, p := range cfg.Firewall.Guard.Allow {
		if huge(p) {
			d.warnAt(fmt.Sprintf("firewall.allow[%d]", i), "%s is a great part of the internet, and all of it passes every door without a knock (your own networks only)", p)
		}
	}
	for i, l := range cfg.Listeners {
		for j, p := range l.Proxies {
			if huge(p) && !l.addr().IsLoopback() {
				d.warnAt(fmt.Sprintf("listeners[%d].proxies[%d]", i, j), "%s is a great part of the internet, and all of it may say which client it knocks for (your own proxies only)", p)
			}
		}
	}
	for i, door := range cfg.Doors {
		if door.Prefix4 < 16 || door.Prefix6 < 32 {
			d.warnAt(fmt.Sprintf("doors[%d].prefix", i), "one knock lets a great part of the internet in (from 16 for IPv4 and from 32 for IPv6)")
		}
	}
}

const roundTrip = 100 * time.Millisecond // usual over a long distance

func (d *decoder) checkSequence(cfg *Config, s *Sequence, key string) {
	last := len(s.Steps) - 1
	if ban := cfg.Shield.Ban.Knocks; ban > 0 && len(s.Steps) > ban && !d.wrong("shield") {
		d.lackAt("shield.ban.knocks", "%d, but sequence %q has %d steps: nobody could complete it (write at least that)", ban, s.Name, len(s.Steps))
	}
	d.checkRate(cfg, s)
	for i, step := range s.Steps {
		at := fmt.Sprintf("%s.steps[%d]", key, i)
		if matchesOneOf(step, cfg.Shield.Decoys) {
			d.lackAt(at, "is a decoy as well, so that a client that requests it is banned (take it out of shield.decoys)")
		}
		if why := everybodyRequests(step); why != "" {
			d.warnAt(at, "%s, so that it keeps nobody out (webknock hash --random invents a path)", why)
		}
		if i > 0 && step.Within < roundTrip {
			d.warnAt(at, "%v is shorter than a request takes over a long distance, so that hardly anybody completes this (write within: 5s)", step.Within)
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
	if s.Window > 0 && s.Window < time.Duration(last)*roundTrip {
		d.warnAt(key+".window", "%v is shorter than %d requests take over a long distance, so that hardly anybody completes this (write 30s)", s.Window, len(s.Steps))
	}
	first := s.Steps[0]
	if path, exact := first.Trigger.(sequence.Exact); last == 0 && exact && path != "" && len(path) < shortPath && len(first.Query) == 0 && everybodyRequests(first) == "" {
		d.warnAt(key+".steps[0]", "a single short step: anyone who tries common paths finds it (use more steps, or a path from webknock hash --random)")
	}
	if last > 0 && !slices.ContainsFunc(s.Steps, func(o sequence.Step) bool { return !o.SameRequest(first) }) {
		d.warnAt(key+".steps", "all steps are the same request, and browsers repeat a request that was reset up to ten times: a single visit completes the sequence (use different paths)")
	}
	d.checkCodes(s, key)
	if clear, secure := cfg.reachable(); clear && secure && slices.ContainsFunc(s.Steps, func(o sequence.Step) bool { return o.Scheme == "" }) {
		d.warnAt(key+".steps", "they match in clear and by TLS, and browsers repeat in clear what TLS has dropped, where everybody on the way can read it (write scheme: https on each step)")
	}
	if s.Strict && slices.ContainsFunc(cfg.Listeners, func(l Listener) bool { return l.Cover.Proxy != nil }) {
		d.warnAt(key+".strict", "under a proxy cover, the requests that a page makes start the sequence over (write strict: false)")
	}
}

// shortPath is the length of a path, in bytes, that is too long to find by trying.
const shortPath = 16

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
	return l.Cover.Status == 0 && l.Cover.Proxy == nil && !l.addr().IsLoopback() && len(l.Proxies) == 0
}

// codePeriod is how long a phone app shows the same code.
const codePeriod = 30 * time.Second

// checkCodes warns of two one-time codes in a sequence with too little time between
// them.
func (d *decoder) checkCodes(s *Sequence, key string) {
	before := -1
	for i, step := range s.Steps {
		if step.Trigger.Variable() != sequence.TOTP {
			continue
		}
		if before >= 0 && s.timeOf(before, i) < codePeriod {
			d.warnAt(fmt.Sprintf("%s.steps[%d]", key, i), "each code counts once, and a phone shows the next one only after up to 30s (write within: 40s)")
		}
		before = i
	}
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
