//go:build hosts

package hosts

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

const metered = `
listeners: [{address: ":8080"}]
doors:
  - {name: ssh, ports: [22/tcp], ttl: 5m}
  - {name: web, ports: [443/tcp], ttl: 5m}
sequences:
  - {name: ssh, steps: [/a, /b, /c], opens: [ssh]}
shield: {rate: off, decoys: [/wp-login.php]}
`

// metrics are hosts with webknock on the server, whose metrics can be scraped.
type metrics struct{ *beside }

func newMetrics(t *testing.T) metrics {
	t.Helper()
	b := &beside{hosts: newHosts(t), dir: t.TempDir()}
	config := metered + fmt.Sprintf("state: %s/state\nadmin: {socket: %[1]s/webknock.sock, metrics: \"127.0.0.1:9105\"}\n", b.dir)
	if err := os.WriteFile(filepath.Join(b.dir, "webknock.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	b.serve()
	return metrics{b}
}

// get returns what a URL answers on the server.
func (m metrics) get(url string) (body []byte, err error) {
	var conn net.Conn
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		err := m.server.Do(func() (err error) {
			conn, err = new(net.Dialer).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}}}
	res, err := client.Get(url)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if body, err = io.ReadAll(res.Body); err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", res.Status, body)
	}
	return body, err
}

