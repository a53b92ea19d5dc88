package config

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
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
		if slices.Contains(byThemselves, path) {
			d.warnAt(fmt.Sprintf("shield.decoys[%d]", i), "browsers ask for it by themselves, which bans whoever knocks with one (another path)")
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

// byThemselves are paths that browsers ask for without being told to.
var byThemselves = []string{"/", "/favicon.ico", "/robots.txt", "/apple-touch-icon.png", "/apple-touch-icon-precomposed.png"}

// checkListeners looks for listeners that a door keeps everybody from, and for
// covers that ask themselves.
func (d *decoder) checkListeners(cfg *Config) {
	shut := map[int]string{} // the door that keeps strangers from a listener
	for i, l := range cfg.Listeners {
		if door := cfg.doorOver(l); door != nil {
			shut[i] = fmt.Sprintf("doors[%d]", slices.IndexFunc(cfg.Doors, func(o firewall.Door) bool { return o.Name == door.Name }))
		}
		if p := l.Cover.Proxy; p != nil && slices.ContainsFunc(cfg.Listeners, func(o Listener) bool { return o.serves(p) }) {
			d.lackAt(fmt.Sprintf("listeners[%d].cover.proxy", i), "%s is a listener of webknock itself, so that requests go round for ever (the address of the real site)", p)
		}
	}
	for i, l := range cfg.Listeners {
		door, ok := shut[i]
		switch key := fmt.Sprintf("listeners[%d].address", i); {
		case !ok:
		case len(shut) == len(cfg.Listeners) && len(cfg.Listeners) == 1:
			d.lackAt(door+".ports", "the door is over the only listener, %s, so that nobody could knock (leave its port out)", l.Address)
		case len(shut) == len(cfg.Listeners):
			d.lackAt(door+".ports", "the doors are over all listeners, %s among them, so that nobody could knock (leave out the port of at least one)", l.Address)
		default:
			d.warnAt(key, "only who has passed door %q already can knock here (take port %d out of the door)", cfg.doorOver(l).Name, l.port())
		}
	}
}

// doorOver returns the door that keeps strangers from a listener, or nil. What
// comes over loopback passes every door, and so do proxies that never need to
// knock.
func (cfg *Config) doorOver(l Listener) *firewall.Door {
	return cfg.DoorOver(l, netip.AddrPortFrom(l.addr(), l.port()))
}

// DoorOver is doorOver for a listener that is bound at an address, which only
// systemd may have known before. Port 0 is not known.
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

// serves reports whether a URL leads to the listener on this host.
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

// checkNetworks looks for networks that hold nearly everybody.
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

const roundTrip = 100 * time.Millisecond // a usual one, to somewhere far

func (d *decoder) checkSequence(cfg *Config, s *Sequence, key string) {
	last := len(s.Steps) - 1
	if ban := cfg.Shield.Ban.Knocks; ban > 0 && len(s.Steps) > ban && !d.wrong("shield") {
		d.lackAt("shield.ban.knocks", "%d, but sequence %q has %d steps: nobody could complete it (at least that)", ban, s.Name, len(s.Steps))
	}
	d.checkRate(cfg, s)
	for i, step := range s.Steps {
		at := fmt.Sprintf("%s.steps[%d]", key, i)
		if matchesOneOf(step, cfg.Shield.Decoys) {
			d.lackAt(at, "is a decoy as well, so that who asks for it is banned (take it out of shield.decoys)")
		}
		if why := everybody(step); why != "" {
			d.warnAt(at, "%s, so that it keeps nobody out (webknock hash --random invents a path)", why)
		}
		if i > 0 && step.Within < roundTrip {
			d.warnAt(at, "%v is less than a request takes from afar, so that hardly anybody completes this (within: 5s)", step.Within)
		}
		if d.wrong("listeners") || len(cfg.Listeners) == 0 {
			continue
		}
		if why := neverComes(cfg, step); why != "" {
			d.lackAt(at, "%s", why)
		} else if why := seldomComes(cfg, step); why != "" {
			d.warnAt(at, "%s", why)
		}
	}
	if s.Window > 0 && s.Window < time.Duration(last)*roundTrip {
		d.warnAt(key+".window", "%v is less than %d requests take from afar, so that hardly anybody completes this (30s)", s.Window, len(s.Steps))
	}
	first := s.Steps[0]
	if path, exact := first.Trigger.(sequence.Exact); last == 0 && exact && path != "" && len(path) < shortPath && len(first.Query) == 0 && everybody(first) == "" {
		d.warnAt(key+".steps[0]", "a single step that is short: who tries common paths finds it (more steps, or a path that nobody guesses, by webknock hash --random)")
	}
	if last > 0 && !slices.ContainsFunc(s.Steps, func(o sequence.Step) bool { return !o.SameRequest(first) }) {
		d.warnAt(key+".steps", "all steps are the same request, and browsers send one that was reset up to ten times: a single visit completes it (different paths)")
	}
	d.checkCodes(s, key)
	if clear, secure := cfg.reachable(); clear && secure && slices.ContainsFunc(s.Steps, func(o sequence.Step) bool { return o.Scheme == "" }) {
		d.warnAt(key+".steps", "they are taken both in clear and by TLS, and browsers repeat in clear what TLS has dropped, where everybody on the way reads it (scheme: https on each step)")
	}
	if s.Strict && slices.ContainsFunc(cfg.Listeners, func(l Listener) bool { return l.Cover.Proxy != nil }) {
		d.warnAt(key+".strict", "under a proxy cover a page's own requests start the sequence over (strict: false)")
	}
}

// shortPath is the length from which on nobody finds a path by trying.
const shortPath = 16

// checkRate reports a rate that lets fewer connections through than a sequence
// has steps. Twice the rate is let through at once.
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
	d.lackAt("shield.rate", "lets %d connections through in the %v of sequence %q, which has %d steps: nobody could complete it (at least %v)",
		lets(count), s.time(), s.Name, len(s.Steps), rate{enough, per})
}

