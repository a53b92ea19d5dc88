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
	"webknock/internal/event"
	"webknock/internal/seam"
	"webknock/internal/suggest"
)

var _ admin.Control = (*Keeper)(nil)

// Status implements admin.Control.
func (k *Keeper) Status(ctx context.Context) (admin.Status, error) {
	cfg := k.config.Load()
	front := k.front.State()
	s := admin.Status{
		Version:   k.options.Version,
		StartedAt: k.startedAt,
		State:     admin.OK,
		Firewall:  admin.Firewall{Backend: k.backendName(cfg), Mode: cfg.Firewall.Guard.Mode.String()},
		Clients:   front.Clients,
		Shield:    admin.Shield{Bans: front.Bans},
		Listeners: listenersOf(k.currentListeners(), front),
		Lost:      admin.Counts{},
	}
	for _, l := range k.losses() {
		s.Lost[l.Kind] = l.Count
	}
	s.Processes = k.processes()
	s.Problems, s.Firewall.Guarded = k.problems(ctx)
	if until := k.pending(); !until.IsZero() {
		s.ConfirmBy = &until
	}
	counts, err := k.gate.Count(ctx)
	if err != nil {
		return s, problemOf(err)
	}
	if len(s.Problems) > 0 {
		s.State = admin.Degraded
	}
	for _, door := range cfg.Doors {
		var ports []string
		for _, p := range door.Ports {
			ports = append(ports, p.String())
		}
		s.Doors = append(s.Doors, admin.Door{
			Name: door.Name, Ports: ports, Grants: counts[door.Name], MaxGrants: door.MaxGrants, TTL: door.TTL.Seconds(),
		})
		s.Grants += counts[door.Name]
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, seq := range cfg.Sequences {
		s.Sequences = append(s.Sequences, admin.Sequence{Name: seq.Name, Steps: len(seq.Steps), Completions: k.completions[seq.Name]})
	}
	return s, nil
}

// listenersOf describes listeners, with what the front has counted of them.
func listenersOf(listeners []listener, front seam.State) (all []admin.Listener) {
	knocks, open := map[string]uint64{}, map[string]int{}
	for _, c := range front.Knocks {
		knocks[c.Listener] += c.Count
	}
	for _, c := range front.Connections {
		open[c.Listener] += c.Open
	}
	for _, l := range listeners {
		all = append(all, admin.Listener{
			Address: l.Address, TLS: l.TLS, Cover: l.Cover, Bound: l.Bound.String(), Drops: l.Drops, Connections: open[l.Address], Knocks: knocks[l.Address],
		})
	}
	return all
}

// problems returns why the state is degraded, if it is, and whether the doors are
// guarded.
func (k *Keeper) problems(ctx context.Context) (problems []string, guarded bool) {
	guarded, problem := k.gate.Guarding(ctx)
	if problem != nil {
		problems = append(problems, problem.Error())
	} else if !guarded {
		problems = append(problems, k.taken())
	}
	k.mu.Lock()
	problems = append(problems, k.differs...)
	k.mu.Unlock()
	problems = append(problems, k.front.State().Problems...)
	for _, domain := range missingCertificates(k.currentListeners()) {
		problems = append(problems, "there is no certificate for "+domain+" yet (the log says why)")
	}
	all := []error{k.kept.problem(), k.commands.journal.Problem(), k.commands.problem(), k.history.Problem()}
	if k.closed != nil {
		all = append(all, k.closed.Problem())
	}
	if backend, ok := k.backend.(interface{ Problem() error }); ok && guarded {
		all = append(all, backend.Problem())
	}
	for _, problem := range all {
		if problem != nil {
			problems = append(problems, problem.Error())
		}
	}
	return problems, guarded
}

// Clients implements admin.Control.
func (k *Keeper) Clients(ctx context.Context) ([]admin.Client, error) {
	clients, err := k.front.Clients(ctx)
	all := make([]admin.Client, 0, len(clients))
	for _, c := range clients {
		all = append(all, clientOf(c))
	}
	slices.SortFunc(all, func(a, b admin.Client) int { return b.LastKnockAt.Compare(a.LastKnockAt) })
	return all, problemOf(err)
}

func clientOf(c seam.Client) admin.Client {
	return admin.Client{
		Client: firewall.ClientString(c.Client), Sequence: c.Sequence, Step: c.Step, Steps: c.Steps, LastKnockAt: c.Last, ExpiresAt: c.Expires,
	}
}

// Grants implements admin.Control.
func (k *Keeper) Grants(ctx context.Context) ([]admin.Grant, error) {
	grants, err := k.gate.Grants(ctx)
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
func (k *Keeper) Open(ctx context.Context, r admin.OpenRequest) (admin.Grant, error) {
	addr, err := netip.ParseAddr(r.Client)
	if err != nil || addr.Zone() != "" {
		return admin.Grant{}, admin.NewProblem(http.StatusBadRequest, "client: not an IP address (like 192.0.2.7 or 2001:db8::7)")
	}
	if addr = addr.Unmap(); !firewall.ValidClient(addr) {
		return admin.Grant{}, admin.NewProblem(http.StatusUnprocessableEntity, fmt.Sprintf("client: %s is the address of no client (that of one host, which the packets of the client come from)", addr))
	}
	cfg := k.config.Load()
	at := slices.IndexFunc(cfg.Doors, func(door firewall.Door) bool { return door.Name == r.Door })
	if at < 0 {
		return admin.Grant{}, admin.NewProblem(http.StatusNotFound, fmt.Sprintf("there is no door %q%s", r.Door, doorHint(cfg, r.Door)))
	}
	ttl, err := parseTTL(r.TTL, cfg.Doors[at])
	if err != nil {
		return admin.Grant{}, err
	}
	grants, err := k.gate.Open(ctx, firewall.OpenRequest{Client: addr, Doors: []string{r.Door}, TTL: ttl})
	if err != nil {
		return admin.Grant{}, problemOf(err)
	}
	opened := grants[0]
	k.acted(ctx, event.Admin{
		Act: fmt.Sprintf("opened %s for %s", opened.Door, firewall.ClientString(opened.Client)), Door: opened.Door, Client: firewall.ClientString(opened.Client), Grant: opened.ID,
	})
	return grantOf(opened), nil
}

// parseTTL reads the time that an administrator asks for at a door; empty is 0.
func parseTTL(text string, door firewall.Door) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	ttl, err := time.ParseDuration(text)
	if err != nil || ttl < time.Second {
		return 0, admin.NewProblem(http.StatusBadRequest, "ttl: not a duration of at least 1s (like 30s or 5m)")
	}
	if ttl > door.MaxTTL {
		return 0, admin.NewProblem(http.StatusUnprocessableEntity,
			fmt.Sprintf("ttl: %v is more than door %s allows (up to %v, its max_ttl)", ttl, door.Name, door.MaxTTL))
	}
	return ttl, nil
}

// Extend implements admin.Control.
func (k *Keeper) Extend(ctx context.Context, id string, r admin.ExtendRequest) (admin.Grant, error) {
	grants, err := k.gate.Grants(ctx)
	if err != nil {
		return admin.Grant{}, problemOf(err)
	}
	at := slices.IndexFunc(grants, func(g firewall.Grant) bool { return g.ID == id })
	if at < 0 {
		return admin.Grant{}, problemOf(fmt.Errorf("grant %s: %w", id, firewall.ErrNoGrant))
	}
	var ttl time.Duration
	for _, door := range k.config.Load().Doors {
		if door.Name == grants[at].Door {
			if ttl, err = parseTTL(r.TTL, door); err != nil {
				return admin.Grant{}, err
			}
		}
	}
	grant, err := k.gate.Extend(ctx, id, ttl)
	if err != nil {
		return admin.Grant{}, problemOf(err)
	}
	k.acted(ctx, event.Admin{
		Act: fmt.Sprintf("extended grant %s until %s", id, grant.Expires.UTC().Format(time.RFC3339)), Door: grant.Door, Client: firewall.ClientString(grant.Client), Grant: grant.ID,
	})
	return grantOf(grant), nil
}

// doorHint suggests the door that may be meant by an unknown name.
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
func (k *Keeper) Close(ctx context.Context, id string) error {
	grant, known := k.history.Running(id)
	err := k.gate.Close(ctx, id)
	if err == nil {
		act := event.Admin{Act: "closed grant " + id, Grant: id}
		if known {
			act.Door, act.Client = grant.Door, firewall.ClientString(grant.Client)
		}
		k.acted(ctx, act)
	}
	return problemOf(err)
}

// Unguard implements admin.Control.
func (k *Keeper) Unguard(ctx context.Context) error {
	err := k.unguard(ctx, takenAway)
	if err == nil {
		k.acted(ctx, event.Admin{Act: "took the guard away"})
		k.kept.takenAway()
	}
	return problemOf(err)
}

const takenAway = "the guard was taken away; webknock reload puts it back"

// unguard takes the guard away. The status says why from then on.
func (k *Keeper) unguard(ctx context.Context, why string) error {
	k.mu.Lock()
	k.unguarded = why
	k.mu.Unlock()
	err := k.gate.Unguard(ctx)
	if err == nil {
		k.log.Warn(why)
	}
	return err
}

func (k *Keeper) taken() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.unguarded
}

// problemOf returns an error as a problem document with the right HTTP status.
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
	case errors.Is(err, firewall.ErrBusy), errors.Is(err, firewall.ErrStopped), errors.Is(err, seam.ErrStopped):
		return admin.NewProblem(http.StatusServiceUnavailable, err.Error())
	}
	return admin.NewProblem(http.StatusInternalServerError, err.Error())
}
