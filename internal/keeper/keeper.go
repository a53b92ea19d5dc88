// Package keeper is the half of the daemon that holds the power: configuration,
// gate, admin API, commands, confirmation.
//
// A [Keeper] does what package seam has the front ask for, and what the admin API
// asks for. Run is the whole daemon; Start says in which order its parts start, and
// so in which order they stop. Everything that happens is an event (package event),
// to which the log, notices and commands subscribe.
package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"webknock/config"
	"webknock/firewall"
	"webknock/firewall/nft"
	"webknock/internal/acme"
	"webknock/internal/atomicfile"
	"webknock/internal/closed"
	"webknock/internal/command"
	"webknock/internal/confine"
	"webknock/internal/event"
	"webknock/internal/history"
	"webknock/internal/metrics"
	"webknock/internal/notice"
	"webknock/internal/seam"
	"webknock/internal/store"
)

// Options are what a Keeper is made of.
type Options struct {
	ConfigFile string
	Start      *Start        // what to start with
	Socket     string        // of the admin API; empty: as configured
	Confirm    time.Duration // take the guard away again unless the start is confirmed in this time; 0: no
	Standing   bool          // Confirm holds for every start: the last good configuration needs no confirmation
	Strict     bool          // fail where the file cannot be put in force, though another configuration was
	DryRun     bool          // touch no firewall, whatever the configuration says
	Version    string
	Log        *slog.Logger
	Level      *slog.LevelVar            // of Log; the configuration sets it
	Sockets    map[string][]net.Listener // from systemd, by name

	// Front makes the other half of the daemon.
	Front func(FrontOptions) seam.Front
	// Commands makes what runs commands; nil: they are run by this process.
	Commands func(CommandsOptions) Executor
}

// CommandsOptions are what the keeper gives to what runs commands.
type CommandsOptions struct {
	Tell func(event.CommandsEnded) // of a process that runs them
	Log  *slog.Logger
}

// An Executor runs commands in a process of its own.
type Executor interface {
	command.Executor
	Require() error // the process runs, or cannot be started
	Use(*command.Set)
	Settle() // it ends if nothing needs it
	Problem() error
	Processes() []confine.Info
	Close()
}

// FrontOptions are what the keeper gives to the front.
type FrontOptions struct {
	Keeper seam.Keeper
	Tell   func(event.FrontEnded) // of a process of the front
	Bans   func() []firewall.Ban  // that hold
	Log    *slog.Logger
}

// A Keeper holds the power over doors.
type Keeper struct {
	options   Options
	log       *slog.Logger
	start     *Start
	startedAt time.Time
	lifecycle lifecycle
	events    event.Bus
	opened    counter // grants
	repairs   counter
	stats     *stats
	metrics   *metrics.Metrics
	scrapes   http.Handler
	scraped   *metrics.Server // the scrapes on an address of their own
	missed    missed
	untold    counter               // refused completions
	handlers  []*event.Subscription // of notices and commands
	recent    *recent

	historyEvents *event.Subscription

	adminSocket net.Listener
	sockets     sockets
	front       seam.Front
	supervisor  supervisor // nil: the front has no process of its own
	backend     firewall.Backend
	gate        *firewall.Gate
	state       *atomicfile.Dir
	store       *store.Store // in state
	codes       *codes       // in store
	asked       *asked
	counted     rising // by the front
	kept        *kept
	history     *history.Log
	closed      *closed.Journal // nil: the backend outlives this process in nothing
	notices     *notice.Sender
	commands    *commands
	manager     serviceManager
	serving     bool // the start was a success

	bans         banQueue
	refusals     refusals
	confirmation confirmation

	stopping  atomic.Bool // nothing is reloaded any more
	reloading sync.Mutex  // held by whoever changes config or listeners
	config    atomic.Pointer[config.Config]
	listeners atomic.Pointer[[]listener]
	recheck   chan struct{} // holds a value when watchCertificates has to look again

	challenges *acme.Challenges

	mu          sync.Mutex
	completions map[string]uint64 // by sequence
	listened    map[string]bool   // addresses of all listeners that there have been
	unguarded   string            // why nothing is guarded, if nothing is
	differs     []string          // why the file on disk is not what runs, if it is not
}

// New returns a keeper that does nothing until Start.
func New(o Options) *Keeper {
	k := &Keeper{
		options: o, log: o.Log, start: o.Start, lifecycle: lifecycle{log: o.Log}, bans: newBanQueue(), sockets: sockets{systemd: o.Sockets},
		history: history.NewLog(nil, history.Limits{}, history.Boot{}, o.Log), notices: notice.NewSender(o.Log), manager: serviceManager{o.Log}, completions: map[string]uint64{},
		recheck: make(chan struct{}, 1),
	}
	k.asked, k.listened = newAsked(o.Log), map[string]bool{}
	k.challenges = acme.NewChallenges(k.useChallenges)
	k.recent = newRecent(&k.events)
	k.metrics = metrics.New(o.Version, k)
	k.scrapes = k.metrics.Handler(o.Log)
	k.scraped = metrics.NewServer(k.scrapes, o.Log)
	return k
}

// Run serves until ctx is done, and then returns nil; doors stay guarded.
// What arrives on reload makes it read its configuration again. If the host
// refuses the configuration of the file, it starts with the last good one.
func Run(ctx context.Context, o Options, reload <-chan struct{}) error {
	err := run(ctx, o, reload)
	var refused *refusal
	if !errors.As(err, &refused) || o.Start.fallback != nil || o.Strict || o.DryRun {
		return err
	}
	start, none := fallBack(o.ConfigFile, o.Start.Config.State, err)
	if none != nil {
		return none
	}
	o.Start = start
	if again := run(ctx, o, reload); errors.As(again, &refused) && again.Error() != err.Error() {
		return fmt.Errorf("%w; nor can the last good configuration be put in force: %w", err, again)
	} else {
		return again
	}
}

func run(ctx context.Context, o Options, reload <-chan struct{}) error {
	k := New(o)
	defer k.Stop()
	if err := k.Start(ctx); err != nil {
		return err
	}
	for {
		select {
		case <-reload:
			k.reloadBySignal(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

func (k *Keeper) backendName(cfg *config.Config) string {
	if k.options.DryRun {
		return config.BackendMemory
	}
	return cfg.Firewall.Backend
}

func (k *Keeper) newBackend(cfg *config.Config) (firewall.Backend, error) {
	if k.backendName(cfg) == config.BackendMemory {
		return firewall.NewMemory(), nil
	}
	sessions := atomicfile.File{Dir: k.state, Name: nft.SessionsFile, Max: nft.MaxSessionsFile}
	return nft.New(nft.Options{Table: cfg.Firewall.Table, Log: k.log, Sessions: sessions})
}

// explain adds a hint to an error of the firewall.
func explain(err error) error {
	switch {
	case errors.Is(err, firewall.ErrPermission):
		return fmt.Errorf("%w (run as root or with CAP_NET_ADMIN; to try without a firewall: webknock serve --dry-run)", err)
	case errors.Is(err, firewall.ErrUnsupported):
		return fmt.Errorf("%w (is the kernel module there? modprobe nf_tables; to try without a firewall: webknock serve --dry-run)", err)
	}
	return err
}
