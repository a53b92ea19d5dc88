package nft

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"webknock/firewall"
	"webknock/firewall/firewalltest"
)

// BenchmarkOpen commits one grant, and a thousand at once, beside so many that
// are live.
func BenchmarkOpen(b *testing.B) {
	for _, live := range []int{0, 10_000, 60_000} {
		for _, batch := range []int{1, 1000} {
			b.Run(fmt.Sprintf("live=%d/batch=%d", live, batch), func(b *testing.B) {
				backend := newBackend(b)
				guard(b, backend, ssh)
				addr := netip.MustParseAddr("10.0.0.0")
				next := func(n int) []firewall.Change {
					changes := make([]firewall.Change, n)
					for i := range changes {
						addr = addr.Next()
						changes[i].Grant = firewalltest.Grant("ssh", addr.String(), time.Hour)
					}
					return changes
				}
				for left := live; left > 0; left -= 1000 {
					if err := backend.Commit(b.Context(), next(1000)); err != nil {
						b.Fatal(err)
					}
				}
				changes := next(batch)
				for b.Loop() {
					if err := backend.Commit(b.Context(), changes); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.N*batch)/b.Elapsed().Seconds(), "opens/s")
			})
		}
	}
}
