package firewall

import (
	"fmt"
	"time"
)

const (
	// repairsApart is how long a repair is expected to last at least.
	repairsApart = 90 * time.Second
	fewRepairs   = 3                // that did not last: beyond it, somebody keeps changing the firewall
	sumInterval  = 10 * time.Second // at least, between two events of repairs that do not last
)

// repairs counts those that did not last. What keeps changing the firewall may
// do so a hundred times a second: the firewall is put right each time at once,
// and only what is said of it grows quiet.
type repairs struct {
	streak int       // with less than repairsApart between two
	since  time.Time // the first of them
	last   time.Time
	by     By // of the latest
	unsaid int
	said   time.Time // when the latest event was sent
	reason string    // of the latest
}

// repaired tells of a repair, or counts it for the next sum.
func (g *Gate) repaired(reason string) {
	r := &g.repairs
	now := time.Now()
	if now.Sub(r.last) > repairsApart {
		r.streak, r.since = 0, now
	}
	r.streak++
	r.last, r.by, r.reason = now, g.by, reason
	r.unsaid++
	if r.streak <= fewRepairs {
		g.sayRepairs(now)
		return
	}
	g.sumRepairs(now)
}

// sumRepairs tells of repairs that were counted, if it is time. It returns how
// long it is until then; 0: there are none.
func (g *Gate) sumRepairs(now time.Time) time.Duration {
	r := &g.repairs
	if r.unsaid == 0 {
		return 0
	}
	if left := r.said.Add(sumInterval).Sub(now); left > 0 {
		return left
	}
	g.sayRepairs(now)
	return 0
}

func (g *Gate) sayRepairs(now time.Time) {
	r := &g.repairs
	reason := r.reason
	if r.unsaid > 1 {
		reason = fmt.Sprintf("%d repairs, the latest: %s", r.unsaid, reason)
	}
	if r.by.Process != "" {
		reason += ", by " + r.by.String()
	}
	g.observe(Event{Kind: Repaired, Time: now, Reason: reason, Repairs: r.unsaid})
	r.unsaid, r.said = 0, now
}

// contested returns an error while repairs do not last.
func (g *Gate) contested() error {
	r := g.repairs
	if r.streak <= fewRepairs || time.Since(r.last) > repairsApart {
		return nil
	}
	advice := "; firewall.owner: true keeps others from changing the table"
	if g.guard.Owner {
		advice = ""
	}
	return fmt.Errorf("%w: it was put right %d times since %s, the latest change came from %s%s",
		ErrContested, r.streak, r.since.Format(time.TimeOnly), r.by, advice)
}
