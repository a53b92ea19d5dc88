package keeper

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"webknock/config"
	"webknock/internal/atomicfile"
	"webknock/internal/lastgood"
)

// kept keeps what is in force for the starts to come. It does nothing in a
// dry run, which shuts nothing.
type kept struct {
	options Options
	dir     *atomicfile.Dir
	backend string
	needed  bool // a failure is a problem

	mu     sync.Mutex
	trials lastgood.Trials
	last   *config.Config // in force, and kept or to be kept
	source *config.Source // of the last good configuration; nil: there is none
	since  time.Time
	away   time.Time // when its guard was taken away

	failed  chan struct{}         // wakes refresh
	failure atomic.Pointer[error] // why it is not kept; read without mu, which writes hold
}

func newKept(dir *atomicfile.Dir, backend string, o Options) *kept {
	k := &kept{options: o, failed: make(chan struct{}, 1), dir: dir, backend: backend, needed: backend == config.BackendNFTables}
	if o.DryRun {
		return k
	}
	state := dir.Path("")
	var errs [3]error
	var c *lastgood.Config
	var g *lastgood.Guard
	k.trials, errs[0] = lastgood.ReadTrials(state)
	c, errs[1] = lastgood.ReadConfig(state)
	g, errs[2] = lastgood.ReadGuard(state)
	if c != nil {
		k.source, k.since = c.Source, c.Since
	}
	if g != nil {
		k.away = g.TakenAway
	}
	if err := errors.Join(errs[:]...); err != nil {
		o.Log.Warn("what was in force last cannot be read, and is kept anew", "error", err)
	}
	return k
}

// needsConfirmation reports whether a start with cfg is undone unless it is confirmed.
func (k *kept) needsConfirmation(cfg *config.Config) bool {
	if k.options.Confirm == 0 {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	hash := cfg.Source.Hash()
	if slices.Contains(k.trials.Confirmed, hash) || k.options.Standing && k.source != nil && k.source.Hash() == hash {
		k.options.Log.Info("no trial: this configuration was confirmed or in force before")
		return false
	}
	return true
}

// inForce keeps a configuration as the last good one: it is in force, and
// either confirmed or not on trial.
func (k *kept) inForce(cfg *config.Config, confirmed bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if confirmed {
		k.trials.Confirm(cfg.Source.Hash())
	}
	k.last, k.away = cfg, time.Time{}
	source := cfg.WithCertificates()
	if k.source == nil || k.source.Hash() != source.Hash() {
		k.since = time.Now()
	}
	k.source = source
	k.write()
}

// onTrial remembers a configuration as one that nobody has confirmed, should
// this process not live to undo it. Without another to fall back on the next
// start may try it again.
func (k *kept) onTrial(cfg *config.Config) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.source != nil {
		k.undo(cfg)
	}
}

// undone remembers a configuration as one that nobody has confirmed.
func (k *kept) undone(cfg *config.Config) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.undo(cfg)
}

// undo is undone for a caller that holds k.mu. What was in force before its
// trial stays so.
func (k *kept) undo(cfg *config.Config) {
	if hash := cfg.Source.Hash(); k.source == nil || k.source.Hash() != hash {
		k.trials.Undo(hash)
		k.write()
	}
}

// wasUndone reports whether nobody has confirmed a configuration.
func (k *kept) wasUndone(cfg *config.Config) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Contains(k.trials.Undone, cfg.Source.Hash())
}

// takenAway remembers that somebody has taken the guard away on purpose.
func (k *kept) takenAway() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.away = time.Now()
	k.write()
}

// isAway reports whether somebody has taken the last good guard away on purpose.
func (k *kept) isAway() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.away.IsZero()
}

// write writes down what has changed, for a caller that holds k.mu.
func (k *kept) write() {
	if k.options.DryRun {
		return
	}
	err := lastgood.WriteTrials(k.dir, k.trials)
	if err == nil && k.last != nil {
		guard := lastgood.Guard{Backend: k.backend, Table: k.last.Firewall.Table, Guard: k.last.Firewall.Guard, TakenAway: k.away}
		err = lastgood.WriteGuard(k.dir, guard)
	} else if err == nil {
		err = lastgood.MarkGuard(k.dir, k.away)
	}
	if err == nil && k.last != nil {
		err = lastgood.WriteConfig(k.dir, lastgood.Config{Since: k.since, Source: k.source})
	}
	if err == nil {
		k.failure.Store(nil)
		return
	}
	if k.failure.Swap(&err) != nil {
		return
	}
	if !k.needed {
		k.options.Log.Warn("what is in force cannot be kept for the next start", "error", err)
	}
	select {
	case k.failed <- struct{}{}:
	default:
	}
}

// problem returns why what is in force is not kept; nil: it is.
func (k *kept) problem() error {
	if err := k.failure.Load(); err != nil && k.needed {
		return fmt.Errorf("what is in force cannot be kept for the next start: %w", *err)
	}
	return nil
}

const (
	minKeepRetry = time.Second
	maxKeepRetry = 5 * time.Second
	keepRefresh  = time.Hour // the kept certificates are no older than that
)

// refresh tries again what could not be kept, and keeps certificates that have
// been renewed, until ctx is done.
func (k *kept) refresh(ctx context.Context) {
	retry := minKeepRetry
	for {
		wait := keepRefresh
		if k.failure.Load() != nil {
			wait, retry = retry, min(2*retry, maxKeepRetry)
		} else {
			retry = minKeepRetry
		}
		select {
		case <-ctx.Done():
			return
		case <-k.failed:
			continue
		case <-time.After(wait):
		}
		k.mu.Lock()
		if k.last != nil {
			k.source = k.last.WithCertificates()
		}
		k.write()
		k.mu.Unlock()
	}
}
