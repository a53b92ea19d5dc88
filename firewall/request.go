package firewall

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// An OpenRequest asks for one client to be let through doors, through all of
// them or none.
type OpenRequest struct {
	Client   netip.Addr
	Doors    []string      // no name twice
	Closes   []string      // doors whose grants for the client end; none of Doors
	TTL      time.Duration // 0: each door's own; longer than a door's MaxTTL: that
	Sequence string        // what asks; empty: an administrator
	User     string
	Cause    any // handed on to the events of what the request opens and extends
}

// A request is work for Run. Exactly one of plan and exclusive is set.
type request struct {
	plan      func(*plan) error           // adds changes to the next transaction
	exclusive func(context.Context) error // runs by itself, between transactions
	done      func(error)                 // is called once, by Run; never if the gate stops first
}

// Open lets a client through doors, and returns its grants when the firewall
// has them. A grant that runs is extended, never shortened.
func (g *Gate) Open(ctx context.Context, r OpenRequest) ([]Grant, error) {
	var grants []Grant
	err := g.wait(ctx, request{plan: g.open(r, &grants)})
	if len(r.Closes) > 0 {
		g.closures.Settle(ctx)
	}
	if err != nil {
		return nil, err
	}
	return grants, nil
}

// Submit does what Open does, but does not wait. Run calls done, which must not
// block. Submit itself calls done with ErrBusy if too many requests wait, and with
// ErrStopped after the gate has stopped. If the gate stops while the request waits,
// nobody calls done.
func (g *Gate) Submit(r OpenRequest, done func([]Grant, error)) {
	var grants []Grant
	queued := request{plan: g.open(r, &grants), done: func(err error) { done(grants, err) }}
	select {
	case <-g.stopped: // nobody reads the queue any more
		done(nil, ErrStopped)
		return
	default:
	}
	select {
	case g.requests <- queued:
	default:
		done(nil, ErrBusy)
	}
}

// Extend has a grant last ttl from now, and returns it when the firewall has that. It never
// shortens a grant, and never goes beyond the door's MaxTTL from now; 0 stands for the
// door's own. What opened the grant, and for whom, stays.
func (g *Gate) Extend(ctx context.Context, id string, ttl time.Duration) (Grant, error) {
	var extended Grant
	err := g.wait(ctx, request{plan: func(p *plan) error {
		k := g.ids[id]
		grant, ok := p.grant(k)
		door := g.guard.Door(k.door)
		if _, revoked := g.pendingRevokes[k]; !ok || revoked || door == nil {
			return fmt.Errorf("grant %s: %w", id, ErrNoGrant)
		}
		if !g.guarded {
			return ErrUnguarded
		}
		if ttl <= 0 {
			ttl = door.TTL
		}
		if expires := p.now.Add(min(ttl, door.MaxTTL)); expires.After(grant.Expires) {
			grant.Expires = expires
		}
		p.open(grant, nil)
		extended = grant
		return nil
	}})
	if err != nil {
		return Grant{}, err
	}
	return extended, nil
}

// Close ends a grant early. If the firewall cannot be changed, Close returns the
// error and the gate retries until the grant expires. Close returns when the
// closures have stored that the grant is closed, or have failed to.
func (g *Gate) Close(ctx context.Context, id string) error {
	defer g.closures.Settle(ctx)
	return g.wait(ctx, request{plan: func(p *plan) error {
		grant, ok := p.grant(g.ids[id])
		if !ok {
			return fmt.Errorf("grant %s: %w", id, ErrNoGrant)
		}
		p.close(grant, ByAdmin)
		return nil
	}})
}

// Grants compares the gate with the firewall and returns all grants, sorted by door
// and client.
func (g *Gate) Grants(ctx context.Context) ([]Grant, error) {
	all, err := ask(ctx, g, func(ctx context.Context) ([]Grant, error) {
		if err := g.sync(ctx); err != nil {
			return nil, err
		}
		return slices.Collect(maps.Values(g.grants)), nil
	})
	slices.SortFunc(all, func(a, b Grant) int {
		return cmp.Or(cmp.Compare(a.Door, b.Door), a.Client.Compare(b.Client))
	})
	return all, err
}

// Count returns how many grants each door has. It does not ask the firewall.
func (g *Gate) Count(ctx context.Context) (map[string]int, error) {
	return ask(ctx, g, func(context.Context) (map[string]int, error) {
		g.expire(time.Now())
		return maps.Clone(g.count), nil
	})
}

