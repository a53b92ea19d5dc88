package metrics

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"webknock/firewall"
	"webknock/internal/event"
)

// steady is a daemon that is always the same.
type steady State

func (s steady) Measure(context.Context) State { return State(s) }

var names = Names{Listeners: []string{":8080", "[::1]:443"}, Doors: []string{"ssh", "web"}, Sequences: []string{"home"}}

// series returns the metrics of this program, and their values, as NAME{LABELS} VALUE.
func series(t *testing.T, m *Metrics) map[string]float64 {
	t.Helper()
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "webknock_") {
			continue
		}
		for _, metric := range f.Metric {
			var labels []string
			for _, l := range metric.Label {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			key := f.GetName() + "{" + strings.Join(labels, ",") + "}"
			all[key] = metric.GetCounter().GetValue() + metric.GetGauge().GetValue() + float64(metric.GetHistogram().GetSampleCount())
		}
	}
	return all
}

func TestEveryLabelIsThereFromTheStartWithZero(t *testing.T) {
	m := New("v1", steady{Grants: map[string]int{}})
	m.Configure(names)
	want := []string{"webknock_build_info{goversion=", "webknock_clients{}", "webknock_wrong_codes_total{}", "webknock_bans{}", "webknock_degraded{}",
		"webknock_guard_repairs_total{}", "webknock_open_seconds{}", "webknock_completions_total{sequence=home}",
		"webknock_bans_total{reason=knocks}", "webknock_bans_total{reason=decoy}", "webknock_notices_total{result=sent}", "webknock_notices_total{result=failed}"}
	for _, result := range []string{"done", "failed", "killed", "not_started"} {
		want = append(want, "webknock_commands_total{result="+result+"}")
	}
	for _, what := range Losses() {
		want = append(want, "webknock_lost_total{what="+what+"}")
	}
	for _, door := range names.Doors {
		want = append(want, "webknock_grants{door="+door+"}", "webknock_grants_opened_total{door="+door+"}")
	}
	for _, listener := range names.Listeners {
		want = append(want, "webknock_connections{listener="+listener+"}")
		for _, outcome := range event.Outcomes() {
			want = append(want, fmt.Sprintf("webknock_knocks_total{listener=%s,outcome=%s}", listener, outcome))
		}
	}
	got := series(t, m)
	for key, value := range got {
		if strings.HasPrefix(key, want[0]) {
			if value != 1 || !strings.HasSuffix(key, "version=v1}") {
				t.Errorf("%s %v", key, value)
			}
			delete(got, key)
		} else if value != 0 {
			t.Errorf("%s is %v", key, value)
		}
	}
	slices.Sort(want)
	if keys := slices.Sorted(maps.Keys(got)); !slices.Equal(keys, slices.DeleteFunc(want, func(s string) bool { return strings.HasPrefix(s, "webknock_build_info") })) {
		t.Errorf("there are\n%s\nwant\n%s", strings.Join(keys, "\n"), strings.Join(want, "\n"))
	}
}

