package track

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"webknock/sequence"
)

// fixture is one tracker over sequences written as strings: "ssh=abc" is the
// sequence ssh of /a, /b, /c, strict, each step within ten seconds.
type fixture struct {
	*Tracker
	set    *sequence.Set
	origin time.Time
}

func newFixture(t testing.TB, max int, sequences ...string) *fixture {
	t.Helper()
	origin := time.Now()
	return &fixture{New(NewBound(max)), newSet(t, nil, sequences...), origin}
}

func newSet(t testing.TB, old *sequence.Set, sequences ...string) *sequence.Set {
	t.Helper()
	var specs []sequence.Spec
	for _, s := range sequences {
		name, paths, _ := strings.Cut(s, "=")
		spec := sequence.Spec{Name: name, Strict: true, Ignore: []string{"/ignored"}}
		for i, c := range paths {
			step := sequence.Step{Trigger: sequence.Exact("/" + string(c))}
			if i > 0 {
				step.Within = 10 * time.Second
			}
			spec.Steps = append(spec.Steps, step)
		}
		specs = append(specs, spec)
	}
	set, err := sequence.NewSet(specs, old)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func (f *fixture) now() time.Duration { return time.Since(f.origin) }

// knock returns the names of the sequences that the request completes.
func (f *fixture) knock(client, path string) string {
	done, full := f.Advance(netip.MustParseAddr(client), f.set.Match(sequence.Request{Path: path}, nil), f.now())
	var names []string
	for _, m := range done {
		names = append(names, m.Machine.Name())
	}
	if full {
		names = append(names, "full")
	}
	return strings.Join(names, " ")
}

func (f *fixture) progress() (all []string) {
	for _, p := range f.Progress(f.now()) {
		all = append(all, fmt.Sprintf("%v %s %d", p.Client, p.Machine.Name(), p.Step))
	}
	slices.Sort(all)
	return all
}

const (
	alice   = "192.0.2.1"
	mallory = "192.0.2.66"
)

func TestEachClientHasProgressOfItsOwn(t *testing.T) {
	f := newFixture(t, 10, "ssh=abc")
	f.knock(alice, "/a")
	f.knock(alice, "/b")
	if got := f.knock(mallory, "/c"); got != "" {
		t.Errorf("a stranger finished another's sequence: %s", got)
	}
	if got := f.knock(alice, "/c"); got != "ssh" {
		t.Errorf("the stranger's knock cost the client its progress: %q", got)
	}
	if got := f.progress(); got != nil || f.bound.Count() != 0 {
		t.Errorf("after completion: %v, %d clients", got, f.bound.Count())
	}
}

func TestSequencesRunSideBySide(t *testing.T) {
	f := newFixture(t, 10, "one=abc", "two=ab", "three=bc", "single=c")
	var got []string
	for _, path := range []string{"/a", "/b", "/c"} {
		got = append(got, f.knock(alice, path))
	}
	if want := []string{"", "two", "one three single"}; !slices.Equal(got, want) {
		t.Errorf("completed %q, want %q", got, want)
	}
}

func TestOnlyAFirstStepTakesUpMemory(t *testing.T) {
	f := newFixture(t, 10, "ssh=abc")
	for _, path := range []string{"/b", "/c", "/x", "/ignored"} {
		f.knock(alice, path)
	}
	if got := f.cache.ItemCount(); got != 0 || f.bound.Count() != 0 {
		t.Errorf("%d clients remembered, %d counted", got, f.bound.Count())
	}
	f.knock(alice, "/a")
	if got := f.progress(); !slices.Equal(got, []string{alice + " ssh 1"}) {
		t.Errorf("after the first step: %v", got)
	}
	f.knock(alice, "/x")
	if got := f.cache.ItemCount(); got != 0 || f.bound.Count() != 0 {
		t.Errorf("after a wrong path %d clients remembered, %d counted", got, f.bound.Count())
	}
}

func TestAnIgnoredRequestChangesNothing(t *testing.T) {
	f := newFixture(t, 10, "ssh=abc")
	f.knock(alice, "/a")
	f.knock(alice, "/ignored")
	if got := f.progress(); !slices.Equal(got, []string{alice + " ssh 1"}) {
		t.Errorf("progress %v", got)
	}
}

func TestAFullTrackerRefusesNewClientsAndKeepsTheOldOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, 2, "ssh=ab", "single=s")
		f.knock("192.0.2.1", "/a")
		f.knock("192.0.2.2", "/a")
		if got := f.knock("192.0.2.3", "/a"); got != "full" {
			t.Errorf("third client: %q", got)
		}
		if got := f.knock("192.0.2.3", "/s"); got != "single" {
			t.Errorf("a sequence that needs no memory: %q", got)
		}
		if got := f.knock("192.0.2.1", "/a"); got != "" {
			t.Errorf("a client in progress that begins anew: %q", got)
		}
		if got := f.knock("192.0.2.1", "/b"); got != "ssh" {
			t.Errorf("first client: %q", got)
		}
		if got := f.knock("192.0.2.3", "/a"); got != "" {
			t.Errorf("a client for the free place: %q", got)
		}
		time.Sleep(10*time.Second + 1)
		f.Sweep(f.now())
		if got := f.bound.Count(); got != 0 {
			t.Errorf("%d places taken after all has expired", got)
		}
	})
}