// limited reports whether shield.rate holds for all clients of a listener.
func (l Listener) limited() bool {
	return l.Cover.Status == 0 && l.Cover.Proxy == nil && !l.addr().IsLoopback() && len(l.Proxies) == 0
}

// codePeriod is how long a phone app shows the same code.
const codePeriod = 30 * time.Second

// checkCodes warns of two codes in one sequence with too little time between.
func (d *decoder) checkCodes(s *Sequence, key string) {
	before := -1
	for i, step := range s.Steps {
		if step.Trigger.Variable() != sequence.TOTP {
			continue
		}
		if before >= 0 && s.timeOf(before, i) < codePeriod {
			d.warnAt(fmt.Sprintf("%s.steps[%d]", key, i), "each code counts once, and a phone shows the next one only after up to 30s (within: 40s)")
		}
		before = i
	}
}

// reachable reports whether strangers can send requests in clear and by TLS to
// listeners that no proxy stands before.
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

// maxHead is the length of request heads that listeners read, in bytes.
const maxHead = 8 << 10

// size returns how long what a step asks for is at least in a request head.
func size(s sequence.Step) int {
	n := len(s.Method) + len(writtenPath(s.Trigger)) + len(s.Host)
	for name, value := range s.Query {
		n += len(name) + len(value)
	}
	return n
}

// neverComes says why no request can match a step, or nothing.
func neverComes(cfg *Config, s sequence.Step) string {
	some := func(f func(Listener) bool) bool { return slices.ContainsFunc(cfg.Listeners, f) }
	regex, isRegex := s.Trigger.(sequence.Regex)
	switch {
	case s.Scheme == sequence.HTTPS && !some(func(l Listener) bool { return l.TLS != nil || l.namesScheme() }):
		return "scheme: https never comes: no listener has tls, and none stands behind a proxy (give one tls, or leave scheme out)"
	case s.Scheme == sequence.HTTP && !some(func(l Listener) bool { return l.TLS == nil || l.namesScheme() }):
		return "scheme: http never comes: all listeners have tls (a plain listener, or leave scheme out)"
	case size(s) > maxHead:
		return fmt.Sprintf("it has %d bytes, and webknock reads request heads of up to 8 KiB (something shorter)", size(s))
	case isRegex:
		if re, err := syntax.Parse(string(regex), syntax.Perl); err == nil && startsOtherwise(re.Simplify()) {
			return "the regex matches no path, since each starts with / (like ^/a)"
		}
	}
	return ""
}

// namesScheme reports whether a proxy may say how a client's request came.
func (l Listener) namesScheme() bool {
	return l.ClientAddress != "peer" && l.ClientAddress != "proxy-protocol"
}

