package keeper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"time"

	"webknock/config"
	"webknock/firewall"
	"webknock/firewall/nft"
	"webknock/httpd/admin"
	"webknock/internal/atomicfile"
	"webknock/internal/closed"
	"webknock/internal/event"
	"webknock/internal/onetime"
	"webknock/internal/store"
)

// Start starts all parts, in an order that guarantees:
//
//   - The table's lock, the admin socket and all addresses come before the
//     firewall is touched: a start that fails for one of them, or because another
//     daemon runs, changes nothing.
//   - What reads events runs before what publishes them. Notices and commands, to
//     which the readers hand over, run before those.
//   - Doors are guarded, and earlier grants and bans are adopted, before the first
//     knock is read.
//   - The admin API, the watchdog and the retries come last: they use all the rest.
//
// Stop goes the other way: nobody asks for anything new; then the way of a knock
// runs dry, so that nothing on it is lost: listeners, queues, codes, completions,
// bans, the gate; then the events that were published; then notices and commands,
// side by side; and in the end the firewall's connection, what waits for the disk,
// the state, the socket, whose end tells the next daemon that it may start, and the
// lock.
//
// If Start returns an error, call Stop all the same.
func (k *Keeper) Start(ctx context.Context) error {
	cfg := k.start.Config
	k.startedAt = time.Now()
	k.stats = newStats(k.startedAt)
	k.options.Level.Set(cfg.Log.Level)
	if err := k.mayRun(cfg); err != nil && k.start.fallback == nil {
		return &refusal{err}
	} else if err != nil {
		cfg = k.withoutCommands(cfg, err)
	}
	k.state = atomicfile.NewDir(cfg.State)
	k.store = store.New(k.state)
	k.kept = newKept(k.state, k.backendName(cfg), k.options)

	cfg, err := k.claim(ctx, cfg)
	if err != nil {
		return err
	}
	if err := k.startTelling(ctx, cfg); err != nil {
		return err
	}
	if err := k.startGate(ctx, cfg); err != nil {
		return err
	}
	return k.startServing(ctx, cfg)
}

// claim takes what another process may have: the table, the admin socket, the
// addresses. It returns the configuration without the addresses that a last good
// configuration has to do without.
func (k *Keeper) claim(ctx context.Context, cfg *config.Config) (*config.Config, error) {
	if k.backendName(cfg) == config.BackendNFTables {
		lock, err := nft.LockTable(ctx, cfg.Firewall.Table, k.log)
		if err != nil {
			return nil, err
		}
		unregister := context.AfterFunc(ctx, lock.Stopping)
		k.lifecycle.onClose("the lock of the table", func() error {
			unregister()
			return lock.Close()
		})
	}
	socket, err := admin.Listen(k.socket(cfg), admin.Group, k.log)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%w (run as root, or choose a place of your own: --socket PATH)", err)
	}
	if err != nil {
		return nil, err
	}
	k.adminSocket = socket
	k.lifecycle.onClose("the admin socket", func() error {
		socket.Close() // the server may have closed it
		return nil
	})
	k.lifecycle.onClose("the state", func() error { return errors.Join(k.store.Close(), k.state.Close()) })
	k.lifecycle.background(ctx, "the writes to the state", 0, k.store.Run)

	k.codes = newCodes(onetime.NewDisk(k.store))
	front := k.options.Front(FrontOptions{Keeper: k, Tell: func(e event.FrontEnded) { k.events.Publish(e) }, Bans: k.bans.list.All, Log: k.log})
	k.supervisor, _ = front.(supervisor)
	k.front = checkedFront{front, k}
	k.watchKnocks()
	if k.start.fallback != nil {
		cfg = k.withoutAddresses(ctx, cfg)
	}
	k.lifecycle.onClose("the addresses", func() error {
		k.front.Abort()
		k.sockets.close()
		endManagers(context.Background(), k.currentListeners(), nil)
		k.scraped.Close()
		return nil
	})
	listeners, err := k.prepare(ctx, cfg)
	if err != nil {
		return nil, &refusal{err}
	}
	k.listeners.Store(&listeners)

	if k.backend, err = k.newBackend(cfg); err != nil {
		return nil, explain(err)
	}
	k.lifecycle.onClose("the firewall's connection", k.backend.Close)
	return cfg, nil
}

// startTelling starts what tells of events: the log, notices, commands and the history.
func (k *Keeper) startTelling(ctx context.Context, cfg *config.Config) (err error) {
	if k.commands, err = k.newCommands(cfg); err != nil {
		return err
	}
	k.history = k.newHistory(cfg)
	if !k.options.DryRun {
		k.lifecycle.background(ctx, "the history", 0, k.history.Run)
	}
	k.lifecycle.background(ctx, "the report of losses", 0, k.reportLosses)
	k.lifecycle.background(ctx, "notices and commands", 0, k.runNoticesAndCommands)
	k.subscribe(ctx)
	return nil
}

