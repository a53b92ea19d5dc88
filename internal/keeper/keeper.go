// Package keeper puts the parts of webknock together: listeners post letters,
// shards read them, completions go to the gate, the gate's events to the log.
package keeper

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"mime"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"

	"webknock/config"
	"webknock/firewall"
	"webknock/firewall/nft"
	"webknock/httpd"
	"webknock/httpd/admin"
	"webknock/internal/acme"
	"webknock/internal/atomicfile"
	"webknock/internal/closed"
	"webknock/internal/notice"
	"webknock/internal/onetime"
	"webknock/sequence"
)

// stopTimeout bounds what is waited for when the daemon stops, so that it is
// gone within the two seconds that users are promised.
const stopTimeout = 1500 * time.Millisecond

// Options are what a Daemon is started with.
type Options struct {
	ConfigFile string
	Start      *Start        // what to start with; nil: as Choose has it
	Socket     string        // of the admin API; empty: as configured
	Confirm    time.Duration // take the guard away again unless the start is confirmed in this time; 0: no
	Standing   bool          // Confirm holds for every start: there is no trial of what was in force last
	Strict     bool          // fail where the file cannot be put in force, though another configuration was
	DryRun     bool          // touch no firewall, whatever the configuration says
	Version    string
	Log        *slog.Logger
	Level      *slog.LevelVar // of Log; the configuration sets it
}

// A Daemon is everything that runs.
type Daemon struct {
	Options
	started  time.Time
	backend  firewall.Backend
	gate     *firewall.Gate
	shards   *shards
	state    *atomicfile.Dir
	keep     *keeping
	verifier *onetime.Verifier
	closed   *closed.Journal // nil: the backend outlives this process in nothing
	notifier notifier
	notices  *notice.Sender
	commands *commands
	refused  httpd.Refused // by all listeners

	sockets    map[string][]net.Listener // from systemd, by name
	challenges acme.Challenges

	banning   sync.Mutex // held by whoever tells the gate of bans
	reloading sync.Mutex // held by whoever changes config or listeners
	config    atomic.Pointer[config.Config]
	listeners atomic.Pointer[[]*listener]

	effects sync.WaitGroup // of completions, that wait for an answer to be out

	mu          sync.Mutex
	completions map[string]uint64            // by sequence
	waiting     map[netip.Addr]chan struct{} // the latest completion of a client that waits; closed when it is carried out
	unguarded   string                       // why nothing is guarded, if nothing is
	differs     []string                     // why the file on disk is not what runs, if it is not

	trial trial
}

// A listener is what serves one address of the configuration.
type listener struct {
	*httpd.Listener
	address   string // as configured
	options   httpd.Options
	authority *authority // nil: its certificate is in files, or it is plain
}

// Run serves until ctx is done, and then returns nil; doors stay guarded.
// What arrives on reload makes it read its configuration again.
func Run(ctx context.Context, o Options, reload <-chan struct{}) error {
	sockets, err := activation.ListenersWithNames()
	if err != nil {
		return fmt.Errorf("take sockets from systemd: %w", err)
	}
	if o.Start == nil {
		if o.Start, err = Choose(o.ConfigFile, o.Strict, o.DryRun); err != nil {
			return err
		}
	}
	err = run(ctx, o, sockets, reload)
	var refused *refusal
	if !errors.As(err, &refused) || o.Start.fallback != nil || o.Strict || o.DryRun {
		return err
	}
	start, none := fallBack(o.ConfigFile, o.Start.Config.State, err)
	if none != nil {
		return none
	}
	o.Start = start
	if again := run(ctx, o, sockets, reload); errors.As(again, &refused) && again.Error() != err.Error() {
		return fmt.Errorf("%w; nor can the last good configuration be put in force: %w", err, again)
	} else {
		return again
	}
}

