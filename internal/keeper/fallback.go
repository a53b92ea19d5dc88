package keeper

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"webknock/config"
	"webknock/internal/lastgood"
)

// A Start is the configuration that a daemon starts with: that of the file or, if
// that cannot be put in force, the last good one.
type Start struct {
	Config   *config.Config
	fallback *fallback // nil: it is that of the file
}

// A fallback says why a start uses the last good configuration, and what it lacks.
type fallback struct {
	why   error     // what is wrong with the file
	since time.Time // when the last good configuration came in force
	lacks []string  // what it has to do without
}

// Why the file is read again.
type reloadBy int

const (
	byCommand reloadBy = iota // an administrator asks for it
	bySignal                  // SIGHUP, perhaps because a terminal was closed
	byRetry                   // the host refused the file at the start
)

// A refusal is why this host cannot put a configuration in force whose file has no
// errors: an address is taken, for example.
type refusal struct{ error }

func (r *refusal) Unwrap() error { return r.error }

// ErrUndone means that nobody has confirmed a configuration.
var ErrUndone = errors.New("nobody has confirmed it, and its trial was undone (change it, or have it put in force by webknock reload)")

// Choose loads the file, and returns what to start with. If strict or dryRun is set
// it never falls back on the last good configuration.
func Choose(file string, strict, dryRun bool) (*Start, error) {
	cfg, err := config.Load(file)
	if err == nil && !dryRun {
		err = Undone(cfg)
	}
	if err == nil {
		return &Start{Config: cfg}, nil
	}
	if strict || dryRun {
		return nil, err
	}
	state := config.Peek(file).State
	if cfg != nil {
		state = cfg.State
	}
	return fallBack(file, state, err)
}

// Undone returns ErrUndone for a configuration that was undone because nobody
// confirmed it. Treat it like one that does not load.
func Undone(cfg *config.Config) error {
	trials, err := lastgood.ReadTrials(cfg.State)
	if err == nil && cfg.Source != nil && slices.Contains(trials.Undone, cfg.Source.Hash()) {
		return fmt.Errorf("%s: %w", cfg.File, ErrUndone)
	}
	return nil // a record that cannot be read undoes nothing
}

// fallBack returns a start with the last good configuration, or why if there is
// none.
func fallBack(file, state string, why error) (*Start, error) {
	state = lastgood.Dir(file, state, config.DefaultState())
	last, err := lastgood.ReadConfig(state)
	if err == nil && last == nil {
		return nil, why
	}
	var cfg *config.Config
	var lacks []string
	if err == nil {
		cfg, lacks, err = config.Restore(last.Source)
	}
	if err != nil {
		return nil, fmt.Errorf("%w; and the last good configuration is of no use: %w", why, err)
	}
	cfg.State = state
	return &Start{Config: cfg, fallback: &fallback{why: why, since: last.Since, lacks: lacks}}, nil
}

// LastGood returns the last good configuration of a file, or nil, and what it has
// to do without.
func LastGood(file, state string) (cfg *config.Config, lacks []string, err error) {
	start, err := fallBack(file, state, errNothingKept)
	if err == errNothingKept {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	return start.Config, start.fallback.lacks, nil
}

var errNothingKept = errors.New("the file is not in force")

// differ sets why the file on disk is not what runs, or nil if it is.
func (k *Keeper) differ(why []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.differs = why
}

// notWhatRuns returns why the file on disk is not what runs, with one line for
// each error.
func (k *Keeper) notWhatRuns(why string, errs ...error) []string {
	lines := []string{fmt.Sprintf("the file on disk (%s) is not what runs: %s", k.options.ConfigFile, why)}
	for _, err := range errs {
		var invalid config.Errors
		if errors.As(err, &invalid) {
			lines[0] += "it has errors"
			lines = append(lines, invalid.Lines()...)
		} else {
			lines[0] += err.Error()
		}
	}
	return lines
}

// fellBack reports that the last good configuration runs, and what it lacks.
func (k *Keeper) fellBack(ctx context.Context) {
	f := k.start.fallback
	why := k.notWhatRuns("", f.why)
	why[0] += fmt.Sprintf("; the configuration in force since %s runs, until webknock reload succeeds", f.since.Local().Format(time.DateTime))
	for _, lack := range f.lacks {
		why = append(why, "what runs does without "+lack)
	}
	k.differ(why)
	k.log.Error("the last good configuration runs", "problems", strings.Join(why, "\n"))
	if k.kept.isAway() {
		if err := k.unguard(ctx, takenAway); err != nil {
			k.log.Error("the guard, which somebody has taken away, cannot be taken away again", "error", err)
		}
	}
}

// withoutCommands returns the last good configuration without the commands that run
// as users that the daemon may not become. Err says why it may not.
func (k *Keeper) withoutCommands(cfg *config.Config, err error) *config.Config {
	less := *cfg
	less.Sequences = slices.Clone(cfg.Sequences)
	for i := range less.Sequences {
		less.Sequences[i].Run = slices.DeleteFunc(slices.Clone(less.Sequences[i].Run), becomes)
	}
	k.lack(err.Error())
	return &less
}

// withoutAddresses returns the last good configuration without the listeners whose
// address cannot be bound now, unless that is all of them, and without the address of the
// metrics if that cannot be bound.
func (k *Keeper) withoutAddresses(ctx context.Context, cfg *config.Config) *config.Config {
	less := *cfg
	less.Listeners = nil
	var lacks []string
	for _, c := range cfg.Listeners {
		if err := k.sockets.canListen(ctx, c.Address); err != nil {
			lacks = append(lacks, "a listener: "+err.Error())
		} else {
			less.Listeners = append(less.Listeners, c)
		}
	}
	if len(less.Listeners) == 0 {
		less.Listeners, lacks = cfg.Listeners, nil
	}
	if err := k.scraped.Prepare(ctx, cfg.Admin.Metrics); err != nil {
		less.Admin.Metrics = ""
		lacks = append(lacks, "the address of the metrics: "+explainListen(err).Error())
	}
	k.lack(lacks...)
	return &less
}

func (k *Keeper) lack(what ...string) {
	f := *k.start.fallback
	f.lacks = append(slices.Clone(f.lacks), what...)
	k.start = &Start{Config: k.start.Config, fallback: &f}
}

const (
	minStartRetry = 5 * time.Second
	maxStartRetry = time.Minute
)

// retryStart tries again to put the file in force that this host has refused,
// because the reason may go away: an address may appear late. A file with errors
// waits for a reload instead, because somebody may be editing it. It returns when
// ctx is done, or when there is nothing more to try.
func (k *Keeper) retryStart(ctx context.Context) {
	var refused *refusal
	if !errors.As(k.start.fallback.why, &refused) {
		return
	}
	running := k.config.Load()
	for wait := minStartRetry; ; wait = min(2*wait, maxStartRetry) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if k.retryOnce(ctx, running) {
			return
		}
	}
}

// retryOnce reports whether there is nothing more to try.
func (k *Keeper) retryOnce(ctx context.Context, running *config.Config) bool {
	k.reloading.Lock()
	defer k.reloading.Unlock()
	if guarded, _ := k.gate.Guarding(ctx); k.config.Load() != running || !guarded {
		return true // reloaded, or unguarded
	}
	if err := k.takeUp(ctx, byRetry, 0); err != nil {
		return false // the status says why since the start
	}
	k.log.Info("what was in the way of the file at the start has gone; it is in force", "config", k.options.ConfigFile)
	return true
}