// startGate guards the doors, and adopts what the firewall holds.
func (k *Keeper) startGate(ctx context.Context, cfg *config.Config) error {
	k.gate = firewall.NewGate(k.backend, k.log, k.observe)
	if k.backendName(cfg) == config.BackendNFTables {
		k.closed = closed.Open(k.store, k.log, nft.BootTime, nft.BootID())
		k.gate.Remember(k.closed)
	}
	k.lifecycle.background(ctx, "the gate", keptForLast, k.gate.Run)
	if err := k.gate.Configure(ctx, guardOf(cfg, *k.listeners.Load())); errors.Is(err, firewall.ErrPermission) || errors.Is(err, firewall.ErrUnsupported) {
		return explain(err)
	} else if err != nil {
		return &refusal{err}
	}
	// When the adopted grants have been noted, those that are in the journal alone
	// have ended.
	if err := k.events.Flush(ctx); err != nil {
		return err
	}
	k.commands.journal.Settle()
	k.history.Started()
	bans, err := k.gate.Bans(ctx)
	if err != nil {
		return err
	}
	for _, ban := range bans {
		k.bans.list.Add(ban)
	}
	k.front.AdoptBans(bans)
	k.lifecycle.background(ctx, "bans", keptForLast, k.enforceBans)
	return nil
}

// startServing reads knocks, and answers the admin API.
func (k *Keeper) startServing(ctx context.Context, cfg *config.Config) error {
	k.warnOfSessions(ctx, cfg.Firewall.Guard)
	k.adopt(cfg, *k.listeners.Load())
	k.lifecycle.onStop("the front", keptForLast, func(ctx context.Context) error {
		k.sockets.close() // first: what nobody accepts any more is refused
		endManagers(ctx, k.currentListeners(), nil)
		return k.front.Stop(ctx)
	})
	if err := k.commit(context.WithoutCancel(ctx), k.currentListeners(), nil); err != nil {
		return err
	}
	k.lifecycle.background(ctx, "the certificates", keptForLast, k.watchCertificates)
	k.lifecycle.onStop("the confirmation", keptForLast, k.endConfirmation)
	switch {
	case k.start.fallback != nil:
		k.fellBack(ctx)
	case k.kept.needsConfirmation(cfg):
		k.awaitConfirmation(k.options.Confirm, cfg, k.undoStart)
	default:
		k.kept.inForce(cfg, false)
	}
	k.lifecycle.background(ctx, "the admin API", keptForLast, func(ctx context.Context) {
		if err := admin.Serve(ctx, k.adminSocket, k, k.log); err != nil {
			k.log.Error("the admin API has failed", "error", err)
		}
	})
	k.lifecycle.onStop("the metrics", keptForLast, func(context.Context) error { return k.scraped.Close() })
	k.lifecycle.background(ctx, "the statistics", keptForLast, k.recordStats)
	k.lifecycle.background(ctx, "the watchdog", keptForLast, k.watchdog)
	k.lifecycle.background(ctx, "the watch over the state", keptForLast, func(ctx context.Context) {
		watchState(ctx, func(ctx context.Context) []string {
			problems, _ := k.problems(ctx)
			return problems
		}, func(d event.Degraded) { k.events.Publish(d) })
	})
	if err := k.events.Flush(ctx); err != nil { // so that the log has it in this order
		return err
	}
	for _, warning := range cfg.Warnings { // not before: a start that fails says only why
		k.log.Warn(warning.Error())
	}
	k.log.Info("serving", "version", k.options.Version, "config", k.options.ConfigFile, "firewall", k.backendName(cfg),
		"doors", len(cfg.Doors), "sequences", len(cfg.Sequences))
	if k.options.DryRun {
		k.log.Warn("DRY RUN: no firewall is touched, no door is guarded, nothing opens")
	}
	if k.start.fallback != nil {
		k.lifecycle.background(ctx, "the retry of the file", keptForLast, k.retryStart)
	}
	k.lifecycle.background(ctx, "the last good configuration", keptForLast, k.kept.refresh)
	k.manager.ready()
	k.serving = true
	return nil
}

// Stop stops all parts in the order that Start says, within stopTimeout. Doors
// stay guarded. A second Stop does nothing.
func (k *Keeper) Stop() {
	if k.stopping.Swap(true) {
		return
	}
	if k.serving {
		k.manager.stopping()
		k.lifecycle.onStop("the log", stopTimeout, func(context.Context) error { // first of all; it may be stuck
			k.log.Info("stopping; doors stay guarded, and grants end on time")
			return nil
		})
	}
	k.lifecycle.stop()
}

func (k *Keeper) socket(cfg *config.Config) string {
	if k.options.Socket != "" {
		return k.options.Socket
	}
	return cfg.Admin.Socket
}

// warnOfSessions says who would have to knock if their session broke off now.
func (k *Keeper) warnOfSessions(ctx context.Context, g firewall.Guard) {
	nftables, ok := k.backend.(*nft.Backend)
	if !ok || g.Mode == firewall.Sets {
		return
	}
	grants, err := k.gate.Grants(ctx)
	if err != nil {
		return // the gate says why
	}
	up, err := nftables.Sessions(ctx)
	if err != nil {
		k.log.Warn("sessions that are up cannot be listed", "error", err)
		return
	}
	for door, clients := range up {
		clients = slices.DeleteFunc(clients, func(a netip.Addr) bool {
			return slices.ContainsFunc(grants, func(grant firewall.Grant) bool { return grant.Door == door && grant.Client.Contains(a) })
		})
		if len(clients) > 0 {
			k.log.Warn("these clients have a session that lives on, but need a knock for the next: try that before you end it "+
				"(serve --confirm 2m takes the guard away unless you confirm; firewall.allow names networks that need no knock)",
				"door", door, "clients", fmt.Sprint(clients[:min(len(clients), 10)]), "count", len(clients))
		}
	}
}
