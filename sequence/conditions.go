package sequence

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"strings"
)

// Conditions are what a step asks of a request besides its path. Each condition
// that is set must be met; the zero Conditions are always met.
type Conditions struct {
	Method string            // case-sensitive; empty: any
	Host   string            // port, case and a trailing dot do not count; empty: any
	Query  map[string]string // parameters that occur exactly once, with this value
	Scheme string            // HTTP or HTTPS; empty: any
}

// The schemes of a request: in clear, or by TLS.
const (
	HTTP  = "http"
	HTTPS = "https"
)

func (c Conditions) equal(o Conditions) bool {
	return c.Method == o.Method && c.Host == o.Host && c.Scheme == o.Scheme && maps.Equal(c.Query, o.Query)
}

// validate returns the first thing that is wrong with the conditions.
func (c Conditions) validate() error {
	if strings.ContainsFunc(c.Method, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return errors.New("a method is one word of printable ASCII, like GET")
	}
	if upper := strings.ToUpper(c.Method); upper != c.Method {
		return fmt.Errorf("the method %s never comes: methods are in upper case (%s)", c.Method, upper)
	}
	if strings.ContainsAny(c.Method, `"(),/:;<=>?@[\]{}`) { // RFC 9110, section 5.6.2
		return errors.New("a method is one word of letters, like GET")
	}
	switch {
	case strings.ContainsAny(c.Host, "/ "):
		return errors.New("a host is a bare name or address, like home.example.org")
	case strings.Contains(c.Host, "*"):
		return errors.New("a * in a host stands for itself alone (one host name, or none for any)")
	}
	if c.Scheme != "" && c.Scheme != HTTP && c.Scheme != HTTPS {
		return errors.New("a scheme is http or https")
	}
	return nil
}

// meet reports whether a request meets the conditions.
func (c *Conditions) meet(r *Request) bool {
	if c.Method != "" && c.Method != r.Method {
		return false
	}
	if c.Scheme != "" && c.Scheme != r.Scheme {
		return false
	}
	if c.Host != "" && !sameHost(hostname(c.Host), hostname(r.Host)) {
		return false
	}
	if len(c.Query) == 0 {
		return true
	}
	query, _ := url.ParseQuery(r.RawQuery) // parameters that do not parse are missing
	for name, value := range c.Query {
		if got := query[name]; len(got) != 1 || got[0] != value {
			return false
		}
	}
	return true
}

// sameHost compares host names without case, and addresses however they are
// written.
func sameHost(a, b string) bool {
	if strings.EqualFold(a, b) {
		return true
	}
	if !strings.Contains(a, ":") {
		return false
	}
	x, errX := netip.ParseAddr(a)
	y, errY := netip.ParseAddr(b)
	return errX == nil && errY == nil && x == y
}

// hostname returns a host without its port and its trailing dot, and an IPv6
// address without its brackets (RFC 3986 section 3.2.2).
func hostname(host string) string {
	return strings.TrimSuffix(withoutPort(host), ".")
}

func withoutPort(host string) string {
	if strings.HasPrefix(host, "[") {
		if end := strings.IndexByte(host, ']'); end > 0 {
			return host[1:end]
		}
		return host
	}
	if i := strings.LastIndexByte(host, ':'); i >= 0 && strings.Count(host, ":") == 1 {
		return host[:i]
	}
	return host
}
