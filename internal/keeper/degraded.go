package keeper

import (
	"context"
	"time"

	"webknock/internal/event"
)

// stateInterval is how often watchState looks for problems.
const stateInterval = 5 * time.Second

// watchState calls tell when problems begin and when there are none any more, until
// ctx is done.
func watchState(ctx context.Context, problems func(context.Context) []string, tell func(event.Degraded)) {
	tick := time.NewTicker(stateInterval)
	defer tick.Stop()
	for degraded := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := problems(ctx)
		if ctx.Err() != nil || degraded == (len(now) > 0) {
			continue
		}
		degraded = !degraded
		tell(event.Degraded{Problems: now})
	}
}
