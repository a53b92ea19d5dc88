package keeper

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"webknock/config"
	"webknock/httpd/admin"
	"webknock/internal/event"
)

// revertRetry is how long after a failure the keeper tries again to undo a change.
const revertRetry = 5 * time.Second

// A confirmation is what a change waits for: without it the change is undone, so
// that nobody locks themselves out for good.
type confirmation struct {
	mu    sync.Mutex
	until time.Time // zero: nothing waits for confirmation
	timer *time.Timer
	undo  func(context.Context) error
	cfg   *config.Config // that waits for it
	// undoing is set while undo runs. Undo may take as long as the firewall takes,
	// so mu is not held meanwhile.
	undoing bool
}

// awaitConfirmation calls undo after a time, unless somebody confirms cfg before.
func (k *Keeper) awaitConfirmation(after time.Duration, cfg *config.Config, undo func(context.Context) error) {
	k.kept.onTrial(cfg)
	k.confirmation.mu.Lock()
	defer k.confirmation.mu.Unlock()
	k.confirmation.until = time.Now().Add(after)
	k.confirmation.undo = undo
	k.confirmation.cfg = cfg
	k.confirmation.timer = time.AfterFunc(after, k.unconfirmed)
	k.log.Warn("waiting for webknock confirm; without it the change is undone", "until", k.confirmation.until)
}

// unconfirmed undoes the change whose time is over.
func (k *Keeper) unconfirmed() { k.undoUnconfirmed(context.Background(), false) }

// undoUnconfirmed undoes the change that waits for confirmation, and remembers it
// as undone, unless the daemon stops: then the next start may try it again.
func (k *Keeper) undoUnconfirmed(ctx context.Context, stopped bool) {
	k.reloading.Lock()
	defer k.reloading.Unlock()
	k.confirmation.mu.Lock()
	if k.confirmation.until.IsZero() {
		k.confirmation.mu.Unlock()
		return // confirmed meanwhile
	}
	undo, cfg := k.confirmation.undo, k.confirmation.cfg
	k.confirmation.undoing = true
	k.confirmation.mu.Unlock()
	err := undo(ctx)
	if err == nil && !stopped {
		k.kept.undone(cfg)
	}
	k.confirmation.mu.Lock()
	defer k.confirmation.mu.Unlock()
	k.confirmation.undoing = false
	if err != nil {
		k.log.Error("nobody has confirmed, and the change cannot be undone; trying again", "error", err)
		k.confirmation.timer = time.AfterFunc(revertRetry, k.unconfirmed)
		return
	}
	k.confirmation.until = time.Time{}
}

// pending returns until when a change waits for confirmation, or zero if none does
// or it is too late.
func (k *Keeper) pending() time.Time {
	k.confirmation.mu.Lock()
	defer k.confirmation.mu.Unlock()
	if k.confirmation.undoing {
		return time.Time{}
	}
	return k.confirmation.until
}

// Confirm implements admin.Control.
func (k *Keeper) Confirm(ctx context.Context) error {
	cfg, err := k.endAsConfirmed()
	if err != nil {
		return err
	}
	k.kept.inForce(cfg, true)
	k.log.Info("confirmed")
	k.acted(ctx, event.Admin{Act: "confirmed the change"})
	return nil
}

// endAsConfirmed ends the wait, and returns the configuration that is confirmed.
func (k *Keeper) endAsConfirmed() (*config.Config, error) {
	k.confirmation.mu.Lock()
	defer k.confirmation.mu.Unlock()
	if k.confirmation.until.IsZero() {
		return nil, admin.NewProblem(http.StatusConflict, "nothing waits for confirmation")
	}
	if k.confirmation.undoing {
		return nil, admin.NewProblem(http.StatusConflict, "too late: the change is being undone")
	}
	k.confirmation.timer.Stop()
	k.confirmation.until = time.Time{}
	return k.confirmation.cfg, nil
}

// endConfirmation undoes at once what waits for confirmation when the daemon stops.
func (k *Keeper) endConfirmation(ctx context.Context) error {
	k.confirmation.mu.Lock()
	waits := !k.confirmation.until.IsZero()
	if waits {
		k.confirmation.timer.Stop()
	}
	k.confirmation.mu.Unlock()
	if waits {
		k.undoUnconfirmed(ctx, true)
	}
	return nil
}

// undoStart takes the guard away. The daemon goes on without it.
func (k *Keeper) undoStart(ctx context.Context) error {
	return k.unguard(ctx, "nobody has confirmed the start, so the guard was taken away; webknock reload puts it back")
}

// undoReload puts back the configuration from before a reload.
func (k *Keeper) undoReload(old *config.Config) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := k.apply(ctx, old); err != nil {
			return err
		}
		k.differ(k.notWhatRuns("nobody has confirmed it, so that the configuration is as it was before"))
		k.log.Warn("nobody has confirmed the reload, the configuration is as it was before")
		return nil
	}
}

var errPending = errors.New("an earlier change waits for confirmation (webknock confirm, or wait until it is undone)")
