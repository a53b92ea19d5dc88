package keeper

import (
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"webknock/firewall"
	"webknock/httpd/admin"
)

// What an administrator cannot have meant is refused, not cut down or carried out
// for nobody.
func TestAnAdministratorsMistakesAreRefused(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	cfg := parse(t, strings.Replace(file, "ports: [22/tcp]", "ports: [22/tcp], ttl: 30s, max_ttl: 10m", 1))
	k := New(Options{Log: log})
	k.config.Store(cfg)
	k.gate = firewall.NewGate(firewall.NewMemory(), log, func(firewall.Event) {})
	defer background(t.Context(), k.gate.Run)(t.Context())
	if err := k.gate.Configure(t.Context(), cfg.Firewall.Guard); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		door, client, ttl string
		status            int // 0: it opens
		detail            string
	}{
		{"ssh", "192.0.2.7", "", 0, ""},
		{"ssh", "2001:db8::7", "10m", 0, ""},
		{"ssh", "::ffff:192.0.2.7", "1s", 0, ""},
		{"ssh", "192.0.2.7", "10m1s", 422, "ttl: 10m1s is more than door ssh allows (up to 10m0s, its max_ttl)"},
		{"ssh", "192.0.2.7", "24h", 422, "its max_ttl"},
		{"ssh", "192.0.2.7", "5", 400, "not a duration"},
		{"ssh", "192.0.2.7", "999ms", 400, "at least 1s"},
		{"ssh", "here", "", 400, "not an IP address"},
		{"ssh", "fe80::1%eth0", "", 400, "not an IP address"},
		{"ssh", "0.0.0.0", "", 422, "client: 0.0.0.0 is the address of no client"},
		{"ssh", "127.0.0.1", "", 422, "no client"},
		{"ssh", "224.0.0.1", "", 422, "no client"},
		{"ssh", "255.255.255.255", "", 422, "no client"},
		{"ssh", "::", "", 422, "no client"},
		{"ssh", "::1", "", 422, "no client"},
		{"ssh", "ff02::1", "", 422, "no client"},
		{"ssh", "::ffff:127.0.0.1", "", 422, "client: 127.0.0.1 is the address of no client"},
		{"ssh", "::ffff:224.0.0.1", "", 422, "no client"},
		{"shs", "192.0.2.7", "", 404, `there is no door "shs" (did you mean ssh?)`},
		{"cellar", "192.0.2.7", "", 404, `there is no door "cellar" (one of ssh)`},
	} {
		grant, err := k.Open(t.Context(), admin.OpenRequest{Door: tt.door, Client: tt.client, TTL: tt.ttl})
		var p *admin.Problem
		switch {
		case tt.status == 0 && err != nil, tt.status == 0 && grant.Door != "ssh":
			t.Errorf("%+v: %+v, %v", tt, grant, err)
		case tt.status != 0 && (!errors.As(err, &p) || p.Status != tt.status || !strings.Contains(p.Detail, tt.detail)):
			t.Errorf("%+v: %v", tt, err)
		}
	}
	if grants, err := k.Grants(t.Context()); err != nil || len(grants) != 2 { // that of the mapped address is renewed
		t.Errorf("%d grants, %v", len(grants), err)
	}
	grants, err := k.Grants(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		id, ttl string
		status  int // 0: it is extended
		detail  string
	}{
		{grants[0].ID, "10m", 0, ""},
		{grants[0].ID, "", 0, ""},
		{grants[0].ID, "10m1s", 422, "ttl: 10m1s is more than door ssh allows (up to 10m0s, its max_ttl)"},
		{grants[0].ID, "5", 400, "not a duration"},
		{grants[0].ID, "0s", 400, "at least 1s"},
		{grants[0].ID, "-1h", 400, "at least 1s"},
		{"none", "1m", 404, "no such grant"},
	} {
		grant, err := k.Extend(t.Context(), tt.id, admin.ExtendRequest{TTL: tt.ttl})
		var p *admin.Problem
		switch {
		case tt.status == 0 && (err != nil || grant.ID != tt.id || grant.Remaining < 599):
			t.Errorf("extend %+v: %+v, %v", tt, grant, err)
		case tt.status != 0 && (!errors.As(err, &p) || p.Status != tt.status || !strings.Contains(p.Detail, tt.detail)):
			t.Errorf("extend %+v: %v", tt, err)
		}
	}
	cfg = parse(t, strings.Replace(strings.Replace(file, "doors: [{name: ssh, ports: [22/tcp]}]", "", 1), "opens: [ssh]", "message: x", 1))
	k.config.Store(cfg)
	var p *admin.Problem
	if _, err := k.Open(t.Context(), admin.OpenRequest{Door: "ssh", Client: "192.0.2.7"}); !errors.As(err, &p) || p.Status != http.StatusNotFound || !strings.Contains(p.Detail, "(there are none)") {
		t.Errorf("without doors: %v", err)
	}
}
