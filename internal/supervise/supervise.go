// Package supervise keeps the front running in a process of its own.
//
// To the keeper a [Front] is the other half of the daemon. Behind it is a process that
// may end at any time. Then another one is started and gets what the ended one had:
// the configuration, the listening sockets, bans, challenges, and whether somebody
// reads knocks. Clients in progress start over. Connections that come meanwhile wait
// in the listening sockets.
package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"webknock/firewall"
	"webknock/httpd"
	"webknock/internal/confine"
	"webknock/internal/event"
	"webknock/internal/seam"
)

// A Process is a front in a process of its own.
type Process interface {
	seam.Front
	// Ended is closed when the process has ended, or when nothing more can be asked
	// of it.
	Ended() <-chan struct{}
	// Err says why, when Ended is closed.
	Err() error
	// Close ends the process, and returns when it has ended.
	Close()
	// Info describes the process.
	Info() confine.Info
}

// Options are what a Front is made of.
type Options struct {
	// Start starts a process for a configuration, which is not given to it. What it
	// asks for, the keeper is asked.
	Start func(seam.Configuration, seam.Keeper, *slog.Logger) (Process, error)
	// Tell is told of a process that has ended by itself.
	Tell func(event.FrontEnded)
	// Bans returns the bans that hold, for a new process.
	Bans   func() []firewall.Ban
	Keeper seam.Keeper
	Log    *slog.Logger
}

// A Front implements seam.Front.
type Front struct {
	options Options
	log     *slog.Logger

	// Held from the start of a change to its end: Prepare to Commit are several.
	configuring sync.Mutex
	prepared    *prepared // nil: nothing waits for Commit or Abort
	stopped     bool
	warned      []string // of what the latest process could not give up
	crashes     int      // processes that have ended soon after their start, one after the other

	stating sync.Mutex              // held while a process is asked for its state
	running atomic.Pointer[process] // nil: there is none; becomes nil under mu
	ended   atomic.Pointer[string]  // why there is none
	stop    chan struct{}           // closed: nothing is started any more

	mu         sync.Mutex // guards what follows, which a new process gets
	current    *setting   // in force; nil: nothing has been committed
	challenges []seam.Challenge
	watched    bool
	before     totals // of processes that have ended
}

// A process is one that was started, with what it has counted last.
type process struct {
	Process
	since time.Time
	last  atomic.Pointer[seam.State]
	hangs atomic.Bool // it was ended because it did not answer
}

// A setting is what a process is configured with.
type setting struct {
	configuration seam.Configuration
	sockets       []seam.Socket
}

type prepared struct {
	setting
	on *process
}

var _ seam.Front = (*Front)(nil)

// New returns a front whose first process starts with the first Prepare.
func New(o Options) *Front {
	return &Front{options: o, log: o.Log, stop: make(chan struct{}), before: newTotals()}
}

// errDown is what is answered while no process runs.
var errDown = errors.New("the front has ended, and is being started again")

// start starts a process for a setting.
func (f *Front) start(s setting) (*process, error) {
	f.restore(s)
	p, err := f.options.Start(s.configuration, f.options.Keeper, f.log)
	if err != nil {
		return nil, fmt.Errorf("start the front: %w", err)
	}
	if warnings := p.Info().Warnings; !slices.Equal(warnings, f.warned) {
		for _, w := range warnings {
			f.log.Warn("the front is less confined than it could be", "why", w)
		}
		f.warned = warnings
	}
	return &process{Process: p, since: time.Now()}, nil
}

// restore undoes what a process has done to the sockets, which it shared.
func (f *Front) restore(s setting) {
	for _, socket := range s.sockets {
		if socket.File == nil { // in tests
			continue
		}
		raw, err := socket.File.SyscallConn()
		if err == nil {
			err = httpd.Restore(raw)
		}
		if err != nil {
			f.log.Error("nobody can knock there: the socket does not listen", "listener", socket.Address, "error", err)
		}
	}
}

// Prepare implements seam.Front.
func (f *Front) Prepare(ctx context.Context, c seam.Configuration, sockets []seam.Socket) error {
	f.configuring.Lock()
	defer f.configuring.Unlock()
	if f.stopped {
		return seam.ErrStopped
	}
	f.abort()
	next := &prepared{setting: setting{c, sockets}, on: f.running.Load()}
	if next.on == nil || f.current != nil && !sameNeeds(f.current.configuration, c) {
		var err error
		if next.on, err = f.start(next.setting); err != nil {
			return err
		}
	}
	if err := next.on.Prepare(ctx, c, sockets); err != nil {
		if next.on != f.running.Load() {
			next.on.Close()
		}
		if errors.Is(err, seam.ErrStopped) { // the process was: it did not answer
			err = errDown
		}
		return err
	}
	f.prepared = next
	return nil
}

// Abort implements seam.Front.
func (f *Front) Abort() {
	f.configuring.Lock()
	defer f.configuring.Unlock()
	f.abort()
}

func (f *Front) abort() {
	if f.prepared == nil {
		return
	}
	if on := f.prepared.on; on == f.running.Load() {
		on.Abort()
	} else {
		on.Close()
	}
	f.prepared = nil
}

