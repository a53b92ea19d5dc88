package keeper

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"webknock/internal/notice"
)

func TestAStateIsToldWhenItChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var problem atomic.Value
		problem.Store("")
		var told []string
		stop := start(t.Context(), func(ctx context.Context) {
			watchState(ctx, func(context.Context) []string {
				if p := problem.Load().(string); p != "" {
					return []string{p, "another"}
				}
				return nil
			}, func(n notice.Notice) { told = append(told, string(n.Event)+": "+n.Reason) })
		})
		for _, p := range []string{"", "no guard", "no firewall", "", ""} {
			problem.Store(p)
			time.Sleep(3 * stateInterval) // of the bubble
		}
		stop()
		if want := []string{"degraded: no guard; another", "degraded: "}; !slices.Equal(told, want) {
			t.Errorf("told %q, want %q", told, want)
		}
	})
}
