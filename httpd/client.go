package httpd

import (
	"bytes"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// A Source is where the address of a request's client comes from.
type Source string

// The sources. All but Peer count only if the peer is a trusted proxy.
const (
	Peer          Source = "peer"            // the other end of the connection
	XForwardedFor Source = "x-forwarded-for" // the last address in it that is not a trusted proxy's
	Forwarded     Source = "forwarded"       // the same, by RFC 7239
	XRealIP       Source = "x-real-ip"       // the only address in it
	ProxyProtocol Source = "proxy-protocol"  // versions 1 and 2
)

// Clients finds the client of a request. That is the peer, or, if the peer is a
// trusted proxy, the address that the proxy names.
type Clients struct {
	Source  Source
	Proxies []netip.Prefix // trusted to name their clients
}

// errClient means that a trusted proxy names no client, or none that can be
// believed. The request is no knock then; least of all is it the proxy's.
var errClient = errors.New("the proxy names no client")

// trusts reports whether a peer is a trusted proxy.
func (c Clients) trusts(peer netip.Addr) bool {
	return slices.ContainsFunc(c.Proxies, func(p netip.Prefix) bool { return p.Contains(peer) })
}

// client returns the client behind a peer, according to the header of a request.
//
// X-Forwarded-For is read as by chi's middleware.ClientIPFromXFF, from the right, and
// an element that is no address ends the search. That middleware itself is not used.
// It knows neither ports nor brackets nor quotes, which proxies write. It passes over
// empty elements, after which nobody knows who has written the next one. It takes
// 0.0.0.0 for a client. And it needs a parsed request, while the listener must know the
// client before anybody looks at what was asked. Tests compare the two.
func (c Clients) client(peer netip.Addr, header http.Header) (netip.Addr, error) {
	if !c.trusts(peer) {
		return peer, nil
	}
	switch c.Source {
	case XForwardedFor:
		return c.last(splitList(header.Values("X-Forwarded-For")), parseAddress)
	case Forwarded:
		hops, err := splitForwarded(header.Values("Forwarded"))
		if err != nil {
			return netip.Addr{}, err
		}
		_, client, err := c.lastForwarded(hops)
		return client, err
	case XRealIP:
		if values := header.Values("X-Real-Ip"); len(values) == 1 {
			if addr, err := parseAddress(values[0]); err == nil && !c.trusts(addr) {
				return addr, nil
			}
		}
		return netip.Addr{}, errClient
	}
	return peer, nil
}

// unknownScheme is the scheme of a request whose proxies contradict each other, or
// name a scheme that is neither http nor https. It matches neither.
const unknownScheme = "unknown"

// scheme returns the scheme by which the client behind a peer sent its request,
// according to the proxies. It is empty if they do not say, or if the peer is not a
// trusted proxy. With Forwarded it is the proto of the element that names the client.
// With the other headers it is X-Forwarded-Proto, which names one scheme for all hops.
// If that lists different schemes, any of them may be a stranger's.
func (c Clients) scheme(peer netip.Addr, header http.Header) string {
	if !c.trusts(peer) {
		return ""
	}
	var said []string
	switch c.Source {
	case XForwardedFor, XRealIP:
		said = splitList(header.Values("X-Forwarded-Proto"))
	case Forwarded:
		hops, err := splitForwarded(header.Values("Forwarded"))
		if err != nil {
			return unknownScheme
		}
		if hop, _, err := c.lastForwarded(hops); err == nil && hop.proto != "" {
			said = []string{hop.proto}
		}
	}
	if len(said) == 0 {
		return ""
	}
	scheme := strings.ToLower(strings.TrimSpace(said[0]))
	for _, other := range said[1:] {
		if !strings.EqualFold(strings.TrimSpace(other), scheme) {
			return unknownScheme
		}
	}
	if scheme != "http" && scheme != "https" {
		return unknownScheme
	}
	return scheme
}

// clientFields returns the fields of a head that name the client. They are read before
// anybody looks at what was asked.
func clientFields(head []byte) http.Header {
	header := http.Header{}
	for i, line := range bytes.Split(head, []byte{'\n'}) {
		name, value, found := bytes.Cut(line, []byte{':'})
		if i == 0 || !found {
			continue
		}
		switch key := http.CanonicalHeaderKey(string(name)); key {
		case "X-Forwarded-For", "X-Forwarded-Proto", "Forwarded", "X-Real-Ip":
			header.Add(key, strings.TrimSpace(string(value)))
		}
	}
	return header
}

// last returns the last hop of a list that is not a trusted proxy. Anybody may have
// written what stands before it.
func (c Clients) last(hops []string, parse func(string) (netip.Addr, error)) (netip.Addr, error) {
	for _, hop := range slices.Backward(hops) {
		addr, err := parse(hop)
		if err != nil || !c.trusts(addr) {
			return addr, err
		}
	}
	return netip.Addr{}, errClient
}

// lastForwarded does the same for the elements of Forwarded fields.
func (c Clients) lastForwarded(hops []forwardedHop) (hop forwardedHop, client netip.Addr, err error) {
	for _, hop := range slices.Backward(hops) {
		client, err := parseNode(hop.node)
		if err != nil || !c.trusts(client) {
			return hop, client, err
		}
	}
	return hop, client, errClient
}

// A forwardedHop is an element of a Forwarded field.
type forwardedHop struct {
	node  string // the parameter for; empty: there is none
	proto string // the parameter proto; empty: there is none
}

// parseAddress parses an address as proxies write it: an IPv6 address may have
// brackets, either may have a port or a zone, and all of it quotes. The zone names an
// interface of the proxy and is dropped. Examples: 192.0.2.7, 192.0.2.7:4711,
// 2001:db8::7, [2001:db8::7], [2001:db8::7]:4711, fe80::7%eth0, "[2001:db8::7]:4711".
func parseAddress(text string) (netip.Addr, error) {
	text = strings.TrimSpace(text)
	if len(text) >= 2 && strings.HasPrefix(text, `"`) && strings.HasSuffix(text, `"`) {
		text = text[1 : len(text)-1]
	}
	if strings.HasPrefix(text, "[") && strings.HasSuffix(text, "]") {
		text += ":0" // netip knows brackets only with a port
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		var with netip.AddrPort
		if with, err = netip.ParseAddrPort(text); err == nil {
			addr = with.Addr()
		}
	}
	addr = addr.WithZone("").Unmap()
	if err != nil || !nameable(addr) {
		return netip.Addr{}, errClient
	}
	return addr, nil
}

// nameable reports whether an address can be a client's.
func nameable(addr netip.Addr) bool {
	return addr.IsValid() && !addr.IsUnspecified() && !addr.IsMulticast()
}

// parseNode parses a node identifier (RFC 7239, section 6). It returns an error for
// obfuscated and unknown ones, which name nobody.
func parseNode(text string) (netip.Addr, error) {
	if inside, ok := strings.CutPrefix(text, "["); ok {
		address, port, ok := strings.Cut(inside, "]")
		addr, err := parseAddress(address)
		if !ok || err != nil || !strings.Contains(address, ":") || port != "" && !strings.HasPrefix(port, ":") {
			return netip.Addr{}, errClient
		}
		return addr, nil
	}
	address, _, _ := strings.Cut(text, ":")
	addr, err := netip.ParseAddr(address)
	if err != nil || !addr.Is4() {
		return netip.Addr{}, errClient // among others, for IPv6 without brackets
	}
	return parseAddress(address)
}

func splitList(values []string) []string {
	if len(values) == 0 {
		return nil
	}
	return strings.Split(strings.Join(values, ","), ",")
}

// splitForwarded returns the elements of Forwarded fields (RFC 7239, section 4).
func splitForwarded(values []string) (hops []forwardedHop, err error) {
	for rest := strings.Join(values, ","); rest != ""; {
		var hop forwardedHop
		for more := true; more; { // one pair of the element
			name, after, found := strings.Cut(rest, "=")
			if !found {
				return nil, errClient
			}
			var value string
			if value, rest, err = cutValue(after); err != nil {
				return nil, err
			}
			for parameter, to := range map[string]*string{"for": &hop.node, "proto": &hop.proto} {
				if !strings.EqualFold(strings.TrimSpace(name), parameter) {
					continue
				}
				if *to != "" {
					return nil, errClient
				}
				*to = value
			}
			rest = strings.TrimLeft(rest, " \t")
			more = strings.HasPrefix(rest, ";")
			if !more && rest != "" && !strings.HasPrefix(rest, ",") {
				return nil, errClient
			}
			rest = strings.TrimPrefix(rest, ";")
		}
		hops = append(hops, hop)
		rest = strings.TrimPrefix(rest, ",")
	}
	return hops, nil
}

// cutValue cuts off a token or a quoted string (RFC 9110, section 5.6). By the RFC a
// value with colons or brackets needs quotes; some proxies leave them out.
func cutValue(text string) (value, rest string, err error) {
	if !strings.HasPrefix(text, `"`) {
		end := strings.IndexAny(text, ";, \t")
		if end < 0 {
			end = len(text)
		}
		if strings.Contains(text[:end], `"`) {
			return "", "", errClient
		}
		return text[:end], text[end:], nil
	}
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		switch {
		case text[i] == '"':
			return b.String(), text[i+1:], nil
		case text[i] == '\\' && i+1 < len(text):
			i++
		}
		b.WriteByte(text[i])
	}
	return "", "", errClient
}
