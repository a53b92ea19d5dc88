package keeper

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"webknock/httpd"
)

// lossInterval is how often the log hears of what was refused at a bound, lost or
// wrong. Strangers can cause all of it, so it is logged in sums.
const lossInterval = 10 * time.Second

// A loss is a kind of what was refused at a bound, lost or wrong, and how often
// that was.
type loss struct {
	kind    string // a short name, for programs
	message string // for the log
	level   slog.Level
	count   uint64 // never falls
}

// losses returns all kinds.
func (d *Daemon) losses() []loss {
	return []loss{
		{"heads_too_large", fmt.Sprintf("request heads over %d KiB match nothing: cookies that other ports of this host name have set, perhaps", httpd.MaxHead>>10), slog.LevelWarn, d.refused.TooLarge.Load()},
		{"heads_too_many_lines", fmt.Sprintf("request heads over %d lines match nothing", httpd.MaxLines), slog.LevelWarn, d.refused.TooManyLines.Load()},
		{"heads_too_slow", fmt.Sprintf("connections without a whole request head in %v are no knocks", httpd.HeadTimeout), slog.LevelInfo, d.refused.TooSlow.Load()},
		{"connections_evicted", "connections reset half-read: max_connections is reached", slog.LevelWarn, d.refused.Evicted.Load()},
		{"connections_starved", "connections reset half-read: descriptors or memory ran out", slog.LevelWarn, d.refused.Starved.Load()},
		{"knocks", "knocks lost: more than could be read", slog.LevelWarn, d.shards.lost.Load()},
		{"clients", "clients not tracked: clients.max is reached", slog.LevelWarn, d.shards.full.Load()},
		{"codes", "one-time codes or tickets that do not count: wrong, used, too old or of a user who may not", slog.LevelWarn, d.shards.wrong.Load()},
		{"counts", "clients whose knocks are no longer counted for a ban: there are too many", slog.LevelWarn, d.shards.forgotten.Load()},
		{"bans", fmt.Sprintf("clients not banned: %d are", maxBanned), slog.LevelWarn, d.shards.unbanned.Load()},
		{"notices", "notices lost: more than could be sent", slog.LevelWarn, d.notices.Lost()},
		{"commands", "commands not run: too many wait", slog.LevelWarn, d.commands.Lost()},
	}
}

// reportLosses logs what was lost since it last did, a line a kind, until ctx is
// done.
func (d *Daemon) reportLosses(ctx context.Context) {
	tick := time.NewTicker(lossInterval)
	defer tick.Stop()
	reported := map[string]uint64{}
	for {
		select {
		case <-ctx.Done():
			d.reportSince(reported)
			return
		case <-tick.C:
			d.reportSince(reported)
		}
	}
}

// reportSince logs what was lost beyond what is reported, and updates that.
func (d *Daemon) reportSince(reported map[string]uint64) {
	for _, l := range d.losses() {
		if n := l.count - reported[l.kind]; n > 0 {
			d.Log.Log(context.Background(), l.level, l.message, "count", n)
			reported[l.kind] = l.count
		}
	}
}