// ask returns what f returns, which runs in Run. After ctx has ended f may still run,
// so it must not write to variables of the caller.
func ask[T any](ctx context.Context, g *Gate, f func(context.Context) (T, error)) (T, error) {
	answer := make(chan T, 1)
	err := g.wait(ctx, request{exclusive: func(ctx context.Context) error {
		value, err := f(ctx)
		answer <- value
		return err
	}})
	if err != nil {
		var none T
		return none, err
	}
	return <-answer, nil
}

// wait queues a request and returns its result.
func (g *Gate) wait(ctx context.Context, r request) error {
	result := make(chan error, 1)
	r.done = func(err error) { result <- err }
	select {
	case g.requests <- r:
	case <-g.stopped:
		return ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-result:
		return err
	case <-g.stopped:
		return ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
}

// process carries out batch and the requests that wait behind it, up to maxBatch.
func (g *Gate) process(ctx context.Context, batch []request) {
	for len(batch) < maxBatch && len(g.requests) > 0 {
		batch = append(batch, <-g.requests)
	}
	for len(batch) > 0 {
		n := slices.IndexFunc(batch, func(r request) bool { return r.exclusive != nil })
		switch n {
		case 0:
			batch[0].done(batch[0].exclusive(ctx))
			n = 1
		case -1:
			n = len(batch)
			fallthrough
		default:
			g.commit(ctx, batch[:n:n])
		}
		batch = batch[n:]
	}
}

// commit carries out requests as one transaction. If that fails it reads the firewall
// and retries once, then commits each half of the batch by itself, so that one request
// which the firewall refuses does not make the others fail.
func (g *Gate) commit(ctx context.Context, batch []request) {
	p, batch, err := g.attempt(ctx, batch)
	if err != nil && g.sync(ctx) == nil {
		p, batch, err = g.attempt(ctx, batch)
	}
	if half := len(batch) / 2; err != nil && g.failing == nil && half > 0 {
		g.commit(ctx, batch[:half])
		g.commit(ctx, batch[half:])
		return
	}
	if err != nil {
		for _, e := range p.events {
			if e.Kind == Closed {
				g.pendingRevokes[keyOf(e.Grant)] = e.Reason
				g.failed(err)
			}
		}
	}
	for _, r := range batch {
		r.done(err)
	}
}

// attempt plans the requests and commits the plan. It answers those that cannot be
// planned, and returns the others.
func (g *Gate) attempt(ctx context.Context, batch []request) (plan, []request, error) {
	p := plan{gate: g, now: time.Now(), after: map[key]*Grant{}, count: map[string]int{}}
	batch = slices.DeleteFunc(batch, func(r request) bool {
		err := r.plan(&p)
		if err != nil {
			r.done(err)
		}
		return err != nil
	})
	if changes := p.changes(); len(changes) > 0 {
		g.countClosing(ctx, &p)
		g.closures.Close(p.closed())
		ctx, cancel := call(ctx)
		defer cancel()
		err := g.backend.Commit(ctx, changes)
		g.committed = time.Now()
		if err != nil {
			return p, batch, fmt.Errorf("change %d grants: %w", len(changes), err)
		}
	}
	p.apply()
	return p, batch, nil
}

// open returns the plan of a request that opens doors. It stores the grants in *grants.
func (g *Gate) open(r OpenRequest, grants *[]Grant) func(*plan) error {
	return func(p *plan) error {
		if !g.guarded {
			return ErrUnguarded
		}
		opened := make([]Grant, 0, len(r.Doors))
		for _, name := range r.Doors {
			door := g.guard.Door(name)
			if door == nil {
				return fmt.Errorf("door %s: %w", name, ErrNoDoor)
			}
			grant, err := p.grantFor(door, r)
			if err != nil {
				return err
			}
			opened = append(opened, grant)
		}
		for _, name := range r.Closes { // before anything is planned: all or nothing
			if g.guard.Door(name) == nil {
				return fmt.Errorf("door %s: %w", name, ErrNoDoor)
			}
		}
		for _, name := range r.Closes {
			door := g.guard.Door(name)
			if grant, runs := p.grant(key{name, door.Scope(r.Client)}); runs {
				p.close(grant, BySequence)
			}
		}
		for _, grant := range opened {
			p.open(grant, r.Cause)
		}
		*grants = opened
		return nil
	}
}
