package front

import (
	"net/netip"
	"runtime"
	"testing"
	"time"

	"webknock/httpd"
	"webknock/internal/seam"
)

// heap returns the bytes in use after a collection.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// BenchmarkMemoryOfWhatIsRemembered measures what explain takes, beside all else: for
// 65,536 clients in progress, and for a flood of strangers from a million addresses.
// Run it with -benchtime 1x.
func BenchmarkMemoryOfWhatIsRemembered(b *testing.B) {
	r := &rules{set: mustSet(b, "/a"), router: newRouter(), clients: seam.Clients{IPv4Prefix: 32, IPv6Prefix: 128}}
	fill := func(clients, each int, target string) (all *shards) {
		all = newShards(1<<20, r, nil, func(completion) {}, nil)
		all.rules.Store(r)
		head := []byte("GET " + target + " HTTP/1.1\r\nHost: h\r\n\r\n")
		now := time.Now()
		for i := range clients {
			client := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
			for range each {
				all.of(client).read(httpd.NewKnock(client, now, head))
			}
		}
		return all
	}
	for b.Loop() {
	}
	for _, tt := range []struct {
		name    string
		clients int
		each    int
		target  string
	}{
		{"65536-in-progress", 65536, 1, "/a"},
		{"65536-in-progress-16-knocks", 65536, 16, "/a"},
		{"million-strangers", 1_000_000, 1, "/trigger.php"},
	} {
		before := heap()
		all := fill(tt.clients, tt.each, tt.target)
		with := heap()
		for _, s := range all.shards {
			s.traces = traces{}
		}
		b.ReportMetric(float64(with-heap())/(1<<20), "MiB-"+tt.name)
		b.ReportMetric(float64(heap()-before)/(1<<20), "MiB-without-"+tt.name)
		runtime.KeepAlive(all)
	}
}
