// Package front is the half of the daemon that talks to strangers: listeners,
// TLS, covers, sequences, one-time codes, the counting for bans.
//
// A [Front] does what package seam has the keeper ask for, and asks the keeper
// for what it may not do itself. A knock goes this way:
//
//	httpd.Listener → shards.post → queue of its client's shard → shard.read
//	→ pipeline: prefetch, ban, codes, progress → completions → seam.Keeper
//
// Start reading at shard.read.
package front

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"webknock/httpd"
	"webknock/internal/banlist"
	"webknock/internal/onetime"
	"webknock/internal/seam"
	"webknock/sequence/track"
)

var _ seam.Front = (*Front)(nil)

// Options are what a Front is made of.
type Options struct {
	Keeper seam.Keeper
	Log    *slog.Logger
}

// A Front talks to strangers. The first Commit starts it.
type Front struct {
	keeper      seam.Keeper
	log         *slog.Logger
	verifier    *onetime.Verifier
	shards      *shards
	completions *completions
	refused     httpd.Refused // by all listeners
	challenges  challenges
	current     atomic.Pointer[state]

	configuring sync.Mutex // held while what follows changes
	prepared    *state     // nil: nothing waits for Commit or Abort
	started     bool
	stopping    bool // nothing is prepared any more
	stopped     bool
	stopParts   []func(context.Context) error
}

// A state is a configuration with what serves it.
type state struct {
	cfg       seam.Configuration
	rules     *rules
	listeners []*listener
}

// New returns a front that does nothing until its first Commit.
func New(o Options) *Front {
	verifier := onetime.New(record{o.Keeper}, o.Log)
	f := &Front{
		keeper: o.Keeper, log: o.Log, verifier: verifier,
		completions: newCompletions(o.Keeper, verifier, o.Log),
	}
	f.shards = newShards(0, nil, verifier, f.completions.add, f.ban)
	f.shards.watch = newWatch(o.Keeper)
	f.current.Store(&state{})
	return f
}

// Prepare implements seam.Front.
func (f *Front) Prepare(_ context.Context, cfg seam.Configuration, sockets []seam.Socket) error {
	f.configuring.Lock()
	defer f.configuring.Unlock()
	if f.stopping {
		return seam.ErrStopped
	}
	f.abort()
	current := f.current.Load()
	rules, err := newRules(cfg, current.rules)
	if err != nil {
		return err
	}
	listeners, err := f.take(cfg, sockets, current.listeners)
	if err != nil {
		return err
	}
	f.prepared = &state{cfg, rules, listeners}
	return nil
}

// Abort implements seam.Front.
func (f *Front) Abort() {
	f.configuring.Lock()
	defer f.configuring.Unlock()
	f.abort()
}

func (f *Front) abort() {
	if f.prepared != nil {
		closeNew(f.prepared.listeners, f.current.Load().listeners)
		f.prepared = nil
	}
}

// Commit implements seam.Front.
func (f *Front) Commit(ctx context.Context) error {
	f.configuring.Lock()
	defer f.configuring.Unlock()
	if f.stopping {
		return seam.ErrStopped
	}
	next, old := f.prepared, f.current.Load()
	if next == nil {
		return errors.New("nothing is prepared")
	}
	f.prepared = nil
	f.verifier.Configure(oneTimeUsers(next.cfg.Users))
	f.shards.bound.SetMax(next.cfg.Clients.Max)
	f.current.Store(next)
	if !f.started {
		f.started = true
		f.shards.rules.Store(next.rules)
		f.start("the shards", f.shards.run)
		f.start("the verifier of one-time codes", f.verifier.Run)
	} else if err := f.shards.use(ctx, next.rules); err != nil {
		return err
	}
	serve(next.listeners, old.listeners)
	return nil
}

// start runs a part of the front until Stop, which stops first what was started
// first.
func (f *Front) start(name string, run func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		run(ctx)
	}()
	f.stopParts = append(f.stopParts, func(limit context.Context) error {
		cancel()
		select {
		case <-done:
			return nil
		case <-limit.Done():
			return fmt.Errorf("%s: %w", name, limit.Err())
		}
	})
}

// serve serves the listeners that are new, gives those that stay their options,
// and closes those that are no longer wanted.
func serve(listeners, old []*listener) {
	for _, l := range listeners {
		if l.in(old) {
			l.socket.Use(l.options)
		} else {
			go l.socket.Serve()
		}
	}
	closeNew(old, listeners)
}

// Drain closes the listeners and waits until the shards have read what is in
// their queues. Completions may still wait for their codes to be recorded; Stop
// waits for those too. After it nothing can be prepared.
func (f *Front) Drain(ctx context.Context) error {
	f.configuring.Lock()
	defer f.configuring.Unlock()
	f.abort()
	f.stopping = true
	closeAll(f.current.Load().listeners)
	if !f.started {
		return nil
	}
	if err := f.shards.each(ctx, func(s *shard, _ time.Duration) { s.readQueue() }); !errors.Is(err, seam.ErrStopped) {
		return err
	}
	return nil
}

