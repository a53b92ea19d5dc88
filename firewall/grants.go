package firewall

import (
	"container/heap"
	"slices"
	"time"
)

// keep adds a grant, or replaces the one of the same door and client.
func (g *Gate) keep(grant Grant) {
	k := keyOf(grant)
	g.terminator.cancel(k)
	g.grants[k] = grant
	g.ids[grant.ID] = k
	g.count[k.door]++
	heap.Push(&g.expiries, expiry{grant.Expires, k})
	heap.Push(&g.counts, expiry{grant.Expires.Add(-countLead), k})
	if max(len(g.expiries), len(g.counts)) > 2*len(g.grants)+1024 {
		g.reschedule()
	}
}

// drop removes a grant, if there is one.
func (g *Gate) drop(k key) {
	if grant, ok := g.grants[k]; ok {
		delete(g.grants, k)
		delete(g.ids, grant.ID)
		g.count[k.door]--
	}
	delete(g.pendingRevokes, k)
}

// forget removes a grant that has ended, and sends the event.
func (g *Gate) forget(grant Grant, reason string) {
	g.drop(keyOf(grant))
	now := time.Now()
	g.recentlyExpired[keyOf(grant)] = now
	g.queueTermination(grant)
	g.observe(Event{Kind: Closed, Time: now, Grant: grant, Reason: reason})
}

// queueTermination queues the sessions of an ended grant for termination, if its door is
// `established: cut`.
func (g *Gate) queueTermination(grant Grant) {
	door := g.guard.Door(grant.Door)
	if !g.guarded || door == nil || door.Established != Cut {
		return
	}
	for _, allowed := range g.guard.Allow {
		if allowed.Overlaps(grant.Client) { // its sessions may have begun without the grant
			return
		}
	}
	g.toTerminate = append(g.toTerminate, grant)
}

// terminateSessions hands the queued grants to the terminator, except those that have been
// opened again. The firewall drops their packets in any case.
func (g *Gate) terminateSessions() {
	ended := slices.DeleteFunc(g.toTerminate, func(grant Grant) bool { _, runs := g.grants[keyOf(grant)]; return runs })
	g.toTerminate = nil
	g.terminator.add(ended)
}

// expire forgets the grants that have expired. The firewall has ended them by itself.
func (g *Gate) expire(now time.Time) {
	for len(g.expiries) > 0 && !g.expiries[0].at.After(now) {
		next := heap.Pop(&g.expiries).(expiry)
		if grant, ok := g.grants[next.key]; ok && !grant.Expires.After(now) {
			g.forget(grant, Expired)
		}
	}
}

// expiries is a heap of the ends of grants, soonest first. An extended or closed grant
// leaves a stale entry, which is skipped when it surfaces.
type expiries []expiry

type expiry struct {
	at  time.Time
	key key
}

func (e expiries) Len() int           { return len(e) }
func (e expiries) Less(i, j int) bool { return e[i].at.Before(e[j].at) }
func (e expiries) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *expiries) Push(x any)        { *e = append(*e, x.(expiry)) }

func (e *expiries) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	*e = (*e)[:last]
	return x
}
