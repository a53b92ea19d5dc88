package config

import (
	"fmt"
	"net/http"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"

	"webknock/sequence"
)

// The functions here estimate which requests a step matches, for check.

// maxHead is the length of request heads that listeners read, in bytes.
const maxHead = 8 << 10

// size returns how many bytes of a request head a step takes at least.
func size(s sequence.Step) int {
	n := len(s.Method) + len(writtenPath(s.Trigger)) + len(s.Host)
	for name, value := range s.Query {
		n += len(name) + len(value)
	}
	return n
}

// cannotMatch says why no request can match a step. If some can, it returns "".
func cannotMatch(cfg *Config, s sequence.Step) string {
	some := func(f func(Listener) bool) bool { return slices.ContainsFunc(cfg.Listeners, f) }
	regex, isRegex := s.Trigger.(sequence.Regex)
	switch {
	case s.Scheme == sequence.HTTPS && !some(func(l Listener) bool { return l.TLS != nil || l.namesScheme() }):
		return "scheme: https never comes: no listener has tls, and none stands behind a proxy (give one tls, or leave scheme out)"
	case s.Scheme == sequence.HTTP && !some(func(l Listener) bool { return l.TLS == nil || l.namesScheme() }):
		return "scheme: http never comes: all listeners have tls (a plain listener, or leave scheme out)"
	case size(s) > maxHead:
		return fmt.Sprintf("it has %d bytes, and webknock reads request heads of up to 8 KiB (use something shorter)", size(s))
	case isRegex:
		if re, err := syntax.Parse(string(regex), syntax.Perl); err == nil && neverStartsWithSlash(re.Simplify()) {
			return "the regex matches no path, since each starts with / (like ^/a)"
		}
	}
	return ""
}

// namesScheme reports whether a trusted proxy says by which scheme a client's
// request came.
func (l Listener) namesScheme() bool {
	return l.ClientAddress != "peer" && l.ClientAddress != "proxy-protocol"
}

// neverStartsWithSlash reports whether an expression matches only at the beginning of
// a text, and only texts that do not begin with a slash: ^a, but not a or ^/a.
func neverStartsWithSlash(re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpCapture:
		return neverStartsWithSlash(re.Sub[0])
	case syntax.OpAlternate:
		return !slices.ContainsFunc(re.Sub, func(sub *syntax.Regexp) bool { return !neverStartsWithSlash(sub) })
	case syntax.OpConcat:
		if re.Sub[0].Op == syntax.OpCapture || re.Sub[0].Op == syntax.OpAlternate {
			return neverStartsWithSlash(re.Sub[0])
		}
		return len(re.Sub) > 1 && re.Sub[0].Op == syntax.OpBeginText && noSlash(re.Sub[1])
	}
	return false
}

// noSlash reports whether everything that an expression matches begins with a
// character other than / and *. A request OPTIONS * has the path *.
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

// rarelyMatches says why hardly any client sends a request that a step matches. If
// many do, it returns "".
func rarelyMatches(cfg *Config, s sequence.Step) string {
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

// literal reports whether f is true for some literal text in an expression.
func literal(re *syntax.Regexp, f func(string) bool) bool {
	return re.Op == syntax.OpLiteral && f(string(re.Rune)) || slices.ContainsFunc(re.Sub, func(sub *syntax.Regexp) bool { return literal(sub, f) })
}

// requestedByBrowsers are paths that browsers request on their own.
var requestedByBrowsers = []string{"/", "/favicon.ico", "/robots.txt", "/apple-touch-icon.png", "/apple-touch-icon-precomposed.png"}

// common are paths that crawlers, scanners and browsers ask every server for.
var common = append([]string{"/index.html", "/index.php", "/sitemap.xml", "/.env", "/.git/config", "/wp-login.php", "/xmlrpc.php",
	"/login", "/admin", "/ads.txt", "/.well-known/security.txt", "/manifest.json"}, requestedByBrowsers...)

// strange are paths that hardly anybody requests.
var strange = []string{"/", "/qzjx", "/7f3a/wvut", "/Q_~0.kkz"}

// everybodyRequests says why many requests of strangers match a step. If few do, it
// returns "".
func everybodyRequests(s sequence.Step) string {
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
