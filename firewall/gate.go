package firewall

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// A Gate owns the grants. One goroutine, in Run, decides and commits; whatever
// waits for it meanwhile is committed as one transaction. The firewall holds
// the truth over restarts: the gate takes over the grants that it finds when it
// starts. From then on it knows them all. It looks at the firewall when somebody
// else has changed it, after every failure and now and then, puts back what is
// missing and deletes what it does not know.
type Gate struct {
	backend  Backend
	log      *slog.Logger
	observe  func(Event)
	orders   chan order
	stopped  chan struct{}
	apart    time.Duration // at least, between two transactions
	closures Closures

	// What follows belongs to Run.
	guard       Guard
	guarded     bool
	grants      map[key]Grant
	count       map[string]int // grants by door
	ids         map[string]key
	ends        ends
	closing     map[key]string             // grants to be closed, and why, that the firewall would not close
	ended       map[key]time.Time          // grants that the firewall may still hold for a moment, and since when they have ended here
	bans        map[netip.Prefix]time.Time // that hold, and until when
	cut         []Grant                    // grants that have ended, whose sessions are to end
	ending      *sessionEnder
	committed   time.Time     // when the last transaction was over
	failing     error         // the latest failure, until the firewall is known to be right
	complained  time.Time     // when a failure was logged last
	complaining bool          // and its end was not yet
	exposed     bool          // the guard could not be put back
	adopted     bool          // the grants of an earlier run have been taken over
	bansAdopted bool          // and its bans
	unsure      bool          // some bans may not be as told
	asleep      time.Duration // in which the machine was suspended, as far as ends have been brought forward
	by          By            // who has changed the firewall, of the look at it that goes on
	repairs     repairs
	untold      string // a repair that is not yet whole
}

// key tells grants apart: there is one for a door and a client.
type key struct {
	door   string
	client netip.Prefix
}

func keyOf(g Grant) key { return key{g.Door, g.Client} }

// An Event is something that happened to a grant or to the guard.
type Event struct {
	Kind    EventKind
	Time    time.Time
	Grant   Grant  // zero in a Repaired
	Reason  string // of a Closed or a Repaired
	Repairs int    // that a Repaired tells of
	Cause   any    // of the OpenRequest that opened or extended the grant
}

// EventKind says what happened.
type EventKind string

// What may happen.
const (
	Opened   EventKind = "grant.opened"
	Extended EventKind = "grant.extended"
	Closed   EventKind = "grant.closed"
	Adopted  EventKind = "grant.adopted"
	Repaired EventKind = "repair"
)

