// Package firewalltest is the contract that every firewall.Backend must keep.
package firewalltest

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"webknock/firewall"
)

// The doors of the contract.
var (
	SSH = firewall.Door{Name: "ssh", Ports: []firewall.Ports{{Protocol: firewall.TCP, First: 22, Last: 22}},
		TTL: time.Minute, MaxTTL: time.Hour, MaxGrants: 65536, Prefix4: 32, Prefix6: 128}
	VPN = firewall.Door{Name: "vpn", Ports: []firewall.Ports{{Protocol: firewall.UDP, First: 51820, Last: 51820}, {Protocol: firewall.TCP, First: 6000, Last: 6010}},
		TTL: time.Minute, MaxTTL: time.Hour, MaxGrants: 65536, Prefix4: 32, Prefix6: 128}
)

// Grant returns a grant of an address.
func Grant(door, client string, ttl time.Duration) firewall.Grant {
	addr := netip.MustParseAddr(client)
	return firewall.Grant{
		ID: "abcd2345", Door: door, Client: netip.PrefixFrom(addr, addr.BitLen()), Sequence: "seq", User: "alice",
		Opened: time.Now().Truncate(time.Millisecond), Expires: time.Now().Add(ttl),
	}
}

// Run tests backends that open returns, each guarding nothing yet.
func Run(t *testing.T, open func(t *testing.T) firewall.Backend) {
	const alice, bob, carol = "192.0.2.1", "192.0.2.2", "2001:db8::1"
	both := firewall.Guard{Doors: []firewall.Door{SSH, VPN}, Mark: 0x40000000}
	for _, tt := range []struct {
		name string
		run  func(*testing.T, house)
	}{
		{"grants read back", func(t *testing.T, h house) {
			want := Grant("ssh", alice, time.Minute)
			h.set(want, Grant("vpn", carol, time.Hour))
			h.mustHold("ssh "+alice, "vpn "+carol)
			for _, got := range h.read() {
				if got.Origin != firewall.Ours || got.Ends.Sub(got.Expires).Abs() > time.Second {
					t.Errorf("%s is of origin %v and ends %v, expires %v", got.Door, got.Origin, got.Ends, got.Expires)
				}
				if got.Door == "ssh" && (got.ID != want.ID || got.Sequence != want.Sequence || got.User != want.User ||
					!got.Opened.Equal(want.Opened) || got.Expires.Sub(want.Expires).Abs() > time.Second) {
					t.Errorf("got %+v, want %+v", got, want)
				}
			}
		}},
		{"a renewal replaces, and its counters go on", func(t *testing.T, h house) {
			g := Grant("ssh", alice, time.Minute)
			h.set(g)
			g.Expires, g.Packets, g.Bytes = time.Now().Add(time.Hour), 7, 700
			h.set(g)
			got := h.read()
			if len(got) != 1 || time.Until(got[0].Expires) < 59*time.Minute || got[0].Packets != 7 || got[0].Bytes != 700 {
				t.Errorf("after renewal: %+v", got)
			}
		}},
		{"the traffic of single grants", func(t *testing.T, h house) {
			one, six, other := Grant("ssh", alice, time.Minute), Grant("vpn", carol, time.Minute), Grant("ssh", bob, time.Minute)
			one.Packets, one.Bytes, six.Packets, six.Bytes = 7, 700, 8, 800
			h.set(one, six, other)
			gone, successor := Grant("vpn", alice, time.Minute), other
			successor.ID = "bcde3456" // the firewall has another grant in its place
			asked := []firewall.Grant{gone, one, successor, six, Grant("cellar", alice, time.Minute)}
			for i := range asked {
				asked[i].Packets, asked[i].Bytes = 0, 0
			}
			counted, err := h.Traffic(t.Context(), asked)
			if err != nil || len(counted) != 2 || counted[0].Packets != 7 || counted[0].Bytes != 700 || counted[1].Packets != 8 || counted[1].Bytes != 800 {
				t.Errorf("counted %+v, %v", counted, err)
			}
		}},
		{"closing is idempotent", func(t *testing.T, h house) {
			g := Grant("ssh", alice, time.Minute)
			h.set(g, Grant("ssh", bob, time.Minute))
			for range 2 {
				if err := h.Commit(t.Context(), []firewall.Change{{Grant: g, Close: true}}); err != nil {
					t.Fatal(err)
				}
				h.mustHold("ssh " + bob)
			}
		}},
		{"a transaction is all or nothing", func(t *testing.T, h house) {
			err := h.Commit(t.Context(), []firewall.Change{{Grant: Grant("ssh", alice, time.Minute)}, {Grant: Grant("cellar", alice, time.Minute)}})
			if !errors.Is(err, firewall.ErrNoDoor) {
				t.Errorf("error %v", err)
			}
			h.mustHold()
		}},
		{"expired changes are left out", func(t *testing.T, h house) {
			h.set(Grant("ssh", alice, -time.Second), Grant("ssh", bob, 0), Grant("ssh", carol, time.Minute))
			h.mustHold("ssh " + carol)
		}},
		{"a grant ends by itself", func(t *testing.T, h house) {
			h.set(Grant("ssh", alice, 50*time.Millisecond), Grant("ssh", bob, time.Minute))
			for deadline := time.Now().Add(10 * time.Second); len(h.read()) > 1; {
				if time.Now().After(deadline) {
					t.Fatal("a grant of 50 ms is still there")
				}
			}
			h.mustHold("ssh " + bob)
		}},
		{"guarding again keeps grants, and removes doors that are gone", func(t *testing.T, h house) {
			h.set(Grant("ssh", alice, time.Minute), Grant("vpn", alice, time.Minute))
			h.guard(both)
			h.mustHold("ssh "+alice, "vpn "+alice)
			h.guard(firewall.Guard{Doors: []firewall.Door{VPN}, Mark: both.Mark})
			h.mustHold("vpn " + alice)
			h.guard(both)
			h.mustHold("vpn " + alice)
		}},
		{"guarding puts back grants that still run", func(t *testing.T, h house) {
			if err := h.Unguard(t.Context()); err != nil {
				t.Fatal(err)
			}
			h.guard(both, Grant("ssh", alice, time.Minute), Grant("ssh", bob, -time.Minute), Grant("cellar", bob, time.Minute))
			h.mustHold("ssh " + alice)
		}},
		{"a grant that is put back is the same", func(t *testing.T, h house) {
			g := Grant("ssh", alice, time.Minute)
			h.set(g)
			if err := h.Commit(t.Context(), []firewall.Change{{Grant: g, Again: true, Spent: true}}); err != nil {
				t.Fatal(err)
			}
			h.mustHold("ssh " + alice)
			if got := h.read(); got[0].ID != g.ID || got[0].Origin != firewall.Ours {
				t.Errorf("got %+v, want %+v", got[0], g)
			}
		}},
		{"bans read back, and are lifted", func(t *testing.T, h house) {
			shielded := both
			shielded.BanPorts = []uint16{8080}
			h.guard(shielded)
			until := time.Now().Add(time.Minute)
			banned := firewall.Offender(netip.MustParseAddr(carol))
			must := func(want int) {
				t.Helper()
				ours, foreign, err := h.Bans(t.Context())
				if err != nil || len(ours) != want || len(foreign) != 0 || want == 1 && (ours[0].Client != banned || ours[0].Until.Sub(until).Abs() > time.Second) {
					t.Errorf("bans %v, of others %v, %v", ours, foreign, err)
				}
			}
			if err := h.Ban(t.Context(), []firewall.Ban{{Client: firewall.Offender(netip.MustParseAddr(alice)), Until: until}, {Client: banned, Until: until}}); err != nil {
				t.Fatal(err)
			}
			if err := h.Ban(t.Context(), []firewall.Ban{{Client: firewall.Offender(netip.MustParseAddr(alice))}}); err != nil {
				t.Fatal(err)
			}
			must(1)
			h.guard(shielded)
			must(1)
		}},
		{"unguarding is idempotent, and nothing opens then", func(t *testing.T, h house) {
			h.set(Grant("ssh", alice, time.Minute))
			for range 2 {
				if err := h.Unguard(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			_, readErr := h.Read(t.Context())
			for what, err := range map[string]error{
				"check": h.Check(t.Context()), "read": readErr,
				"commit": h.Commit(t.Context(), []firewall.Change{{Grant: Grant("ssh", alice, time.Minute)}}),
			} {
				if !errors.Is(err, firewall.ErrNotGuarded) {
					t.Errorf("%s: %v", what, err)
				}
			}
			h.guard(both)
			h.mustHold()
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := house{open(t), t}
			h.guard(both)
			tt.run(t, h)
		})
	}
}

// house is a backend under test.
type house struct {
	firewall.Backend
	t *testing.T
}

func (h house) guard(g firewall.Guard, grants ...firewall.Grant) {
	h.t.Helper()
	if err := h.Guard(h.t.Context(), g, grants); err != nil {
		h.t.Fatal(err)
	}
	if err := h.Check(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
}

func (h house) set(grants ...firewall.Grant) {
	h.t.Helper()
	var changes []firewall.Change
	for _, g := range grants {
		changes = append(changes, firewall.Change{Grant: g})
	}
	if err := h.Commit(h.t.Context(), changes); err != nil {
		h.t.Fatal(err)
	}
}

func (h house) read() []firewall.Held {
	h.t.Helper()
	grants, err := h.Read(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	return grants
}

// mustHold fails unless the grants are these, as "door client".
func (h house) mustHold(want ...string) {
	h.t.Helper()
	var got []string
	for _, g := range h.read() {
		got = append(got, g.Door+" "+g.Client.Addr().String())
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		h.t.Errorf("grants %q, want %q", got, want)
	}
}
