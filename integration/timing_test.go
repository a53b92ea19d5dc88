package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

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
			pairs := []struct {
				name string
				x, y []float64
			}{
				{"hit/miss", slices.Concat(times[load.Step], times[load.Completion]), times[load.Miss]},
				{"step/miss", times[load.Step], times[load.Miss]},
				{"completion/miss", times[load.Completion], times[load.Miss]},
				{"after-step/after-miss", after[load.Step], after[load.Miss]},
				{"after-completion/after-miss", after[load.Completion], after[load.Miss]},
				{"miss/miss", halves[0], halves[1]},
			}
			samples := make([][2][]float64, len(pairs))
			for i, pair := range pairs {
				samples[i] = [2][]float64{pair.x, pair.y}
			}
			for i, c := range compare(b, samples) {
				pair := pairs[i]
				rows = append(rows, []string{cover, seen.by, pair.name, fmt.Sprint(len(pair.x)), fmt.Sprint(len(pair.y)),
					fmt.Sprintf("%.1f", median(pair.x)), fmt.Sprintf("%.1f", median(pair.y)),
					fmt.Sprintf("%.4f", c.D), fmt.Sprintf("%.3f", c.KSP), fmt.Sprintf("%.2f", c.T), fmt.Sprintf("%.3f", c.WelchP)})
				name := "-" + cover + "-" + seen.by + "-" + pair.name
				b.ReportMetric(c.D, "KS-D"+name)
				b.ReportMetric(c.KSP, "KS-p"+name)
				b.ReportMetric(c.T, "Welch-t"+name)
				b.ReportMetric(c.WelchP, "Welch-p"+name)
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	report(fmt.Sprintf("%d knocks under each cover, in random order: from the request to the end of the answer", knocks), rows)
}

// A comparison is a result of the program compare, which says what its fields are.
type comparison struct{ D, KSP, T, WelchP float64 }

// compare runs the program compare, which needs a library that nothing else does.
func compare(b *testing.B, pairs [][2][]float64) []comparison {
	b.Helper()
	in, err := json.Marshal(pairs)
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.CommandContext(b.Context(), "go", "run", "-C", "tools", "./compare")
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		b.Fatal(err)
	}
	var results []comparison
	if err := json.Unmarshal(out, &results); err != nil {
		b.Fatal(err)
	}
	return results
}