func TestPromtoolFindsNothingWrongWithTheMetrics(t *testing.T) {
	m := newMetrics(t)
	m.knock(m.alice, serverIP, "/a", "/b", "/c", "/x", "/wp-login.php")
	text, err := m.get("http://127.0.0.1:9105/metrics")
	if err != nil || !strings.Contains(string(text), "webknock_build_info") {
		t.Fatalf("%v\n%s", err, text)
	}
	check := exec.Command("promtool", "check", "metrics")
	check.Stdin = strings.NewReader(string(text))
	if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

// Each alert has a test in which it fires and one in which it does not, and a row in the
// manual.
func TestAlertsFireWhenTheyShouldAndNotOtherwise(t *testing.T) {
	for _, args := range [][]string{{"check", "rules", "../../docs/prometheus/webknock.rules.yml"}, {"test", "rules", "testdata/webknock.rules_test.yml"}} {
		if out, err := exec.Command("promtool", args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
	var rules struct {
		Groups []struct{ Rules []struct{ Alert string } }
	}
	var tests struct {
		Tests []struct {
			AlertRuleTest []struct {
				Alertname string
				Expected  []any `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	read := func(file string, to any) {
		text, err := os.ReadFile(file)
		if err == nil {
			err = yaml.Unmarshal(text, to)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	read("../../docs/prometheus/webknock.rules.yml", &rules)
	read("testdata/webknock.rules_test.yml", &tests)
	var alerts []string
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			alerts = append(alerts, r.Alert)
			fires := map[bool]bool{}
			for _, test := range tests.Tests {
				for _, a := range test.AlertRuleTest {
					if a.Alertname == r.Alert {
						fires[len(a.Expected) > 0] = true
					}
				}
			}
			if !fires[true] || !fires[false] {
				t.Errorf("%s has no test in which it fires, or none in which it does not: %v", r.Alert, fires)
			}
		}
	}
	manual, err := os.ReadFile("../../docs/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, row := range regexp.MustCompile("(?m)^\\| `(Webknock\\w+)`").FindAllStringSubmatch(string(manual), -1) {
		documented = append(documented, row[1])
	}
	if !slices.Equal(alerts, documented) {
		t.Errorf("the alerts are %q, the manual has %q", alerts, documented)
	}
}

// block returns the block of a language of docs/monitoring.md that holds a text.
func block(t *testing.T, language, text string) string {
	t.Helper()
	manual, err := os.ReadFile("../../docs/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(string(manual), -1) {
		if strings.Contains(b[1], text) {
			return b[1]
		}
	}
	t.Fatalf("no block of %s with %q", language, text)
	return ""
}

// queries returns those of the dashboard, for an interval of a minute and all instances.
func queries(t *testing.T) (all []string) {
	t.Helper()
	text, err := os.ReadFile("../../docs/grafana/webknock.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	for _, p := range dashboard.Panels {
		if len(p.Targets) == 0 {
			t.Errorf("panel %q shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			all = append(all, strings.NewReplacer("$__rate_interval", "1m", "$instance", ".*").Replace(target.Expr))
		}
	}
	return all
}

// A real Prometheus scrapes for a minute, by the configuration of the manual: over TCP, and
// over the socket behind nginx.
func TestPrometheusScrapesAndTheDashboardHasData(t *testing.T) {
	m := newMetrics(t)
	write := func(name, text string) string {
		path := filepath.Join(m.dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	proxy := strings.NewReplacer("127.0.0.1:9105", "127.0.0.1:9106", "/run/webknock/webknock.sock", m.dir+"/webknock.sock").Replace(block(t, "nginx", "location"))
	nginx := write("nginx.conf", "user root;\ndaemon off;\nmaster_process off; # one process, which ends when it is killed\npid DIR/nginx.pid;\nerror_log stderr notice;\nevents {}\nhttp {\naccess_log off;\n"+proxy+"}\n")
	text, _ := os.ReadFile(nginx)
	write("nginx.conf", strings.ReplaceAll(string(text), "DIR", m.dir))
	m.run(m.server.Command(context.Background(), "nginx", "-c", nginx), "event method")

	scrapes := strings.Replace(block(t, "yaml", "scrape_configs"), "webknock.rules.yml", mustAbs(t, "../../docs/prometheus/webknock.rules.yml"), 1)
	scrapes = "global: {scrape_interval: 1s, evaluation_interval: 1s}\n" +
		strings.Replace(scrapes, "rule_files:", "  - job_name: socket\n    static_configs: [{targets: [\"127.0.0.1:9106\"]}]\nrule_files:", 1)
	m.run(m.server.Command(context.Background(), "prometheus", "--config.file", write("prometheus.yml", scrapes),
		"--storage.tsdb.path", filepath.Join(m.dir, "tsdb"), "--web.listen-address", "127.0.0.1:9090"), "Server is ready")

	// query returns the values of a query at this time, without those that are NaN.
	query := func(expr string) (values []string) {
		t.Helper()
		body, err := m.get("http://127.0.0.1:9090/api/v1/query?query=" + url.QueryEscape(expr))
		var answer struct {
			Data struct{ Result []struct{ Value [2]any } }
		}
		if err == nil {
			err = json.Unmarshal(body, &answer)
		}
		if err != nil {
			t.Fatalf("%s: %v", expr, err)
		}
		for _, r := range answer.Data.Result {
			if v := fmt.Sprint(r.Value[1]); v != "NaN" {
				values = append(values, v)
			}
		}
		return values
	}
	rounds := 0
	for deadline := time.Now().Add(3 * time.Minute); len(query(`count_over_time(up{job="webknock"}[5m]) >= 60`)) == 0; rounds++ {
		if time.Now().After(deadline) {
			t.Fatal("a minute of scrapes takes more than three")
		}
		m.knock(m.alice, serverIP, "/a", "/b", "/c", "/x")
		m.webknock("close", "--all")
		until(t, "the round is scraped", func() bool {
			return slices.Equal(query(`webknock_grants_opened_total{job="webknock", door="ssh"}`), []string{fmt.Sprint(rounds + 1)})
		})
	}
	m.knock(m.mallory, serverIP, "/wp-login.php")
	for expr, want := range map[string]string{
		`webknock_completions_total{job="webknock", sequence="ssh"}`:                             fmt.Sprint(rounds),
		`webknock_completions_total{job="socket", sequence="ssh"}`:                               fmt.Sprint(rounds),
		`webknock_knocks_total{job="webknock", listener=":8080", outcome="completed"}`:           fmt.Sprint(rounds),
		`webknock_knocks_total{job="webknock", listener=":8080", outcome="matched"}`:             fmt.Sprint(2 * rounds),
		`webknock_grants_opened_total{job="webknock", door="web"}`:                               "0",
		`webknock_open_seconds_count{job="webknock"}`:                                            fmt.Sprint(rounds),
		`webknock_bans_total{job="webknock", reason="decoy"}`:                                    "1",
		`webknock_bans{job="webknock"}`:                                                          "1",
		`webknock_degraded{job="webknock"}`:                                                      "0",
		`count(count by (job) (up == 1))`:                                                        "2",
		`count(ALERTS) or vector(0)`:                                                             "0",
		`sum(webknock_knocks_total{job="webknock", outcome=~"missed|matched|completed|banned"})`: fmt.Sprint(4*rounds + 1),
	} {
		until(t, expr+" becomes "+want, func() bool { return slices.Equal(query(expr), []string{want}) })
	}
	all := queries(t)
	if len(all) < 20 {
		t.Errorf("the dashboard has only %d queries", len(all))
	}
	for _, expr := range all {
		if len(query(expr)) == 0 {
			t.Errorf("no data: %s", expr)
		}
	}
	t.Logf("%d rounds of knocks, %d queries of the dashboard", rounds, len(all))
	if body, err := m.get("http://127.0.0.1:9090/api/v1/label/instance/values?match[]=webknock_build_info"); err != nil || !strings.Contains(string(body), "127.0.0.1:9105") {
		t.Errorf("instances: %s, %v", body, err)
	}
}

func mustAbs(t *testing.T, path string) string {
	t.Helper()
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}
