package metrics

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"webknock/internal/event"
)

// The metrics that Collect makes at each scrape.
var (
	knocks      = describe("knocks_total", "Requests received, by listener and by what became of them.", "listener", "outcome")
	completions = describe("completions_total", "Sequences completed.", "sequence")
	grants      = describe("grants", "Grants that are open.", "door")
	opened      = describe("grants_opened_total", "Grants opened, by knocks or by an administrator; a renewal is none.", "door")
	clients     = describe("clients", "Clients in progress through a sequence.")
	connections = describe("connections", "Connections that are open: with an incomplete request head, or being answered.", "listener")
	wrongCodes  = describe("wrong_codes_total", "One-time codes and tickets that did not count: wrong, used, too old or of a user who may not.")
	bans        = describe("bans", "Clients that are banned.")
	bansTotal   = describe("bans_total", "Bans, by what a client was banned for.", "reason")
	repairs     = describe("guard_repairs_total", "Times that the guard was put right after somebody else had changed it.")
	lost        = describe("lost_total", "What was refused at a bound or lost, by kind.", "what")
	commands    = describe("commands_total", "Commands that ended or could not be started.", "result")
	notices     = describe("notices_total", "Notices that were sent or given up.", "result")
	degraded    = describe("degraded", "1 while webknock status says degraded, otherwise 0.")
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("webknock_"+name, help, labels, nil)
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		knocks, completions, grants, opened, clients, connections, wrongCodes, bans, bansTotal, repairs, lost, commands, notices, degraded,
	} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	s, names := m.source.Measure(ctx), m.names.Load()
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, n int, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}

	for _, listener := range names.Listeners {
		gauge(connections, s.Connections[listener], listener)
		for _, outcome := range event.Outcomes() {
			counter(knocks, s.Knocks[Knock{listener, outcome}], listener, string(outcome))
		}
	}
	for _, sequence := range names.Sequences {
		counter(completions, s.Completions[sequence], sequence)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, door := range names.Doors {
		counter(opened, m.opened[door], door)
		if s.Grants != nil {
			gauge(grants, s.Grants[door], door)
		}
	}
	for _, reason := range banReasons {
		counter(bansTotal, m.bans[reason], reason)
	}
	for _, result := range commandResults {
		counter(commands, m.commands[result], result)
	}
	for _, result := range noticeResults {
		counter(notices, s.Notices[result], result)
	}
	for _, what := range losses {
		counter(lost, s.Lost[what], what)
	}
	counter(wrongCodes, s.WrongCodes)
	counter(repairs, s.Repairs)
	gauge(clients, s.Clients)
	gauge(bans, s.Bans)
	gauge(degraded, map[bool]int{true: 1}[s.Degraded])
}
