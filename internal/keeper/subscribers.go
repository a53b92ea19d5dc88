package keeper

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"webknock/firewall"
	"webknock/internal/event"
	"webknock/internal/metrics"
	"webknock/internal/notice"
)

// How many events may wait for a subscriber. Beyond that the oldest are missed.
const (
	logQueue     = 1 << 16
	noticeQueue  = 1 << 12 // each target has a queue of its own behind it
	commandQueue = 1 << 16
	metricsQueue = 1 << 16
)

// missed counts the events that subscribers have missed.
type missed struct{ log, notices, commands, history, metrics counter }

// A counter only grows. It may be used from several goroutines.
type counter struct{ n atomic.Uint64 }

func (c *counter) add(n uint64) { c.n.Add(n) }

// observe publishes what has happened to grants and to the guard. The gate calls
// it, so it does not wait.
func (k *Keeper) observe(e firewall.Event) {
	completion, _ := e.Cause.(*event.Completion)
	switch e.Kind {
	case firewall.Opened:
		k.opened.add(1)
		k.events.PublishAt(e.Time, event.GrantOpened{Grant: e.Grant, Completion: completion})
	case firewall.Extended:
		k.events.PublishAt(e.Time, event.GrantExtended{Grant: e.Grant, Completion: completion})
	case firewall.Closed:
		k.events.PublishAt(e.Time, event.GrantClosed{Grant: e.Grant, Reason: e.Reason})
	case firewall.Adopted:
		k.events.PublishAt(e.Time, event.GrantAdopted{Grant: e.Grant})
	case firewall.Repaired:
		k.repairs.add(uint64(e.Repairs))
		k.events.PublishAt(e.Time, event.Repair{Reason: e.Reason})
	}
}

// subscribe starts the subscribers. Each has its queue and its goroutine; a stop
// ends when all that was published before has been handled.
func (k *Keeper) subscribe(ctx context.Context) {
	log := k.events.Subscribe(logQueue, event.KindCompletion, event.KindGrantOpened, event.KindGrantExtended, event.KindGrantClosed,
		event.KindGrantAdopted, event.KindGrantRefused, event.KindRepair, event.KindBan, event.KindUnban, event.KindReload, event.KindAdmin, event.KindFrontEnded, event.KindCommandsEnded)
	notices := k.events.Subscribe(noticeQueue, event.KindCompletion, event.KindGrantOpened, event.KindRepair, event.KindBan, event.KindDegraded, event.KindFrontEnded, event.KindCommandsEnded)
	commands := k.events.Subscribe(commandQueue, event.KindCompletion, event.KindGrantOpened, event.KindGrantExtended, event.KindGrantClosed, event.KindGrantAdopted)
	k.historyEvents = k.events.Subscribe(historyQueue, event.KindGrantOpened, event.KindGrantExtended, event.KindGrantClosed, event.KindGrantAdopted,
		event.KindGrantRefused, event.KindRepair, event.KindBan, event.KindUnban, event.KindReload, event.KindDegraded, event.KindAdmin, event.KindFrontEnded, event.KindCommandsEnded)
	metered := k.events.Subscribe(metricsQueue, metrics.Kinds...)
	var wg sync.WaitGroup
	k.handlers = []*event.Subscription{notices, commands}
	ctx = context.WithoutCancel(ctx)
	wg.Go(func() {
		log.Each(ctx, k.missed.log.add, func(r event.Record) {
			if k.hasLine(r.Event) {
				logEvent(k.log, r.Event)
			}
		})
	})
	wg.Go(func() { metered.Each(ctx, k.missed.metrics.add, k.metrics.Handle) })
	wg.Go(func() {
		notices.Each(ctx, k.missed.notices.add, func(r event.Record) {
			if n, ok := noticeOf(r); ok {
				k.notices.Send(n)
			}
		})
	})
	wg.Go(func() {
		commands.Each(ctx, func(n uint64) {
			k.missed.commands.add(n)
			k.recoverCommands()
		}, func(r event.Record) { k.commands.handle(r.Event) })
	})
	wg.Go(func() {
		h := newHistorian(k.history)
		defer h.bans.stop()
		k.historyEvents.Each(ctx, func(n uint64) {
			k.missed.history.add(n)
			k.recoverHistory(n)
		}, h.handle)
	})
	wg.Go(func() { k.recent.follow(ctx) })
	k.lifecycle.onStop("the readers of events", keptForLast, func(limit context.Context) error {
		k.events.Close()
		done := make(chan struct{})
		go func() {
			defer close(done)
			wg.Wait()
		}()
		select {
		case <-done:
			return nil
		case <-limit.Done():
			return limit.Err()
		}
	})
}

// handlePublished waits until notices and commands have handled what was published
// before, by the configuration that was in force then.
func (k *Keeper) handlePublished(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, handleTimeout)
	defer cancel()
	for _, s := range k.handlers {
		if err := s.Flush(ctx); err != nil {
			k.log.Error("events of before the reload may be handled by the new configuration", "error", err)
		}
	}
}

