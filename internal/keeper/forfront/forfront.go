// Package forfront says what of the configuration the front is told.
package forfront

import (
	"cmp"
	"mime"
	"net/netip"
	"path/filepath"
	"slices"

	"webknock/config"
	"webknock/internal/seam"
)

// Configuration returns what the front has to know of a configuration. The sockets of
// the listeners have no numbers, and those with TLS no certificates.
func Configuration(cfg *config.Config) seam.Configuration {
	c := seam.Configuration{
		Clients: seam.Clients{Max: cfg.Clients.Max, IPv4Prefix: cfg.Clients.IPv4Prefix, IPv6Prefix: cfg.Clients.IPv6Prefix},
		Ban:     seam.BanRule{Knocks: cfg.Shield.Ban.Knocks, Within: cfg.Shield.Ban.Within, For: cfg.Shield.Ban.For},
		Decoys:  cfg.Shield.Decoys,
		Exempt:  Exempt(cfg),
	}
	for _, l := range cfg.Listeners {
		c.Listeners = append(c.Listeners, listener(l))
	}
	for i := range cfg.Sequences {
		c.Sequences = append(c.Sequences, sequence(&cfg.Sequences[i]))
	}
	for _, u := range cfg.Users {
		c.Users = append(c.Users, seam.User{Name: u.Name, Secret: u.Secret})
	}
	return c
}

func listener(l config.Listener) seam.ListenerOptions {
	o := seam.ListenerOptions{
		Address: l.Address, Proxies: l.Proxies, ClientAddress: l.ClientAddress, MaxConnections: l.MaxConnections, Cover: cover(l.Cover),
	}
	if l.TLS != nil {
		o.TLS = &seam.TLS{ServerNames: l.TLS.ServerNames, ACME: l.TLS.ACME != nil}
	}
	return o
}

func cover(c config.Cover) seam.Cover {
	switch {
	case c.Proxy != nil:
		return seam.Cover{Proxy: c.Proxy.String()}
	case c.BodyFile != "":
		return seam.Cover{Status: c.Status, Body: c.Body, Type: cmp.Or(mime.TypeByExtension(filepath.Ext(c.BodyFile)), "text/html; charset=utf-8")}
	}
	return seam.Cover{Status: c.Status}
}

func sequence(s *config.Sequence) seam.Sequence {
	v := seam.Sequence{
		Name: s.Name, Window: s.Window, Strict: s.Strict, Ignore: s.Ignore,
		Users: s.Users, Opens: s.Opens, AllowAddress: s.AllowAddress,
	}
	for _, step := range s.Steps {
		v.Steps = append(v.Steps, seam.StepOf(step))
	}
	return v
}

// Exempt returns the networks that are never banned.
func Exempt(cfg *config.Config) []netip.Prefix {
	all := slices.Clone(cfg.Firewall.Guard.Allow)
	for _, listener := range cfg.Listeners {
		all = append(all, listener.Proxies...)
	}
	return all
}
