package firewall

import (
	"container/heap"
	"context"
	"time"
)

const (
	// countLead is how long before its end the traffic of a grant is read: the firewall
	// may end it by nearEnd early, and forgets the counters with it.
	countLead = nearEnd + 20*time.Millisecond
	// countTimeout bounds a read of traffic. Without it the counters of the latest look
	// at the firewall hold.
	countTimeout = 100 * time.Millisecond
	// maxCounted is of how many grants the traffic is read at once.
	maxCounted = 1024
)

// countTraffic reads the counters of grants that are about to end. If that fails, or there are
// too many grants, they keep the counters of the last sync.
func (g *Gate) countTraffic(ctx context.Context, ending []Grant) {
	if len(ending) == 0 || len(ending) > maxCounted || !g.guarded {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, countTimeout)
	defer cancel()
	counted, err := g.backend.Traffic(ctx, ending)
	if err != nil {
		return
	}
	for _, c := range counted {
		if mine, ok := g.grants[keyOf(c)]; ok && mine.ID == c.ID {
			mine.Packets, mine.Bytes = max(mine.Packets, c.Packets), max(mine.Bytes, c.Bytes)
			g.grants[keyOf(c)] = mine
		}
	}
}

// countEnding reads the traffic of the grants that expire within countLead.
func (g *Gate) countEnding(ctx context.Context, now time.Time) {
	var ending []Grant
	for len(g.counts) > 0 && !g.counts[0].at.After(now) {
		next := heap.Pop(&g.counts).(expiry)
		if grant, ok := g.grants[next.key]; ok && !grant.Expires.Add(-countLead).After(now) {
			ending = append(ending, grant)
		}
	}
	g.countTraffic(ctx, ending)
}

func grantsOf(changes []Change) []Grant {
	grants := make([]Grant, len(changes))
	for i, c := range changes {
		grants[i] = c.Grant
	}
	return grants
}

// countClosing reads the traffic of the grants that a plan closes.
func (g *Gate) countClosing(ctx context.Context, p *plan) {
	closing := p.closed()
	if len(closing) == 0 {
		return
	}
	g.countTraffic(ctx, closing)
	for i, e := range p.events {
		if mine, ok := g.grants[keyOf(e.Grant)]; ok && e.Kind == Closed && mine.ID == e.Grant.ID {
			p.events[i].Grant.Packets, p.events[i].Grant.Bytes = mine.Packets, mine.Bytes
		}
	}
}

// schedule notes when a grant's traffic is to be read, and when it ends.
func (g *Gate) schedule(k key, grant Grant) {
	g.expiries = append(g.expiries, expiry{grant.Expires, k})
	g.counts = append(g.counts, expiry{grant.Expires.Add(-countLead), k})
}

// reschedule clears both heaps and schedules all grants again.
func (g *Gate) reschedule() {
	g.expiries, g.counts = g.expiries[:0], g.counts[:0]
	for k, grant := range g.grants {
		g.schedule(k, grant)
	}
	heap.Init(&g.expiries)
	heap.Init(&g.counts)
}

// nextEnd returns when a grant's traffic is to be read or a grant expires next, or the
// zero time.
func (g *Gate) nextEnd() time.Time {
	var next time.Time
	for _, h := range []expiries{g.expiries, g.counts} {
		if len(h) > 0 && (next.IsZero() || h[0].at.Before(next)) {
			next = h[0].at
		}
	}
	return next
}
