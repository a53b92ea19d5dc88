package firewall

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Memory is a backend that touches no firewall: for dry runs, and for tests of
// what stands on a backend.
type Memory struct {
	changed chan By

	mu      sync.Mutex
	guard   *Guard // nil: nothing is guarded
	grants  map[key]Held
	bans    map[netip.Prefix]time.Time
	foreign map[netip.Prefix]bool // of bans
	asleep  time.Duration
}

// NewMemory returns a backend that guards nothing yet.
func NewMemory() *Memory { return &Memory{changed: make(chan By, 1)} }

var _ Backend = (*Memory)(nil)

// Guard implements Backend.
func (m *Memory) Guard(_ context.Context, g Guard, grants []Grant) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	kept := map[key]Held{}
	for _, grant := range grants {
		if covers(g, keyOf(grant)) && grant.Expires.After(time.Now()) {
			kept[keyOf(grant)] = held(grant)
		}
	}
	for k, h := range m.running() {
		if hasDoor(g, k.door) {
			kept[k] = h
		}
	}
	m.guard, m.grants = &g, kept
	return nil
}

// Commit implements Backend.
func (m *Memory) Commit(_ context.Context, changes []Change) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.guard == nil {
		return ErrNotGuarded
	}
	after := m.running()
	for _, c := range changes {
		k := keyOf(c.Grant)
		before := after[k]
		switch {
		case !hasDoor(*m.guard, k.door):
			return fmt.Errorf("door %s: %w", k.door, ErrNoDoor)
		case c.Close:
			delete(after, k)
		case c.Grant.Expires.After(time.Now()):
			g := c.Grant
			g.Packets, g.Bytes = max(g.Packets, before.Packets), max(g.Bytes, before.Bytes)
			after[k] = held(g)
		}
	}
	m.grants = after
	return nil
}

// Check implements Backend.
func (m *Memory) Check(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.guard == nil {
		return ErrNotGuarded
	}
	return nil
}

// Read implements Backend.
func (m *Memory) Read(ctx context.Context) ([]Held, error) {
	if err := m.Check(ctx); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.running())), nil
}

// Traffic implements Backend.
func (m *Memory) Traffic(ctx context.Context, grants []Grant) ([]Grant, error) {
	if err := m.Check(ctx); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	running := m.running()
	var counted []Grant
	for _, g := range grants {
		if h, ok := running[keyOf(g)]; ok && h.ID == g.ID {
			counted = append(counted, h.Grant)
		}
	}
	return counted, nil
}

// Ban implements Backend.
func (m *Memory) Ban(_ context.Context, bans []Ban) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.guard == nil {
		return ErrNotGuarded
	}
	if m.bans == nil {
		m.bans = map[netip.Prefix]time.Time{}
	}
	maps.DeleteFunc(m.bans, func(_ netip.Prefix, until time.Time) bool { return !until.After(time.Now()) })
	for _, b := range bans {
		m.bans[b.Client] = b.Until
		delete(m.foreign, b.Client)
	}
	return nil
}

// Bans implements Backend.
func (m *Memory) Bans(context.Context) (ours, foreign []Ban, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for client, until := range m.bans {
		switch {
		case !until.After(time.Now()):
		case m.foreign[client]:
			foreign = append(foreign, Ban{client, until})
		default:
			ours = append(ours, Ban{client, until})
		}
	}
	return ours, foreign, nil
}

// EndSessions implements Backend.
func (m *Memory) EndSessions(context.Context, []Grant) error { return nil }

// Expel implements Backend.
func (m *Memory) Expel(context.Context, []Grant) error { return nil }

// Changed implements Backend.
func (m *Memory) Changed() <-chan By { return m.changed }

// Asleep implements Backend.
func (m *Memory) Asleep() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asleep
}

// Unguard implements Backend.
func (m *Memory) Unguard(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.guard, m.grants, m.bans, m.foreign = nil, nil, nil, nil
	return nil
}

// Close implements Backend.
func (m *Memory) Close() error { return nil }

// Flush does what somebody else's flush of the firewall does.
func (m *Memory) Flush() {
	m.Unguard(context.Background())
	m.signal()
}

// Put does what somebody else does who adds an element, or replaces one.
func (m *Memory) Put(h Held) {
	m.mu.Lock()
	m.grants[keyOf(h.Grant)] = h
	m.mu.Unlock()
	m.signal()
}

// Take does what somebody else does who deletes an element.
func (m *Memory) Take(door string, client netip.Prefix) {
	m.mu.Lock()
	delete(m.grants, key{door, client})
	m.mu.Unlock()
	m.signal()
}

// PutBan does what somebody else does who bans a client, or lifts a ban whose
// time is over.
func (m *Memory) PutBan(b Ban) {
	m.mu.Lock()
	m.bans[b.Client] = b.Until
	m.foreign = map[netip.Prefix]bool{b.Client: true}
	m.mu.Unlock()
	m.signal()
}

// Suspend does what a suspend of the machine does, during which the clock of
// the process stands still.
func (m *Memory) Suspend(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asleep += d
	for k, h := range m.grants {
		h.Expires = h.Expires.Add(-d)
		m.grants[k] = h
	}
}

func (m *Memory) signal() {
	select {
	case m.changed <- By{Process: "nft", PID: 4711}:
	default:
	}
}

// held returns a grant as the firewall holds it.
func held(g Grant) Held { return Held{Grant: g, Origin: Ours, Ends: g.Expires} }

// running returns a copy of what has not ended.
func (m *Memory) running() map[key]Held {
	running := make(map[key]Held, len(m.grants))
	for k, h := range m.grants {
		if h.Ends.After(time.Now()) {
			running[k] = h
		}
	}
	return running
}

// covers reports whether a grant for a door and a client is one in g: the door
// may be gone, or cover more or less of an address than it did.
func covers(g Guard, k key) bool {
	door := g.Door(k.door)
	return door != nil && door.Scope(k.client.Addr()) == k.client
}

func hasDoor(g Guard, name string) bool { return g.Door(name) != nil }
