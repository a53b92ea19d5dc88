package top

import (
	"context"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"

	"webknock/httpd/admin"
)

const (
	keptKnocks  = 500                    // that can be looked at
	firstKnocks = 100                    // of before the start
	feedPause   = 100 * time.Millisecond // between two batches of knocks
	feedRetry   = time.Second            // after the daemon was not there
)

// A feed takes knocks from the daemon, and keeps the latest until the model takes them:
// the daemon never waits for the terminal.
type feed struct {
	mu      sync.Mutex
	knocks  []admin.Event // oldest first
	skipped uint64        // that were taken from the daemon, but not kept
	err     error         // why the daemon tells of none; nil: it does
	ready   chan struct{} // has an element if there is something
}

func newFeed() *feed { return &feed{ready: make(chan struct{}, 1)} }

// run reads until ctx is done, over restarts of the daemon.
func (f *feed) run(ctx context.Context, d Daemon) {
	q := admin.EventQuery{Kinds: []string{"knock"}, Recent: firstKnocks}
	for ctx.Err() == nil {
		f.fail(d.Follow(ctx, q, func(e admin.Event) error {
			f.add(e)
			return nil
		}, func(error) {})) // the model notices by itself that the daemon has gone
		select {
		case <-ctx.Done():
		case <-time.After(feedRetry):
		}
	}
}

// fail takes the reason why there are no knocks until the next attempt.
func (f *feed) fail(err error) {
	f.mu.Lock()
	f.err = err
	f.mu.Unlock()
	f.wake()
}

func (f *feed) add(e admin.Event) {
	f.mu.Lock()
	f.err = nil
	f.knocks = append(f.knocks, e)
	if more := len(f.knocks) - keptKnocks; more > 0 {
		f.knocks = append(f.knocks[:0], f.knocks[more:]...)
		f.skipped += uint64(more)
	}
	f.mu.Unlock()
	f.wake()
}

func (f *feed) wake() {
	select {
	case f.ready <- struct{}{}:
	default:
	}
}

// knocksMsg has knocks, the oldest first, before which some were skipped.
type knocksMsg struct {
	knocks  []admin.Event
	skipped uint64
	err     error // why no more come; nil: they do
}

// next waits for knocks.
func (f *feed) next(ctx context.Context) tea.Cmd {
	return func() tea.Msg {
		select {
		case <-ctx.Done():
			return nil
		case <-f.ready:
		}
		time.Sleep(feedPause) // under a flood the screen is drawn ten times a second
		f.mu.Lock()
		defer f.mu.Unlock()
		msg := knocksMsg{f.knocks, f.skipped, f.err}
		f.knocks, f.skipped = nil, 0
		return msg
	}
}