// Why a grant was closed.
const (
	Expired     = "expired"
	ByAdmin     = "closed by an administrator"
	BySequence  = "closed by a sequence"
	DoorRemoved = "its door was removed or changed"
	Banned      = "its client was banned"
	Unguarding  = "the guard was taken away"
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

const (
	maxOrders      = 4096                   // orders that may wait
	maxBatch       = 1024                   // orders committed as one transaction
	groupTime      = time.Millisecond       // at least, between two transactions
	backendTimeout = 5 * time.Second        // for one call of the backend
	stopPatience   = time.Second            // for all calls of the backend after the stop
	endedMemory    = 2 * time.Second        // for which the firewall's clock may be behind
	pollInterval   = 10 * time.Second       // at least, between two looks at all that there is, when nobody is seen to have changed anything
	minRetry       = 50 * time.Millisecond  // after a first failure
	maxRetry       = 5 * time.Second        // after many
	maxExposed     = 100 * time.Millisecond // after many, while the guard is not there
)

// NewGate returns a gate that guards nothing until Configure. Observe is
// called from Run with every event; it must neither block nor call the gate.
func NewGate(backend Backend, log *slog.Logger, observe func(Event)) *Gate {
	return &Gate{
		backend: backend, log: log, observe: observe,
		orders:   make(chan order, maxOrders),
		stopped:  make(chan struct{}),
		ending:   newSessionEnder(backend, log),
		apart:    groupTime,
		closures: forgetful{},
		asleep:   backend.Asleep(),
		grants:   map[key]Grant{},
		count:    map[string]int{},
		ids:      map[string]key{},
		closing:  map[key]string{},
		ended:    map[key]time.Time{},
		bans:     map[netip.Prefix]time.Time{},
	}
}

// An order is work for Run: either a part of a transaction or something that
// is done alone.
type order struct {
	stage func(*plan) error
	alone func(context.Context) error
	done  func(error) // called once, from Run or not at all if the gate stops
}

// Run works until stop is done, commits what waits, and returns. Doors stay
// guarded and grants go on. A backend that does not answer holds the return up
// for stopPatience at most.
func (g *Gate) Run(stop context.Context) {
	defer close(g.stopped)
	// What is begun when the gate stops is brought to an end, if that does not
	// take long.
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(stop))
	defer cancel(nil)
	defer context.AfterFunc(stop, func() {
		late := time.AfterFunc(stopPatience, func() { cancel(errStopping) })
		context.AfterFunc(ctx, func() { late.Stop() })
	})()
	defer g.ending.start(ctx)()
	poll := time.NewTimer(pollInterval)
	defer poll.Stop()
	end := time.NewTimer(0)
	defer end.Stop()
	retry := minRetry
	interval := pollInterval
	for failing := false; ; {
		next := pollInterval
		if len(g.ends) > 0 {
			next = time.Until(g.ends[0].at)
		}
		if sum := g.sumRepairs(time.Now()); sum > 0 {
			next = min(next, sum)
		}
		end.Reset(next)
		select {
		case <-stop.Done():
			for len(g.orders) > 0 && ctx.Err() == nil {
				g.work(ctx, nil)
			}
			g.endSessions()
			return
		case o := <-g.orders:
			if o.stage != nil {
				// One that comes alone is carried out at once; of many that come
				// one after the other, some share a transaction.
				time.Sleep(g.apart - time.Since(g.committed))
			}
			g.work(ctx, []order{o})
		case g.by = <-g.backend.Changed():
			g.sync(ctx)
			g.by = By{}
		case <-poll.C:
			began := time.Now()
			g.sync(ctx)
			// A look takes longer the more grants there are; it may cost a
			// twentieth of a processor at most.
			interval = max(pollInterval, 20*time.Since(began))
			if failing = g.failing != nil; failing {
				if g.exposed {
					retry = min(retry, maxExposed)
				}
				poll.Reset(retry)
				retry = min(2*retry, maxRetry)
			} else {
				retry = minRetry
				poll.Reset(interval)
			}
		case <-end.C:
			g.expire(time.Now())
		}
		if now := g.failing != nil; now != failing {
			failing, retry = now, minRetry
			if failing {
				poll.Reset(minRetry)
			} else {
				poll.Reset(interval)
			}
		}
		g.endSessions()
	}
}

// Configure puts guard up instead of what was guarded before. Grants of doors
// that are in guard go on, those the firewall holds from an earlier run
// included; those of other doors end.
func (g *Gate) Configure(ctx context.Context, guard Guard) error {
	return g.wait(ctx, order{alone: func(ctx context.Context) error { return g.configure(ctx, guard) }})
}

// Unguard takes the guard away, until the next Configure.
func (g *Gate) Unguard(ctx context.Context) error {
	defer g.closures.Settle(ctx)
	return g.wait(ctx, order{alone: func(ctx context.Context) error {
		ctx, cancel := call(ctx)
		defer cancel()
		g.closures.Close(slices.Collect(maps.Values(g.grants)))
		if err := g.backend.Unguard(ctx); err != nil {
			return fmt.Errorf("take the guard away: %w", err)
		}
		g.guarded, g.failing, g.exposed, g.untold = false, nil, false, ""
		for _, grant := range g.grants {
			g.forget(grant, Unguarding)
		}
		return nil
	}})
}

// Open lets a client through doors, and returns its grants when the firewall
// has them. A grant that runs is extended, never shortened.
func (g *Gate) Open(ctx context.Context, r OpenRequest) ([]Grant, error) {
	var grants []Grant
	err := g.wait(ctx, order{stage: g.open(r, &grants)})
	if len(r.Closes) > 0 {
		g.closures.Settle(ctx)
	}
	if err != nil {
		return nil, err
	}
	return grants, nil
}