// startsOtherwise reports whether all that an expression matches begins at the
// beginning of the text, and with something else than a slash.
func startsOtherwise(re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpCapture:
		return startsOtherwise(re.Sub[0])
	case syntax.OpAlternate:
		return !slices.ContainsFunc(re.Sub, func(sub *syntax.Regexp) bool { return !startsOtherwise(sub) })
	case syntax.OpConcat:
		if re.Sub[0].Op == syntax.OpCapture || re.Sub[0].Op == syntax.OpAlternate {
			return startsOtherwise(re.Sub[0])
		}
		return len(re.Sub) > 1 && re.Sub[0].Op == syntax.OpBeginText && noSlash(re.Sub[1])
	}
	return false
}

// noSlash reports whether what an expression matches has a first letter, which
// is no slash. A request for * as a whole has none either (OPTIONS *).
func noSlash(re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpLiteral:
		return re.Rune[0] != '/' && re.Rune[0] != '*'
	case syntax.OpCharClass:
		for i := 0; i < len(re.Rune); i += 2 {
			if re.Rune[i] <= '/' && '/' <= re.Rune[i+1] || re.Rune[i] <= '*' && '*' <= re.Rune[i+1] {
				return false
			}
		}
		return true
	case syntax.OpCapture, syntax.OpPlus:
		return noSlash(re.Sub[0])
	case syntax.OpConcat:
		return noSlash(re.Sub[0])
	case syntax.OpAlternate:
		return !slices.ContainsFunc(re.Sub, func(sub *syntax.Regexp) bool { return !noSlash(sub) })
	}
	return false
}

// seldomComes says why hardly any client sends what a step matches, or
// nothing.
func seldomComes(cfg *Config, s sequence.Step) string {
	if s.Host != "" && len(cfg.Listeners) > 0 && !slices.ContainsFunc(cfg.Listeners, func(l Listener) bool {
		return l.TLS == nil || len(l.TLS.ServerNames) == 0 || len(l.Proxies) > 0 || slices.Contains(l.TLS.ServerNames, s.Host)
	}) {
		return fmt.Sprintf("no listener takes %s as a name in TLS, where browsers send the same as in the request (put it into server_names)", s.Host)
	}
	if path := writtenPath(s.Trigger); dots.MatchString(path) || strings.Contains(path, "\\") {
		return "browsers and curl shorten /./ and /../ before they send a path, and make / of \\ (a path without; curl --path-as-is sends it)"
	}
	if regex, ok := s.Trigger.(sequence.Regex); ok {
		if re, err := syntax.Parse(string(regex), syntax.Perl); err == nil && literal(re, func(s string) bool { return strings.ContainsAny(s, "?#") || encoded.MatchString(s) }) {
			return "the regex is compared with the path alone, decoded: no query, no #, no %XX (match parameters with query)"
		}
	}
	return ""
}

var (
	dots    = regexp.MustCompile(`/\.\.?(/|$)`)
	encoded = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)
)

// literal reports whether f holds for a literal text in an expression.
func literal(re *syntax.Regexp, f func(string) bool) bool {
	return re.Op == syntax.OpLiteral && f(string(re.Rune)) || slices.ContainsFunc(re.Sub, func(sub *syntax.Regexp) bool { return literal(sub, f) })
}

// common are paths that crawlers, scanners and browsers ask every server for.
var common = append([]string{"/index.html", "/index.php", "/sitemap.xml", "/.env", "/.git/config", "/wp-login.php", "/xmlrpc.php",
	"/login", "/admin", "/ads.txt", "/.well-known/security.txt", "/manifest.json"}, byThemselves...)

// strange are paths that hardly anybody asks for.
var strange = []string{"/", "/qzjx", "/7f3a/wvut", "/Q_~0.kkz"}

// everybody says that everybody makes a request that a step matches, or
// nothing. Other paths than the one that was meant match a step as well.
func everybody(s sequence.Step) string {
	if s.Method != "" && s.Method != http.MethodGet || s.Host != "" || len(s.Query) > 0 {
		return ""
	}
	if matchesOneOf(s, common) && s.Trigger.Variable() == "" {
		return "browsers, crawlers and scanners ask every server for this path"
	}
	regex, ok := s.Trigger.(sequence.Regex)
	if !ok {
		return ""
	}
	re, err := regexp.Compile(string(regex))
	if err != nil {
		return ""
	}
	if !slices.ContainsFunc(strange, func(p string) bool { return !re.MatchString(p) }) {
		return "the regex matches every path"
	}
	if slices.ContainsFunc(common, re.MatchString) {
		return "the regex matches a path that browsers, crawlers and scanners ask every server for"
	}
	return ""
}
