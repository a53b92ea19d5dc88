package keeper

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"webknock/config"
	"webknock/firewall"
	"webknock/httpd/admin"
	"webknock/internal/suggest"
	"webknock/sequence/track"
)

var _ admin.Control = (*Daemon)(nil)

// Status implements admin.Control.
func (d *Daemon) Status(ctx context.Context) (admin.Status, error) {
	cfg := d.config.Load()
	s := admin.Status{
		Version:   d.Version,
		StartedAt: d.started,
		State:     admin.OK,
		Firewall:  admin.Firewall{Backend: d.backendName(cfg), Mode: cfg.Firewall.Guard.Mode.String()},
		Clients:   d.shards.bound.Count(),
	}
	s.Problems, s.Firewall.Guarded = d.problems(ctx)
	if until := d.pending(); !until.IsZero() {
		s.ConfirmBy = &until
	}
	counts, err := d.gate.Count(ctx)
	if err != nil {
		return s, problemOf(err)
	}
	if len(s.Problems) > 0 {
		s.State = admin.Degraded
	}
	for _, l := range d.current() {
		s.Listeners = append(s.Listeners, admin.Listener{Address: l.address, TLS: l.options.TLS != nil, Cover: l.options.Cover.String()})
	}
	for _, door := range cfg.Doors {
		var ports []string
		for _, p := range door.Ports {
			ports = append(ports, p.String())
		}
		s.Doors = append(s.Doors, admin.Door{Name: door.Name, Ports: ports, Grants: counts[door.Name]})
		s.Grants += counts[door.Name]
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, seq := range cfg.Sequences {
		s.Sequences = append(s.Sequences, admin.Sequence{Name: seq.Name, Steps: len(seq.Steps), Completions: d.completions[seq.Name]})
	}
	return s, nil
}

// problems returns what keeps the state from being ok, and whether the doors are
// guarded.
func (d *Daemon) problems(ctx context.Context) (problems []string, guarded bool) {
	guarded, problem := d.gate.Guarding(ctx)
	if problem != nil {
		problems = append(problems, problem.Error())
	} else if !guarded {
		problems = append(problems, d.taken())
	}
	d.mu.Lock()
	problems = append(problems, d.differs...)
	d.mu.Unlock()
	all := []error{d.keep.problem(), d.verifier.Problem(), d.commands.journal.Problem()}
	if d.closed != nil {
		all = append(all, d.closed.Problem())
	}
	if backend, ok := d.backend.(interface{ Problem() error }); ok && guarded {
		all = append(all, backend.Problem())
	}
	for _, problem := range all {
		if problem != nil {
			problems = append(problems, problem.Error())
		}
	}
	for _, a := range authorities(d.current()) {
		for _, domain := range a.Missing() {
			problems = append(problems, "there is no certificate for "+domain+" yet (the log says why)")
		}
	}
	return problems, guarded
}

// Clients implements admin.Control.
func (d *Daemon) Clients(ctx context.Context) ([]admin.Client, error) {
	var all []admin.Client
	clients := d.config.Load().Clients
	err := d.shards.each(ctx, func(t *track.Tracker, now time.Duration) {
		for _, p := range t.Progress(now) {
			client, bits := p.Client.String(), clients.IPv6Prefix
			if p.Client.Is4() {
				bits = clients.IPv4Prefix
			}
			if bits < p.Client.BitLen() {
				client = netip.PrefixFrom(p.Client, bits).String()
			}
			all = append(all, admin.Client{
				Client: client, Sequence: p.Machine.Name(), Step: p.Step, Steps: p.Machine.Len(),
				LastKnockAt: d.shards.origin.Add(p.Last), ExpiresAt: d.shards.origin.Add(p.Deadline),
			})
		}
	})
	slices.SortFunc(all, func(a, b admin.Client) int { return b.LastKnockAt.Compare(a.LastKnockAt) })
	return all, err
}

// Grants implements admin.Control.
func (d *Daemon) Grants(ctx context.Context) ([]admin.Grant, error) {
	grants, err := d.gate.Grants(ctx)
	if err != nil {
		return nil, problemOf(err)
	}
	all := make([]admin.Grant, 0, len(grants))
	for _, g := range grants {
		all = append(all, grantOf(g))
	}
	return all, nil
}

func grantOf(g firewall.Grant) admin.Grant {
	return admin.Grant{
		ID: g.ID, Door: g.Door, Client: firewall.ClientString(g.Client), Sequence: g.Sequence, User: g.User,
		OpenedAt: g.Opened, ExpiresAt: g.Expires, Remaining: max(0, time.Until(g.Expires).Seconds()),
		Packets: g.Packets, Bytes: g.Bytes,
	}
}

// Open implements admin.Control.
func (d *Daemon) Open(ctx context.Context, r admin.OpenRequest) (admin.Grant, error) {
	addr, err := netip.ParseAddr(r.Client)
	if err != nil || addr.Zone() != "" {
		return admin.Grant{}, admin.NewProblem(http.StatusBadRequest, "client: not an IP address (like 192.0.2.7 or 2001:db8::7)")
	}
	if addr = addr.Unmap(); !firewall.ValidClient(addr) {
		return admin.Grant{}, admin.NewProblem(http.StatusUnprocessableEntity, fmt.Sprintf("client: %s is the address of no client (that of one host, which the packets of the client come from)", addr))
	}
	cfg := d.config.Load()
	at := slices.IndexFunc(cfg.Doors, func(door firewall.Door) bool { return door.Name == r.Door })
	if at < 0 {
		return admin.Grant{}, admin.NewProblem(http.StatusNotFound, fmt.Sprintf("there is no door %q%s", r.Door, doorHint(cfg, r.Door)))
	}
	var ttl time.Duration
	if r.TTL != "" {
		if ttl, err = time.ParseDuration(r.TTL); err != nil || ttl < time.Second {
			return admin.Grant{}, admin.NewProblem(http.StatusBadRequest, "ttl: not a duration of at least 1s (like 30s or 5m)")
		}
	}
	if most := cfg.Doors[at].MaxTTL; ttl > most {
		return admin.Grant{}, admin.NewProblem(http.StatusUnprocessableEntity, fmt.Sprintf("ttl: %v is more than door %s allows (up to %v, its max_ttl)", ttl, r.Door, most))
	}
	grants, err := d.gate.Open(ctx, firewall.OpenRequest{Client: addr, Doors: []string{r.Door}, TTL: ttl})
	if err != nil {
		return admin.Grant{}, problemOf(err)
	}
	return grantOf(grants[0]), nil
}

// doorHint says which door may be meant by a name that none has.
func doorHint(cfg *config.Config, name string) string {
	var names []string
	for _, door := range cfg.Doors {
		names = append(names, door.Name)
	}
	switch best := suggest.Closest(name, names); {
	case best != "":
		return " (did you mean " + best + "?)"
	case len(names) == 0:
		return " (there are none)"
	}
	return " (one of " + strings.Join(names, ", ") + ")"
}

// Close implements admin.Control.
func (d *Daemon) Close(ctx context.Context, id string) error {
	return problemOf(d.gate.Close(ctx, id))
}

// Unguard implements admin.Control.
func (d *Daemon) Unguard(ctx context.Context) error {
	err := d.unguard(ctx, takenAway)
	if err == nil {
		d.keep.takenAway()
	}
	return problemOf(err)
}

const takenAway = "the guard was taken away; webknock reload puts it back"

// unguard takes the guard away, and says why nothing is guarded from then on.
func (d *Daemon) unguard(ctx context.Context, why string) error {
	d.mu.Lock()
	d.unguarded = why
	d.mu.Unlock()
	err := d.gate.Unguard(ctx)
	if err == nil {
		d.Log.Warn(why)
	}
	return err
}

func (d *Daemon) taken() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.unguarded
}

