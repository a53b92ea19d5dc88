package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// meter writes a configuration whose metrics are at an address too; empty: they are not.
func (w *world) meter(text, address string) {
	w.t.Helper()
	w.configure(text)
	written, err := os.ReadFile(w.config())
	if err == nil {
		socket := "socket: " + w.dir + "/webknock.sock"
		changed := strings.Replace(string(written), socket, fmt.Sprintf("%s, metrics: %q", socket, address), 1)
		err = os.WriteFile(w.config(), []byte(changed), 0o600)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// serveMetered starts the daemon with metrics at an address.
func (w *world) serveMetered(text, address string) {
	w.t.Helper()
	w.meter(text, address)
	w.daemon = w.start(w.server.Command(context.Background(), binary, "serve", "--config", w.config()))
	w.daemon.wait(w.t, `"serving"`)
}

// scrape returns the metrics of the program by NAME{LABELS}. By curl's arguments it says
// where they are.
func (w *world) scrape(curl ...string) (map[string]float64, error) {
	w.t.Helper()
	out, err := w.server.Command(w.t.Context(), "curl", append([]string{"--silent", "--fail", "--max-time", "10"}, curl...)...).Output()
	if err != nil {
		return nil, err
	}
	all := map[string]float64{}
	for line := range strings.Lines(string(out)) {
		if line, ok := strings.CutPrefix(strings.TrimSpace(line), "webknock_"); ok {
			i := strings.LastIndexByte(line, ' ')
			if all[line[:i]], err = strconv.ParseFloat(line[i+1:], 64); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

func (w *world) bySocket() []string {
	return []string{"--unix-socket", w.dir + "/webknock.sock", "http://webknock/metrics"}
}

func (w *world) mustScrape(curl ...string) map[string]float64 {
	w.t.Helper()
	all, err := w.scrape(curl...)
	if err != nil || len(all) == 0 {
		w.t.Fatalf("%v: %d metrics, %v", curl, len(all), err)
	}
	return all
}

func TestMetricsCountWhatHappens(t *testing.T) {
	w := newWorld(t)
	w.serveMetered(standard+"shield: {rate: off, ban: {knocks: 5, within: 1m, for: 10m}}\n", "127.0.0.1:9105")
	before := w.mustScrape("http://127.0.0.1:9105/metrics")
	for name, value := range before {
		if value != 0 && !strings.HasPrefix(name, "build_info") {
			t.Errorf("%s begins with %v", name, value)
		}
	}
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	w.mustBecome("ssh " + aliceIP)
	w.knock(w.mallory, serverIP, "/1", "/2", "/3", "/4", "/5")
	var all map[string]float64
	until(t, "all knocks are counted", func() bool {
		all = w.mustScrape(w.bySocket()...)
		return all[`bans_total{reason="knocks"}`] == 1
	})
	for name, want := range map[string]float64{
		`knocks_total{listener=":8080",outcome="matched"}`: 2, `knocks_total{listener=":8080",outcome="completed"}`: 1, `knocks_total{listener=":8080",outcome="missed"}`: 5,
		`completions_total{sequence="ssh"}`: 1, `completions_total{sequence="web"}`: 0, `grants{door="ssh"}`: 1, `grants{door="web"}`: 0,
		`grants_opened_total{door="ssh"}`: 1, `open_seconds_count`: 1, `bans`: 1, `bans_total{reason="decoy"}`: 0, `degraded`: 0, `clients`: 1, // alice goes on in web
	} {
		if got, ok := all[name]; !ok || got != want {
			t.Errorf("%s is %v (%v), want %v", name, got, ok, want)
		}
	}
	if sum := all["open_seconds_sum"]; sum <= 0 || sum > 30 {
		t.Errorf("an opening took %v s", sum)
	}
	// Whatever strangers have sent, the metrics are the same as before.
	if a, b := slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(all)); !slices.Equal(a, b) {
		t.Errorf("before %q, now %q", a, b)
	}
	w.nft("flush", "ruleset")
	until(t, "the repair is counted", func() bool { return w.mustScrape(w.bySocket()...)[`guard_repairs_total`] >= 1 })

	// The same, as the page and top get it.
	out, _, _ := w.webknock("close", "--all")
	body, err := w.server.Command(t.Context(), "curl", "--silent", "--unix-socket", w.dir+"/webknock.sock", "http://webknock/v1/stats").Output()
	var stats struct {
		Minutes, Hours []struct {
			At                  time.Time
			Knocks              map[string]int
			Completions, Grants int
		}
	}
	if err == nil {
		err = json.Unmarshal(body, &stats)
	}
	if err != nil || len(stats.Minutes) != 60 || len(stats.Hours) != 24 {
		t.Fatalf("%v, %d minutes, %d hours\n%s%s", err, len(stats.Minutes), len(stats.Hours), body, out)
	}
	knocks := map[string]int{}
	completions, grants := 0, 0
	for _, m := range stats.Minutes {
		for outcome, n := range m.Knocks {
			knocks[outcome] += n
		}
		completions += m.Completions
		grants += m.Grants
	}
	if knocks["missed"] != 5 || knocks["matched"] != 2 || knocks["completed"] != 1 || completions != 1 || grants != 1 {
		t.Errorf("the statistics have %v, %d completions, %d grants", knocks, completions, grants)
	}
}

func TestTheMetricsFollowAReload(t *testing.T) {
	w := newWorld(t)
	w.serveMetered(standard, "127.0.0.1:9105")
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	w.mustBecome("ssh " + aliceIP)
	const opened = `grants_opened_total{door="ssh"}`
	until(t, "the grant is counted", func() bool { return w.mustScrape(w.bySocket()...)[opened] == 1 })

	// Another address, and a door less.
	less := strings.NewReplacer("  - name: ssh\n    ports: [22/tcp]\n    ttl: 30s\n", "", "opens: [ssh]", "message: hello").Replace(standard)
	w.meter(less, "127.0.0.1:9106")
	w.must("reload")
	if all := w.mustScrape("http://127.0.0.1:9106/metrics"); all[`completions_total{sequence="ssh"}`] != 1 {
		t.Errorf("after the reload: %v", all)
	} else if _, ok := all[opened]; ok {
		t.Error("a door that the configuration does not have is still shown")
	}
	if _, err := w.scrape("http://127.0.0.1:9105/metrics"); err == nil {
		t.Error("the old address is still served")
	}

	// An address that is taken: nothing changes.
	w.listen(9107)
	w.meter(standard, "127.0.0.1:9107")
	if _, errs, code := w.webknock("reload"); code != 1 || !strings.Contains(errs, "admin.metrics") || !strings.Contains(errs, "address already in use") {
		t.Errorf("reload with an address that is taken: %d %s", code, errs)
	}
	if _, ok := w.mustScrape("http://127.0.0.1:9106/metrics")[opened]; ok {
		t.Error("the labels have changed, though the reload has failed")
	}

	// The door comes back, and its count goes on.
	w.meter(standard, "")
	w.must("reload")
	if _, err := w.scrape("http://127.0.0.1:9106/metrics"); err == nil {
		t.Error("an address is served that the configuration does not have")
	}
	if got := w.mustScrape(w.bySocket()...)[opened]; got != 1 {
		t.Errorf("%s is %v, want 1", opened, got)
	}
}

// A start that cannot have the address changes nothing, like one that lacks a listener.
func TestAStartWithoutTheAddressOfTheMetricsTouchesNoFirewall(t *testing.T) {
	w := newWorld(t)
	w.listen(9105)
	w.meter(standard, "127.0.0.1:9105")
	_, errs, code := w.webknock("serve")
	if code != 1 || !strings.Contains(errs, "admin.metrics") || !strings.Contains(errs, "address already in use") {
		t.Errorf("%d %s", code, errs)
	}
	if tables := w.nft("list", "tables"); strings.Contains(tables, "webknock") {
		t.Errorf("the firewall was touched: %s", tables)
	}
	w.meter(standard, ":9106")
	if out, errs, code := w.webknock("check"); code != 0 || !strings.Contains(out+errs, "admin.metrics: :9106 is not a loopback address") {
		t.Errorf("check: %d %s%s", code, out, errs)
	}
}

// Who connects and says nothing occupies a connection for some seconds, and keeps nobody
// from scraping for longer.
func TestSilentConnectionsKeepNobodyFromScraping(t *testing.T) {
	w := newWorld(t)
	w.serveMetered(standard, "127.0.0.1:9105")
	var silent []net.Conn
	err := w.server.Do(func() error {
		for range 20 {
			conn, err := net.Dial("tcp", "127.0.0.1:9105")
			if err != nil {
				return err
			}
			silent = append(silent, conn)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := w.mustScrape(w.bySocket()...); len(n) == 0 {
		t.Error("the admin socket is held up")
	}
	until(t, "the metrics answer", func() bool { _, err := w.scrape("http://127.0.0.1:9105/metrics"); return err == nil })
	for _, conn := range silent {
		if b, err := bufio.NewReader(conn).ReadByte(); err != io.EOF && err == nil {
			t.Errorf("a silent connection gets %q", b)
		}
		conn.Close()
	}
}

// The last good configuration does without the address if another program has it.
func TestTheLastGoodConfigurationRunsWithoutTheAddressOfTheMetrics(t *testing.T) {
	w := newWorld(t)
	w.serveMetered(standard, "127.0.0.1:9105")
	w.daemon.stop(t, syscall.SIGTERM)
	w.listen(9105)
	w.configure(standard + "nonsense: true\n")
	w.daemon = w.start(w.server.Command(context.Background(), binary, "serve", "--config", w.config()))
	w.daemon.wait(t, `"serving"`)
	out, _, _ := w.webknock("status", "-o", "json")
	if !strings.Contains(out, "what runs does without the address of the metrics: admin.metrics: listen tcp 127.0.0.1:9105") {
		t.Errorf("status: %s", out)
	}
	if all := w.mustScrape(w.bySocket()...); all["degraded"] != 1 {
		t.Errorf("degraded is %v", all["degraded"])
	}
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	w.mustBecome("ssh " + aliceIP)
}
