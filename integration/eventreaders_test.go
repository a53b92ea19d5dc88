package integration

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"webknock/integration/load"
)

// BenchmarkEventReaders knocks and opens doors while nobody reads events, while somebody
// does, and while somebody has asked for them and then takes none. They take turns.
func BenchmarkEventReaders(b *testing.B) {
	const rounds, knocks = 4, 36_000
	readers := []struct {
		name string
		take bool // what is sent
	}{{"nobody", false}, {"one that reads", true}, {"one that stalls", false}}
	f := newField(b)
	servers := make([]*server, len(readers))
	for i := range readers {
		address := fmt.Sprint("10.20.0.1", i+1)
		servers[i] = f.webknock(f.serverHost(fmt.Sprint("webknock", i), address), address+":8080", dropping)
		f.await("the daemon has settled", func() bool { return f.grants(servers[i]) == 0 })
	}
	first := netip.MustParseAddr(firstClient)
	whole, grant := make([][]time.Duration, len(readers)), make([][]time.Duration, len(readers))
	took := make([]time.Duration, len(readers))
	for range rounds {
		for i, r := range readers {
			var conn net.Conn
			if i > 0 {
				var err error
				if conn, err = net.Dial("unix", filepath.Join(servers[i].dir, "webknock.sock")); err != nil {
					b.Fatal(err)
				}
				fmt.Fprint(conn, "GET /v1/events HTTP/1.1\r\nHost: webknock\r\n\r\n")
				if _, err := io.ReadFull(conn, make([]byte, 100)); err != nil { // it is there
					b.Fatal(err)
				}
				if r.take {
					go io.Copy(io.Discard, conn)
				}
			}
			const clients = knocks / 8
			began := time.Now()
			visits, err := load.Visits{To: servers[i].address, Steps: []string{"/a", "/b", "/c"}, Miss: "/nothing", Misses: 0.3, Strict: true, Knocks: knocks,
				From: first, Clients: clients, Door: 22}.On(b.Context(), f.clients)
			if err != nil {
				b.Fatal(err)
			}
			took[i] += time.Since(began)
			if conn != nil {
				conn.Close()
			}
			for range clients { // others next time, to whom the door is closed
				first = first.Next()
			}
			for _, v := range visits {
				whole[i] = append(whole[i], v.Whole)
				if v.Grant > 0 {
					grant[i] = append(grant[i], v.Grant)
				}
			}
		}
	}
	rows := [][]string{{"reader", "for", "knocks", "p50", "p99", "max", "openings", "p50", "p99", "max", "RSS, MiB"}}
	for i, r := range readers {
		row := []string{r.name, took[i].Round(time.Second).String()}
		for _, times := range [][]time.Duration{whole[i], grant[i]} {
			slices.Sort(times)
			row = append(row, fmt.Sprint(len(times)))
			for _, at := range []int{len(times) / 2, len(times) * 99 / 100, len(times) - 1} {
				row = append(row, times[at].Round(time.Microsecond).String())
			}
		}
		rows = append(rows, append(row, fmt.Sprint(f.status(servers[i], "VmRSS")/1024)))
		b.ReportMetric(float64(grant[i][len(grant[i])/2])/1e3, fmt.Sprintf("p50-µs-grant-%d", i))
		b.ReportMetric(float64(grant[i][len(grant[i])*99/100])/1e3, fmt.Sprintf("p99-µs-grant-%d", i))
	}
	b.ReportMetric(0, "ns/op")
	report(fmt.Sprintf("%d knocks each, one after the other", rounds*knocks), rows)
}
