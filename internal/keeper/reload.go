package keeper

import (
	"context"
	"net/http"
	"time"

	"webknock/config"
	"webknock/httpd/admin"
	"webknock/internal/event"
	"webknock/internal/seam"
)

// Reload implements admin.Control. The configuration changes as a whole or,
// if it returns an error, not at all.
func (k *Keeper) Reload(ctx context.Context, r admin.ReloadRequest) error {
	var confirm time.Duration
	if r.Confirm != "" {
		var err error
		if confirm, err = time.ParseDuration(r.Confirm); err != nil || confirm < time.Second {
			return admin.NewProblem(http.StatusBadRequest, "confirm: not a duration of at least 1s (like 2m)")
		}
	}
	k.acted(ctx, event.Admin{Act: "asked for a reload"})
	return problemOf(k.reload(ctx, byCommand, confirm))
}

// reloadBySignal reloads because of SIGHUP. A closed terminal sends that too. So, unlike
// webknock reload, it puts back no guard that was taken away, and tries no file that
// nobody has confirmed.
func (k *Keeper) reloadBySignal(ctx context.Context) {
	if guarded, err := k.gate.Guarding(ctx); err == nil && !guarded {
		k.log.Warn("not reloaded by SIGHUP, since the guard was taken away; webknock reload puts it back")
		return
	}
	k.reload(ctx, bySignal, 0) // the log says how it went
}

// reload puts the file in force. If confirm is not 0 it must be confirmed in that
// time. Once the daemon stops, reload returns ErrStopped.
func (k *Keeper) reload(ctx context.Context, by reloadBy, confirm time.Duration) error {
	k.reloading.Lock()
	defer k.reloading.Unlock()
	if k.stopping.Load() {
		return seam.ErrStopped
	}
	k.manager.reloading()
	defer k.manager.ready()
	err := errPending
	if k.pending().IsZero() {
		err = k.takeUp(ctx, by, confirm)
		if err != nil {
			k.differ(k.notWhatRuns("it could not be reloaded: ", err))
		}
	}
	k.events.Publish(event.Reload{File: k.options.ConfigFile, Err: err})
	return err
}

// takeUp is reload for a caller that holds k.reloading.
func (k *Keeper) takeUp(ctx context.Context, by reloadBy, confirm time.Duration) error {
	old := k.config.Load()
	cfg, err := config.Load(k.options.ConfigFile)
	if err != nil {
		return err
	}
	if by != byCommand && k.kept.wasUndone(cfg) {
		return ErrUndone
	}
	if by == byRetry && k.kept.needsConfirmation(cfg) { // as at the start
		confirm = k.options.Confirm
	}
	if err := fixed(old, cfg); err != nil {
		return err
	}
	if err := k.apply(ctx, cfg); err != nil {
		return err
	}
	k.differ(nil)
	if confirm > 0 {
		k.awaitConfirmation(confirm, cfg, k.undoReload(old))
	} else {
		k.kept.inForce(cfg, true)
	}
	return nil
}

// apply puts a configuration in force, as a whole or not at all.
func (k *Keeper) apply(ctx context.Context, cfg *config.Config) error {
	if err := k.mayRun(cfg); err != nil {
		return err
	}
	if err := k.commands.require(cfg); err != nil {
		return err
	}
	defer k.commands.settle()
	old := k.currentListeners()
	listeners, err := k.prepare(ctx, cfg)
	if err != nil {
		return err
	}
	if err := k.gate.Configure(ctx, guardOf(cfg, listeners)); err != nil {
		k.abort(ctx, listeners)
		return err
	}
	// From here on nothing fails, unless the daemon stops, and it is carried
	// through even if the client that asked for it has gone. Grants that the new
	// configuration has ended get the commands of the old one.
	k.handlePublished(context.WithoutCancel(ctx))
	k.adopt(cfg, listeners)
	k.commands.use(cfg)
	if err := k.commit(context.WithoutCancel(ctx), listeners, old); err != nil {
		return err
	}
	if err := k.liftExempt(context.WithoutCancel(ctx), cfg); err != nil {
		k.log.Error("bans of networks that are never banned cannot be lifted", "error", err)
	}
	for _, warning := range cfg.Warnings {
		k.log.Warn(warning.Error())
	}
	return nil
}

// adopt makes cfg and its listeners the current ones.
func (k *Keeper) adopt(cfg *config.Config, listeners []listener) {
	k.codes.use(cfg)
	k.mu.Lock()
	for _, l := range listeners {
		k.listened[l.Address] = true
	}
	k.mu.Unlock()
	k.config.Store(cfg)
	k.listeners.Store(&listeners)
	k.options.Level.Set(cfg.Log.Level)
	k.notices.Use(cfg.Notify)
	k.history.Use(k.historyLimits(cfg))
	k.metrics.Configure(namesOf(cfg))
	k.warnOfShut(cfg, listeners)
}

// fixed returns an error for each changed key that only a restart can change.
func fixed(old, cfg *config.Config) error {
	var errs config.Errors
	for _, key := range []struct{ name, old, new string }{
		{"firewall.backend", old.Firewall.Backend, cfg.Firewall.Backend},
		{"firewall.table", old.Firewall.Table, cfg.Firewall.Table},
		{"admin.socket", old.Admin.Socket, cfg.Admin.Socket},
		{"log.format", old.Log.Format, cfg.Log.Format},
		{"state", old.State, cfg.State},
	} {
		if key.old != key.new {
			errs = append(errs, config.Error{File: cfg.File, Key: key.name, Msg: "changes only with a restart (was " + key.old + ")"})
		}
	}
	if len(errs) > 0 {
		return errs
	}
	return nil
}