// Submit does what Open does, but does not wait. Done is called from Run, and
// must not block; or at once, with ErrBusy or ErrStopped; or never, if the gate
// stops before it gets to it.
func (g *Gate) Submit(r OpenRequest, done func([]Grant, error)) {
	var grants []Grant
	o := order{stage: g.open(r, &grants), done: func(err error) { done(grants, err) }}
	select {
	case <-g.stopped: // otherwise it might wait in the queue for nobody
		done(nil, ErrStopped)
		return
	default:
	}
	select {
	case g.orders <- o:
	default:
		done(nil, ErrBusy)
	}
}

// Close ends a grant before its time. If the firewall cannot be told, Close
// returns the error, and the gate tries until the grant's time is over. When it
// returns, that the grant is closed is remembered over restarts, if that can be.
func (g *Gate) Close(ctx context.Context, id string) error {
	defer g.closures.Settle(ctx)
	return g.wait(ctx, order{stage: func(p *plan) error {
		grant, ok := p.grant(g.ids[id])
		if !ok {
			return fmt.Errorf("grant %s: %w", id, ErrNoGrant)
		}
		p.close(grant, ByAdmin)
		return nil
	}})
}

// Grants reads the truth and returns all grants, by door and client.
func (g *Gate) Grants(ctx context.Context) ([]Grant, error) {
	var all []Grant
	err := g.wait(ctx, order{alone: func(ctx context.Context) error {
		if err := g.sync(ctx); err != nil {
			return err
		}
		for _, grant := range g.grants {
			all = append(all, grant)
		}
		return nil
	}})
	slices.SortFunc(all, func(a, b Grant) int {
		return cmp.Or(cmp.Compare(a.Door, b.Door), a.Client.Compare(b.Client))
	})
	return all, err
}

// Count returns how many grants each door has, as the gate knows it.
func (g *Gate) Count(ctx context.Context) (count map[string]int, err error) {
	err = g.wait(ctx, order{alone: func(context.Context) error {
		g.expire(time.Now())
		count = maps.Clone(g.count)
		return nil
	}})
	return count, err
}

