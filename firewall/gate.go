package firewall

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"time"
)

// A Gate owns the grants and bans. All decisions are made by one goroutine, in Run:
// callers queue requests, and Run commits the requests that wait as one transaction of
// the Backend.
//
//   - The firewall keeps grants over restarts: the first look at it adopts those of an
//     earlier run. From then on the gate knows all grants.
//   - Run looks at the firewall when somebody else has changed it, after every failure,
//     and every pollInterval. It puts back what is missing and deletes what is unknown.
//   - An event is sent after the firewall has been changed, never before.
type Gate struct {
	backend           Backend
	log               *slog.Logger
	observe           func(Event)
	requests          chan request
	stopped           chan struct{}
	minCommitInterval time.Duration
	closures          Closures

	// Only Run uses what follows.
	guard           Guard
	guarded         bool
	grants          map[key]Grant
	count           map[string]int // grants by door
	ids             map[string]key
	expiries        expiries
	counts          expiries                   // when the traffic of each grant is read for the last time
	pendingRevokes  map[key]string             // grants that are closed but still in the firewall, with the reason
	recentlyExpired map[key]time.Time          // when grants ended here; the firewall may hold them a moment longer
	bans            map[netip.Prefix]time.Time // until when each client is banned
	toTerminate     []Grant                    // ended grants whose sessions are to be reset
	terminator      *sessionTerminator
	committed       time.Time     // when the last transaction ended
	failing         error         // the latest failure; nil when the firewall is known to be right
	failureLogged   time.Time     // when a failure was last logged
	failureOpen     bool          // the end of that failure has not been logged yet
	guardMissing    bool          // the guard is not in the firewall, and could not be put back
	adopted         bool          // the grants of an earlier run have been adopted
	bansAdopted     bool          // the bans of an earlier run have been adopted
	bansUncertain   bool          // the bans in the firewall may differ from those here
	asleep          time.Duration // how long the machine has been suspended; expiries have been moved by as much
	changedBy       By            // who caused the current look at the firewall
	repairs         repairs
	pendingRepair   string // a repair that has begun and is not reported yet; empty: none
}

// key identifies a grant: a door and a client have one at most.
type key struct {
	door   string
	client netip.Prefix
}

func keyOf(g Grant) key { return key{g.Door, g.Client} }

const (
	maxRequests       = 4096             // in the queue
	maxBatch          = 1024             // requests in one transaction
	minCommitInterval = time.Millisecond // between two transactions
	backendTimeout    = 5 * time.Second  // of one call of the backend
	stopPatience      = time.Second      // for all calls of the backend after the stop
	// expiredMemory is how long an element may stay in the firewall after its grant has
	// expired here, since its clock may be behind.
	expiredMemory = 2 * time.Second
	// pollInterval is the time between two looks at the firewall, when nobody is seen to
	// change it.
	pollInterval = 10 * time.Second
	minRetry     = 50 * time.Millisecond // after the first failure
	maxRetry     = 5 * time.Second       // after many failures
	// maxExposedRetry is the longest pause between two tries to put the guard back.
	maxExposedRetry = 100 * time.Millisecond
)

// NewGate returns a gate that guards nothing until Configure. Observe is
// called from Run with every event; it must neither block nor call the gate.
func NewGate(backend Backend, log *slog.Logger, observe func(Event)) *Gate {
	return &Gate{
		backend: backend, log: log, observe: observe,
		requests:          make(chan request, maxRequests),
		stopped:           make(chan struct{}),
		terminator:        newSessionTerminator(backend, log),
		minCommitInterval: minCommitInterval,
		closures:          noClosures{},
		asleep:            backend.Asleep(),
		grants:            map[key]Grant{},
		count:             map[string]int{},
		ids:               map[string]key{},
		pendingRevokes:    map[key]string{},
		recentlyExpired:   map[key]time.Time{},
		bans:              map[netip.Prefix]time.Time{},
	}
}

