package keeper

import (
	"context"
	"fmt"
	"log/slog"
	"time"
)

const (
	// stopTimeout bounds a whole stop, so that the daemon is gone within the two
	// seconds that users are promised.
	stopTimeout = 1800 * time.Millisecond

	// keptForLast is how much of stopTimeout is kept for notices and commands: parts
	// that stop before them may take the rest.
	keptForLast = 1100 * time.Millisecond

	// stopGrace is for a part whose turn comes when the time is over already: most
	// need no time.
	stopGrace = 50 * time.Millisecond
)

// A lifecycle has the clean-ups of what has been started. It belongs to one
// goroutine.
type lifecycle struct {
	log      *slog.Logger
	cleanups []cleanup
}

type cleanup struct {
	name    string
	reserve time.Duration // of the stop's time, kept for the clean-ups that follow
	stop    func(context.Context) error
}

// onStop registers a clean-up. Clean-ups run last in, first out.
func (l *lifecycle) onStop(name string, reserve time.Duration, stop func(context.Context) error) {
	l.cleanups = append(l.cleanups, cleanup{name, reserve, stop})
}

// onClose registers a clean-up that takes no time.
func (l *lifecycle) onClose(name string, closeIt func() error) {
	l.onStop(name, 0, func(context.Context) error { return closeIt() })
}

// background runs a part until its turn to stop comes. The part's context has the
// values of ctx, and does not end with it: parts end in the order of their stops.
func (l *lifecycle) background(ctx context.Context, name string, reserve time.Duration, run func(context.Context)) {
	l.onStop(name, reserve, background(ctx, run))
}

// background runs f, and returns what stops it and waits until it has returned, or
// limit is done.
func background(ctx context.Context, f func(context.Context)) (stop func(limit context.Context) error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(ctx)
	}()
	return func(limit context.Context) error {
		cancel()
		select {
		case <-done:
			return nil
		case <-limit.Done():
			return limit.Err()
		}
	}
}

// stop runs all clean-ups, by one deadline for all of them. A clean-up that has
// not returned by then is left behind, and the next one begins. A second call does
// nothing.
func (l *lifecycle) stop() {
	deadline := time.Now().Add(stopTimeout)
	for len(l.cleanups) > 0 {
		c := l.cleanups[len(l.cleanups)-1]
		l.cleanups = l.cleanups[:len(l.cleanups)-1]
		if err := c.run(deadline); err != nil {
			warn := func(context.Context) error {
				l.log.Warn("not stopped as it should be", "part", c.name, "error", err)
				return nil
			}
			cleanup{stop: warn}.run(time.Time{}) // a log that is stuck holds up no stop
		}
	}
}

func (c cleanup) run(deadline time.Time) error {
	ctx, cancel := context.WithTimeout(context.Background(), max(stopGrace, time.Until(deadline)-c.reserve))
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- c.stop(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-done: // ctx has just told it to return
		return err
	case <-time.After(stopGrace / 5):
		return fmt.Errorf("it takes too long: %w", ctx.Err())
	}
}
