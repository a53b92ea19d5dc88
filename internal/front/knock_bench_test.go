package front

import (
	"net/netip"
	"testing"
	"time"

	"webknock/httpd"
	"webknock/internal/seam"
	"webknock/sequence"
)

// A knock at a first step goes all the way through the pipeline.
func BenchmarkMatchedKnock(b *testing.B) {
	set, err := sequence.NewSet([]sequence.Spec{{Name: "two", Steps: []sequence.Step{{Trigger: sequence.Exact("/a")}, {Trigger: sequence.Exact("/b"), Within: time.Second}}}}, nil)
	if err != nil {
		b.Fatal(err)
	}
	r := &rules{set: set, router: newRouter(), clients: seam.Clients{IPv4Prefix: 32, IPv6Prefix: 128}}
	s := newShards(1, r, nil, nil, nil).shards[0]
	s.all.rules.Store(r)
	head := []byte("GET /a HTTP/1.1\r\nHost: home.example.org\r\nUser-Agent: curl/8.0.0\r\nAccept: */*\r\n\r\n")
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		s.read(httpd.NewKnock(netip.AddrFrom4([4]byte{192, 0, 2, 7}), now, head))
	}
}
