package keeper

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"webknock/config"
	"webknock/httpd/admin"
)

// revertRetry is how long after a failure it is tried again to undo a change.
const revertRetry = 5 * time.Second

// A trial is a change that is undone unless somebody confirms it in time, so
// that nobody locks himself out for good.
type trial struct {
	mu    sync.Mutex
	until time.Time // zero: nothing waits for confirmation
	timer *time.Timer
	undo  func(context.Context) error
	cfg   *config.Config // that is on trial
	// undoing is set while undo runs, which may take as long as the firewall
	// takes; mu is not held meanwhile.
	undoing bool
}

// begin has undo called after a time, unless cfg is confirmed before.
func (d *Daemon) begin(after time.Duration, cfg *config.Config, undo func(context.Context) error) {
	d.keep.onTrial(cfg)
	d.trial.mu.Lock()
	defer d.trial.mu.Unlock()
	d.trial.until = time.Now().Add(after)
	d.trial.undo = undo
	d.trial.cfg = cfg
	d.trial.timer = time.AfterFunc(after, d.unconfirmed)
	d.Log.Warn("waiting for webknock confirm; without it the change is undone", "until", d.trial.until)
}

// unconfirmed undoes the change whose time is over.
func (d *Daemon) unconfirmed() { d.undoTrial(false) }

// undoTrial undoes the change that waits for confirmation. If the daemon has been
// stopped, a first start may be tried again: only what began with another
// configuration to fall back on counts as undone.
func (d *Daemon) undoTrial(stopped bool) {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	d.trial.mu.Lock()
	if d.trial.until.IsZero() {
		d.trial.mu.Unlock()
		return // confirmed meanwhile
	}
	undo, cfg := d.trial.undo, d.trial.cfg
	d.trial.undoing = true
	d.trial.mu.Unlock()
	err := undo(context.Background())
	if err == nil && !stopped {
		d.keep.undone(cfg)
	}
	d.trial.mu.Lock()
	defer d.trial.mu.Unlock()
	d.trial.undoing = false
	if err != nil {
		d.Log.Error("nobody has confirmed, and the change cannot be undone; trying again", "error", err)
		d.trial.timer = time.AfterFunc(revertRetry, d.unconfirmed)
		return
	}
	d.trial.until = time.Time{}
}

// pending returns until when a change waits for confirmation; zero: none does, or
// it is too late.
func (d *Daemon) pending() time.Time {
	d.trial.mu.Lock()
	defer d.trial.mu.Unlock()
	if d.trial.undoing {
		return time.Time{}
	}
	return d.trial.until
}

// Confirm implements admin.Control.
func (d *Daemon) Confirm(context.Context) error {
	cfg, err := d.confirmed()
	if err != nil {
		return err
	}
	d.keep.inForce(cfg, true)
	d.Log.Info("confirmed")
	return nil
}

// confirmed ends the trial, and returns the configuration that was on trial.
func (d *Daemon) confirmed() (*config.Config, error) {
	d.trial.mu.Lock()
	defer d.trial.mu.Unlock()
	if d.trial.until.IsZero() {
		return nil, admin.NewProblem(http.StatusConflict, "nothing waits for confirmation")
	}
	if d.trial.undoing {
		return nil, admin.NewProblem(http.StatusConflict, "too late: the change is being undone")
	}
	d.trial.timer.Stop()
	d.trial.until = time.Time{}
	return d.trial.cfg, nil
}

// end undoes at once what waits for confirmation when the daemon stops.
func (d *Daemon) end() {
	d.trial.mu.Lock()
	waits := !d.trial.until.IsZero()
	if waits {
		d.trial.timer.Stop()
	}
	d.trial.mu.Unlock()
	if waits {
		d.undoTrial(true)
	}
}

// startUnconfirmed takes the guard away again, and stays.
func (d *Daemon) startUnconfirmed(ctx context.Context) error {
	return d.unguard(ctx, "nobody has confirmed the start, so the guard was taken away; webknock reload puts it back")
}

// reloadUnconfirmed puts back the configuration from before a reload.
func (d *Daemon) reloadUnconfirmed(old *config.Config) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := d.apply(ctx, old); err != nil {
			return err
		}
		d.differ(d.notWhatRuns("nobody has confirmed it, so that the configuration is as it was before"))
		d.Log.Warn("nobody has confirmed the reload, the configuration is as it was before")
		return nil
	}
}

var errPending = errors.New("an earlier change waits for confirmation (webknock confirm, or wait until it is undone)")