// Reload implements admin.Control. The configuration changes as a whole or,
// if it returns an error, not at all.
func (d *Daemon) Reload(ctx context.Context, r admin.ReloadRequest) error {
	var confirm time.Duration
	if r.Confirm != "" {
		var err error
		if confirm, err = time.ParseDuration(r.Confirm); err != nil || confirm < time.Second {
			return admin.NewProblem(http.StatusBadRequest, "confirm: not a duration of at least 1s (like 2m)")
		}
	}
	return problemOf(d.reload(ctx, byCommand, confirm))
}

// hangUp reloads because of a signal. A terminal that is closed sends one too:
// unlike a reload that somebody asks for, it puts no guard back that was taken
// away, and tries no file that nobody has confirmed.
func (d *Daemon) hangUp(ctx context.Context) {
	if guarded, err := d.gate.Guarding(ctx); err == nil && !guarded {
		d.Log.Warn("not reloaded by SIGHUP, since the guard was taken away; webknock reload puts it back")
		return
	}
	d.reload(ctx, bySignal, 0) // logs how it went
}

// reload puts the file in force, for a time only if confirm is not 0.
func (d *Daemon) reload(ctx context.Context, by reloadBy, confirm time.Duration) error {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	d.notifier.reloading()
	defer d.notifier.ready()
	err := errPending
	if d.pending().IsZero() {
		err = d.takeUp(ctx, by, confirm)
		if err != nil {
			d.differ(d.notWhatRuns("it could not be reloaded: ", err))
		}
	}
	if err != nil {
		d.Log.Error("not reloaded, the configuration is as it was", "error", err)
		return err
	}
	d.Log.Info("reloaded", "config", d.ConfigFile)
	return nil
}

