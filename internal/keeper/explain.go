package keeper

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"webknock/config"
	"webknock/firewall"
	"webknock/httpd/admin"
	"webknock/internal/seam"
	"webknock/internal/tty"
)

// Explain implements admin.Control.
func (k *Keeper) Explain(ctx context.Context, address netip.Addr, reveal bool) (admin.Explanation, error) {
	recent, err := k.front.Recent(ctx, address)
	if err != nil {
		return admin.Explanation{}, problemOf(err)
	}
	grants, err := k.gate.Grants(ctx)
	if err != nil {
		return admin.Explanation{}, problemOf(err)
	}
	cfg := k.config.Load()
	x := explanation{cfg: cfg, counting: k.backendName(cfg) == config.BackendNFTables, address: address, since: k.startedAt, recent: recent}
	e := admin.Explanation{Client: firewall.ClientString(recent.Client)}
	for _, g := range grants {
		if g.Client.Contains(address) {
			e.Grants = append(e.Grants, grantOf(g))
			x.grants = append(x.grants, g)
		}
	}
	for _, p := range recent.Progress {
		e.Progress = append(e.Progress, clientOf(p))
	}
	if !recent.BannedUntil.IsZero() {
		e.BannedUntil = &recent.BannedUntil
	}
	for _, r := range recent.Knocks {
		refused := error(nil)
		if r.Cause == seam.Completed {
			refused = k.refusals.of(recent.Client, r.Knock.Sequence, r.Knock.At)
		}
		x.refused = append(x.refused, refused)
		e.Knocks = append(e.Knocks, recalled(r, refused, reveal))
	}
	e.Advice = x.advice()
	return e, nil
}

// Recent implements seam.Front.
func (f checkedFront) Recent(ctx context.Context, address netip.Addr) (seam.Recent, error) {
	r, err := f.Front.Recent(ctx, address)
	if !r.Client.Contains(address) {
		r.Client = netip.PrefixFrom(address, address.BitLen())
	}
	cfg, listeners, now := f.keeper.config.Load(), f.keeper.currentListeners(), time.Now()
	var knocks []seam.Recalled
	for _, one := range r.Knocks[:min(len(r.Knocks), seam.MaxRecalled)] {
		at := one.Knock.At
		one.Knock.Client = address
		if checked, ok := publishable(cfg, listeners, one.Knock, now); ok && at.Before(now.Add(mostEarly)) {
			one.Knock, one.Knock.At = checked, at
			one.Path = one.Path[:min(len(one.Path), seam.MaxPath)]
			knocks = append(knocks, one)
		}
	}
	r.Knocks = knocks
	r.Progress = slices.DeleteFunc(r.Progress[:min(len(r.Progress), len(cfg.Sequences))], func(c seam.Client) bool {
		return sequenceOf(cfg, c.Sequence) == nil || c.Client != r.Client
	})
	return r, err
}

// recalled returns a knock as the admin API shows it. Refused is why it has opened
// nothing, if it has completed a sequence and that is so.
func recalled(r seam.Recalled, refused error, reveal bool) admin.Knock {
	k := admin.Knock{
		At: r.Knock.At, Listener: r.Knock.Listener, Outcome: string(r.Knock.Outcome), Sequence: r.Knock.Sequence,
		Step: r.Knock.Step, Steps: r.Knock.Steps, Why: r.Knock.Why,
	}
	if refused != nil {
		k.Why += ", but opened nothing: " + refused.Error()
	}
	if reveal {
		k.Path = r.Path
	}
	return k
}

// An explanation is what advice is given by.
type explanation struct {
	cfg      *config.Config
	counting bool // the firewall counts the packets of a grant
	address  netip.Addr
	since    time.Time // when the daemon started, which keeps knocks in memory alone
	recent   seam.Recent
	refused  []error // by knock; nil: that has not been refused
	grants   []firewall.Grant
}

// advice says in one line what to do next.
func (x *explanation) advice() string {
	switch at, telling := x.telling(); {
	case x.allowed():
		return "firewall.allow has this address: it passes every door without a knock"
	case len(x.grants) > 0:
		return x.adviceWithGrant()
	case !x.recent.BannedUntil.IsZero():
		return fmt.Sprintf("banned until %s: webknock unban %s lifts that", moment(x.recent.BannedUntil), x.address)
	case x.isProxy():
		return "this address is a proxy's: its clients' knocks are found under their own addresses"
	case len(x.recent.Knocks) == 0:
		return x.adviceWithoutKnocks()
	case telling == nil:
		return "none of its knocks counts: send the first step"
	default:
		return x.adviceOn(*telling, x.refused[at])
	}
}

// telling returns the latest knock that says what goes wrong, and its place. What is
// ignored, ahead of a user, or of a banned client, says nothing.
func (x *explanation) telling() (at int, k *seam.Recalled) {
	for i := range x.recent.Knocks {
		switch k := &x.recent.Knocks[i]; k.Cause {
		case seam.IgnoredPath, seam.PassedOver, seam.Banned:
		case seam.Prefetch:
			if len(x.recent.Knocks) == 1 {
				return i, k
			}
		case seam.NoStep: // a browser asks for more than its user does
			if i == 0 && x.allNoStep() {
				return i, k
			}
		default:
			return i, k
		}
	}
	return 0, nil
}

func (x *explanation) allNoStep() bool {
	return !slices.ContainsFunc(x.recent.Knocks, func(r seam.Recalled) bool {
		return r.Cause != seam.NoStep && r.Cause != seam.IgnoredPath && r.Cause != seam.Prefetch
	})
}

func (x *explanation) allowed() bool {
	return slices.ContainsFunc(x.cfg.Firewall.Guard.Allow, func(p netip.Prefix) bool { return p.Contains(x.address) })
}