// Commit implements seam.Front. If the process ends meanwhile, the next one gets the
// configuration.
func (f *Front) Commit(ctx context.Context) error {
	f.configuring.Lock()
	defer f.configuring.Unlock()
	if f.stopped {
		return seam.ErrStopped
	}
	next := f.prepared
	if next == nil {
		return errors.New("nothing is prepared")
	}
	f.prepared = nil
	f.mu.Lock()
	f.current = &next.setting
	f.mu.Unlock()
	old := f.running.Load()
	if next.on == old {
		if err := old.Commit(ctx); err != nil {
			f.log.Error("the front does not take the configuration, and is started again with it", "error", err)
			old.Close() // the next one gets it
		}
		return nil
	}
	if old != nil {
		f.retire(ctx, old)
	}
	f.bringUp(ctx, next.on, next.setting)
	return nil
}

// retire stops a process that has done its part.
func (f *Front) retire(ctx context.Context, old *process) {
	if err := f.stopProcess(ctx, old); err != nil {
		f.log.Warn("the front was not stopped as it should be", "error", err)
	}
}

// stopProcess stops a process, and counts all that it has counted.
func (f *Front) stopProcess(ctx context.Context, p *process) error {
	err := p.Stop(ctx)
	if err == nil {
		f.State()
	}
	f.end(p)
	p.Close()
	return err
}

// end makes a process the one that runs no more, and adds what it has counted, as far
// as is known, to what is counted from now on. It reports whether the process did run.
func (f *Front) end(p *process) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.running.CompareAndSwap(p, nil) {
		return false
	}
	if s := p.last.Load(); s != nil {
		f.before.add(*s)
	}
	return true
}

// bringUp makes a process the one that runs, for a caller that holds f.configuring. It
// has prepared the setting in force. It reports whether it runs.
func (f *Front) bringUp(ctx context.Context, p *process, s setting) bool {
	f.restore(s)
	f.mu.Lock()
	challenges, watched := f.challenges, f.watched
	f.mu.Unlock()
	p.AdoptBans(f.options.Bans())
	err := p.UseChallenges(ctx, challenges)
	if err == nil {
		err = p.Commit(ctx)
	}
	if watched {
		p.WatchKnocks(true)
	}
	if err != nil {
		p.Close()
		f.fail(err)
		go f.startAgain(1)
		return false
	}
	f.running.Store(p)
	f.ended.Store(nil)
	go f.watch(p)
	go f.attend(p)
	return true
}

// A process that does not answer is ended, so that another one takes its place. It has
// several tries: when the whole machine has stood still, the first one's time is over
// at once.
const (
	pingInterval = 5 * time.Second
	pingTimeout  = 3 * time.Second
	pingTries    = 2
)

// errHangs is why a process has ended that did not answer.
var errHangs = errors.New("it did not answer, and was killed")

// attend ends a process when it does not answer, and returns when it has ended.
func (f *Front) attend(p *process) {
	tick := time.NewTicker(pingInterval)
	defer tick.Stop()
	for {
		select {
		case <-p.Ended():
			return
		case <-tick.C:
		}
		if !answers(p) {
			p.hangs.Store(true)
			p.Close()
			return
		}
	}
}

func answers(p *process) bool {
	for range pingTries {
		ctx, cancel := context.WithTimeout(context.Background(), pingTimeout)
		err := p.Ping(ctx)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			return true // or it has ended
		}
	}
	return false
}

func (f *Front) fail(err error) {
	why := err.Error()
	f.ended.Store(&why)
}

// watch waits for the end of a process, and starts another one if it has ended by
// itself.
func (f *Front) watch(p *process) {
	<-p.Ended()
	if f.running.Load() != p {
		return // it was to end
	}
	p.Close()
	err := p.Err()
	if p.hangs.Load() {
		err = errHangs
	}
	f.configuring.Lock()
	defer f.configuring.Unlock()
	if f.stopped || !f.end(p) {
		return
	}
	if time.Since(p.since) >= aWhile {
		f.crashes = 0
	}
	f.fail(err)
	f.options.Tell(event.FrontEnded{Reason: err.Error()})
	go f.startAgain(f.crashes)
	f.crashes++
}

// A process that has run for a while is started again at once. Before others the time
// doubles.
const (
	aWhile    = 10 * time.Second
	firstWait = 100 * time.Millisecond
	lastWait  = 10 * time.Second
)

// waitAfter returns how long the next start waits after some processes that ended soon.
func waitAfter(crashes int) time.Duration {
	if crashes == 0 {
		return 0
	}
	return min(firstWait<<min(crashes-1, 10), lastWait)
}

// startAgain starts a process for the setting in force, after some others that ended
// soon, and goes on trying.
func (f *Front) startAgain(crashes int) {
	for ; ; crashes++ {
		select {
		case <-f.stop:
			return
		case <-time.After(waitAfter(crashes)):
		}
		if f.tryAgain() {
			return
		}
	}
}

// tryAgain reports whether there is nothing more to try.
func (f *Front) tryAgain() bool {
	f.configuring.Lock()
	defer f.configuring.Unlock()
	if f.stopped || f.running.Load() != nil {
		return true
	}
	f.mu.Lock()
	s := *f.current
	f.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), lastWait)
	defer cancel()
	p, err := f.start(s)
	if err == nil {
		if err = p.Prepare(ctx, s.configuration, s.sockets); err != nil {
			p.Close()
		}
	}
	if err != nil {
		f.fail(err)
		f.log.Error("the front cannot be started; trying again", "error", err)
		return false
	}
	f.bringUp(ctx, p, s)
	return true
}

// Stop implements seam.Front.
func (f *Front) Stop(ctx context.Context) error {
	f.configuring.Lock()
	defer f.configuring.Unlock()
	if f.stopped {
		return nil
	}
	f.abort()
	f.stopped = true
	close(f.stop)
	if p := f.running.Load(); p != nil {
		return f.stopProcess(ctx, p)
	}
	return nil
}
