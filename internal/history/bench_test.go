package history

import (
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"webknock/firewall"
)

// filled returns a file with as many entries as are kept by default: those of grants of
// a hundred users, half of them openings, and one ban and one act in a hundred.
func filled(b *testing.B) *file {
	b.Helper()
	f := newFile(b)
	l := newLog(f, endless, booted)
	now := time.Now()
	for i := 0; ; i++ {
		at := now.Add(time.Duration(i-50_000) * time.Minute)
		g := firewall.Grant{
			ID: fmt.Sprintf("%08d", i), Door: "ssh", Client: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}), 32),
			Sequence: "ssh", User: fmt.Sprintf("user%02d", i%100), Opened: at, Expires: at.Add(time.Hour),
		}
		l.Opened(g, at)
		g.Packets, g.Bytes = 1234, 567890
		l.Closed(g, firewall.Expired, at)
		if i%100 == 0 {
			l.Add(Entry{Time: at, Event: Banned, Client: "2001:db8:1:2::/64", Reason: "a decoy", Expires: at})
			l.Add(Entry{Time: at, Event: Admin, Reason: "reload", UID: new(uint32)})
		}
		if l.waits() >= maxGroup {
			mustWrite(b, l)
			if page, err := Query(f, Filter{Limit: 1}); err != nil || page.Last > uint64(endless.Max) {
				return f
			}
		}
	}
}

func BenchmarkQueryOf100000Entries(b *testing.B) {
	f := filled(b)
	info, err := os.Stat(f.Path())
	if err != nil {
		b.Fatal(err)
	}
	for name, filter := range map[string]Filter{
		"the latest 100":         {Limit: 100},
		"one user's latest 100":  {Limit: 100, User: "user07"},
		"a client who never was": {Limit: 100, Client: netip.MustParsePrefix("203.0.113.7/32")},
		"the bans":               {Limit: 1000, Events: []Event{Banned}},
		"the latest hour":        {Limit: 100, Since: time.Now().Add(-time.Hour)},
		"nothing new":            {Limit: 1000, After: 100_000_000},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Query(f, filter); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(info.Size())/(1<<20), "MiB-file")
		})
	}
}

// What a group of changes costs while there are as many entries as are kept.
func BenchmarkWrite(b *testing.B) {
	f := filled(b)
	for _, n := range []int{1, 100} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			l := newLog(f, endless, booted)
			for b.Loop() {
				for range n {
					l.Add(Entry{Time: time.Now(), Event: Repair, Reason: "somebody"})
				}
				mustWrite(b, l)
			}
			if info, err := os.Stat(f.Path()); err == nil {
				b.ReportMetric(float64(info.Size())/(1<<20), "MiB-file")
			}
		})
	}
}
