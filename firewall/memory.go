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
	changed chan struct{}

	mu     sync.Mutex
	guard  *Guard // nil: nothing is guarded
	grants map[key]Grant
	bans   map[netip.Prefix]time.Time
}

// NewMemory returns a backend that guards nothing yet.
func NewMemory() *Memory { return &Memory{changed: make(chan struct{}, 1)} }

var _ Backend = (*Memory)(nil)

// Guard implements Backend.
func (m *Memory) Guard(_ context.Context, g Guard, grants []Grant) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	kept := map[key]Grant{}
	for _, grant := range slices.Concat(grants, slices.Collect(maps.Values(m.running()))) {
		if covers(g, keyOf(grant)) && grant.Expires.After(time.Now()) {
			kept[keyOf(grant)] = grant
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
			after[k] = g
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
func (m *Memory) Read(ctx context.Context) ([]Grant, error) {
	if err := m.Check(ctx); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.running())), nil
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
	}
	return nil
}

// Bans implements Backend.
func (m *Memory) Bans(context.Context) (bans []Ban, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for client, until := range m.bans {
		if until.After(time.Now()) {
			bans = append(bans, Ban{client, until})
		}
	}
	return bans, nil
}

// EndSessions implements Backend.
func (m *Memory) EndSessions(context.Context, []Grant) error { return nil }

// Changed implements Backend.
func (m *Memory) Changed() <-chan struct{} { return m.changed }

// Unguard implements Backend.
func (m *Memory) Unguard(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.guard, m.grants, m.bans = nil, nil, nil
	return nil
}

// Close implements Backend.
func (m *Memory) Close() error { return nil }

// Flush does what somebody else's flush of the firewall does.
func (m *Memory) Flush() {
	m.Unguard(context.Background())
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// running returns a copy of the grants that have not expired.
func (m *Memory) running() map[key]Grant {
	running := make(map[key]Grant, len(m.grants))
	for k, g := range m.grants {
		if g.Expires.After(time.Now()) {
			running[k] = g
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
