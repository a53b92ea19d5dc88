package firewall

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
)

// expelAgain is the time after which intruders are expelled a second time.
const expelAgain = 50 * time.Millisecond

// A sessionTerminator resets the sessions of ended grants and of intruders. It has a
// goroutine of its own, because finding the sessions among all connections of the host
// takes milliseconds, and no door would open meanwhile.
type sessionTerminator struct {
	backend Backend
	log     *slog.Logger
	wake    chan struct{}

	mu        sync.Mutex
	waiting   []Grant
	intruders map[key]Grant
}

func newSessionTerminator(backend Backend, log *slog.Logger) *sessionTerminator {
	return &sessionTerminator{backend: backend, log: log, wake: make(chan struct{}, 1), intruders: map[key]Grant{}}
}

// start starts the goroutine and returns a function that stops it, after it has
// processed its queue. Calls of the backend end with ctx.
func (e *sessionTerminator) start(ctx context.Context) (stop func()) {
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

// add queues grants whose sessions are to end.
func (e *sessionTerminator) add(grants []Grant) {
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

// expel queues intruders, whose sessions are to end.
func (e *sessionTerminator) expel(intruders []Grant) {
	if len(intruders) == 0 {
		return
	}
	e.mu.Lock()
	for _, i := range intruders {
		e.intruders[keyOf(i)] = i
	}
	e.mu.Unlock()
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// cancel removes a grant from the queue, because it is valid again.
func (e *sessionTerminator) cancel(k key) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.waiting = slices.DeleteFunc(e.waiting, func(g Grant) bool { return keyOf(g) == k })
}

// end processes the queues until they are empty. Intruders are expelled twice, because a
// packet may have been on its way when their element was deleted. While more of them
// come, each call of the backend is the second for the earlier ones and the first for the
// new ones: listing connections takes CPU time that the gate needs for its repairs.
func (e *sessionTerminator) end(ctx context.Context) {
	var again map[key]Grant
	for {
		e.mu.Lock()
		grants, intruders := e.waiting, e.intruders
		e.waiting, e.intruders = nil, map[key]Grant{}
		e.mu.Unlock()
		if len(grants) > 0 {
			e.endSessions(ctx, grants)
		}
		if len(intruders)+len(again) == 0 {
			return
		}
		all := maps.Clone(intruders)
		maps.Copy(all, again)
		e.expelNow(ctx, slices.Collect(maps.Values(all)))
		if again = intruders; len(again) > 0 {
			time.Sleep(expelAgain)
		}
	}
}

func (e *sessionTerminator) endSessions(ctx context.Context, grants []Grant) {
	ctx, cancel := call(ctx)
	defer cancel()
	if err := e.backend.EndSessions(ctx, grants); err != nil {
		e.log.Warn("sessions cannot be reset at once; they end when their client next sends", "error", err)
	}
}

func (e *sessionTerminator) expelNow(ctx context.Context, intruders []Grant) {
	ctx, cancel := call(ctx)
	defer cancel()
	if err := e.backend.Expel(ctx, intruders); err != nil {
		e.log.Error("sessions that elements of another program let in may live on", "error", err)
	}
}
