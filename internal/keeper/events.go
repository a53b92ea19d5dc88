package keeper

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"webknock/firewall"
	"webknock/httpd/admin"
	"webknock/internal/event"
	"webknock/internal/suggest"
)

// Events implements admin.Control.
func (k *Keeper) Events(_ context.Context, q admin.EventQuery) (admin.EventReader, error) {
	reader, err := k.recent.read(q)
	if err != nil {
		return nil, err
	}
	return reader, nil
}

// clients are whom an event is about: those that are valid.
type clients [2]netip.Prefix

// An eventFilter lets through what a query asks for.
type eventFilter struct {
	all       bool    // everything passes
	ring      [2]bool // which rings have what may pass
	kinds     map[string]bool
	clients   []netip.Prefix
	sequences []string
	doors     []string
}

// newEventFilter returns the filter of a query. Its error is a *admin.Problem.
func newEventFilter(q admin.EventQuery) (*eventFilter, error) {
	f := &eventFilter{clients: q.Clients, sequences: q.Sequences, doors: q.Doors}
	if len(q.Kinds) > 0 {
		f.kinds = map[string]bool{}
	}
	for _, asked := range q.Kinds {
		found := false
		for _, kind := range event.Kinds {
			if group, _, _ := strings.Cut(string(kind), "."); asked == string(kind) || asked == group {
				f.kinds[string(kind)] = true
				found = true
			}
		}
		if !found {
			return nil, unknownKind(asked)
		}
	}
	for _, kind := range event.Kinds {
		if f.kinds != nil && !f.kinds[string(kind)] {
			continue
		}
		if kind == event.KindKnock {
			f.ring[knocks] = true
		} else {
			f.ring[others] = true
		}
	}
	f.all = len(q.Kinds)+len(q.Clients)+len(q.Sequences)+len(q.Doors) == 0
	return f, nil
}

func unknownKind(asked string) error {
	hint := cmp.Or(suggest.DidYouMean(asked, admin.EventKinds), " (one of "+strings.Join(admin.EventKinds, ", ")+"; grant stands for all that begin so)")
	return admin.NewProblem(http.StatusBadRequest, fmt.Sprintf("kind: there is no %.80q%s", asked, hint))
}

// passes reports whether a reader wants an event.
func (f *eventFilter) passes(e *remembered) bool {
	if f.all {
		return true
	}
	return (f.kinds == nil || f.kinds[e.event.Kind]) &&
		(f.sequences == nil || slices.Contains(f.sequences, e.event.Sequence)) &&
		(f.doors == nil || slices.Contains(f.doors, e.event.Door) ||
			slices.ContainsFunc(e.event.Doors, func(door string) bool { return slices.Contains(f.doors, door) })) &&
		(f.clients == nil || slices.ContainsFunc(f.clients, e.who.overlap))
}

func (c clients) overlap(p netip.Prefix) bool {
	return c[0].Overlaps(p) || c[1].Overlaps(p) // an invalid one overlaps nothing
}

// remember returns a record as readers get it. Requests, which hold trigger paths, do not
// get there.
func remember(r event.Record) remembered {
	to := admin.Event{Kind: string(r.Event.Kind()), Time: r.Time}
	var who clients
	switch e := r.Event.(type) {
	case event.Knock:
		who = clients{single(e.Client)}
		to.Client, to.Listener, to.Outcome, to.Reason = e.Client.String(), e.Listener, string(e.Outcome), e.Why
		to.Sequence, to.Step, to.Steps = e.Sequence, e.Step, e.Steps
	case event.Completion:
		who = rememberCompletion(&to, e)
		to.Message = e.Message
	case event.GrantOpened:
		who = rememberGrant(&to, e.Grant)
	case event.GrantExtended:
		who = rememberGrant(&to, e.Grant)
	case event.GrantAdopted:
		who = rememberGrant(&to, e.Grant)
	case event.GrantClosed:
		who = rememberGrant(&to, e.Grant)
		to.Reason = e.Reason
	case event.GrantRefused:
		who = rememberCompletion(&to, e.Completion)
		to.Doors, to.Reason = slices.Concat(e.Doors, e.Closes), e.Err.Error()
	case event.Repair:
		to.Reason = e.Reason
	case event.Ban:
		who = clients{e.Ban.Client}
		to.Client, to.Reason, to.ExpiresAt = firewall.ClientString(e.Ban.Client), e.Reason, e.Ban.Until
	case event.Unban:
		who = clients{e.Client}
		to.Client = firewall.ClientString(e.Client)
	case event.Reload:
		to.Result = "done"
		if e.Err != nil {
			to.Result, to.Reason = "failed", e.Err.Error()
		}
	case event.Command:
		who = clients{e.Client}
		to.Client, to.Sequence, to.User, to.Door, to.Grant = firewall.ClientString(e.Client), e.Sequence, e.User, e.Door, e.Grant
		to.Program, to.On, to.Result = e.Program, e.On, e.Result
	case event.Admin:
		if p, err := netip.ParsePrefix(e.Client); err == nil {
			who = clients{p}
		} else if a, err := netip.ParseAddr(e.Client); err == nil {
			who = clients{single(a)}
		}
		to.Client, to.Door, to.Grant, to.Reason = e.Client, e.Door, e.Grant, e.Act
		if e.Known {
			to.UID = &e.UID
		}
	case event.FrontEnded:
		to.Reason = e.Reason
	case event.CommandsEnded:
		to.Reason = e.Reason
	case event.Degraded:
		to.Problems = append([]string{}, e.Problems...) // not nil: it is there although it is empty
	}
	return remembered{id: r.ID, event: to, who: who}
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func rememberCompletion(to *admin.Event, c event.Completion) clients {
	to.Client, to.Sequence, to.User = c.Client.String(), c.Sequence, c.User
	if c.Address == c.Client || !c.Address.IsValid() {
		return clients{single(c.Client)}
	}
	to.Address = c.Address.String()
	return clients{single(c.Client), single(c.Address)}
}

func rememberGrant(to *admin.Event, g firewall.Grant) clients {
	to.Client, to.Sequence, to.User = firewall.ClientString(g.Client), g.Sequence, g.User
	to.Door, to.Grant, to.ExpiresAt = g.Door, g.ID, g.Expires.Round(time.Millisecond)
	return clients{g.Client}
}
