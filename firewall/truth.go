package firewall

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Closures remembers which grants were closed before their end, over restarts
// of this process: a saved ruleset that somebody loads brings their elements
// back. Close is called by Run and must not wait for a disk.
type Closures interface {
	// Close remembers grants as closed, until their end.
	Close(grants []Grant)
	// Closed reports whether a grant was closed.
	Closed(id string) bool
	// Known returns an error if it cannot be told which grants were closed.
	Known() error
	// Upgrade reports whether this is the first start of a version that
	// remembers, and makes sure that no later start is.
	Upgrade() bool
	// Settle waits until what Close was told outlives this process, or cannot
	// for now.
	Settle(ctx context.Context)
}

// forgetful are Closures of a gate whose backend does not outlive it.
type forgetful struct{}

func (forgetful) Close([]Grant)          {}
func (forgetful) Closed(string) bool     { return false }
func (forgetful) Known() error           { return nil }
func (forgetful) Upgrade() bool          { return false }
func (forgetful) Settle(context.Context) {}

// Remember has the gate use c. It is called before Run.
func (g *Gate) Remember(c Closures) { g.closures = c }

const (
	clockSlack = time.Second            // apart by less, two ends are the same
	nearEnd    = 100 * time.Millisecond // the firewall's clock may be so much ahead
	maxFixed   = 4096                   // changes of a transaction that puts elements right
)

// sync makes the firewall what the gate wants it to be: it puts back a guard that
// somebody took away, with the grants that still run, deletes elements that the
// gate does not know, and closes what could not be closed before.
func (g *Gate) sync(ctx context.Context) error {
	if !g.guarded {
		return nil
	}
	ctx, cancel := call(ctx)
	defer cancel()
	g.wake()
	now := time.Now()
	g.expire(now)
	for k, e := range g.ended {
		if now.Sub(e) > endedMemory {
			delete(g.ended, k)
		}
	}
	found, err := g.backend.Read(ctx)
	if errors.Is(err, ErrNotGuarded) {
		found, err = g.repair(ctx)
	}
	if err == nil {
		err = g.reconcile(ctx, found)
	}
	if err == nil {
		err = g.closeLate(ctx)
	}
	if err == nil {
		err = g.reconcileBans(ctx, g.untold == "" && !g.unsure)
	}
	if err == nil && g.untold != "" { // all of it is back
		g.repaired(g.untold)
		g.untold = ""
	}
	g.failed(err)
	return err
}

// wake brings ends forward by the time for which the machine was suspended:
// the clock of this process stood still.
func (g *Gate) wake() {
	total := g.backend.Asleep()
	slept := total - g.asleep
	g.asleep = total
	if slept < nearEnd {
		return
	}
	g.ends = g.ends[:0]
	for k, grant := range g.grants {
		grant.Expires = grant.Expires.Add(-slept)
		g.grants[k] = grant
		g.ends = append(g.ends, ending{grant.Expires, k})
	}
	heap.Init(&g.ends)
	for client, until := range g.bans {
		g.bans[client] = until.Add(-slept)
	}
}

// wanted returns the grants that are to run, for which f returns true.
func (g *Gate) wanted(f func(key) bool) []Grant {
	running := make([]Grant, 0, len(g.grants))
	for k, grant := range g.grants {
		if _, closing := g.closing[k]; !closing && f(k) {
			running = append(running, grant)
		}
	}
	return running
}

// repair puts the guard back.
func (g *Gate) repair(ctx context.Context) ([]Held, error) {
	running := g.wanted(func(key) bool { return true })
	if err := g.backend.Guard(ctx, g.guard, running); err != nil {
		g.exposed = true
		return nil, fmt.Errorf("put the guard back: %w", err)
	}
	g.exposed = false
	g.untold = fmt.Sprintf("the guard was gone or changed, and is back with %d grants", len(running))
	return g.backend.Read(ctx)
}

