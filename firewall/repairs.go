package firewall

import (
	"fmt"
	"time"
)

const (
	// repairsApart is the time after which a repair has lasted.
	repairsApart = 90 * time.Second
	// fewRepairs that have not lasted are reported one by one. After more, somebody keeps
	// changing the firewall.
	fewRepairs = 3
	// sumInterval is the least time between two events of repairs that do not last.
	sumInterval = 10 * time.Second
)

// repairs counts the repairs that do not last. Something may change the firewall a hundred
// times a second. The gate repairs it each time at once, but reports the repairs in sums.
type repairs struct {
	streak     int       // how many followed each other by less than repairsApart
	since      time.Time // the first of them
	last       time.Time
	changedBy  By // of the latest
	unreported int
	reported   time.Time // when the latest event was sent
	reason     string    // of the latest
}

// repaired reports a repair, or counts it for the next sum.
func (g *Gate) repaired(reason string) {
	r := &g.repairs
	now := time.Now()
	if now.Sub(r.last) > repairsApart {
		r.streak, r.since = 0, now
	}
	r.streak++
	r.last, r.changedBy, r.reason = now, g.changedBy, reason
	r.unreported++
	if r.streak <= fewRepairs {
		g.reportRepairs(now)
		return
	}
	g.sumRepairs(now)
}

// sumRepairs reports the repairs that were counted, if sumInterval has passed. It returns
// the time until then, or 0 if there is nothing to report.
func (g *Gate) sumRepairs(now time.Time) time.Duration {
	r := &g.repairs
	if r.unreported == 0 {
		return 0
	}
	if left := r.reported.Add(sumInterval).Sub(now); left > 0 {
		return left
	}
	g.reportRepairs(now)
	return 0
}

func (g *Gate) reportRepairs(now time.Time) {
	r := &g.repairs
	reason := r.reason
	if r.unreported > 1 {
		reason = fmt.Sprintf("%d repairs, the latest: %s", r.unreported, reason)
	}
	if r.changedBy.Process != "" {
		reason += ", by " + r.changedBy.String()
	}
	g.observe(Event{Kind: Repaired, Time: now, Reason: reason, Repairs: r.unreported})
	r.unreported, r.reported = 0, now
}

// contested returns ErrContested while repairs do not last.
func (g *Gate) contested() error {
	r := g.repairs
	if r.streak <= fewRepairs || time.Since(r.last) > repairsApart {
		return nil
	}
	advice := "; firewall.owner: true keeps others from changing the table"
	if g.guard.Owner {
		advice = ""
	}
	return fmt.Errorf("%w: it was repaired %d times since %s, the latest change came from %s%s",
		ErrContested, r.streak, r.since.Format(time.TimeOnly), r.changedBy, advice)
}
