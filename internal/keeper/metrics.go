package keeper

import (
	"context"
	"net/http"

	"webknock/config"
	"webknock/internal/metrics"
)

var _ metrics.Source = (*Keeper)(nil)

// codesLost is the kind of loss that has a metric of its own.
const codesLost = "wrong_codes"

// namesOf returns the names of a configuration that metrics have as labels.
func namesOf(cfg *config.Config) (n metrics.Names) {
	for _, l := range cfg.Listeners {
		n.Listeners = append(n.Listeners, l.Address)
	}
	for _, door := range cfg.Doors {
		n.Doors = append(n.Doors, door.Name)
	}
	for _, s := range cfg.Sequences {
		n.Sequences = append(n.Sequences, s.Name)
	}
	return n
}

// Measure implements metrics.Source.
func (k *Keeper) Measure(ctx context.Context) metrics.State {
	front := k.front.State()
	s := metrics.State{
		Clients: front.Clients, Bans: front.Bans, Repairs: k.repairs.n.Load(), Lost: map[string]uint64{},
		Connections: map[string]int{}, Knocks: map[metrics.Knock]uint64{}, Completions: map[string]uint64{},
	}
	for _, c := range front.Connections {
		s.Connections[c.Listener] += c.Open
	}
	for _, c := range front.Knocks {
		s.Knocks[metrics.Knock{Listener: c.Listener, Outcome: c.Outcome}] += c.Count
	}
	for _, l := range k.losses() {
		if l.Kind == codesLost {
			s.WrongCodes = l.Count
		} else {
			s.Lost[l.Kind] = l.Count
		}
	}
	sent, failed := k.notices.Results()
	s.Notices = map[string]uint64{"sent": sent, "failed": failed}
	problems, _ := k.problems(ctx)
	s.Degraded = len(problems) > 0
	if counts, err := k.gate.Count(ctx); err == nil {
		s.Grants = counts
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for name, n := range k.completions {
		s.Completions[name] = n
	}
	return s
}

// Metrics implements admin.Control.
func (k *Keeper) Metrics() http.Handler { return k.scrapes }