// isProxy reports whether the address is one of a trusted proxy, which is never a client.
func (x *explanation) isProxy() bool {
	return len(x.recent.Knocks) == 0 && slices.ContainsFunc(x.cfg.Listeners, func(l config.Listener) bool {
		return slices.ContainsFunc(l.Proxies, func(p netip.Prefix) bool { return p.Contains(x.address) })
	})
}

func (x *explanation) adviceWithGrant() string {
	latest := slices.MaxFunc(x.grants, func(a, b firewall.Grant) int { return a.Expires.Compare(b.Expires) })
	text := fmt.Sprintf("door %s is open to it until %s", latest.Door, moment(latest.Expires))
	if x.counting && latest.Packets == 0 {
		return text + ", but nothing has come yet: does the client connect from this address, and to this host?"
	}
	return text + ": if the connection fails all the same, look at the service behind the door"
}

func (x *explanation) adviceWithoutKnocks() string {
	var listeners []string
	for _, l := range x.cfg.Listeners {
		scheme := "http"
		if l.TLS != nil {
			scheme = "https"
		}
		listeners = append(listeners, fmt.Sprintf("%s (%s)", l.Address, scheme))
	}
	return "no knock came from this address since " + moment(x.since) + ": is a proxy or NAT in between, or does the rate limit (shield.rate) hold it off? listeners are " +
		strings.Join(listeners, ", ") + "; webknock events --follow --kind knock shows what does come"
}

// adviceOn says what to do about a knock.
func (x *explanation) adviceOn(r seam.Recalled, refused error) string {
	k := r.Knock
	switch r.Cause {
	case seam.Completed:
		return x.adviceOnCompletion(r, refused)
	case seam.Reached, seam.Repeated:
		return x.adviceOnProgress(k.Sequence, k.Step)
	case seam.WrongOrder:
		return "send the steps of " + k.Sequence + " in their order, from the first"
	case seam.StartedOver:
		return fmt.Sprintf("a request came in between that is no step of %s: name its path under ignore if a browser sends it, or say strict: false", k.Sequence)
	case seam.LateWithin:
		return fmt.Sprintf("send the steps of %s faster, or give step %d a longer within", k.Sequence, k.Step)
	case seam.LateWindow:
		return fmt.Sprintf("send all steps of %s faster, or give it a longer window", k.Sequence)
	case seam.WrongScheme, seam.WrongMethod, seam.WrongHost, seam.WrongQuery:
		return fmt.Sprintf("the path is right, its %s is not: request step %d of %s as the configuration has it", r.Cause, k.Step, k.Sequence)
	case seam.WrongCode:
		return "compare the clocks of the client and of this host (timedatectl), and whether the code is of a user of " + k.Sequence + " (webknock user list)"
	case seam.WrongTime:
		return "set the clocks of the client and of this host: a ticket counts for 60 seconds (timedatectl)"
	case seam.WrongUser:
		return "the code is good, but not its user or what it asks for: compare users, opens and allow_address of " + k.Sequence
	case seam.TooManyCode:
		return "wait a minute without a code, then send a new one"
	case seam.UsedCode:
		return "wait for the next code, or make a new ticket: each counts once"
	case seam.Untracked:
		return fmt.Sprintf("clients.max (%d) is reached: raise it, or wait until others are done (webknock clients)", x.cfg.Clients.Max)
	case seam.HeadTooLong:
		return "delete the cookies that the browser has for this host name, or knock with webknock knock or curl"
	case seam.NoHost:
		return "send a Host field: HTTP/1.1 asks for one"
	case seam.Malformed:
		return "what came is not a valid request: speak HTTP/1.1, by TLS where the listener has tls"
	case seam.Prefetch:
		return "a browser has asked ahead of its user, which does not count: open the page itself"
	}
	return fmt.Sprintf("the path is no step's: compare it with the configuration (as root: webknock explain %s --reveal)", x.address)
}

// adviceOnCompletion is for a client that holds no grant.
func (x *explanation) adviceOnCompletion(r seam.Recalled, refused error) string {
	seq := sequenceOf(x.cfg, r.Knock.Sequence)
	switch {
	case errors.Is(refused, firewall.ErrFull):
		return "close a grant (webknock grants), wait for one to end, or raise max_grants of the door"
	case errors.Is(refused, firewall.ErrUnguarded):
		return "the guard is taken away, so that every door is open: webknock reload puts it back"
	case refused != nil:
		return "the completion was refused, and the log says so: compare the configuration, and see webknock status"
	case seq == nil || len(seq.Opens) == 0:
		return r.Knock.Sequence + " is completed; it opens no door"
	case r.ViaProxy:
		return "completed, and it holds no grant now (webknock log): its knocks come through a proxy, so does it connect from this address at all?"
	}
	return fmt.Sprintf("completed, and its grant has ended: webknock log --client %s has how, and a longer ttl of the door keeps it", x.address)
}

// adviceOnProgress is for a client whose latest knock has reached a step.
func (x *explanation) adviceOnProgress(sequence string, step int) string {
	if i := slices.IndexFunc(x.recent.Progress, func(c seam.Client) bool { return c.Sequence == sequence }); i >= 0 {
		return fmt.Sprintf("step %d of %s is awaited until %s", x.recent.Progress[i].Step+1, sequence, moment(x.recent.Progress[i].Expires))
	}
	return fmt.Sprintf("after step %d of %s nothing more came in time: send the steps faster, or look at what the client sends", step, sequence)
}

// moment writes a time for people at this host.
func moment(t time.Time) string { return tty.Clock(t, time.Now()) }
