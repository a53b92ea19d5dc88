// Package metrics shows Prometheus what the daemon does.
//
// [New] makes the metrics. Configure says which names the configuration has: labels have
// those and a few fixed words, and nothing that a stranger sends. Handle counts what is an
// event, and a scrape asks the [Source] for everything else. [Metrics.Handler] answers
// scrapes; a [Server] does so on an address of its own. docs/monitoring.md says how to read
// each metric.
package metrics

import (
	"context"
	"log/slog"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"webknock/internal/event"
)

const (
	maxScrapes    = 3                // at once; further ones are refused
	scrapeTimeout = 10 * time.Second // for one
	askTimeout    = 5 * time.Second  // for what the Source says
)

// Names are the names that the configuration has.
type Names struct{ Listeners, Doors, Sequences []string }

// A Source is the daemon, as far as metrics ask it.
type Source interface {
	// Measure returns the state as it is now. It returns soon after ctx is done.
	Measure(context.Context) State
}

// A State is how the daemon is. Its counts never fall while it runs.
type State struct {
	Clients     int // in progress
	Bans        int
	Degraded    bool
	Grants      map[string]int // by door; nil: the gate does not answer
	Connections map[string]int // by listener
	Knocks      map[Knock]uint64
	Completions map[string]uint64 // by sequence
	WrongCodes  uint64
	Repairs     uint64
	Notices     map[string]uint64 // by result
	Lost        map[string]uint64 // by one of Losses
}

// A Knock says where a knock came and what became of it.
type Knock struct {
	Listener string
	Outcome  event.Outcome
}

// Metrics count what happens, and answer scrapes.
type Metrics struct {
	source   Source
	names    atomic.Pointer[Names]
	open     prometheus.Histogram
	registry *prometheus.Registry

	mu       sync.Mutex        // of the counts
	opened   map[string]uint64 // by door
	bans     map[string]uint64 // by reason
	commands map[string]uint64 // by result
}

// Words that labels have beside the names of the configuration.
var (
	banReasons     = map[string]string{event.TooManyKnocks: "knocks", event.Decoy: "decoy"}
	commandResults = map[string]string{"done": "done", "failed": "failed", "killed": "killed", "not started": "not_started"}
	noticeResults  = []string{"sent", "failed"}
	losses         = []string{
		"heads_too_large", "heads_too_many_lines", "heads_too_slow", "connections_evicted", "connections_starved", "knocks", "clients", "counts", "bans",
		"notices", "commands", "history", "events_log", "events_notices", "events_commands", "events_history", "events_metrics", "asked", "refusals", "seam",
	}
)

// New returns metrics of a version of the program.
func New(version string, source Source) *Metrics {
	m := &Metrics{
		source: source, registry: prometheus.NewRegistry(),
		opened: map[string]uint64{}, bans: map[string]uint64{}, commands: map[string]uint64{},
		open: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "webknock_open_seconds", Help: "Seconds from the last knock of a completion until the firewall had its grants.",
			Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5},
		}),
	}
	m.names.Store(new(Names))
	build := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "webknock_build_info", Help: "1, with the version of webknock and of Go as labels.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	}, func() float64 { return 1 })
	m.registry.MustRegister(m, m.open, build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Configure makes the names of another configuration the labels. The counts of names that
// it does not have are kept for the time when one has them again, so that no counter falls.
func (m *Metrics) Configure(n Names) { m.names.Store(&n) }

// Opened counts a completion that opened or extended grants, and how long that took.
func (m *Metrics) Opened(took time.Duration) { m.open.Observe(took.Seconds()) }

// Losses returns what may be lost.
func Losses() []string { return slices.Clone(losses) }

// Kinds are the kinds of events that Handle counts.
var Kinds = []event.Kind{event.KindGrantOpened, event.KindBan, event.KindCommand}

// Handle counts an event.
func (m *Metrics) Handle(r event.Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch e := r.Event.(type) {
	case event.GrantOpened:
		m.opened[e.Grant.Door]++
	case event.Ban:
		m.bans[banReasons[e.Reason]]++
	case event.Command:
		m.commands[commandResults[e.Result]]++
	}
}

// Handler answers scrapes.
func (m *Metrics) Handler(log *slog.Logger) http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: maxScrapes,
		Timeout:             scrapeTimeout,
	})
}
