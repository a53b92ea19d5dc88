package firewall

import (
	"fmt"
	"time"
)

// A plan is a transaction that is being put together: the grants as its requests leave them.
type plan struct {
	gate   *Gate
	now    time.Time
	order  []key          // the keys of after, by their first change
	after  map[key]*Grant // nil: closed
	count  map[string]int // by how much the number of grants grows, by door
	events []Event
}

// grant returns a grant as the plan leaves it, and whether it is valid.
func (p *plan) grant(k key) (Grant, bool) {
	if after, ok := p.after[k]; ok {
		if after == nil {
			return Grant{}, false
		}
		return *after, true
	}
	g, ok := p.gate.grants[k]
	return g, ok && g.Expires.After(p.now)
}

// grantFor returns the grant that a request gets at a door.
func (p *plan) grantFor(door *Door, r OpenRequest) (Grant, error) {
	if to := door.Forward; to.IsValid() && to.Addr().Is4() != r.Client.Unmap().Is4() {
		return Grant{}, fmt.Errorf("door %s: %w", door.Name, ErrForward)
	}
	ttl := r.TTL
	if ttl <= 0 {
		ttl = door.TTL
	}
	expires := p.now.Add(min(ttl, door.MaxTTL))
	grant, runs := p.grant(key{door.Name, door.Scope(r.Client)})
	if !runs {
		p.gate.expire(p.now)
		if p.gate.count[door.Name]+p.count[door.Name] >= door.MaxGrants {
			return Grant{}, fmt.Errorf("door %s is full (max_grants %d): %w", door.Name, door.MaxGrants, ErrFull)
		}
		grant = Grant{ID: p.gate.newID(), Door: door.Name, Client: door.Scope(r.Client), Opened: p.now}
	}
	grant.Sequence, grant.User = r.Sequence, r.User
	if expires.After(grant.Expires) {
		grant.Expires = expires
	}
	return grant, nil
}

// open adds a grant, or extends the one that is valid.
func (p *plan) open(grant Grant, cause any) {
	before, runs := p.grant(keyOf(grant))
	switch {
	case !runs:
		p.set(keyOf(grant), &grant, Event{Kind: Opened, Grant: grant, Cause: cause})
		p.count[grant.Door]++
	case grant.Expires.After(before.Expires):
		p.set(keyOf(grant), &grant, Event{Kind: Extended, Grant: grant, Cause: cause})
	}
}

// close ends a grant.
func (p *plan) close(grant Grant, reason string) {
	p.set(keyOf(grant), nil, Event{Kind: Closed, Grant: grant, Reason: reason})
	p.count[grant.Door]--
}

func (p *plan) set(k key, g *Grant, e Event) {
	if _, ok := p.after[k]; !ok {
		p.order = append(p.order, k)
	}
	p.after[k] = g
	e.Time = p.now
	p.events = append(p.events, e)
}

// changes returns the plan as changes of the backend.
func (p *plan) changes() []Change {
	changes := make([]Change, 0, len(p.order))
	for _, k := range p.order {
		if g := p.after[k]; g != nil {
			_, runs := p.gate.grants[k]
			_, ended := p.gate.recentlyExpired[k]
			changes = append(changes, Change{Grant: *g, New: !runs && !ended && p.gate.failing == nil})
		} else {
			changes = append(changes, Change{Grant: Grant{Door: k.door, Client: k.client}, Close: true})
		}
	}
	return changes
}

// closed returns the grants that the plan closes.
func (p *plan) closed() (closed []Grant) {
	for _, e := range p.events {
		if e.Kind == Closed {
			closed = append(closed, e.Grant)
		}
	}
	return closed
}

// apply takes over the plan into the gate, and sends its events.
func (p *plan) apply() {
	for _, k := range p.order {
		delete(p.gate.pendingRevokes, k)
		p.gate.drop(k)
		if g := p.after[k]; g != nil {
			p.gate.keep(*g)
		}
	}
	for _, e := range p.events {
		if e.Kind == Closed {
			p.gate.queueTermination(e.Grant)
		}
		p.gate.observe(e)
	}
}