func run(ctx context.Context, o Options, sockets map[string][]net.Listener, reload <-chan struct{}) error {
	cfg := o.Start.Config
	o.Level.Set(cfg.Log.Level)
	d := &Daemon{Options: o, sockets: sockets, started: time.Now(), notifier: notifier{o.Log}, notices: notice.NewSender(o.Log), completions: map[string]uint64{}, waiting: map[netip.Addr]chan struct{}{}}
	rules, err := newRules(cfg, nil)
	if err != nil {
		return &refusal{err}
	}
	if err := d.mayRun(cfg); err != nil && o.Start.fallback == nil {
		return &refusal{err}
	} else if err != nil {
		cfg = d.withoutCommands(cfg, err)
	}
	d.state = atomicfile.NewDir(cfg.State)
	d.keep = newKeeping(d.state, d.backendName(cfg), o)
	d.verifier = onetime.New(d.state, o.Log)
	d.shards = newShards(cfg.Clients.Max, rules, d.verifier, d.redeemed, d.ban)
	if d.backendName(cfg) == config.BackendNFTables {
		lock, err := nft.LockTable(ctx, cfg.Firewall.Table, o.Log)
		if err != nil {
			return err
		}
		defer lock.Close() // last of all
		defer context.AfterFunc(ctx, lock.Stopping)()
	}
	// The socket comes first, since it tells whether another daemon runs, and
	// then the addresses: a start that fails for one of them touches no
	// firewall.
	socket, err := admin.Listen(d.socket(cfg), admin.Group, o.Log)
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w (run as root, or choose a place of your own: --socket PATH)", err)
	}
	if err != nil {
		return err
	}
	defer socket.Close()
	defer d.state.Close() // before the socket, whose end tells the next daemon that it may start
	d.verifier.Configure(oneTimeUsers(cfg))
	if o.Start.fallback != nil {
		cfg = d.withoutAddresses(ctx, cfg)
	}
	bound, err := d.bind(ctx, cfg, nil)
	if err != nil {
		return &refusal{err}
	}
	defer func() {
		closeAll(bound)
		endAuthorities(bound, nil)
	}()

	backend, err := d.newBackend(cfg)
	if err != nil {
		return explain(err)
	}
	defer backend.Close()
	if d.commands, err = d.newCommands(cfg); err != nil {
		return err
	}
	defer start(ctx, d.reportLosses)()
	defer start(ctx, d.tell)() // until the gate has stopped
	d.backend = backend
	d.gate = firewall.NewGate(backend, o.Log, d.event)
	if d.backendName(cfg) == config.BackendNFTables {
		d.closed = closed.Open(d.state, o.Log, nft.BootTime, nft.BootID())
		d.gate.Remember(d.closed)
		defer start(ctx, d.closed.Run)() // until the gate has stopped
	}
	defer start(ctx, d.gate.Run)()
	guard := cfg.Firewall.Guard
	guard.Shield = shield(cfg, bound)
	if err := d.gate.Configure(ctx, guard); errors.Is(err, firewall.ErrPermission) || errors.Is(err, firewall.ErrUnsupported) {
		return explain(err)
	} else if err != nil {
		return &refusal{err}
	}
	d.commands.journal.Settle()
	if err := d.adoptBans(ctx); err != nil {
		return err
	}
	defer start(ctx, d.enforce)()
	defer d.effects.Wait() // behind whatever completes, and before the gate stops
	defer start(ctx, d.verifier.Run)()
	defer start(ctx, d.shards.run)()
	d.warnOfSessions(ctx, backend, cfg.Firewall.Guard)
	d.install(cfg, bound)
	defer d.end()
	switch {
	case d.Start.fallback != nil:
		d.fellBack(ctx)
	case d.keep.needsTrial(cfg):
		d.begin(o.Confirm, cfg, d.startUnconfirmed)
	default:
		d.keep.inForce(cfg, false)
	}
	defer func() { endAuthorities(d.current(), nil) }()
	defer func() { closeAll(d.current()) }() // before the shards stop, so that all letters are read
	defer start(ctx, func(ctx context.Context) {
		if err := admin.Serve(ctx, socket, d, o.Log); err != nil {
			o.Log.Error("the admin API has failed", "error", err)
		}
	})()
	defer start(ctx, d.watchdog)()
	defer start(ctx, func(ctx context.Context) {
		problems := func(ctx context.Context) []string {
			problems, _ := d.problems(ctx)
			return problems
		}
		watchState(ctx, problems, d.notices.Send)
	})()

	for _, warning := range cfg.Warnings { // not before: a start that fails says only why
		o.Log.Warn(warning.Error())
	}
	o.Log.Info("serving", "version", o.Version, "config", o.ConfigFile, "firewall", d.backendName(cfg),
		"doors", len(cfg.Doors), "sequences", len(cfg.Sequences))
	if o.DryRun {
		o.Log.Warn("DRY RUN: no firewall is touched, no door is guarded, nothing opens")
	}
	if d.Start.fallback != nil {
		defer start(ctx, d.retryStart)()
	}
	defer start(ctx, d.keep.refresh)()
	d.notifier.ready()
	for {
		select {
		case <-reload:
			d.hangUp(ctx)
		case <-ctx.Done():
			d.notifier.stopping()
			o.Log.Info("stopping; doors stay guarded, and grants end on time")
			return nil
		}
	}
}

