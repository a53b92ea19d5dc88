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

// kept records which configuration and guard are in force, for the next start, and
// which configurations were confirmed or undone. In a dry run, which keeps no door
// shut, it records nothing.
type kept struct {
	options Options
	dir     *atomicfile.Dir
	backend string
	needed  bool // a failure makes the state degraded

	mu     sync.Mutex
	trials lastgood.Trials
	last   *config.Config // in force; recorded, or to be recorded
	source *config.Source // of the last good configuration; nil: there is none
	since  time.Time
	away   time.Time // when its guard was taken away

	failed  chan struct{}         // wakes refresh
	failure atomic.Pointer[error] // why it is not recorded; read without mu, which is held while writing
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

// needsConfirmation reports whether a start with cfg must be confirmed.
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

// inForce records a configuration as the last good one: it is in force, and it was
// confirmed or needs no confirmation.
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

// onTrial records a configuration as one that nobody has confirmed, in case this
// process is killed before it can undo it. If there is no other configuration to
// fall back on it records nothing: the next start may try this one again.
func (k *kept) onTrial(cfg *config.Config) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.source != nil {
		k.undo(cfg)
	}
}

// undone records a configuration as one that nobody has confirmed.
func (k *kept) undone(cfg *config.Config) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.undo(cfg)
}

// undo is undone for a caller that holds k.mu. It does nothing for the last good
// configuration.
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

// takenAway records that somebody has taken the guard away on purpose.
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

// write writes the files, for a caller that holds k.mu.
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

// problem returns why what is in force is not recorded, or nil.
func (k *kept) problem() error {
	if err := k.failure.Load(); err != nil && k.needed {
		return fmt.Errorf("what is in force cannot be kept for the next start: %w", *err)
	}
	return nil
}

const (
	minKeepRetry = time.Second
	maxKeepRetry = 5 * time.Second
	keepRefresh  = time.Hour // the recorded certificates are no older than that
)

// refresh retries what could not be written, and records renewed certificates,
// until ctx is done.
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
