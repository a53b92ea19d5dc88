package nft

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"webknock/firewall"
	"webknock/firewall/firewalltest"
)

// BenchmarkOpen commits one grant, or a thousand at once, while the set already holds live
// grants. It measures new grants and renewals, without closing them afterwards.
func BenchmarkOpen(b *testing.B) {
	for _, kind := range []string{"new", "renewal"} {
		for _, live := range []int{0, 10_000, 60_000} {
			for _, batch := range []int{1, 1000} {
				b.Run(fmt.Sprintf("%s/live=%d/batch=%d", kind, live, batch), func(b *testing.B) { benchmarkOpen(b, kind == "new", live, batch) })
			}
		}
	}
}

func benchmarkOpen(b *testing.B, isNew bool, live, batch int) {
	backend := newBackend(b)
	guard(b, backend, ssh)
	addr := netip.MustParseAddr("10.0.0.0")
	next := func(n int) []firewall.Change {
		changes := make([]firewall.Change, n)
		for i := range changes {
			addr = addr.Next()
			changes[i] = firewall.Change{Grant: firewalltest.Grant("ssh", addr.String(), time.Hour), New: isNew}
		}
		return changes
	}
	commit := func(changes []firewall.Change) time.Duration {
		began := time.Now()
		if err := backend.Commit(b.Context(), changes); err != nil {
			b.Fatal(err)
		}
		return time.Since(began)
	}
	for left := live; left > 0; left -= 1000 {
		commit(next(1000))
	}
	changes := next(batch)
	closing := slices.Clone(changes)
	for i := range closing {
		closing[i].Close, closing[i].New = true, false
	}
	var took []time.Duration
	var sum time.Duration
	for b.Loop() {
		d := commit(changes)
		took, sum = append(took, d), sum+d
		if isNew {
			commit(closing)
		}
	}
	slices.Sort(took)
	b.ReportMetric(float64(b.N*batch)/sum.Seconds(), "opens/s")
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs-p50")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "µs-p99")
	b.ReportMetric(0, "ns/op") // would include the closing
}