// warnOfSessions says who would have to knock if their session broke off now.
func (d *Daemon) warnOfSessions(ctx context.Context, backend firewall.Backend, g firewall.Guard) {
	nftables, ok := backend.(*nft.Backend)
	if !ok || g.Mode == firewall.Sets {
		return
	}
	grants, err := d.gate.Grants(ctx)
	if err != nil {
		return // the gate says why
	}
	up, err := nftables.Sessions(ctx)
	if err != nil {
		d.Log.Warn("sessions that are up cannot be listed", "error", err)
		return
	}
	for door, clients := range up {
		clients = slices.DeleteFunc(clients, func(a netip.Addr) bool {
			return slices.ContainsFunc(grants, func(grant firewall.Grant) bool { return grant.Door == door && grant.Client.Contains(a) })
		})
		if len(clients) > 0 {
			d.Log.Warn("these clients have a session that lives on, but need a knock for the next: try that before you end it "+
				"(serve --confirm 2m takes the guard away unless you confirm; firewall.allow names networks that need no knock)",
				"door", door, "clients", fmt.Sprint(clients[:min(len(clients), 10)]), "count", len(clients))
		}
	}
}

// start runs f, and returns what stops it and waits until it has returned. Its
// context does not end with ctx, so that parts stop in the order of their
// stops.
func start(ctx context.Context, f func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(ctx)
	}()
	return func() {
		cancel()
		select {
		case <-done:
		case <-time.After(stopTimeout):
		}
	}
}

func (d *Daemon) socket(cfg *config.Config) string {
	if d.Options.Socket != "" {
		return d.Options.Socket
	}
	return cfg.Admin.Socket
}

func (d *Daemon) backendName(cfg *config.Config) string {
	if d.DryRun {
		return config.BackendMemory
	}
	return cfg.Firewall.Backend
}