// reconcile puts right what the firewall holds. An element that the gate knows
// is a grant; others are deleted, and grants that are missing put back. The
// first time, the grants of an earlier run are taken over.
func (g *Gate) reconcile(ctx context.Context, found []Held) error {
	now := time.Now()
	adopts := g.adoption()
	there := make(map[key]bool, len(found))
	var remove, set []Change
	var intruders []Grant
	back := 0
	for _, f := range found {
		k := keyOf(f.Grant)
		mine, known := g.grants[k]
		switch {
		case known && f.Origin == Ours && f.ID == mine.ID:
			there[k] = true
			mine.Packets, mine.Bytes = max(mine.Packets, f.Packets), max(mine.Bytes, f.Bytes)
			g.grants[k] = mine
			switch right := same(f.Expires, mine.Expires) && same(f.Ends, mine.Expires); {
			case right && !f.Spent:
			case mine.Expires.Sub(now) > nearEnd:
				set = append(set, Change{Grant: mine, Again: true, Spent: f.Spent})
				back++
			case !right:
				remove = append(remove, Change{Grant: mine, Close: true})
			}
		case known:
			if mine.Expires.Sub(now) < nearEnd {
				remove = append(remove, Change{Grant: mine, Close: true})
			}
		case adopts != nil && adopts(f):
			there[k] = true
			g.keep(f.Grant)
			g.observe(Event{Kind: Adopted, Time: now, Grant: f.Grant})
			if f.Origin == Earlier || !same(f.Ends, f.Expires) || f.Spent {
				set = append(set, Change{Grant: f.Grant, Again: true, Spent: f.Spent})
			}
		case !g.ended[k].IsZero() && f.Ends.Sub(now) < clockSlack: // the firewall's clock is a little behind
		default:
			intruder := Grant{Door: k.door, Client: k.client}
			remove = append(remove, Change{Grant: intruder, Close: true})
			intruders = append(intruders, intruder)
		}
	}
	for k, grant := range g.grants {
		switch {
		case there[k]:
		case g.closing[k] != "":
			if !slices.ContainsFunc(found, func(f Held) bool { return keyOf(f.Grant) == k }) {
				g.forget(grant, g.closing[k])
			}
		case grant.Expires.Sub(now) < nearEnd:
			g.forget(grant, Expired)
		default:
			set = append(set, Change{Grant: grant, Again: true})
			back++
		}
	}
	for _, changes := range [][]Change{remove, set} { // room is made first
		for part := range slices.Chunk(changes, maxFixed) {
			if err := g.backend.Commit(ctx, part); err != nil {
				return fmt.Errorf("put %d elements right: %w", len(part), err)
			}
		}
	}
	g.ending.expel(intruders)
	if len(remove)+back > 0 && adopts == nil {
		g.repaired(fmt.Sprintf("somebody has changed grants in the firewall: %d deleted that were not given here, %d put back", len(remove), back))
	} else if len(remove) > 0 {
		g.log.Warn("elements in the firewall that are no grants of this machine's current run, or were closed, are deleted", "count", len(remove))
	}
	g.adopted = true
	return nil
}

// same reports whether two ends are the same, as far as the clocks can tell.
func same(a, b time.Time) bool { return a.Sub(b).Abs() < clockSlack }

// adoption returns which elements that nobody knows are taken over as grants;
// nil: none, as after the first time.
func (g *Gate) adoption() func(Held) bool {
	if g.adopted {
		return nil
	}
	if err := g.closures.Known(); err != nil {
		g.log.Error("it is not known which grants were closed, so that none of an earlier run is taken over; clients have to knock again", "error", err)
		return func(Held) bool { return false }
	}
	upgrade := g.closures.Upgrade()
	now := time.Now()
	return func(f Held) bool {
		_, taken := g.ids[f.ID]
		return f.ID != "" && !taken && covers(g.guard, keyOf(f.Grant)) && f.Expires.After(now) && !g.closures.Closed(f.ID) &&
			(f.Origin == Ours || f.Origin == Earlier && upgrade)
	}
}

// reconcileBans puts right what the firewall holds of bans; announce: as a
// repair. The first time, the bans of an earlier run are taken over.
func (g *Gate) reconcileBans(ctx context.Context, announce bool) error {
	if !g.guard.Shielded() {
		return nil
	}
	ours, foreign, err := g.backend.Bans(ctx)
	if err != nil {
		return fmt.Errorf("read bans: %w", err)
	}
	now := time.Now()
	if !g.bansAdopted {
		announce = false
		if g.closures.Upgrade() { // the version before this one marked none
			for _, b := range foreign {
				g.bans[b.Client] = b.Until
			}
		}
		for _, b := range ours {
			g.bans[b.Client] = b.Until
		}
	}
	right := map[netip.Prefix]bool{}
	var fix []Ban
	for _, b := range ours {
		if until, known := g.bans[b.Client]; known && (same(until, b.Until) || until.Sub(now) < nearEnd) {
			right[b.Client] = true
		} else if !known && b.Until.Sub(now) >= clockSlack {
			fix = append(fix, Ban{Client: b.Client})
		}
	}
	for _, b := range foreign {
		if _, known := g.bans[b.Client]; !known {
			fix = append(fix, Ban{Client: b.Client})
		}
	}
	for _, b := range g.banned() {
		if !right[b.Client] && b.Until.Sub(now) >= nearEnd {
			fix = append(fix, b)
		}
	}
	for part := range slices.Chunk(fix, maxFixed) {
		if err := g.backend.Ban(ctx, part); err != nil {
			return fmt.Errorf("put %d bans right: %w", len(part), err)
		}
	}
	g.bansAdopted, g.unsure = true, false
	if announce && len(fix) > 0 {
		g.repaired(fmt.Sprintf("somebody has changed bans in the firewall: %d put right", len(fix)))
	}
	return nil
}

// closeLate closes the grants that could not be closed when they should.
func (g *Gate) closeLate(ctx context.Context) error {
	var changes []Change
	for k := range g.closing {
		if _, runs := g.grants[k]; !runs {
			delete(g.closing, k)
			continue
		}
		changes = append(changes, Change{Grant: g.grants[k], Close: true})
	}
	if len(changes) == 0 {
		return nil
	}
	if err := g.backend.Commit(ctx, changes); err != nil {
		return fmt.Errorf("close %d grants: %w", len(changes), err)
	}
	for _, c := range changes {
		g.forget(c.Grant, g.closing[keyOf(c.Grant)])
	}
	return nil
}
