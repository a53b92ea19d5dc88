package keeper

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"webknock/internal/seam"
)

// lossInterval is how often what was refused at a bound, lost or wrong is logged.
// Strangers can cause all of it, so it is logged in sums.
const lossInterval = 10 * time.Second

// losses returns the counters of both halves. The front has none of the keeper's kinds.
func (k *Keeper) losses() []seam.Loss {
	ofFront, own := k.lossesOfBoth()
	return append(ofFront, own...)
}

func (k *Keeper) lossesOfBoth() (ofFront, own []seam.Loss) {
	own = []seam.Loss{
		{Kind: "asked", Message: "requests of the front that the keeper has refused: has somebody taken it over?", Level: slog.LevelError, Count: k.asked.count()},
		{Kind: "refusals", Message: "completions that opened nothing, without lines of their own: too many", Level: slog.LevelError, Count: k.untold.n.Load()},
		{Kind: "notices", Message: "notices lost: more than could be sent", Level: slog.LevelWarn, Count: k.notices.Lost()},
		{Kind: "commands", Message: "commands not run: too many wait", Level: slog.LevelWarn, Count: k.commands.runner.Lost()},
		{Kind: "events_log", Message: "events that are not in the log: more came than could be written", Level: slog.LevelWarn, Count: k.missed.log.n.Load()},
		{Kind: "events_notices", Message: "events without a notice: more came than could be handled", Level: slog.LevelWarn, Count: k.missed.notices.n.Load()},
		{Kind: "events_commands", Message: "events without their commands on open and complete: more came than could be handled", Level: slog.LevelWarn, Count: k.missed.commands.n.Load()},
		{Kind: "events_history", Message: "events that are not in the history: more came than could be handled", Level: slog.LevelWarn, Count: k.missed.history.n.Load()},
		{Kind: "history", Message: "entries of the history lost: the disk does not take them", Level: slog.LevelWarn, Count: k.history.Lost()},
		{Kind: "events_metrics", Message: "events that no metric counts: more came than could be handled", Level: slog.LevelWarn, Count: k.missed.metrics.n.Load()},
	}
	ofFront = slices.DeleteFunc(slices.Clone(k.front.State().Losses), func(l seam.Loss) bool {
		return slices.ContainsFunc(own, func(o seam.Loss) bool { return o.Kind == l.Kind })
	})
	return ofFront, own
}

// reportLosses logs what was lost since its last report, with one line for each
// kind, until ctx is done.
func (k *Keeper) reportLosses(ctx context.Context) {
	tick := time.NewTicker(lossInterval)
	defer tick.Stop()
	reported := map[string]uint64{}
	for {
		select {
		case <-ctx.Done():
			k.reportSince(reported)
			return
		case <-tick.C:
			k.reportSince(reported)
		}
	}
}

// reportSince logs what was lost since reported, and updates reported.
func (k *Keeper) reportSince(reported map[string]uint64) {
	ofFront, own := k.lossesOfBoth()
	for log, losses := range map[*slog.Logger][]seam.Loss{k.log.With("process", "front"): ofFront, k.log: own} { // the front's words are marked
		for _, l := range losses {
			if n := l.Count - reported[l.Kind]; n > 0 {
				log.Log(context.Background(), l.Level, l.Message, "count", n)
				reported[l.Kind] = l.Count
			}
		}
	}
}