// Stop implements seam.Front. First the shards stop, which read what is in their
// queues; then the verifier, which records the last used codes; then what waits
// for an answer is handed over.
func (f *Front) Stop(ctx context.Context) error {
	errs := []error{f.Drain(ctx)}
	f.configuring.Lock()
	defer f.configuring.Unlock()
	if f.stopped {
		return errors.Join(errs...)
	}
	f.stopped = true
	for _, stop := range f.stopParts {
		errs = append(errs, stop(ctx))
	}
	f.shards.watch.stop()
	return errors.Join(append(errs, f.completions.stop(ctx))...)
}

// WatchKnocks implements seam.Front.
func (f *Front) WatchKnocks(wanted bool) { f.shards.watch.set(wanted) }

// Ping implements seam.Front.
func (f *Front) Ping(ctx context.Context) error {
	return f.shards.each(ctx, func(*shard, time.Duration) {})
}

// Clients implements seam.Front.
func (f *Front) Clients(ctx context.Context) (all []seam.Client, err error) {
	err = f.shards.each(ctx, func(s *shard, now time.Duration) {
		for _, p := range s.tracker.Progress(now) {
			all = append(all, f.client(p))
		}
	})
	return all, err
}

// client returns the progress of a client as the keeper is told of it.
func (f *Front) client(p track.Progress) seam.Client {
	return seam.Client{
		Client: f.shards.rules.Load().prefix(p.Client), Sequence: p.Machine.Name(), Step: p.Step, Steps: p.Machine.Len(),
		Last: f.shards.origin.Add(p.Last), Expires: f.shards.origin.Add(p.Deadline),
	}
}

// Recent implements seam.Front.
func (f *Front) Recent(ctx context.Context, addr netip.Addr) (seam.Recent, error) {
	rules := f.shards.rules.Load()
	if rules == nil {
		return seam.Recent{}, errors.New("the front has no configuration yet")
	}
	client := rules.client(addr)
	recent := seam.Recent{Client: rules.prefix(client)}
	if until := f.shards.bans.End(addr); time.Now().Before(until) {
		recent.BannedUntil = until
	}
	err := f.shards.do(ctx, f.shards.of(client), func(s *shard, now time.Duration) {
		s.readQueue()
		for _, one := range s.traces.of(client, f.shards.tallies.list()) {
			recent.Knocks = append(recent.Knocks, one.recalled())
		}
		for _, p := range s.tracker.ProgressOf(client, now) {
			recent.Progress = append(recent.Progress, f.client(p))
		}
	})
	return recent, err
}

// State implements seam.Front.
func (f *Front) State() seam.State {
	s := seam.State{Clients: f.shards.bound.Count(), Bans: f.shards.bans.Count(), Losses: f.losses(), Knocks: f.shards.tallies.counts()}
	for _, l := range f.current.Load().listeners {
		s.Connections = append(s.Connections, seam.ConnectionCount{Listener: l.address, Open: l.socket.Open()})
	}
	if err := f.verifier.Problem(); err != nil {
		s.Problems = append(s.Problems, err.Error())
	}
	return s
}

// losses returns what was refused at a bound, lost or wrong.
func (f *Front) losses() []seam.Loss {
	return []seam.Loss{
		{Kind: "heads_too_large", Message: fmt.Sprintf("request heads over %d KiB match nothing: cookies that other ports of this host name have set, perhaps", httpd.MaxHead>>10), Level: slog.LevelWarn, Count: f.refused.TooLarge.Load()},
		{Kind: "heads_too_many_lines", Message: fmt.Sprintf("request heads over %d lines match nothing", httpd.MaxLines), Level: slog.LevelWarn, Count: f.refused.TooManyLines.Load()},
		{Kind: "heads_too_slow", Message: fmt.Sprintf("connections without a whole request head in %v are no knocks", httpd.HeadTimeout), Level: slog.LevelInfo, Count: f.refused.TooSlow.Load()},
		{Kind: "connections_evicted", Message: "connections reset half-read: max_connections is reached", Level: slog.LevelWarn, Count: f.refused.Evicted.Load()},
		{Kind: "connections_starved", Message: "connections reset half-read: descriptors or memory ran out", Level: slog.LevelWarn, Count: f.refused.Starved.Load()},
		{Kind: "knocks", Message: "knocks lost: more than could be read", Level: slog.LevelWarn, Count: f.shards.lost.Load()},
		{Kind: "clients", Message: "clients not tracked: clients.max is reached", Level: slog.LevelWarn, Count: f.shards.full.Load()},
		{Kind: "wrong_codes", Message: "one-time codes or tickets that do not count: wrong, used, too old or of a user who may not", Level: slog.LevelWarn, Count: f.shards.wrong.Load()},
		{Kind: "counts", Message: "clients whose knocks are no longer counted for a ban: there are too many", Level: slog.LevelWarn, Count: f.shards.forgotten.Load()},
		{Kind: "seam", Message: "completions, bans and knocks that the keeper was not told of: it is too slow", Level: slog.LevelError, Count: f.untold()},
		{Kind: "bans", Message: fmt.Sprintf("clients not banned: %d are", banlist.Max), Level: slog.LevelWarn, Count: f.shards.unbanned.Load()},
	}
}

// untold returns how much the keeper was not told of; nothing is lost within a process.
func (f *Front) untold() uint64 {
	if k, ok := f.keeper.(interface{ Lost() uint64 }); ok {
		return k.Lost()
	}
	return 0
}
