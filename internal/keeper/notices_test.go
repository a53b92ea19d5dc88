package keeper

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"webknock/internal/event"
)

func TestAChangeOfTheStateIsReportedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var problem atomic.Value
		problem.Store("")
		var told []string
		stop := background(t.Context(), func(ctx context.Context) {
			watchState(ctx, func(context.Context) []string {
				if p := problem.Load().(string); p != "" {
					return []string{p, "another"}
				}
				return nil
			}, func(d event.Degraded) {
				n, _ := noticeOf(event.Record{Event: d})
				told = append(told, string(n.Event)+": "+n.Reason)
			})
		})
		for _, p := range []string{"", "no guard", "no firewall", "", ""} {
			problem.Store(p)
			time.Sleep(3 * stateInterval) // of the bubble
		}
		stop(t.Context())
		if want := []string{"degraded: no guard; another", "degraded: "}; !slices.Equal(told, want) {
			t.Errorf("told %q, want %q", told, want)
		}
	})
}