func TestWhatHappensIsCounted(t *testing.T) {
	m := New("", steady{
		Clients: 3, Bans: 2, Degraded: true, Grants: map[string]int{"ssh": 4}, Connections: map[string]int{":8080": 5},
		Knocks: map[Knock]uint64{{":8080", "missed"}: 6, {":9", "missed"}: 7}, Completions: map[string]uint64{"home": 8, "gone": 9},
		WrongCodes: 10, Repairs: 11, Notices: map[string]uint64{"sent": 12}, Lost: map[string]uint64{"knocks": 13, "made_up": 14},
	})
	m.Configure(names)
	for _, e := range []event.Event{
		event.GrantOpened{Grant: firewall.Grant{Door: "ssh"}}, event.GrantOpened{Grant: firewall.Grant{Door: "ssh"}}, event.GrantOpened{Grant: firewall.Grant{Door: "gone"}},
		event.Ban{Reason: event.Decoy}, event.Command{Result: "killed"}, event.Command{Result: "not started"},
	} {
		m.Handle(event.Record{Event: e})
	}
	m.Opened(time.Millisecond)
	got := series(t, m)
	for key, want := range map[string]float64{
		"webknock_clients{}": 3, "webknock_bans{}": 2, "webknock_degraded{}": 1, "webknock_grants{door=ssh}": 4, "webknock_grants{door=web}": 0,
		"webknock_connections{listener=:8080}": 5, "webknock_knocks_total{listener=:8080,outcome=missed}": 6, "webknock_completions_total{sequence=home}": 8,
		"webknock_wrong_codes_total{}": 10, "webknock_guard_repairs_total{}": 11, "webknock_notices_total{result=sent}": 12, "webknock_lost_total{what=knocks}": 13,
		"webknock_grants_opened_total{door=ssh}": 2, "webknock_bans_total{reason=decoy}": 1, "webknock_bans_total{reason=knocks}": 0,
		"webknock_commands_total{result=killed}": 1, "webknock_commands_total{result=not_started}": 1, "webknock_open_seconds{}": 1,
	} {
		if value, ok := got[key]; !ok || value != want {
			t.Errorf("%s is %v (%v), want %v", key, value, ok, want)
		}
	}
	for key := range got {
		if strings.Contains(key, "gone") || strings.Contains(key, "made_up") || strings.Contains(key, "=:9,") {
			t.Errorf("%s, which the configuration does not have", key)
		}
	}
}

// A door that a reload takes away and another brings back goes on where it was.
func TestNoCounterFallsAtAReload(t *testing.T) {
	m := New("", steady{Grants: map[string]int{}})
	const ssh = "webknock_grants_opened_total{door=ssh}"
	m.Configure(names)
	m.Handle(event.Record{Event: event.GrantOpened{Grant: firewall.Grant{Door: "ssh"}}})
	m.Configure(Names{Doors: []string{"web"}})
	if value, ok := series(t, m)[ssh]; ok {
		t.Errorf("without the door there is %s %v", ssh, value)
	}
	m.Configure(names)
	if value := series(t, m)[ssh]; value != 1 {
		t.Errorf("with the door again it is %v, want 1", value)
	}
}

// hanging is a daemon whose gate does not answer.
type hanging struct{}

func (hanging) Measure(ctx context.Context) State {
	<-ctx.Done()
	return State{Degraded: true}
}

func TestADaemonThatHangsIsSeenToHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New("", hanging{})
		m.Configure(names)
		begin := time.Now()
		got := series(t, m)
		if took := time.Since(begin); took != askTimeout {
			t.Errorf("the scrape takes %v", took)
		}
		if _, ok := got["webknock_grants{door=ssh}"]; ok || got["webknock_degraded{}"] != 1 {
			t.Errorf("grants are told that nobody knows, or degraded is not told: %v", got)
		}
	})
}

func TestTooManyScrapesAtOnceAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New("", hanging{}).Handler(slog.New(slog.DiscardHandler))
		statuses := make(chan int, maxScrapes+1)
		for range maxScrapes + 1 {
			go func() {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
				statuses <- w.Code
			}()
		}
		if first := <-statuses; first != http.StatusServiceUnavailable {
			t.Errorf("the first answer is %d", first)
		}
		for range maxScrapes {
			if status := <-statuses; status != http.StatusOK {
				t.Errorf("then %d", status)
			}
		}
	})
}

var row = regexp.MustCompile("(?m)^\\| `(webknock_[a-z_]+)(?:\\{([a-z,]+)\\})?` \\| (counter|gauge|histogram) \\|")

func TestTheManualHasEveryMetric(t *testing.T) {
	text, err := os.ReadFile("../../docs/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, m := range row.FindAllStringSubmatch(string(text), -1) {
		documented[m[1]] = m[3] + " " + m[2]
	}
	m := New("", steady{Grants: map[string]int{}})
	m.Configure(names)
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]string{}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "webknock_") {
			continue
		}
		var labels []string
		for _, l := range f.Metric[0].Label {
			labels = append(labels, l.GetName())
		}
		there[f.GetName()] = strings.ToLower(f.GetType().String()) + " " + strings.Join(labels, ",")
	}
	if !maps.Equal(documented, there) {
		t.Errorf("documented\n%q\nthere\n%q", documented, there)
	}
}