// takeUp is reload for a caller that holds d.reloading.
func (d *Daemon) takeUp(ctx context.Context, by reloadBy, confirm time.Duration) error {
	old := d.config.Load()
	cfg, err := config.Load(d.ConfigFile)
	if err != nil {
		return err
	}
	if by != byCommand && d.keep.wasUndone(cfg) {
		return ErrUndone
	}
	if by == byRetry && d.keep.needsTrial(cfg) { // as at the start
		confirm = d.Options.Confirm
	}
	if err := fixed(old, cfg); err != nil {
		return err
	}
	if err := d.apply(ctx, cfg); err != nil {
		return err
	}
	d.differ(nil)
	if confirm > 0 {
		d.begin(confirm, cfg, d.reloadUnconfirmed(old))
	} else {
		d.keep.inForce(cfg, true)
	}
	return nil
}

// apply puts a configuration in force, as a whole or not at all.
func (d *Daemon) apply(ctx context.Context, cfg *config.Config) error {
	if err := d.mayRun(cfg); err != nil {
		return err
	}
	rules, err := newRules(cfg, d.shards.rules.Load())
	if err != nil {
		return err
	}
	listeners, err := d.bind(ctx, cfg, d.current())
	if err != nil {
		return err
	}
	guard := cfg.Firewall.Guard
	guard.Shield = shield(cfg, listeners)
	if err := d.gate.Configure(ctx, guard); err != nil {
		for _, l := range listeners {
			if !l.in(d.current()) {
				l.Close()
			}
		}
		endAuthorities(listeners, d.current())
		return err
	}
	d.commands.use(cfg)
	d.shards.bound.SetMax(cfg.Clients.Max)
	// From here on nothing fails, and it is carried through even if who asked
	// for it has gone.
	d.verifier.Configure(oneTimeUsers(cfg))
	if err := d.shards.use(context.WithoutCancel(ctx), rules); err != nil {
		return err
	}
	d.install(cfg, listeners)
	if err := d.pardon(context.WithoutCancel(ctx), cfg); err != nil {
		d.Log.Error("bans of networks that are never banned cannot be lifted", "error", err)
	}
	for _, warning := range cfg.Warnings {
		d.Log.Warn(warning.Error())
	}
	return nil
}

// fixed reports the keys that only a restart can change.
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

// problemOf gives an error the HTTP status it deserves.
func problemOf(err error) error {
	var invalid config.Errors
	switch {
	case err == nil:
		return nil
	case errors.As(err, &invalid):
		p := admin.NewProblem(http.StatusUnprocessableEntity, "the configuration has errors, and nothing has changed")
		p.Errors = invalid.Lines()
		return p
	case errors.Is(err, firewall.ErrNoDoor), errors.Is(err, firewall.ErrNoGrant):
		return admin.NewProblem(http.StatusNotFound, err.Error())
	case errors.Is(err, firewall.ErrFull), errors.Is(err, firewall.ErrUnguarded), errors.Is(err, firewall.ErrForward), errors.Is(err, errPending):
		return admin.NewProblem(http.StatusConflict, err.Error())
	case errors.Is(err, firewall.ErrBusy), errors.Is(err, firewall.ErrStopped):
		return admin.NewProblem(http.StatusServiceUnavailable, err.Error())
	}
	return admin.NewProblem(http.StatusInternalServerError, err.Error())
}
