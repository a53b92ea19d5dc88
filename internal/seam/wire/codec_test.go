package wire

import (
	"net/http"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"webknock/firewall"
	"webknock/internal/event"
	"webknock/internal/onetime"
	"webknock/internal/seam"
	"webknock/internal/ticket"
)

// roundTrip returns a value as it comes out at the other end.
func roundTrip[T any](t *testing.T, v T) (got T) {
	t.Helper()
	payload, err := encode(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := decode(many, payload, &got); err != nil {
		t.Fatal(err)
	}
	return got
}

func mustStay[T any](t *testing.T, v T) {
	t.Helper()
	if got := roundTrip(t, v); !reflect.DeepEqual(got, v) {
		t.Errorf("%+v has become %+v", v, got)
	}
}

// at is a time as it comes over: by the wall clock, to the nanosecond.
var at = time.Date(2026, 1, 2, 3, 4, 5, 678_901_234, time.UTC)

var completion = seam.Completion{
	Sequence: "ssh", Client: netip.MustParseAddr("192.0.2.7"), At: at, User: "alice",
	Request: &event.Request{
		Method: "GET", Target: "/a%ff?x", Proto: "HTTP/1.1", Host: "h", Path: "/a\xff\x00", RawQuery: "x=\xfe",
		Header: http.Header{"Cookie": {"a=\xe4", ""}, "X": {}}, Client: netip.MustParseAddr("2001:db8::7"),
		Remote: netip.MustParseAddrPort("192.0.2.7:1"), Local: netip.MustParseAddrPort("[2001:db8::1%eth0]:2"), TLS: true,
	},
	Ticket: &ticket.Request{TTL: time.Hour, Doors: []string{"ssh"}, Address: netip.MustParseAddr("192.0.2.8")},
}

func TestValuesComeOverAsTheyAre(t *testing.T) {
	mustStay(t, completion)
	mustStay(t, seam.Completion{Sequence: "x", Ticket: &ticket.Request{}})
	mustStay(t, seam.Ban{Ban: firewall.Ban{Client: netip.MustParsePrefix("2001:db8::/64"), Until: at}, At: at, ViaProxy: true, Reason: "r"})
	used := onetime.NewUsed()
	mustStay(t, used)
	used.Mark = -1
	used.Of(ticket.KeyID{1, 0xff}).Counter = 1 << 60
	used.Of(ticket.KeyID{2}).Tickets[ticket.Nonce{3}] = 4
	used.Of(ticket.KeyID{2}).Tickets[ticket.Nonce{5}] = 0
	mustStay(t, used)
	mustStay(t, knocksArgs{[]event.Knock{{At: at, Client: netip.MustParseAddr("::1"), Listener: ":80", Outcome: event.Missed, Why: "w"}, {}}, 1 << 63})
	mustStay(t, seam.State{Clients: 1, Problems: []string{""}, Losses: []seam.Loss{{Kind: "k", Message: "m", Level: -4, Count: 1}}, Knocks: []seam.KnockCount{}, Connections: nil})
	mustStay(t, []seam.Client{{Client: netip.MustParsePrefix("10.0.0.0/24"), Step: 1, Last: at, Expires: at}})
	mustStay(t, []seam.Challenge{{Domain: "d", Answer: []byte{0xff}}, {Certificate: &seam.Certificate{Chain: []byte("c")}}})
	mustStay(t, []firewall.Ban(nil))
	mustStay(t, true)
	mustStay(t, netip.Prefix{})
}
