package firewall

import (
	"context"
	"fmt"
	"maps"
	"slices"
)

// Configure replaces the guard. Grants of doors that are still in guard stay valid,
// including those that the firewall holds from an earlier run; other grants end.
func (g *Gate) Configure(ctx context.Context, guard Guard) error {
	return g.wait(ctx, request{exclusive: func(ctx context.Context) error { return g.configure(ctx, guard) }})
}

// configure is Configure in Run.
func (g *Gate) configure(ctx context.Context, guard Guard) error {
	stays := func(k key) bool { return covers(guard, k) }
	g.countTraffic(ctx, g.running(func(k key) bool { return !stays(k) }))
	if err := g.put(ctx, guard, g.running(stays)); err != nil {
		if g.guarded { // it is unknown which of the two guards is in force
			g.failed(g.put(ctx, g.guard, g.running(func(key) bool { return true })))
		}
		return fmt.Errorf("guard the doors: %w", err)
	}
	var gone []Grant
	for k, grant := range g.grants {
		if !stays(k) {
			gone = append(gone, grant)
		}
	}
	g.closures.Close(gone)
	g.guard, g.guarded, g.guardMissing = guard, true, false
	g.bansUncertain = true // a set of bans may be new
	for k, grant := range g.grants {
		if !stays(k) {
			g.forget(grant, DoorRemoved)
		}
	}
	return g.sync(ctx)
}

func (g *Gate) put(ctx context.Context, guard Guard, grants []Grant) error {
	ctx, cancel := call(ctx)
	defer cancel()
	return g.backend.Guard(ctx, guard, grants)
}

// Unguard removes the guard, and with it all grants, until the next Configure.
func (g *Gate) Unguard(ctx context.Context) error {
	defer g.closures.Settle(ctx)
	return g.wait(ctx, request{exclusive: func(ctx context.Context) error {
		ctx, cancel := call(ctx)
		defer cancel()
		g.closures.Close(slices.Collect(maps.Values(g.grants)))
		g.countTraffic(ctx, g.running(func(key) bool { return true }))
		if err := g.backend.Unguard(ctx); err != nil {
			return fmt.Errorf("remove the guard: %w", err)
		}
		g.guarded, g.failing, g.guardMissing, g.pendingRepair = false, nil, false, ""
		for _, grant := range g.grants {
			g.forget(grant, Unguarding)
		}
		return nil
	}})
}