const handleTimeout = time.Second // mostly it takes microseconds

// hasLine reports whether an event is logged. A front that was taken over could fill the
// disk with completions and extensions. Grants that are new always are.
func (k *Keeper) hasLine(e event.Event) bool {
	switch e.(type) {
	case event.Completion, event.GrantExtended:
		if !k.asked.lines.take(time.Now()) {
			k.missed.log.add(1)
			return false
		}
	}
	return true
}

// logEvent writes an event to the log.
func logEvent(log *slog.Logger, e event.Event) {
	switch e := e.(type) {
	case event.Completion:
		ofCompletion(log, e).Info("sequence completed")
	case event.GrantRefused:
		log = ofCompletion(log, e.Completion)
		if len(e.Doors)+len(e.Closes) > 0 {
			log = log.With("doors", e.Doors, "closes", e.Closes)
		}
		log.Error("not let in", "error", e.Err)
	case event.GrantOpened:
		ofGrant(log, e.Grant).Info("grant opened", "expires", e.Grant.Expires)
	case event.GrantExtended:
		ofGrant(log, e.Grant).Info("grant extended", "expires", e.Grant.Expires)
	case event.GrantAdopted:
		ofGrant(log, e.Grant).Info("grant adopted", "expires", e.Grant.Expires)
	case event.GrantClosed:
		ofGrant(log, e.Grant).Info("grant closed", "reason", e.Reason)
	case event.Repair:
		log.Warn("guard repaired", "reason", e.Reason)
	case event.Ban:
		log.Warn("client banned", "client", firewall.ClientString(e.Ban.Client), "reason", e.Reason, "until", e.Ban.Until)
	case event.Unban:
		log.Info("ban lifted", "client", firewall.ClientString(e.Client))
	case event.Admin:
		if e.Known {
			log = log.With("uid", e.UID)
		}
		log.Info("an administrator's act", "act", e.Act)
	case event.FrontEnded:
		log.Error("the front has ended; it is started again, and clients in progress start over", "reason", e.Reason)
	case event.CommandsEnded:
		log.Error("the process that runs commands has ended, and so have the commands that ran; it is started again", "reason", e.Reason)
	case event.Reload:
		if e.Err != nil {
			log.Error("not reloaded, the configuration is as it was", "error", e.Err)
		} else {
			log.Info("reloaded", "config", e.File)
		}
	}
}

func ofCompletion(log *slog.Logger, c event.Completion) *slog.Logger {
	log = log.With("sequence", c.Sequence, "client", c.Client)
	if c.User != "" {
		log = log.With("user", c.User)
	}
	if c.Address != c.Client {
		log = log.With("address", c.Address)
	}
	if c.Message != "" {
		log = log.With("message", c.Message)
	}
	return log
}

func ofGrant(log *slog.Logger, g firewall.Grant) *slog.Logger {
	log = log.With("door", g.Door, "client", firewall.ClientString(g.Client), "grant", g.ID)
	if g.Sequence != "" {
		log = log.With("sequence", g.Sequence)
	}
	if g.User != "" {
		log = log.With("user", g.User)
	}
	return log
}

// noticeOf returns the notice of an event, if it has one.
func noticeOf(r event.Record) (n notice.Notice, ok bool) {
	switch e := r.Event.(type) {
	case event.Completion:
		return notice.Notice{Event: notice.Completion, Time: e.At, Sequence: e.Sequence, Message: e.Message, Client: e.Client.String(), User: e.User}, true
	case event.GrantOpened:
		return notice.Notice{
			Event: notice.Grant, Time: r.Time, Sequence: e.Grant.Sequence, Client: firewall.ClientString(e.Grant.Client), User: e.Grant.User,
			Door: e.Grant.Door, Grant: e.Grant.ID, Expires: e.Grant.Expires,
		}, true
	case event.Repair:
		return notice.Notice{Event: notice.Repair, Time: r.Time, Reason: e.Reason}, true
	case event.Ban:
		return notice.Notice{Event: notice.Ban, Time: e.At, Client: firewall.ClientString(e.Ban.Client), Expires: e.Ban.Until, Reason: e.Reason}, true
	case event.FrontEnded:
		return notice.Notice{Event: notice.Degraded, Time: r.Time, Reason: "the front has ended, and is started again: " + e.Reason}, true
	case event.CommandsEnded:
		return notice.Notice{Event: notice.Degraded, Time: r.Time, Reason: "the process that runs commands has ended, and is started again: " + e.Reason}, true
	case event.Degraded:
		return notice.Notice{Event: notice.Degraded, Time: r.Time, Reason: strings.Join(e.Problems, "; ")}, true
	}
	return n, false
}

// runNoticesAndCommands sends notices and runs commands until ctx is done. They
// come to their ends side by side, so that the daemon is gone in time.
func (k *Keeper) runNoticesAndCommands(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { k.notices.Run(ctx) })
	wg.Go(func() { k.commands.run(ctx) })
	wg.Wait()
}
