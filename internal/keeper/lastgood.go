package keeper

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"webknock/config"
	"webknock/httpd"
	"webknock/internal/atomicfile"
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

// keeping keeps what is in force for the starts to come. It does nothing in a
// dry run, which shuts nothing.
type keeping struct {
	Options
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

func newKeeping(dir *atomicfile.Dir, backend string, o Options) *keeping {
	k := &keeping{Options: o, failed: make(chan struct{}, 1), dir: dir, backend: backend, needed: backend == config.BackendNFTables}
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

// needsTrial reports whether a start with cfg is undone unless it is confirmed.
func (k *keeping) needsTrial(cfg *config.Config) bool {
	if k.Confirm == 0 {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	hash := cfg.Source.Hash()
	if slices.Contains(k.trials.Confirmed, hash) || k.Standing && k.source != nil && k.source.Hash() == hash {
		k.Log.Info("no trial: this configuration was confirmed or in force before")
		return false
	}
	return true
}

// inForce keeps a configuration as the last good one: it is in force, and
// either confirmed or not on trial.
func (k *keeping) inForce(cfg *config.Config, confirmed bool) {
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
func (k *keeping) onTrial(cfg *config.Config) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.source != nil {
		k.undo(cfg)
	}
}

// undone remembers a configuration as one that nobody has confirmed.
func (k *keeping) undone(cfg *config.Config) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.undo(cfg)
}

// undo is undone for a caller that holds k.mu. What was in force before its
// trial stays so.
func (k *keeping) undo(cfg *config.Config) {
	if hash := cfg.Source.Hash(); k.source == nil || k.source.Hash() != hash {
		k.trials.Undo(hash)
		k.write()
	}
}

// wasUndone reports whether nobody has confirmed a configuration.
func (k *keeping) wasUndone(cfg *config.Config) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Contains(k.trials.Undone, cfg.Source.Hash())
}

// takenAway remembers that somebody has taken the guard away on purpose.
func (k *keeping) takenAway() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.away = time.Now()
	k.write()
}

// isAway reports whether somebody has taken the last good guard away on purpose.
func (k *keeping) isAway() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.away.IsZero()
}

// write writes down what has changed, for a caller that holds k.mu.
func (k *keeping) write() {
	if k.DryRun {
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
		k.Log.Warn("what is in force cannot be kept for the next start", "error", err)
	}
	select {
	case k.failed <- struct{}{}:
	default:
	}
}

// problem returns why what is in force is not kept; nil: it is.
func (k *keeping) problem() error {
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
func (k *keeping) refresh(ctx context.Context) {
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

// differ sets why the file on disk is not what runs; nil: it is.
func (d *Daemon) differ(why []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.differs = why
}

// notWhatRuns says why the file on disk is not what runs, with errors a line
// each.
func (d *Daemon) notWhatRuns(why string, errs ...error) []string {
	lines := []string{fmt.Sprintf("the file on disk (%s) is not what runs: %s", d.ConfigFile, why)}
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
func (d *Daemon) fellBack(ctx context.Context) {
	f := d.Start.fallback
	why := d.notWhatRuns("", f.why)
	why[0] += fmt.Sprintf("; the configuration in force since %s runs, until webknock reload succeeds", f.since.Local().Format(time.DateTime))
	for _, lack := range f.lacks {
		why = append(why, "what runs does without "+lack)
	}
	d.differ(why)
	d.Log.Error("the last good configuration runs", "problems", strings.Join(why, "\n"))
	if d.keep.isAway() {
		if err := d.unguard(ctx, takenAway); err != nil {
			d.Log.Error("the guard, which somebody has taken away, cannot be taken away again", "error", err)
		}
	}
}

// withoutCommands returns a configuration that was in force without the commands
// that run as users whom the daemon may not become, because of err.
func (d *Daemon) withoutCommands(cfg *config.Config, err error) *config.Config {
	less := *cfg
	less.Sequences = slices.Clone(cfg.Sequences)
	for i := range less.Sequences {
		less.Sequences[i].Run = slices.DeleteFunc(slices.Clone(less.Sequences[i].Run), becomes)
	}
	d.lack(err.Error())
	return &less
}

// withoutAddresses returns a configuration that was in force without the
// listeners that cannot have their address now, unless that is all of them.
func (d *Daemon) withoutAddresses(ctx context.Context, cfg *config.Config) *config.Config {
	less := *cfg
	less.Listeners = nil
	var lacks []string
	for _, c := range cfg.Listeners {
		if err := d.canHave(ctx, c.Address); err != nil {
			lacks = append(lacks, "a listener: "+err.Error())
		} else {
			less.Listeners = append(less.Listeners, c)
		}
	}
	if len(less.Listeners) == 0 {
		return cfg
	}
	d.lack(lacks...)
	return &less
}

func (d *Daemon) lack(what ...string) {
	f := *d.Start.fallback
	f.lacks = append(slices.Clone(f.lacks), what...)
	d.Start = &Start{Config: d.Start.Config, fallback: &f}
}

// canHave returns why the daemon cannot listen on an address now.
func (d *Daemon) canHave(ctx context.Context, address string) error {
	if name, ok := strings.CutPrefix(address, "systemd:"); ok && len(d.sockets[name]) > 0 {
		return nil
	}
	l, err := d.listen(ctx, address, httpd.Options{Log: d.Log})
	if err != nil {
		return explainListen(err)
	}
	return l.Close()
}

const (
	minStartRetry = 5 * time.Second
	maxStartRetry = time.Minute
)

// retryStart tries to put the file in force whose start was refused by this
// host, since what is in its way may go: an address may come late. A file with
// errors of its own waits for a reload: somebody may be at work on it. It
// returns when ctx is done, or something else has become of the file.
func (d *Daemon) retryStart(ctx context.Context) {
	var refused *refusal
	if !errors.As(d.Start.fallback.why, &refused) {
		return
	}
	running := d.config.Load()
	for wait := minStartRetry; ; wait = min(2*wait, maxStartRetry) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if d.retryOnce(ctx, running) {
			return
		}
	}
}

// retryOnce reports whether there is nothing more to try.
func (d *Daemon) retryOnce(ctx context.Context, running *config.Config) bool {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	if guarded, _ := d.gate.Guarding(ctx); d.config.Load() != running || !guarded {
		return true // reloaded, or unguarded
	}
	if err := d.takeUp(ctx, byRetry, 0); err != nil {
		return false // the status says why since the start
	}
	d.Log.Info("what was in the way of the file at the start has gone; it is in force", "config", d.ConfigFile)
	return true
}
