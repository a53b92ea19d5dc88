package integration

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"webknock/integration/load"
)

// BenchmarkSlowConnections knocks while thousands of connections hold half a
// head, each until its time is over, and are then made again.
func BenchmarkSlowConnections(b *testing.B) {
	const slow, span, knocks = 10_000, time.Minute, 3_000
	f := newField(b)
	host := f.serverHost("webknock", "10.20.0.11")
	mallory := f.host("mallory", "10.20.0.3")
	f.run(mallory, "sysctl", "-qw", "net.ipv4.ip_local_port_range=1024 65535")
	s := f.webknock(host, "10.20.0.11:8080", dropping)
	f.await("the daemon has settled", func() bool { return f.grants(s) == 0 })
	descriptors, rss := f.descriptors(s), f.status(s, "VmRSS")
	rows := [][]string{{"slow connections", "knocks", "knock p50", "knock p99", "grants", "grant p50", "grant p99"}}
	first := netip.MustParseAddr(firstClient)
	visit := func(held int) {
		b.Helper()
		const clients = knocks / 3 // most of which complete a sequence
		visits, err := load.Visits{To: s.address, Steps: []string{"/a", "/b", "/c"}, Miss: "/nothing", Knocks: knocks,
			From: first, Clients: clients, Door: 22}.On(b.Context(), f.clients)
		if err != nil {
			b.Fatal(err)
		}
		for range clients { // others next time, to whom the door is closed
			first = first.Next()
		}
		var whole, grant []time.Duration
		for _, v := range visits {
			whole = append(whole, v.Whole)
			if v.Grant > 0 {
				grant = append(grant, v.Grant)
			}
		}
		row := []string{fmt.Sprint(held)}
		for _, x := range []struct {
			name  string
			times []time.Duration
		}{{"knock", whole}, {"grant", grant}} {
			slices.Sort(x.times)
			row = append(row, fmt.Sprint(len(x.times)))
			for _, p := range []int{50, 99} {
				at := x.times[len(x.times)*p/100]
				row = append(row, at.Round(time.Microsecond).String())
				b.ReportMetric(float64(at)/1e3, fmt.Sprintf("p%d-µs-%s-%d-slow", p, x.name, held))
			}
		}
		rows = append(rows, row)
	}
	visit(0)
	type outcome struct {
		load.Held
		err error
	}
	ended := make(chan outcome)
	go func() {
		held, err := load.Halves{To: s.address, Connections: slow, For: span}.On(b.Context(), mallory)
		ended <- outcome{held, err}
	}()
	f.await("all connections are there", func() bool { return f.descriptors(s) >= descriptors+slow*99/100 })
	visit(slow)
	if there := f.descriptors(s) - descriptors; there < slow*9/10 {
		b.Errorf("%d slow connections at the end of the knocks, want %d", there, slow)
	}
	o := <-ended
	if o.err != nil {
		b.Fatal(o.err)
	}
	f.await(fmt.Sprintf("%d descriptors, as before", descriptors), func() bool { return f.descriptors(s) == descriptors })
	peak := f.status(s, "VmHWM")
	b.ReportMetric(float64(rss)/1024, "MiB-before")
	b.ReportMetric(float64(peak)/1024, "MiB-peak")
	b.ReportMetric(float64(o.Resets), "slow-resets")
	b.ReportMetric(0, "ns/op")
	report(fmt.Sprintf("%d slow connections for %v, %d of them reset when their time was over; RSS %d MiB before, %d MiB at most; %d descriptors before and after",
		slow, span, o.Resets, rss/1024, peak/1024, descriptors), rows)
}
