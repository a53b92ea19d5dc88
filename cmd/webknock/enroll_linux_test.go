package main

import (
	"net/netip"
	"testing"

	"webknock/internal/setup"
)

func TestAProfileNamesAHostThatClientsCanReach(t *testing.T) {
	v4 := setup.Session{Server: netip.MustParseAddrPort("192.0.2.1:22")}
	v6 := setup.Session{Server: netip.MustParseAddrPort("[2001:db8::1]:22")}
	for _, c := range []struct {
		name    string
		session setup.Session
		want    string
	}{
		{"home.example.org", v4, "home.example.org"},
		{"vps1", v4, "192.0.2.1"},
		{"vps1", v6, "2001:db8::1"},
	} {
		if got := reachedAs(c.name, c.session); got != c.want {
			t.Errorf("%s, reached at %v: %s, want %s", c.name, c.session.Server, got, c.want)
		}
	}
}
