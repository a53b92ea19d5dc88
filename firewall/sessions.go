package firewall

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// expelAgain is how long after the first time intruders are expelled again.
const expelAgain = 50 * time.Millisecond

// A sessionEnder ends the sessions of grants that have ended, beside the gate:
// to find them among all connections of the host takes milliseconds, in which
// nobody's door would open.
type sessionEnder struct {
	backend Backend
	log     *slog.Logger
	wake    chan struct{}

	mu        sync.Mutex
	waiting   []Grant
	intruders []Grant
}

func newSessionEnder(backend Backend, log *slog.Logger) *sessionEnder {
	return &sessionEnder{backend: backend, log: log, wake: make(chan struct{}, 1)}
}

// start starts it, and returns what stops it when it has ended what waits. Its
// calls of the backend end with ctx.
func (e *sessionEnder) start(ctx context.Context) (stop func()) {
	stopping, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-e.wake:
				e.end(ctx)
			case <-stopping:
				e.end(ctx)
				return
			}
		}
	}()
	return func() {
		close(stopping)
		<-done
	}
}

// add has the sessions of grants ended soon.
func (e *sessionEnder) add(grants []Grant) {
	if len(grants) == 0 {
		return
	}
	e.mu.Lock()
	e.waiting = append(e.waiting, grants...)
	e.mu.Unlock()
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// expel has ended soon what intruders have begun.
func (e *sessionEnder) expel(intruders []Grant) {
	if len(intruders) == 0 {
		return
	}
	e.mu.Lock()
	e.intruders = append(e.intruders, intruders...)
	e.mu.Unlock()
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// spare lets the sessions of a grant live, which runs again, if they have not
// been ended yet.
func (e *sessionEnder) spare(k key) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.waiting = slices.DeleteFunc(e.waiting, func(g Grant) bool { return keyOf(g) == k })
}

func (e *sessionEnder) end(ctx context.Context) {
	e.mu.Lock()
	grants, intruders := e.waiting, e.intruders
	e.waiting, e.intruders = nil, nil
	e.mu.Unlock()
	if len(intruders) > 0 {
		// Twice: a packet may have been on its way when the element was deleted.
		for _, wait := range []time.Duration{0, expelAgain} {
			time.Sleep(wait)
			ctx, cancel := call(ctx)
			if err := e.backend.Expel(ctx, intruders); err != nil {
				e.log.Error("sessions that began by elements of somebody else may live on", "error", err)
			}
			cancel()
		}
	}
	if len(grants) == 0 {
		return
	}
	ctx, cancel := call(ctx)
	defer cancel()
	if err := e.backend.EndSessions(ctx, grants); err != nil {
		e.log.Warn("sessions cannot be reset at once; they end when their client next sends", "error", err)
	}
}