// Run works until stop is done, commits the requests that wait, and returns. Doors stay
// guarded and grants stay valid. Run returns within stopPatience even if the backend does
// not answer.
func (g *Gate) Run(stop context.Context) {
	defer close(g.stopped)
	// Calls that run when the gate stops are completed, within stopPatience.
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(stop))
	defer cancel(nil)
	defer context.AfterFunc(stop, func() {
		late := time.AfterFunc(stopPatience, func() { cancel(errStopping) })
		context.AfterFunc(ctx, func() { late.Stop() })
	})()
	defer g.terminator.start(ctx)()
	poll := time.NewTimer(pollInterval)
	defer poll.Stop()
	end := time.NewTimer(0)
	defer end.Stop()
	retry := minRetry
	interval := pollInterval
	for failing := false; ; {
		next := pollInterval
		if at := g.nextEnd(); !at.IsZero() {
			next = time.Until(at)
		}
		if sum := g.sumRepairs(time.Now()); sum > 0 {
			next = min(next, sum)
		}
		end.Reset(next)
		select {
		case <-stop.Done():
			for len(g.requests) > 0 && ctx.Err() == nil {
				g.process(ctx, nil)
			}
			g.terminateSessions()
			return
		case r := <-g.requests:
			if r.plan != nil {
				// A single request is committed at once. Requests that follow
				// closely wait for each other and share a transaction.
				time.Sleep(g.minCommitInterval - time.Since(g.committed))
			}
			g.process(ctx, []request{r})
		case g.changedBy = <-g.backend.Changed():
			g.sync(ctx)
			g.changedBy = By{}
		case <-poll.C:
			began := time.Now()
			g.sync(ctx)
			// The time of a sync grows with the number of grants. It may use a
			// twentieth of a processor at most.
			interval = max(pollInterval, 20*time.Since(began))
			if failing = g.failing != nil; failing {
				if g.guardMissing {
					retry = min(retry, maxExposedRetry)
				}
				poll.Reset(retry)
				retry = min(2*retry, maxRetry)
			} else {
				retry = minRetry
				poll.Reset(interval)
			}
		case <-end.C:
			now := time.Now()
			g.countEnding(ctx, now)
			g.expire(now)
		}
		if now := g.failing != nil; now != failing {
			failing, retry = now, minRetry
			if failing {
				poll.Reset(minRetry)
			} else {
				poll.Reset(interval)
			}
		}
		g.terminateSessions()
	}
}

// Ping waits until Run answers.
func (g *Gate) Ping(ctx context.Context) error {
	return g.wait(ctx, request{exclusive: func(context.Context) error { return nil }})
}

// Guarding reports whether the doors are guarded. The error says why the firewall may
// differ from what the gate wants: the latest failure, or ErrContested if somebody keeps
// changing it.
func (g *Gate) Guarding(ctx context.Context) (bool, error) {
	type state struct {
		guarded bool
		problem error
	}
	s, err := ask(ctx, g, func(context.Context) (s state, err error) {
		s.guarded, s.problem = g.guarded, g.failing
		if s.problem == nil && s.guarded {
			s.problem = g.contested()
		}
		return s, nil
	})
	return s.guarded, cmp.Or(err, s.problem)
}

// failed stores the result of the latest change of the firewall, and logs the first
// failure and its end.
func (g *Gate) failed(err error) {
	now := time.Now()
	switch {
	case err != nil && g.failing == nil && now.Sub(g.failureLogged) > sumInterval:
		g.log.Error("changing or reading the firewall failed; retrying until it succeeds", "error", err)
		g.failureLogged, g.failureOpen = now, true
	case err == nil && g.failing != nil && g.failureOpen:
		g.log.Info("the firewall can be changed and read again")
		g.failureOpen = false
	}
	g.failing = err
	if err == nil {
		g.guardMissing = false
	}
}

// errStopping is the cause of calls that end early because the gate stops.
var errStopping = errors.New("the gate stops")

// call returns the context of one call of the backend.
func call(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, backendTimeout)
}