func TestAnExpiredClientThatWasNotSweptCountsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, 10, "ssh=ab")
		for range 5 {
			f.knock(alice, "/a")
			time.Sleep(11 * time.Second)
		}
		if got := f.bound.Count(); got != 1 {
			t.Errorf("one client takes %d places", got)
		}
	})
}

func TestProgressExpiresAfterItsDeadline(t *testing.T) {
	for _, tt := range []struct {
		name string
		gap  time.Duration
		want string
	}{
		{"just in time", 10 * time.Second, "ssh"},
		{"a nanosecond late", 10*time.Second + 1, ""},
	} {
		for _, sweep := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, swept %v", tt.name, sweep), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := newFixture(t, 10, "ssh=ab")
					f.knock(alice, "/a")
					time.Sleep(tt.gap)
					if sweep {
						f.Sweep(f.now())
					}
					if got := len(f.progress()) > 0; got != (tt.want != "") {
						t.Errorf("in progress: %v", got)
					}
					if got := f.knock(alice, "/b"); got != tt.want {
						t.Errorf("completed %q, want %q", got, tt.want)
					}
				})
			})
		}
	}
}

func TestOtherRequestsDoNotExtendProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, 10, "ssh=ab")
		f.knock(alice, "/a")
		for range 11 {
			time.Sleep(time.Second)
			f.knock(alice, "/ignored")
			f.knock(mallory, "/x")
		}
		if got := f.knock(alice, "/b"); got != "" {
			t.Errorf("completed %q after its time", got)
		}
		f.Sweep(f.now())
		if got := f.cache.ItemCount(); got != 0 {
			t.Errorf("%d clients remembered", got)
		}
	})
}

func TestRetainKeepsProgressOfUnchangedSequences(t *testing.T) {
	f := newFixture(t, 10, "ssh=abc", "vpn=axy", "old=pq")
	f.knock(alice, "/a")
	f.knock(mallory, "/p")
	f.set = newSet(t, f.set, "ssh=abc", "vpn=axz")
	f.Retain(func(m *sequence.Machine) bool { return f.set.Machine(m.Name()) == m }, f.now())
	if got := f.progress(); !slices.Equal(got, []string{alice + " ssh 1"}) {
		t.Errorf("progress %v", got)
	}
	if got := f.bound.Count(); got != 1 {
		t.Errorf("%d places taken", got)
	}
	f.knock(alice, "/b")
	if got := f.knock(alice, "/c"); got != "ssh" {
		t.Errorf("completed %q", got)
	}
}

func TestASteppedWallClockNeitherKeepsNorEndsProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, 10, "ssh=abc")
		f.knock(alice, "/a")
		// The monotonic clock has gone on for an hour, the wall clock has not:
		// it was set back.
		f.Sweep(time.Hour)
		if got := f.bound.Count(); got != 0 {
			t.Errorf("set back: %d clients still there", got)
		}
		f.Tracker = New(NewBound(10))
		f.knock(alice, "/a")
		if done, _ := f.Advance(netip.MustParseAddr(alice), f.set.Match(sequence.Request{Path: "/b"}, nil), time.Hour); done != nil {
			t.Error("set back: progress an hour old completes")
		}
		// The wall clock has gone on for an hour, the monotonic clock for a second:
		// it was set forward.
		f.Tracker = New(NewBound(10))
		began := f.now()
		f.knock(alice, "/a")
		time.Sleep(time.Hour)
		now := began + time.Second
		f.Sweep(now)
		if got := len(f.Progress(now)); got != 1 {
			t.Errorf("set forward: %d clients", got)
		}
		for i, path := range []string{"/b", "/c"} {
			done, _ := f.Advance(netip.MustParseAddr(alice), f.set.Match(sequence.Request{Path: path}, nil), now)
			if len(done) != i {
				t.Errorf("set forward: %d completions with %s", len(done), path)
			}
		}
	})
}

func TestSweepShrinksACacheThatHeldManyClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, 1<<20, "ssh=ab")
		addr := netip.MustParseAddr("10.0.0.0")
		for range 5000 {
			addr = addr.Next()
			f.knock(addr.String(), "/a")
		}
		before := f.cache
		time.Sleep(9 * time.Second)
		f.knock(alice, "/a")
		time.Sleep(2 * time.Second)
		f.Sweep(f.now())
		if f.cache == before {
			t.Error("the map for 5,000 clients is kept for one")
		}
		if got := f.progress(); !slices.Equal(got, []string{alice + " ssh 1"}) {
			t.Errorf("progress %v", got)
		}
		if got := f.bound.Count(); got != 1 {
			t.Errorf("%d places taken", got)
		}
	})
}

func TestWiden(t *testing.T) {
	for _, tt := range []struct {
		addr         string
		bits4, bits6 int
		want         string
	}{
		{"192.0.2.1", 32, 64, "192.0.2.1"},
		{"192.0.2.1", 24, 64, "192.0.2.0"},
		{"192.0.2.255", 20, 128, "192.0.0.0"},
		{"::ffff:192.0.2.1", 32, 64, "192.0.2.1"},
		{"::ffff:192.0.2.1", 24, 64, "192.0.2.0"},
		{"2001:db8::1", 24, 128, "2001:db8::1"},
		{"2001:db8::1:2:3:4", 32, 64, "2001:db8::"},
		{"2001:db8:0:1::9", 32, 48, "2001:db8::"},
		{"fe80::1%eth0", 32, 128, "fe80::1"},
	} {
		if got := Widen(netip.MustParseAddr(tt.addr), tt.bits4, tt.bits6); got != netip.MustParseAddr(tt.want) {
			t.Errorf("Widen(%s, %d, %d) = %v, want %s", tt.addr, tt.bits4, tt.bits6, got, tt.want)
		}
	}
}

func BenchmarkKnock(b *testing.B) {
	for _, path := range []string{"/a", "/x"} {
		b.Run(map[string]string{"/a": "first", "/x": "miss"}[path], func(b *testing.B) {
			f := newFixture(b, 1<<20, "ssh=abc")
			var buf [4]sequence.Hit
			k := f.set.Match(sequence.Request{Path: path}, buf[:0])
			addr := netip.MustParseAddr(alice)
			b.ReportAllocs()
			for b.Loop() {
				f.Advance(addr, k, f.now())
			}
		})
	}
}

// BenchmarkMillion holds a million clients in progress in as many shards as
// the daemon has, and reports what a client takes of memory and how long the
// longest sweep keeps one shard busy, with all live and with all expired.
func BenchmarkMillion(b *testing.B) {
	const clients, shards = 1_000_000, 128
	for b.Loop() {
		b.StopTimer()
		set := newSet(b, nil, "ssh=abc")
		k := set.Match(sequence.Request{Path: "/a"}, nil)
		before, beforeRSS := heap(), rss(b)
		bound := NewBound(clients)
		trackers := make([]*Tracker, shards)
		for i := range trackers {
			trackers[i] = New(bound)
		}
		addr := netip.MustParseAddr("10.0.0.0")
		for i := range clients {
			addr = addr.Next()
			trackers[i%shards].Advance(addr, k, 0)
		}
		if bound.Count() != clients {
			b.Fatalf("%d clients in progress", bound.Count())
		}
		b.ReportMetric(float64(heap()-before)/clients, "B-heap/client")
		b.ReportMetric(float64(rss(b)-beforeRSS)/clients, "B-RSS/client")
		longest := func(now time.Duration) (d time.Duration) {
			for _, t := range trackers {
				began := time.Now()
				t.Sweep(now)
				d = max(d, time.Since(began))
			}
			return d
		}
		b.StartTimer()
		b.ReportMetric(float64(longest(time.Second).Microseconds()), "µs-longest-live")
		b.ReportMetric(float64(longest(time.Hour).Microseconds()), "µs-longest-expired")
		if bound.Count() != 0 {
			b.Fatalf("%d clients left", bound.Count())
		}
	}
}

// rss returns the memory of this process that is resident (proc(5)), after what
// it does not need was given back.
func rss(b *testing.B) int64 {
	debug.FreeOSMemory()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Fatal(err)
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(text), &size, &resident); err != nil {
		b.Fatal(err)
	}
	return resident * int64(os.Getpagesize())
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}
