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

// A Start is the configuration that a daemon starts with: that of the file or,
// if it cannot be put in force, the one that was in force last.
type Start struct {
	Config   *config.Config
	fallback *fallback // nil: it is that of the file
}

// A fallback says what is wrong at a start with what was in force last.
type fallback struct {
	why   error     // the file is not in force
	since time.Time // when the configuration came in force
	lacks []string  // what it has to do without
}

// Why the file is read again.
type reloadBy int

const (
	byCommand reloadBy = iota // somebody asks for it
	bySignal                  // which may mean that a terminal was closed
	byRetry                   // of a start that was refused
)

// A refusal is why a configuration cannot be put in force on this host, though
// nothing is wrong with its file.
type refusal struct{ error }

func (r *refusal) Unwrap() error { return r.error }

// ErrUndone means that the trial of a file was undone, or has not ended yet.
var ErrUndone = errors.New("nobody has confirmed it, and its trial was undone (change it, or have it put in force by webknock reload)")

// Choose returns what to start with. With strict, and in a dry run, which keeps
// nothing shut, only the file will do.
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

// Undone returns an error if nobody has confirmed a configuration, so that its
// trial was undone, and it is to be treated like one that does not load.
func Undone(cfg *config.Config) error {
	trials, err := lastgood.ReadTrials(cfg.State)
	if err == nil && cfg.Source != nil && slices.Contains(trials.Undone, cfg.Source.Hash()) {
		return fmt.Errorf("%s: %w", cfg.File, ErrUndone)
	}
	return nil // a file of trials that cannot be read undoes none
}

// fallBack returns a start with what was in force last, or why.
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

// LastGood returns the configuration of a file that was in force last, or nil,
// and what it has to do without.
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

// differ sets why the file on disk is not what runs; nil: it is.
func (k *Keeper) differ(why []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.differs = why
}

// notWhatRuns says why the file on disk is not what runs, with errors a line
// each.
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

// fellBack says at a start that what was in force last runs, and what it lacks.
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

// withoutCommands returns a configuration that was in force without the commands
// that run as users whom the daemon may not become, because of err.
func (k *Keeper) withoutCommands(cfg *config.Config, err error) *config.Config {
	less := *cfg
	less.Sequences = slices.Clone(cfg.Sequences)
	for i := range less.Sequences {
		less.Sequences[i].Run = slices.DeleteFunc(slices.Clone(less.Sequences[i].Run), becomes)
	}
	k.lack(err.Error())
	return &less
}

// withoutAddresses returns a configuration that was in force without the
// listeners that cannot have their address now, unless that is all of them.
func (k *Keeper) withoutAddresses(ctx context.Context, cfg *config.Config) *config.Config {
	less := *cfg
	less.Listeners = nil
	var lacks []string
	for _, c := range cfg.Listeners {
		if err := k.front.CanListen(ctx, c.Address); err != nil {
			lacks = append(lacks, "a listener: "+err.Error())
		} else {
			less.Listeners = append(less.Listeners, c)
		}
	}
	if len(less.Listeners) == 0 {
		return cfg
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

// retryStart tries to put the file in force whose start was refused by this
// host, since what is in its way may go: an address may come late. A file with
// errors of its own waits for a reload: somebody may be at work on it. It
// returns when ctx is done, or something else has become of the file.
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