func (d *Daemon) newBackend(cfg *config.Config) (firewall.Backend, error) {
	if d.backendName(cfg) == config.BackendMemory {
		return firewall.NewMemory(), nil
	}
	sessions := atomicfile.File{Dir: d.state, Name: nft.SessionsFile, Max: nft.MaxSessionsFile}
	return nft.New(nft.Options{Table: cfg.Firewall.Table, Log: d.Log, Sessions: sessions})
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

// newRules returns what cfg says of knocks. Progress under old goes on in
// sequences that stand unchanged.
func newRules(cfg *config.Config, old *rules) (*rules, error) {
	var oldSet *sequence.Set
	if old != nil {
		oldSet = old.set
	}
	specs := make([]sequence.Spec, len(cfg.Sequences))
	for i, s := range cfg.Sequences {
		specs[i] = s.Spec
	}
	set, err := sequence.NewSet(specs, oldSet)
	if err != nil {
		return nil, err
	}
	r := &rules{set: set, clients: cfg.Clients, ban: cfg.Shield.Ban, decoys: cfg.Shield.Decoys, sequences: map[*sequence.Machine]*config.Sequence{}}
	for i, m := range set.Machines() {
		r.sequences[m] = &cfg.Sequences[i]
		r.oneTime = r.oneTime || slices.ContainsFunc(cfg.Sequences[i].Steps, func(step sequence.Step) bool { return step.Trigger.Variable() != "" })
	}
	return r, nil
}

// bind returns a listener for every address of cfg: the one in old that has
// it, or else a new one, and the options of each. If it returns an error it has
// bound none.
func (d *Daemon) bind(ctx context.Context, cfg *config.Config, old []*listener) (_ []*listener, err error) {
	var all, added []*listener
	defer func() {
		if err != nil {
			closeAll(added)
			endAuthorities(all, old)
		}
	}()
	for _, c := range cfg.Listeners {
		l := &listener{address: c.Address}
		if hasACME(c) {
			if l.authority, err = d.authority(cfg, c.TLS.ACME, slices.Concat(old, all)); err != nil {
				return nil, err
			}
		}
		all = append(all, l)
		if l.options, err = d.options(cfg, c, l.authority); err != nil {
			return nil, err
		}
		if i := slices.IndexFunc(old, func(o *listener) bool { return o.address == c.Address }); i >= 0 {
			l.Listener = old[i].Listener
			continue
		}
		if l.Listener, err = d.listen(ctx, c.Address, l.options); err != nil {
			return nil, explainListen(err)
		}
		added = append(added, l)
	}
	return all, nil
}

// listen binds an address, or takes a socket from systemd.
func (d *Daemon) listen(ctx context.Context, address string, o httpd.Options) (*httpd.Listener, error) {
	name, ok := strings.CutPrefix(address, "systemd:")
	if !ok {
		return httpd.Listen(ctx, address, o)
	}
	if len(d.sockets[name]) == 0 {
		return nil, fmt.Errorf("systemd has handed over no socket %s (FileDescriptorName=%s in the .socket unit)", name, name)
	}
	tcp, ok := d.sockets[name][0].(*net.TCPListener)
	if !ok {
		return nil, fmt.Errorf("the socket %s from systemd is not TCP (ListenStream=PORT)", name)
	}
	// A copy, so that what is closed at a reload can be opened again.
	file, err := tcp.File()
	if err != nil {
		return nil, err
	}
	defer file.Close()
	copied, err := net.FileListener(file)
	if err != nil {
		return nil, err
	}
	return httpd.ListenOn(copied.(*net.TCPListener), o)
}

// coverOf returns the cover that a configuration asks for.
func coverOf(c config.Cover) httpd.Cover {
	switch {
	case c.Proxy != nil:
		return httpd.Proxy{Site: c.Proxy}
	case c.Status != 0:
		s := httpd.Status{Code: c.Status, Body: c.Body}
		if c.BodyFile != "" {
			s.Type = cmp.Or(mime.TypeByExtension(filepath.Ext(c.BodyFile)), "text/html; charset=utf-8")
		}
		return s
	}
	return httpd.Drop{}
}

// options returns what a listener does; a is nil unless it has ACME.
func (d *Daemon) options(cfg *config.Config, c config.Listener, a *authority) (o httpd.Options, err error) {
	o = httpd.Options{
		Max:     c.MaxConnections,
		Clients: httpd.Clients{Source: httpd.Source(c.ClientAddress), Proxies: c.Proxies},
		Cover:   coverOf(c.Cover),
		Post:    d.shards.post,
		Log:     d.Log,
		Refused: &d.refused,
	}
	if c.TLS == nil {
		if slices.ContainsFunc(cfg.Listeners, hasACME) {
			o.Challenge = d.challenges.Answer
		}
		return o, nil
	}
	protocols := []string{"http/1.1"}
	if !o.Drops() {
		protocols = []string{"h2", "http/1.1"}
	}
	if a != nil {
		o.TLS = httpd.TLSConfig(a.Get, c.TLS.ServerNames, protocols)
		httpd.AnswerTLSALPN(o.TLS, d.challenges.Certificate)
		return o, nil
	}
	if kept := c.TLS.Kept; kept != nil {
		o.TLS = httpd.TLSConfig(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return kept, nil }, c.TLS.ServerNames, protocols)
		return o, nil
	}
	certificate, err := httpd.LoadCertificate(c.TLS.Certificate, c.TLS.Key, d.Log)
	if err != nil {
		return o, err
	}
	o.TLS = httpd.TLSConfig(certificate.Get, c.TLS.ServerNames, protocols)
	return o, nil
}

func explainListen(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w (another program listens there, see ss -ltnp; stop it or choose another address)", err)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%w (ports under 1024 need root or CAP_NET_BIND_SERVICE)", err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%w (no interface of this host has the address, see ip address)", err)
	}
	return err
}

// install makes cfg and its listeners the current ones, serves the listeners
// that are new and closes those that are no longer wanted. Then, when challenges
// can be answered, it has certificates obtained.
func (d *Daemon) install(cfg *config.Config, listeners []*listener) {
	old := d.current()
	d.config.Store(cfg)
	d.listeners.Store(&listeners)
	d.Level.Set(cfg.Log.Level)
	d.notices.Use(cfg.Notify)
	d.warnOfShut(cfg, listeners)
	for _, l := range listeners {
		if l.in(old) {
			l.Use(l.options)
		} else {
			go l.Serve()
		}
	}
	for _, l := range old {
		if !l.in(listeners) {
			l.Close()
		}
	}
	for _, a := range authorities(listeners) {
		a.run()
	}
	endAuthorities(old, listeners)
}

// in reports whether some listeners serve the same socket.
func (l *listener) in(all []*listener) bool {
	return slices.ContainsFunc(all, func(o *listener) bool { return o.Listener == l.Listener })
}

func closeAll(listeners []*listener) {
	var wg sync.WaitGroup
	for _, l := range listeners {
		wg.Go(func() { l.Close() })
	}
	wg.Wait()
}

// current returns the listeners that are served.
func (d *Daemon) current() []*listener {
	if all := d.listeners.Load(); all != nil {
		return *all
	}
	return nil
}