// Ban keeps clients from the listeners until a time, or lifts a ban whose time
// is over. Networks that never need a grant, and what the shield exempts, are
// not banned. If closeGrants is set the clients' grants end as well. While
// nothing is guarded bans wait for the next guard. If the firewall cannot be
// told, Ban returns the error, and the gate tries until it can.
func (g *Gate) Ban(ctx context.Context, bans []Ban, closeGrants bool) error {
	if closeGrants {
		defer g.closures.Settle(ctx)
	}
	return g.wait(ctx, order{alone: func(ctx context.Context) error {
		now := time.Now()
		g.banned()
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
				g.unsure = true
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

// closeAll ends the grants for which f returns true.
func (g *Gate) closeAll(ctx context.Context, f func(Grant) bool, reason string) error {
	var closed []Grant
	for k, grant := range g.grants {
		if f(grant) {
			g.closing[k] = reason
			closed = append(closed, grant)
		}
	}
	g.closures.Close(closed)
	return g.closeLate(ctx)
}

// Bans returns the bans that hold, and until when.
func (g *Gate) Bans(ctx context.Context) (bans []Ban, err error) {
	err = g.wait(ctx, order{alone: func(context.Context) error {
		bans = g.banned()
		return nil
	}})
	slices.SortFunc(bans, func(a, b Ban) int { return a.Client.Compare(b.Client) })
	return bans, err
}

// banned forgets the bans whose time is over, and returns the others.
func (g *Gate) banned() (bans []Ban) {
	for client, until := range g.bans {
		if time.Now().Before(until) {
			bans = append(bans, Ban{client, until})
		} else {
			delete(g.bans, client)
		}
	}
	return bans
}

// Ping waits until Run answers.
func (g *Gate) Ping(ctx context.Context) error {
	return g.wait(ctx, order{alone: func(context.Context) error { return nil }})
}

// Guarding reports whether the doors are guarded, and what keeps the gate from
// being sure of the firewall, or nil. It is ErrContested if somebody keeps
// changing what the gate puts right.
func (g *Gate) Guarding(ctx context.Context) (guarded bool, err error) {
	waited := g.wait(ctx, order{alone: func(context.Context) error {
		guarded, err = g.guarded, g.failing
		if err == nil && guarded {
			err = g.contested()
		}
		return nil
	}})
	if waited != nil {
		return false, waited
	}
	return guarded, err
}

// wait has Run carry out an order and returns how that ended.
func (g *Gate) wait(ctx context.Context, o order) error {
	result := make(chan error, 1)
	o.done = func(err error) { result <- err }
	select {
	case g.orders <- o:
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

// work carries out batch and what waits behind it, up to maxBatch orders.
func (g *Gate) work(ctx context.Context, batch []order) {
	for len(batch) < maxBatch && len(g.orders) > 0 {
		batch = append(batch, <-g.orders)
	}
	for len(batch) > 0 {
		n := slices.IndexFunc(batch, func(o order) bool { return o.alone != nil })
		switch n {
		case 0:
			batch[0].done(batch[0].alone(ctx))
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

// commit carries out orders as one transaction. After a failure the truth is
// read and the transaction tried once more; then its halves are, so that one
// order that cannot be carried out keeps no other from it.
func (g *Gate) commit(ctx context.Context, batch []order) {
	p, batch, err := g.try(ctx, batch)
	if err != nil && g.sync(ctx) == nil {
		p, batch, err = g.try(ctx, batch)
	}
	if half := len(batch) / 2; err != nil && g.failing == nil && half > 0 {
		g.commit(ctx, batch[:half])
		g.commit(ctx, batch[half:])
		return
	}
	if err != nil {
		for _, e := range p.events {
			if e.Kind == Closed {
				g.closing[keyOf(e.Grant)] = e.Reason
				g.failed(err)
			}
		}
	}
	for _, o := range batch {
		o.done(err)
	}
}

// try commits a plan of the orders. It is done with those that cannot be
// planned, and returns the others.
func (g *Gate) try(ctx context.Context, batch []order) (plan, []order, error) {
	p := plan{gate: g, now: time.Now(), after: map[key]*Grant{}, count: map[string]int{}}
	batch = slices.DeleteFunc(batch, func(o order) bool {
		err := o.stage(&p)
		if err != nil {
			o.done(err)
		}
		return err != nil
	})
	if changes := p.changes(); len(changes) > 0 {
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

// errStopping is why calls of the backend end early.
var errStopping = errors.New("the gate stops")

// call bounds a call of the backend.
func call(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, backendTimeout)
}

// open returns the stage of an order that opens doors.
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
			grant, err := p.permit(door, r)
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

// A plan is a transaction in the making: what its orders leave of the grants.
type plan struct {
	gate   *Gate
	now    time.Time
	order  []key          // of after, in the order of the first change
	after  map[key]*Grant // nil: closed
	count  map[string]int // more grants than before, by door
	events []Event
}

// grant returns a grant as the plan leaves it, and whether it runs.
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

// permit returns the grant that a request gets at a door.
func (p *plan) permit(door *Door, r OpenRequest) (Grant, error) {
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
			return Grant{}, fmt.Errorf("door %s has its %d grants: %w", door.Name, door.MaxGrants, ErrFull)
		}
		grant = Grant{ID: p.gate.newID(), Door: door.Name, Client: door.Scope(r.Client), Opened: p.now}
	}
	grant.Sequence, grant.User = r.Sequence, r.User
	if expires.After(grant.Expires) {
		grant.Expires = expires
	}
	return grant, nil
}

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

func (p *plan) changes() []Change {
	changes := make([]Change, 0, len(p.order))
	for _, k := range p.order {
		if g := p.after[k]; g != nil {
			_, runs := p.gate.grants[k]
			_, ended := p.gate.ended[k]
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

// apply makes the plan what is.
func (p *plan) apply() {
	for _, k := range p.order {
		delete(p.gate.closing, k)
		p.gate.drop(k)
		if g := p.after[k]; g != nil {
			p.gate.keep(*g)
		}
	}
	for _, e := range p.events {
		if e.Kind == Closed {
			p.gate.cutOff(e.Grant)
		}
		p.gate.observe(e)
	}
}

// keep remembers a grant.
func (g *Gate) keep(grant Grant) {
	k := keyOf(grant)
	g.ending.spare(k)
	g.grants[k] = grant
	g.ids[grant.ID] = k
	g.count[k.door]++
	heap.Push(&g.ends, ending{grant.Expires, k})
	if len(g.ends) > 2*len(g.grants)+1024 {
		g.ends = g.ends[:0]
		for k, grant := range g.grants {
			g.ends = append(g.ends, ending{grant.Expires, k})
		}
		heap.Init(&g.ends)
	}
}

// drop no longer remembers a grant.
func (g *Gate) drop(k key) {
	if grant, ok := g.grants[k]; ok {
		delete(g.grants, k)
		delete(g.ids, grant.ID)
		g.count[k.door]--
	}
	delete(g.closing, k)
}

// forget drops a grant that has ended, and says so.
func (g *Gate) forget(grant Grant, reason string) {
	g.drop(keyOf(grant))
	now := time.Now()
	g.ended[keyOf(grant)] = now
	g.cutOff(grant)
	g.observe(Event{Kind: Closed, Time: now, Grant: grant, Reason: reason})
}

// cutOff has the sessions of a grant that has ended end with it, if its door
// asks for that.
func (g *Gate) cutOff(grant Grant) {
	door := g.guard.Door(grant.Door)
	if !g.guarded || door == nil || door.Established != Cut {
		return
	}
	for _, allowed := range g.guard.Allow {
		if allowed.Overlaps(grant.Client) { // they may have begun without the grant
			return
		}
	}
	g.cut = append(g.cut, grant)
}

// endSessions has the sessions of the grants end that were cut off, unless they
// run again. The firewall lets nothing more of them pass, in any case.
func (g *Gate) endSessions() {
	cut := slices.DeleteFunc(g.cut, func(grant Grant) bool { _, runs := g.grants[keyOf(grant)]; return runs })
	g.cut = nil
	g.ending.add(cut)
}

// expire forgets the grants whose time is over. The firewall has closed their
// doors by itself.
func (g *Gate) expire(now time.Time) {
	for len(g.ends) > 0 && !g.ends[0].at.After(now) {
		end := heap.Pop(&g.ends).(ending)
		if grant, ok := g.grants[end.key]; ok && !grant.Expires.After(now) {
			g.forget(grant, Expired)
		}
	}
}

// ends is a heap of the ends of grants, soonest first. A grant that was
// extended or closed leaves an end behind that means nothing.
type ends []ending

type ending struct {
	at  time.Time
	key key
}

func (e ends) Len() int           { return len(e) }
func (e ends) Less(i, j int) bool { return e[i].at.Before(e[j].at) }
func (e ends) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *ends) Push(x any)        { *e = append(*e, x.(ending)) }
func (e *ends) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	*e = (*e)[:last]
	return x
}

// configure puts a guard up, and takes over what the firewall holds.
func (g *Gate) configure(ctx context.Context, guard Guard) error {
	stays := func(k key) bool { return covers(guard, k) }
	if err := g.put(ctx, guard, g.wanted(stays)); err != nil {
		if g.guarded { // what is in force now is unknown
			g.failed(g.put(ctx, g.guard, g.wanted(func(key) bool { return true })))
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
	g.guard, g.guarded, g.exposed = guard, true, false
	g.unsure = true // a set of bans may be new
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

// failed remembers whether the firewall did as told at last, and logs when that
// changes.
func (g *Gate) failed(err error) {
	now := time.Now()
	switch {
	case err != nil && g.failing == nil && now.Sub(g.complained) > sumInterval:
		g.log.Error("the firewall does not do as told; trying until it does", "error", err)
		g.complained, g.complaining = now, true
	case err == nil && g.failing != nil && g.complaining:
		g.log.Info("the firewall does as told again")
		g.complaining = false
	}
	g.failing = err
	if err == nil {
		g.exposed = false
	}
}
