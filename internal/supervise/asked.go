package supervise

import (
	"context"
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"webknock/firewall"
	"webknock/internal/confine"
	"webknock/internal/seam"
)

// UseCertificates implements seam.Front.
func (f *Front) UseCertificates(ctx context.Context, address string, all []seam.Certificate) error {
	f.configuring.Lock()
	defer f.configuring.Unlock()
	f.mu.Lock()
	if f.current != nil {
		f.current = f.current.with(address, all)
	}
	f.mu.Unlock()
	if p := f.running.Load(); p != nil {
		return p.UseCertificates(ctx, address, all)
	}
	return nil // the next process gets them
}

// with returns a setting with other certificates for a listener.
func (s setting) with(address string, all []seam.Certificate) *setting {
	s.configuration.Listeners = slices.Clone(s.configuration.Listeners)
	for i, l := range s.configuration.Listeners {
		if l.Address == address && l.TLS != nil {
			changed := *l.TLS
			changed.Certificates = all
			s.configuration.Listeners[i].TLS = &changed
		}
	}
	return &s
}

// UseChallenges implements seam.Front.
func (f *Front) UseChallenges(ctx context.Context, pending []seam.Challenge) error {
	f.configuring.Lock()
	defer f.configuring.Unlock()
	f.mu.Lock()
	f.challenges = pending
	f.mu.Unlock()
	if p := f.running.Load(); p != nil {
		return p.UseChallenges(ctx, pending)
	}
	return nil
}

// WatchKnocks implements seam.Front.
func (f *Front) WatchKnocks(wanted bool) {
	f.mu.Lock()
	f.watched = wanted
	f.mu.Unlock()
	if p := f.running.Load(); p != nil {
		p.WatchKnocks(wanted)
	}
}

// Ping implements seam.Front.
func (f *Front) Ping(ctx context.Context) error {
	p := f.running.Load()
	if p == nil {
		return f.down()
	}
	return p.Ping(ctx)
}

func (f *Front) down() error {
	if why := f.ended.Load(); why != nil {
		return errDown
	}
	return seam.ErrStopped
}

// Clients implements seam.Front. Without a process there are none.
func (f *Front) Clients(ctx context.Context) ([]seam.Client, error) {
	p := f.running.Load()
	if p == nil {
		if err := f.down(); err != errDown {
			return nil, err
		}
		return nil, nil
	}
	return p.Clients(ctx)
}

// Recent implements seam.Front. Of what an ended process has remembered nothing is left.
func (f *Front) Recent(ctx context.Context, client netip.Addr) (seam.Recent, error) {
	p := f.running.Load()
	if p == nil {
		return seam.Recent{}, f.down()
	}
	return p.Recent(ctx, client)
}

// State implements seam.Front. Its counts go on when one process follows another.
func (f *Front) State() seam.State {
	f.stating.Lock()
	defer f.stating.Unlock()
	p := f.running.Load()
	var s seam.State
	if p != nil {
		counted := p.State()
		p.last.Store(&counted)
		s = counted
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if p != f.running.Load() { // it has ended meanwhile, and was counted
		s = seam.State{}
	}
	if why := f.ended.Load(); why != nil {
		s.Problems = append(s.Problems, "no knock is heard: the front, which receives them, has ended and is being started again ("+*why+")")
	}
	return f.before.plus(s)
}

// Processes describes the process that runs, if one does.
func (f *Front) Processes() []confine.Info {
	if p := f.running.Load(); p != nil {
		return []confine.Info{p.Info()}
	}
	return nil
}

// totals are counts of processes that have ended.
type totals struct {
	losses map[string]seam.Loss
	knocks map[seam.KnockCount]uint64 // by listener and outcome
}

func newTotals() totals {
	return totals{losses: map[string]seam.Loss{}, knocks: map[seam.KnockCount]uint64{}}
}

func (t totals) add(s seam.State) {
	for _, l := range s.Losses {
		l.Count += t.losses[l.Kind].Count
		t.losses[l.Kind] = l
	}
	for _, k := range s.Knocks {
		t.knocks[seam.KnockCount{Listener: k.Listener, Outcome: k.Outcome}] += k.Count
	}
}

func (t totals) plus(s seam.State) seam.State {
	losses, knocks := maps.Clone(t.losses), maps.Clone(t.knocks)
	all := s
	all.Losses, all.Knocks = nil, nil
	for _, l := range s.Losses {
		l.Count += losses[l.Kind].Count
		delete(losses, l.Kind)
		all.Losses = append(all.Losses, l)
	}
	for _, kind := range slices.Sorted(maps.Keys(losses)) {
		all.Losses = append(all.Losses, losses[kind])
	}
	for _, k := range s.Knocks {
		key := seam.KnockCount{Listener: k.Listener, Outcome: k.Outcome}
		k.Count += knocks[key]
		delete(knocks, key)
		all.Knocks = append(all.Knocks, k)
	}
	for key, n := range knocks {
		key.Count = n
		all.Knocks = append(all.Knocks, key)
	}
	return all
}

// AdoptBans implements seam.Front. A process that starts later asks for those that hold
// then.
func (f *Front) AdoptBans(bans []firewall.Ban) {
	if p := f.running.Load(); p != nil {
		p.AdoptBans(bans)
	}
}

// Unban implements seam.Front.
func (f *Front) Unban(client netip.Prefix) {
	if p := f.running.Load(); p != nil {
		p.Unban(client)
	}
}

// sameNeeds reports whether the process for one configuration will do for another.
func sameNeeds(a, b seam.Configuration) bool {
	return reflect.DeepEqual(NeedsOf(a), NeedsOf(b))
}
