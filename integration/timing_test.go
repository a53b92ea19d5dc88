package integration

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"

	"gonum.org/v1/gonum/stat"
	"gonum.org/v1/gonum/stat/distuv"

	"webknock/integration/load"
)

// BenchmarkTiming compares how long answers take to knocks that are steps of a
// sequence, that complete one, and that are misses, under each cover. It does
// not judge: small p say that times differ by more than chance would have it.
// Two halves of the misses, which do not differ, show what chance does.
func BenchmarkTiming(b *testing.B) {
	// In the beginning nobody can complete a sequence. After so many knocks a
	// completion is as probable as it ever will be, so that what changes on the
	// machine in time meets all classes alike.
	const knocks, clients, warmup = 20_000, 1024, 5 * 1024
	rows := [][]string{{"cover", "seen by", "compared", "n", "n", "median, µs", "median, µs", "KS D", "KS p", "Welch t", "Welch p"}}
	for _, cover := range []string{"drop", "status", "proxy"} {
		f := newField(b)
		host := f.serverHost("webknock", "10.20.0.11")
		config := map[string]string{"drop": "drop", "status": "{status: 404}", "proxy": `{proxy: "http://127.0.0.1:8081"}`}[cover]
		if cover == "proxy" {
			f.nginx("site", host, "127.0.0.1:8081", "server { listen ADDRESS; return 200 hello; }")
		}
		strict := cover != "proxy"
		s := f.webknock(host, "10.20.0.11:8080", fmt.Sprintf(`
listeners:
  - address: "ADDRESS"
    cover: %s
shield: {rate: off}
doors:
  - {name: ssh, ports: [22/tcp], ttl: 1h, max_grants: 65536}
sequences:
  - {name: ssh, steps: [/step/1, /step/2, /step/3], opens: [ssh], within: 10m, strict: %v}
`, config, strict))
		visits, err := load.Visits{
			To: s.address, Steps: []string{"/step/1", "/step/2", "/step/3"}, Miss: "/step/0", Misses: 0.5, Strict: strict,
			Knocks: warmup + knocks, From: netip.MustParseAddr(firstClient), Clients: clients,
		}.On(b.Context(), f.clients)
		if err != nil {
			b.Fatal(err)
		}
		completions := 0
		for _, v := range visits {
			if v.Class == load.Completion {
				completions++
			}
		}
		if f.grants(s) == 0 || completions == 0 {
			b.Fatalf("%s: %d completions, %d grants", cover, completions, f.grants(s))
		}
		for _, seen := range []struct {
			by string
			of func(load.Visit) time.Duration
		}{
			{"wire", func(v load.Visit) time.Duration { return v.Wire }},
			{"program", func(v load.Visit) time.Duration { return v.Answer }},
		} {
			times, after := [3][]float64{}, [3][]float64{} // by class, in µs; and of the knock that follows one
			halves := [2][]float64{}
			for i := warmup; i < len(visits); i++ {
				class, before := visits[i].Class, visits[i-1].Class
				us := float64(seen.of(visits[i])) / float64(time.Microsecond)
				times[class] = append(times[class], us)
				after[before] = append(after[before], us)
				if class == load.Miss {
					halves[i%2] = append(halves[i%2], us)
				}
			}
			for _, pair := range []struct {
				name string
				x, y []float64
			}{
				{"hit/miss", slices.Concat(times[load.Step], times[load.Completion]), times[load.Miss]},
				{"step/miss", times[load.Step], times[load.Miss]},
				{"completion/miss", times[load.Completion], times[load.Miss]},
				{"after-step/after-miss", after[load.Step], after[load.Miss]},
				{"after-completion/after-miss", after[load.Completion], after[load.Miss]},
				{"miss/miss", halves[0], halves[1]},
			} {
				d, ksP := kolmogorovSmirnov(pair.x, pair.y)
				t, tP := welch(pair.x, pair.y)
				rows = append(rows, []string{cover, seen.by, pair.name, fmt.Sprint(len(pair.x)), fmt.Sprint(len(pair.y)),
					fmt.Sprintf("%.1f", median(pair.x)), fmt.Sprintf("%.1f", median(pair.y)),
					fmt.Sprintf("%.4f", d), fmt.Sprintf("%.3f", ksP), fmt.Sprintf("%.2f", t), fmt.Sprintf("%.3f", tP)})
				name := "-" + cover + "-" + seen.by + "-" + pair.name
				b.ReportMetric(d, "KS-D"+name)
				b.ReportMetric(ksP, "KS-p"+name)
				b.ReportMetric(t, "Welch-t"+name)
				b.ReportMetric(tP, "Welch-p"+name)
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	report(fmt.Sprintf("%d knocks under each cover, in random order: from the request to the end of the answer", knocks), rows)
}

// kolmogorovSmirnov returns the largest distance between the distributions of
// two samples, and how probable one as large is by chance, by Kolmogorov's
// asymptotic distribution with Stephens' correction for the sizes.
func kolmogorovSmirnov(x, y []float64) (d, p float64) {
	d = stat.KolmogorovSmirnov(slices.Sorted(slices.Values(x)), nil, slices.Sorted(slices.Values(y)), nil)
	n := math.Sqrt(float64(len(x)) * float64(len(y)) / float64(len(x)+len(y)))
	lambda := (n + 0.12 + 0.11/n) * d
	if lambda < 0.2 { // where the series converges slowly, and p is 1 to 9 digits
		return d, 1
	}
	for k := 1.0; k <= 100; k++ {
		p += 2 * math.Pow(-1, k-1) * math.Exp(-2*k*k*lambda*lambda)
	}
	return d, min(max(p, 0), 1)
}

// welch returns Welch's t of two samples, and how probable one as far from 0 is
// by chance.
func welch(x, y []float64) (t, p float64) {
	meanX, varX := stat.MeanVariance(x, nil)
	meanY, varY := stat.MeanVariance(y, nil)
	nx, ny := float64(len(x)), float64(len(y))
	sx, sy := varX/nx, varY/ny
	t = (meanX - meanY) / math.Sqrt(sx+sy)
	freedom := (sx + sy) * (sx + sy) / (sx*sx/(nx-1) + sy*sy/(ny-1)) // Welch–Satterthwaite
	return t, 2 * distuv.StudentsT{Mu: 0, Sigma: 1, Nu: freedom}.CDF(-math.Abs(t))
}
