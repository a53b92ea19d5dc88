package config

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
)

// Listener is an address that receives knocks.
type Listener struct {
	Address        string         `mapstructure:"address" is:"address" required:"host:port, like :8080, or systemd:NAME"`
	TLS            *TLS           `mapstructure:"tls"`     // nil: plain HTTP
	Proxies        []netip.Prefix `mapstructure:"proxies"` // networks whose peers may speak for a client
	ClientAddress  string         `mapstructure:"client_address" words:"peer x-forwarded-for forwarded x-real-ip proxy-protocol"`
	MaxConnections int            `mapstructure:"max_connections" limits:"1..1048576"` // request heads being read at once
	Cover          Cover          `mapstructure:"cover"`
}

func (l *Listener) setDefaults() { *l = Listener{ClientAddress: "peer", MaxConnections: 16384} }

func (d *decoder) validateListeners(all []Listener) []Listener {
	for i := range all {
		key := fmt.Sprintf("listeners[%d]", i)
		for _, other := range all[:i] {
			if all[i].conflicts(other) {
				d.errorAt(key+".address", "another listener has %s already (give each its own address and port)", other.Address)
			}
		}
		all[i].validate(d, key)
	}
	return all
}

func (l *Listener) validate(d *decoder, key string) {
	if l.TLS != nil {
		l.TLS.validate(d, key+".tls")
	}
	l.Cover.validate(d, key+".cover")
	there := d.keys[key]
	if named := l.ClientAddress != "peer"; named != (len(l.Proxies) > 0) && !d.wrong(key+".proxies", key+".client_address") {
		if named && !there.misspelled["proxies"] {
			d.errorAt(key+".client_address", "%s, but no proxy is trusted (name the networks of your proxies in proxies)", l.ClientAddress)
		} else if !named && !there.misspelled["client_address"] {
			d.errorAt(key+".proxies", "client_address does not say how they name the client (set it to x-forwarded-for, forwarded, x-real-ip or proxy-protocol)")
		}
	}
	for i, p := range l.Proxies {
		if isHuge(p) && !l.addr().IsLoopback() {
			d.warnAt(fmt.Sprintf("%s.proxies[%d]", key, i), "%s is a great part of the internet, and all of it may say which client it knocks for (your own proxies only)", p)
		}
	}
	if len(l.Proxies) > 0 && l.Cover.Drops() && l.ClientAddress != "proxy-protocol" {
		d.warnf(d.place(key), key+".cover", "behind a proxy, drop shows as the error 502 of the proxy (use cover: {status: 404})")
	}
}

// port returns the port of a listener's address, or 0 if only systemd knows it.
func (l Listener) port() uint16 {
	_, port, _ := net.SplitHostPort(l.Address)
	n, _ := strconv.ParseUint(port, 10, 16)
	return uint16(n)
}

// addr returns the address a listener binds. The zero Addr stands for a host
// name, and for a socket that systemd has bound.
func (l Listener) addr() netip.Addr {
	host, _, err := net.SplitHostPort(l.Address)
	if host == "" && err == nil {
		return netip.IPv6Unspecified()
	}
	addr, _ := netip.ParseAddr(host)
	return addr.Unmap()
}

// conflicts reports whether two listeners cannot be bound at once. An unspecified
// IPv6 address takes IPv4 as well.
func (l Listener) conflicts(o Listener) bool {
	a, b := l.addr(), o.addr()
	switch {
	case l.Address == "":
		return false
	case l.Address == o.Address:
		return true
	case l.port() == 0 || l.port() != o.port():
		return false
	case a == netip.IPv6Unspecified() || b == netip.IPv6Unspecified():
		return true
	}
	return a.IsValid() && b.IsValid() && (a == b || a.Is4() && b.Is4() && (a.IsUnspecified() || b.IsUnspecified()))
}
