package integration

import (
	"testing"
	"time"
)

// BenchmarkFights measures how much of a stranger's SYNs get in while somebody
// changes the ruleset twenty times a second.
func BenchmarkFights(b *testing.B) {
	const rate, times = 20, 200
	for _, bm := range []struct{ name, firewall, command string }{
		{"nobody changes anything", "", ""},
		{"flush ruleset", "", "flush ruleset"},
		{"delete table", "", "delete table inet webknock"},
		{"accepting rule", "", "insert rule inet webknock door_ssh accept"},
		{"foreign element", "", "add element inet webknock ssh4 { " + malloryIP + " }"},
		{"flush ruleset with an owner", "firewall: {owner: true}\n", "flush ruleset"},
		{"delete table with an owner", "firewall: {owner: true}\n", "delete table inet webknock"},
	} {
		b.Run(bm.name, func(b *testing.B) {
			w := worldOf(b)
			w.listen(22)
			f := w.flood(w.mallory, malloryIP, malloryIP6, 22)[:1]
			f.mustBeHeard(w)
			w.serve(standard + bm.firewall)
			f.mustStaySilent(w, "before", func() { time.Sleep(time.Second) })
			for b.Loop() {
				began, sent := time.Now(), f.sent()
				tick := time.NewTicker(time.Second / rate)
				for range times {
					<-tick.C
					if bm.command != "" {
						w.server.Command(b.Context(), "nft", bm.command).Run() // fails where the table has an owner
					}
				}
				tick.Stop()
				time.Sleep(time.Second / rate)
				took := time.Since(began)
				share := float64(f.answered(began, time.Now())) / float64(f.sent()-sent)
				b.ReportMetric(100*share, "%-let-in")
				b.ReportMetric(share*float64(took.Milliseconds())/times, "ms/change")
				b.ReportMetric(times/took.Seconds(), "changes/s")
				b.ReportMetric(float64(f.sent()-sent)/took.Seconds(), "SYNs/s")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}
