package banlist

import (
	"net/netip"
	"testing"
	"time"

	"webknock/firewall"
)

// Strangers with many addresses make webknock not grow without bound.
func TestAFloodOfBansIsBounded(t *testing.T) {
	b := New()
	address := func(i int) netip.Prefix {
		return firewall.Offender(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
	}
	until := time.Now().Add(time.Hour)
	for i := range Max {
		if !b.Add(firewall.Ban{Client: address(i), Until: until}) {
			t.Fatalf("ban %d is refused", i)
		}
	}
	if b.Add(firewall.Ban{Client: address(Max), Until: until}) || b.Has(address(Max).Addr()) {
		t.Error("one ban too many is taken")
	}
	if !b.Add(firewall.Ban{Client: address(7), Until: until}) {
		t.Error("a ban that holds cannot be prolonged")
	}
	b.Remove(address(0))
	if !b.Add(firewall.Ban{Client: address(Max), Until: until}) {
		t.Error("there is room, and no ban")
	}
	short := New()
	for i := range Max {
		short.Add(firewall.Ban{Client: address(i), Until: time.Now()})
	}
	if !short.Add(firewall.Ban{Client: address(Max), Until: until}) || len(short.until) != 1 {
		t.Errorf("%d bans after all but one are over", len(short.until))
	}
}
