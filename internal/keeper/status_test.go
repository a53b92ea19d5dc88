package keeper

import (
	"net/netip"
	"reflect"
	"testing"

	"webknock/httpd/admin"
	"webknock/internal/event"
	"webknock/internal/seam"
)

func TestListenersAreDescribedWithTheirOwnCounts(t *testing.T) {
	listeners := []listener{
		{Address: ":0", Bound: netip.MustParseAddrPort("[::]:8080"), Cover: "drop", Drops: true},
		{Address: "192.0.2.1:443", Bound: netip.MustParseAddrPort("192.0.2.1:443"), TLS: true, Cover: "status"},
	}
	front := seam.State{
		Knocks: []seam.KnockCount{
			{Listener: ":0", Outcome: event.Missed, Count: 3},
			{Listener: ":0", Outcome: event.Matched, Count: 4},
			{Listener: "192.0.2.1:80", Outcome: event.Missed, Count: 9}, // closed since
		},
		Connections: []seam.ConnectionCount{{Listener: "192.0.2.1:443", Open: 2}},
	}
	got := listenersOf(listeners, front)
	want := []admin.Listener{
		{Address: ":0", Cover: "drop", Bound: "[::]:8080", Drops: true, Knocks: 7},
		{Address: "192.0.2.1:443", TLS: true, Cover: "status", Bound: "192.0.2.1:443", Connections: 2},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("listeners %+v, want %+v", got, want)
	}
}
