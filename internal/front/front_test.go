package front

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"webknock/config"
	"webknock/httpd"
	"webknock/internal/keeper/forfront"
	"webknock/internal/onetime"
	"webknock/internal/seam"
)

const file = `
listeners: [{address: "127.0.0.1:1"}]
doors: [{name: ssh, ports: [22/tcp]}]
sequences:
  - {name: ssh, steps: [/a, /b, /c], opens: [ssh]}
  - {name: hello, steps: [/a, /hello], strict: false, message: hello}
`

func parse(t interface {
	Helper()
	Fatal(...any)
}, text string) seam.Configuration {
	t.Helper()
	cfg, err := config.Parse("w.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return forfront.Configuration(cfg)
}

// runUntilTheEnd runs shards until the test is over.
func runUntilTheEnd(t *testing.T, all *shards) {
	ctx, cancel := context.WithCancel(context.Background())
	go all.run(ctx)
	t.Cleanup(func() {
		cancel()
		<-all.stopped
	})
}

// completing starts shards, and returns them with what they complete.
func completing(t *testing.T, text string) (*shards, func() []string) {
	t.Helper()
	r, err := newRules(parse(t, text), nil)
	if err != nil {
		t.Fatal(err)
	}
	return watched(t, r, nil)
}

func watched(t *testing.T, r *rules, verifier *onetime.Verifier) (*shards, func() []string) {
	t.Helper()
	var mu sync.Mutex
	var done []string
	all := newShards(100, r, verifier, func(c completion) {
		mu.Lock()
		defer mu.Unlock()
		who := c.knock.Client.String()
		if c.credential != nil {
			who = "by " + c.credential.User
		}
		done = append(done, c.sequence.Name+" "+who)
	}, func(l httpd.Knock, reason string) {
		mu.Lock()
		defer mu.Unlock()
		done = append(done, "banned "+l.Client.String())
	})
	runUntilTheEnd(t, all)
	return all, func() []string {
		for _, s := range all.shards {
			for len(s.queue) > 0 {
				runtime.Gosched()
			}
		}
		// A shard does what it is asked after the knock that it reads.
		if err := all.each(context.Background(), func(*shard, time.Duration) {}); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), done...)
	}
}

func send(all *shards, client string, paths ...string) {
	for _, p := range paths {
		head := "GET " + p + " HTTP/1.1\r\nHost: h\r\n\r\n"
		if !strings.HasPrefix(p, "/") {
			head = p
		}
		all.post(httpd.NewKnock(netip.MustParseAddr(client), time.Now(), []byte(head)))
	}
}

func TestKnocksOfAClientKeepTheirOrder(t *testing.T) {
	all, completed := completing(t, file)
	for i := range 50 {
		send(all, fmt.Sprint("192.0.2.", i), "/a", "/b", "/c")
		send(all, fmt.Sprint("198.51.100.", i), "/b", "/a", "/c")
	}
	if got := completed(); len(got) != 50 {
		t.Errorf("%d completions: %v", len(got), got)
	}
}

func TestPrefetchesAndIgnoredPathsDoNotCountAndWrongKnocksStartOver(t *testing.T) {
	const browser = "GET /x HTTP/1.1\r\nHost: h\r\nSec-Purpose: prefetch\r\n\r\n"
	for knocks, want := range map[string]string{
		"/a " + browser + " /b /c":  "ssh",
		"/a /favicon.ico /b /c":     "ssh",
		"/a nonsense\r\n\r\n /b /c": "",
		"/a /hello":                 "hello",
		"/a /%62 /c":                "ssh",
		"/a //b /c":                 "",
	} {
		all, completed := completing(t, file)
		for _, k := range strings.SplitAfter(strings.ReplaceAll(strings.ReplaceAll(knocks, browser, "BROWSER"), " ", "|"), "|") {
			k = strings.TrimSuffix(k, "|")
			if k == "BROWSER" {
				k = browser
			}
			send(all, "192.0.2.1", k)
		}
		got := strings.Join(completed(), ",")
		if want != "" {
			want += " 192.0.2.1"
		}
		if got != want {
			t.Errorf("%q completes %q, want %q", knocks, got, want)
		}
	}
}

func TestAFullQueueLosesKnocksAndCountsThem(t *testing.T) {
	r, err := newRules(parse(t, file), nil)
	if err != nil {
		t.Fatal(err)
	}
	all := newShards(100, r, nil, nil, nil) // does not run
	for range queueSize + 3 {
		send(all, "192.0.2.1", "/a")
	}
	if n := all.lost.Load(); n != 3 {
		t.Errorf("%d lost, want 3", n)
	}
}

func TestProgressContinuesInUnchangedSequences(t *testing.T) {
	all, completed := completing(t, file)
	send(all, "192.0.2.1", "/a", "/b")
	completed()
	changed, err := newRules(parse(t, strings.Replace(file, "[/a, /hello]", "[/a, /hi]", 1)), all.rules.Load())
	if err != nil {
		t.Fatal(err)
	}
	if err := all.use(t.Context(), changed); err != nil {
		t.Fatal(err)
	}
	send(all, "192.0.2.1", "/c", "/hi")
	if got := strings.Join(completed(), ","); got != "ssh 192.0.2.1" {
		t.Errorf("completed %q", got)
	}
}

func TestEveryLossIsCountedUnderItsName(t *testing.T) {
	f := New(Options{Log: slog.New(slog.DiscardHandler)})
	for text, counter := range map[string]*atomic.Uint64{
		"over 8 KiB": &f.refused.TooLarge, "over 100 lines": &f.refused.TooManyLines, "request head in 5s": &f.refused.TooSlow,
		"max_connections": &f.refused.Evicted, "descriptors": &f.refused.Starved,
		"knocks lost": &f.shards.lost, "clients.max": &f.shards.full, "codes": &f.shards.wrong, "no longer counted": &f.shards.forgotten, "not banned": &f.shards.unbanned,
	} {
		counter.Add(7)
		counted := 0
		for _, l := range f.losses() {
			if strings.Contains(l.Message, text) && l.Count == 7 && l.Kind != "" {
				counted++
			}
		}
		if counter.Store(0); counted != 1 {
			t.Errorf("%s: counted under %d names", text, counted)
		}
	}
}
