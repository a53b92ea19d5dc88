package firewall

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	clockSlack  = time.Second            // two ends that differ by less are the same
	nearEnd     = 100 * time.Millisecond // by how much the firewall may end a grant early
	maxRepaired = 4096                   // changes in one transaction of a repair
)

// sync compares the firewall with the gate and repairs it: it puts back a guard that
// somebody has removed, with the grants that are still valid, deletes elements that the
// gate does not know, and revokes grants that could not be revoked before.
func (g *Gate) sync(ctx context.Context) error {
	if !g.guarded {
		return nil
	}
	ctx, cancel := call(ctx)
	defer cancel()
	g.accountForSuspend()
	now := time.Now()
	g.expire(now)
	for k, e := range g.recentlyExpired {
		if now.Sub(e) > expiredMemory {
			delete(g.recentlyExpired, k)
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
		err = g.reconcileBans(ctx, g.pendingRepair == "" && !g.bansUncertain)
	}
	if err == nil && g.pendingRepair != "" { // the repair is complete
		g.repaired(g.pendingRepair)
		g.pendingRepair = ""
	}
	g.failed(err)
	return err
}

// accountForSuspend moves the ends of grants and bans forward by the time that the machine
// was suspended, since the clock of this process stood still.
func (g *Gate) accountForSuspend() {
	total := g.backend.Asleep()
	slept := total - g.asleep
	g.asleep = total
	if slept < nearEnd {
		return
	}
	for k, grant := range g.grants {
		grant.Expires = grant.Expires.Add(-slept)
		g.grants[k] = grant
	}
	g.reschedule()
	for client, until := range g.bans {
		g.bans[client] = until.Add(-slept)
	}
}

// running returns the grants that are not being revoked and for which f returns true.
func (g *Gate) running(f func(key) bool) []Grant {
	valid := make([]Grant, 0, len(g.grants))
	for k, grant := range g.grants {
		if _, closing := g.pendingRevokes[k]; !closing && f(k) {
			valid = append(valid, grant)
		}
	}
	return valid
}

// repair puts the guard back.
func (g *Gate) repair(ctx context.Context) ([]Held, error) {
	running := g.running(func(key) bool { return true })
	if err := g.backend.Guard(ctx, g.guard, running); err != nil {
		g.guardMissing = true
		return nil, fmt.Errorf("put the guard back: %w", err)
	}
	g.guardMissing = false
	g.pendingRepair = fmt.Sprintf("the guard was gone or changed, and is back with %d grants", len(running))
	return g.backend.Read(ctx)
}

// reconcile repairs the elements in the firewall. Elements that the gate does not know are
// deleted, and missing grants are put back. The first call adopts the grants of an earlier
// run.
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
		case !g.recentlyExpired[k].IsZero() && f.Ends.Sub(now) < clockSlack: // the firewall's clock is slightly behind
		default:
			intruder := Grant{Door: k.door, Client: k.client}
			remove = append(remove, Change{Grant: intruder, Close: true})
			intruders = append(intruders, intruder)
		}
	}
	for k, grant := range g.grants {
		switch {
		case there[k]:
		case g.pendingRevokes[k] != "":
			if !slices.ContainsFunc(found, func(f Held) bool { return keyOf(f.Grant) == k }) {
				g.forget(grant, g.pendingRevokes[k])
			}
		case grant.Expires.Sub(now) < nearEnd:
			g.forget(grant, Expired)
		default:
			set = append(set, Change{Grant: grant, Again: true})
			back++
		}
	}
	for _, changes := range [][]Change{remove, set} { // deleting first makes room
		for part := range slices.Chunk(changes, maxRepaired) {
			if err := g.backend.Commit(ctx, part); err != nil {
				return fmt.Errorf("repair %d elements: %w", len(part), err)
			}
		}
	}
	g.terminator.expel(intruders)
	if len(remove)+back > 0 && adopts == nil {
		g.repaired(fmt.Sprintf("somebody has changed grants in the firewall: %d deleted that were not given here, %d put back", len(remove), back))
	} else if len(remove) > 0 {
		g.log.Warn("elements in the firewall that are no grants of this machine's current run, or were closed, are deleted", "count", len(remove))
	}
	g.adopted = true
	return nil
}

// same reports whether two ends are equal, as far as the clocks can tell.
func same(a, b time.Time) bool { return a.Sub(b).Abs() < clockSlack }

// adoption returns a function that reports whether an unknown element is adopted as a
// grant; nil after the first reconcile, when none is.
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

// closeLate revokes the grants that are still to be revoked: those of banned clients, and
// those that could not be revoked before.
func (g *Gate) closeLate(ctx context.Context) error {
	var changes []Change
	for k := range g.pendingRevokes {
		if _, runs := g.grants[k]; !runs {
			delete(g.pendingRevokes, k)
			continue
		}
		changes = append(changes, Change{Grant: g.grants[k], Close: true})
	}
	if len(changes) == 0 {
		return nil
	}
	g.countTraffic(ctx, grantsOf(changes))
	if err := g.backend.Commit(ctx, changes); err != nil {
		return fmt.Errorf("close %d grants: %w", len(changes), err)
	}
	for _, c := range changes {
		k := keyOf(c.Grant)
		g.forget(g.grants[k], g.pendingRevokes[k])
	}
	return nil
}
