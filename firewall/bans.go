package firewall

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Ban sets bans, and lifts those whose Until is in the past. Allowed and exempt
// networks are never banned. With closeGrants the clients' grants end as well. While
// nothing is guarded, bans wait for the next Configure. If the firewall cannot be
// changed, Ban returns the error and the gate retries.
func (g *Gate) Ban(ctx context.Context, bans []Ban, closeGrants bool) error {
	if closeGrants {
		defer g.closures.Settle(ctx)
	}
	return g.wait(ctx, request{exclusive: func(ctx context.Context) error {
		now := time.Now()
		g.activeBans()
		bans := slices.DeleteFunc(slices.Clone(bans), func(b Ban) bool {
			return b.Until.After(now) && slices.ContainsFunc(slices.Concat(g.guard.Allow, g.guard.Exempt), b.Client.Overlaps)
		})
		for _, b := range bans {
			if b.Until.After(now) {
				g.bans[b.Client] = b.Until
			} else {
				delete(g.bans, b.Client)
			}
		}
		if !g.guarded {
			return nil
		}
		ctx, cancel := call(ctx)
		defer cancel()
		var failed error
		if g.guard.Shielded() {
			if failed = g.backend.Ban(ctx, bans); failed != nil {
				g.bansUncertain = true
				failed = fmt.Errorf("ban %d clients: %w", len(bans), failed)
			}
		}
		if closeGrants {
			failed = errors.Join(failed, g.closeAll(ctx, func(grant Grant) bool {
				return slices.ContainsFunc(bans, func(b Ban) bool { return b.Until.After(now) && b.Client.Overlaps(grant.Client) })
			}, Banned))
		}
		if failed != nil {
			g.failed(failed)
		}
		return failed
	}})
}

// closeAll ends the grants for which f returns true, and remembers them as pending if the
// firewall fails.
func (g *Gate) closeAll(ctx context.Context, f func(Grant) bool, reason string) error {
	var closed []Grant
	for k, grant := range g.grants {
		if f(grant) {
			g.pendingRevokes[k] = reason
			closed = append(closed, grant)
		}
	}
	g.closures.Close(closed)
	return g.closeLate(ctx)
}

// Bans returns the bans that are in force, sorted by client.
func (g *Gate) Bans(ctx context.Context) ([]Ban, error) {
	bans, err := ask(ctx, g, func(context.Context) ([]Ban, error) { return g.activeBans(), nil })
	slices.SortFunc(bans, func(a, b Ban) int { return a.Client.Compare(b.Client) })
	return bans, err
}

// activeBans forgets the bans that have expired, and returns the others.
func (g *Gate) activeBans() (bans []Ban) {
	for client, until := range g.bans {
		if time.Now().Before(until) {
			bans = append(bans, Ban{client, until})
		} else {
			delete(g.bans, client)
		}
	}
	return bans
}

// reconcileBans makes the bans in the firewall those of the gate. With announce, changes by
// somebody else are reported as a repair. The first call adopts the bans of an earlier run.
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
	for _, b := range g.activeBans() {
		if !right[b.Client] && b.Until.Sub(now) >= nearEnd {
			fix = append(fix, b)
		}
	}
	for part := range slices.Chunk(fix, maxRepaired) {
		if err := g.backend.Ban(ctx, part); err != nil {
			return fmt.Errorf("repair %d bans: %w", len(part), err)
		}
	}
	g.bansAdopted, g.bansUncertain = true, false
	if announce && len(fix) > 0 {
		g.repaired(fmt.Sprintf("somebody has changed bans in the firewall: %d put right", len(fix)))
	}
	return nil
}
