package keeper

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"webknock/firewall"
)

// Strangers with many addresses do not keep the gate from its doors.
func TestAFloodOfBansIsFewRequestsToTheGate(t *testing.T) {
	const flood = 65536
	q := newBanQueue()
	address := func(i int) netip.Prefix {
		return firewall.Offender(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
	}
	until := time.Now().Add(time.Hour)
	for i := range flood {
		q.add(firewall.Ban{Client: address(i), Until: until})
	}
	q.remove(address(0))
	requests, told := 0, 0
	for len(q.more) > 0 {
		<-q.more
		bans := q.take()
		if slices.ContainsFunc(bans, func(ban firewall.Ban) bool { return ban.Client == address(0) }) {
			t.Error("the firewall is told of a ban that was lifted")
		}
		requests, told = requests+1, told+len(bans)
	}
	if requests != flood/maxBansAtOnce || told != flood-1 {
		t.Errorf("%d bans in %d requests", told, requests)
	}
}

func TestTheShieldCoversTheBoundPortsOfListeners(t *testing.T) {
	cfg := parse(t, strings.Replace(file, `[{address: "127.0.0.1:1"}]`,
		`[{address: ":1"}, {address: ":2", cover: {status: 404}}, {address: "127.0.0.1:3", proxies: [127.0.0.1], client_address: x-real-ip, cover: {status: 404}}]`, 1))
	listeners := []listener{
		{Bound: netip.MustParseAddrPort("[::]:50001"), Drops: true},
		{Bound: netip.MustParseAddrPort("[::]:50002")},
		{Bound: netip.MustParseAddrPort("127.0.0.1:50003")},
	}
	first, second := uint16(50001), uint16(50002)
	s := shield(cfg, listeners)
	if !slices.Equal(s.BanPorts, []uint16{first, second}) || !slices.Equal(s.RatePorts, []uint16{first}) {
		t.Errorf("bans for ports %v, limits for %v; want %v and %v", s.BanPorts, s.RatePorts, []uint16{first, second}, first)
	}
	if len(s.Exempt) != 1 || s.Rate != 20 || s.Burst != 40 || s.Per != time.Second {
		t.Errorf("%+v", s)
	}
}
