package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Seen is what became of one knock.
type Seen struct {
	Server  string    `json:"server"`
	Family  Family    `json:"family,omitempty"` // empty behind a proxy
	Address string    `json:"address,omitempty"`
	Proxy   bool      `json:"proxy,omitempty"`
	Step    int       `json:"step"` // from 1
	Outcome Outcome   `json:"outcome"`
	Status  int       `json:"status,omitempty"` // of an answer
	Detail  string    `json:"detail,omitempty"` // of a failure
	At      time.Time `json:"at"`
}

// Result is what one round of knocks came to.
type Result struct {
	Open    bool     `json:"open"`           // Wait answers; without Wait: every server was reached
	Wait    string   `json:"wait,omitempty"` // what was waited for
	Address string   `json:"address,omitempty"`
	Knocks  []Seen   `json:"knocks"`
	Advice  []string `json:"advice,omitempty"` // why it may not have worked
}

// Options say how to knock.
type Options struct {
	Timeout time.Duration // for all of it, at least a second
	// Progress, if not nil, is called with each line about the progress. Several goroutines
	// call it, but only one at a time.
	Progress func(line string)
}

// round is one round of knocks under way.
type round struct {
	p        *Profile
	o        Options
	d        dialer
	codes    *codes
	hurry    bool // the rest of a pass is broken off once p.Wait answers
	progress sync.Mutex

	delivered func() // called when a target has had its last step

	mu    sync.Mutex
	seen  []Seen
	rtt   time.Duration // shortest time in which a server accepted
	skew  time.Duration // by which a server's clock is ahead of this one
	dated bool
}

func newRound(p *Profile, o Options) *round {
	return &round{p: p, o: o, d: dialer{p}, codes: newCodes(p)}
}

// Knock makes one round of knocks and waits for p.Wait, if there is one. It
// returns an error only if ctx is done or a code cannot be made; what happens
// to knocks is in the result.
//
// Plain steps and tickets go over IPv4 and IPv6 at once: the connection that
// follows may take either. A TOTP code counts once, so with such a step one
// family comes after the other, the second only while p.Wait does not answer.
func Knock(ctx context.Context, p *Profile, o Options) (Result, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, max(o.Timeout, time.Second), errTime)
	defer cancel()
	result, c, err := newRound(p, o).run(ctx)
	if c != nil {
		c.Close()
	}
	return result, err
}

var errTime = errors.New("time is up")

// run knocks pass after pass, and returns the connection that p.Wait accepts.
func (r *round) run(ctx context.Context) (result Result, open net.Conn, err error) {
	result = Result{Wait: r.p.Wait, Knocks: []Seen{}}
	var waited error
	for passes := r.passes(ctx); len(passes) > 0 && open == nil && err == nil; passes = passes[1:] {
		patience := time.Duration(0)
		if len(passes) > 1 {
			patience = secondFamilyAfter
		}
		open, waited, err = r.passAndWait(ctx, patience, passes[0])
		if open == nil && err == nil && len(passes) > 1 && r.p.Wait != "" {
			r.say("%s does not answer yet; knocking over the other family, with the next code", r.p.Wait)
		}
	}
	if err != nil && open == nil && r.reached() { // there is no further code, but a first family was knocked
		if r.p.Wait == "" {
			err = nil
		} else if open, waited = r.await(ctx); open != nil {
			err = nil
		}
	}
	r.mu.Lock()
	result.Knocks = append(result.Knocks, r.seen...)
	r.mu.Unlock()
	slices.SortStableFunc(result.Knocks, func(a, b Seen) int {
		return cmp.Or(cmp.Compare(a.Server, b.Server), cmp.Compare(a.Address, b.Address), cmp.Compare(a.Step, b.Step))
	})
	switch {
	case open != nil:
		result.Open, result.Address = true, remoteAddr(open).String()
	case r.p.Wait == "" && r.reachedAll():
		result.Open = true
	default:
		result.Advice = r.advice(result, waited)
	}
	return result, open, err
}

// passAndWait makes a pass, and waits for p.Wait as soon as one target has had
// its last step, for patience or, if that is 0, until ctx is done. The rest of the
// pass goes on meanwhile.
func (r *round) passAndWait(ctx context.Context, patience time.Duration, targets []target) (open net.Conn, waited, err error) {
	walks, cancel := context.WithCancel(ctx)
	defer cancel()
	delivered := make(chan struct{})
	r.delivered = sync.OnceFunc(func() { close(delivered) })
	passed := make(chan struct{})
	go func() {
		defer close(passed)
		err = r.pass(walks, targets)
	}()
	if r.p.Wait != "" {
		select {
		case <-delivered:
		case <-passed:
		}
		if r.reached() {
			waiting := ctx
			if patience > 0 {
				var cancel context.CancelFunc
				waiting, cancel = context.WithTimeout(ctx, patience)
				defer cancel()
			}
			open, waited = r.await(waiting)
		}
		if open != nil && r.hurry {
			cancel()
		}
	}
	<-passed
	if open != nil {
		err = nil
	}
	return open, waited, err
}

// secondFamilyAfter is how long a door has to open before a second code is
// spent on the other family.
const secondFamilyAfter = 1500 * time.Millisecond

// target is a server by one route.
type target struct {
	server Server
	ways   []route // the addresses of one family, tried in order
}

// passes returns the targets that are knocked at the same time, pass after
// pass. A server whose name has no address is reported and left out.
func (r *round) passes(ctx context.Context) (passes [][]target) {
	byFamily := map[Family][]target{}
	for _, s := range r.p.Servers {
		all, err := r.d.routes(ctx, s)
		if err != nil {
			r.add(Seen{Server: s.String(), Step: 1, Outcome: failure(err), Detail: err.Error(), At: time.Now()})
			continue
		}
		ways := map[Family][]route{}
		for _, way := range all {
			ways[way.family] = append(ways[way.family], way)
		}
		for family, of := range ways {
			byFamily[family] = append(byFamily[family], target{s, of})
		}
	}
	for _, family := range []Family{"", IPv6, IPv4} {
		if len(byFamily[family]) > 0 {
			passes = append(passes, byFamily[family])
		}
	}
	if !r.p.uses(varTOTP) && len(passes) > 1 {
		passes = [][]target{slices.Concat(passes...)}
	}
	return passes
}

// pass walks through the steps at all targets, side by side. The targets share
// each step's TOTP code, which counts once at each server; each gets tickets of
// its own. The wait for the next code comes before the first step, so that the
// later ones are in time.
func (r *round) pass(ctx context.Context, targets []target) error {
	announce := func(until time.Time) {
		r.say("the next one-time code counts at %s; waiting", until.Format(time.TimeOnly))
	}
	if n := r.p.count(varTOTP); n > 0 {
		if err := r.codes.await(ctx, n, announce); err != nil {
			return err
		}
	}
	var shared sync.Mutex
	paths := map[int]string{}
	path := func(i int) (string, error) {
		shared.Lock()
		defer shared.Unlock()
		if p, ok := paths[i]; ok {
			return p, nil
		}
		p, err := r.codes.path(ctx, r.p.Steps[i], announce)
		if err == nil && strings.Contains(r.p.Steps[i].Path, varTOTP) {
			paths[i] = p
		}
		return p, err
	}
	var wg sync.WaitGroup
	errs := make([]error, len(targets))
	for i, t := range targets {
		wg.Go(func() { errs[i] = r.walk(ctx, t, path) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// walk makes every step at one target, a new connection each. It ends early
// when a knock cannot be delivered.
func (r *round) walk(ctx context.Context, t target, path func(int) (string, error)) error {
	var way *route
	for i, step := range r.p.Steps {
		if i > 0 && r.p.Gap > 0 {
			select {
			case <-time.After(r.p.Gap):
			case <-ctx.Done():
			}
		}
		seen := Seen{Server: t.server.String(), Step: i + 1, At: time.Now()}
		c, chosen, err := r.reach(ctx, t, way)
		seen.Family, seen.Proxy = chosen.family, chosen.proxy != nil
		if chosen.addr.IsValid() {
			seen.Address = chosen.addr.String()
		}
		if err != nil {
			seen.Outcome, seen.Detail = failure(err), err.Error()
			r.add(seen)
			return nil
		}
		way = &chosen
		// The code is made only now: one that is not sent is not used up.
		p, err := path(i)
		if err != nil {
			c.Close()
			return err
		}
		r.timed(c.took)
		var date time.Time
		seen.Outcome, seen.Status, date = c.request(ctx, t.server, step, p)
		if seen.Outcome == Answer && seen.Status == 407 {
			seen.Outcome, seen.Detail = ProxyFailed, "the proxy wants a password (put it into the proxy's URL)"
		}
		r.clock(date)
		r.add(seen)
		if !seen.Outcome.Delivered() {
			return nil
		}
	}
	return nil
}

// reach connects to a target by the route that worked before, or else by the
// first that works.
func (r *round) reach(ctx context.Context, t target, before *route) (c *conn, way route, err error) {
	ways := t.ways
	if before != nil {
		ways = []route{*before}
	}
	for i, w := range ways {
		limited, cancel := context.WithTimeout(ctx, connectTimeout)
		c, err = r.d.dial(limited, t.server, w)
		cancel()
		if err == nil || i == len(ways)-1 {
			return c, w, err
		}
	}
	return nil, way, err
}

// connectTimeout is how long a server has to accept a connection: a SYN that is
// lost is sent again after a second, and after two more.
const connectTimeout = 4 * time.Second

// reached reports whether a last step was delivered to some server.
func (r *round) reached() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.seen, func(s Seen) bool { return s.Step == len(r.p.Steps) && s.Outcome.Delivered() })
}

// reachedAll reports whether a last step was delivered to each server.
func (r *round) reachedAll() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !slices.ContainsFunc(r.p.Servers, func(server Server) bool {
		return !slices.ContainsFunc(r.seen, func(s Seen) bool {
			return s.Server == server.String() && s.Step == len(r.p.Steps) && s.Outcome.Delivered()
		})
	})
}

func (r *round) add(s Seen) {
	r.mu.Lock()
	r.seen = append(r.seen, s)
	r.mu.Unlock()
	if s.Step == len(r.p.Steps) && s.Outcome.Delivered() {
		r.delivered()
	}
	r.say("%s", s)
}

// String says what became of a knock, without its path.
func (s Seen) String() string {
	over := s.Address
	if s.Proxy {
		over = "through the proxy"
	}
	line := fmt.Sprintf("%s %s step %d: ", s.Server, over, s.Step)
	switch s.Outcome {
	case Answer:
		return line + fmt.Sprint("answered ", s.Status)
	case Reset:
		return line + "reset without an answer"
	case Closed:
		return line + "closed without an answer"
	case Silence:
		return line + "no answer"
	case Refused:
		return line + "refused: nobody listens on the port"
	}
	return line + s.Detail
}

func (r *round) say(format string, args ...any) {
	if r.o.Progress == nil {
		return
	}
	r.progress.Lock()
	defer r.progress.Unlock()
	r.o.Progress(fmt.Sprintf(format, args...))
}

func (r *round) timed(took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.rtt == 0 || took < r.rtt {
		r.rtt = took
	}
}

// clock compares a server's clock with this one's.
func (r *round) clock(date time.Time) {
	if date.IsZero() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.skew, r.dated = time.Until(date), true
}

// maxSkew is by how much clocks may differ before one-time codes do not count.
const maxSkew = 30 * time.Second

// advice says why a door may not have opened.
func (r *round) advice(result Result, waited error) (advice []string) {
	say := func(format string, args ...any) { advice = append(advice, fmt.Sprintf(format, args...)) }
	outcomes := map[Outcome]bool{}
	families := map[Family]bool{}
	for _, s := range result.Knocks {
		outcomes[s.Outcome] = true
		if s.Outcome.Delivered() && s.Step == len(r.p.Steps) {
			families[s.Family] = true
		}
	}
	for _, hint := range []struct {
		outcome Outcome
		text    string
	}{
		{Unresolved, "the name of a server has no address here (look at the spelling, or use its address)"},
		{Unreachable, "there is no route to a server (is this machine online? a network without IPv6 reaches no IPv6 address: -4)"},
		{Refused, "nobody listens where a knock went (is webknock running there? is the port right?)"},
		{Timeout, "a server does not accept connections: the network between blocks the port, the server is down, or it has banned this address (webknock bans, there)"},
		{Untrusted, "a server's certificate is not trusted: somebody may be in between (ca or pin in the profile say whom to trust)"},
		{ProxyFailed, "a proxy does not let the knock through (proxy: none in the profile goes around it)"},
	} {
		if outcomes[hint.outcome] {
			say("%s", hint.text)
		}
	}
	if len(families) == 0 {
		return advice
	}
	codes := r.p.uses(varTOTP) || r.p.uses(varTicket)
	r.mu.Lock()
	skew, dated := r.skew, r.dated
	r.mu.Unlock()
	if codes && dated && skew.Abs() > maxSkew {
		say("this machine's clock differs from the server's by about %v, so its one-time codes do not count (set the clock)", skew.Abs().Round(10*time.Second))
	} else if codes {
		say("one-time codes count only if both clocks are right, within %v (compare date -u on both)", maxSkew)
	}
	if r.p.Wait != "" {
		if errors.Is(waited, errRefusedPort) {
			say("%s refuses connections: the door may be open, but nothing listens behind it", r.p.Wait)
		}
		for _, a := range r.waitAddresses() {
			if f := familyOf(a); !families[f] && !families[""] {
				say("%s leads to %s as well, and no knock went over %s: a door opens only for the address that knocked", r.p.Wait, a, f)
				break
			}
		}
		if families[""] {
			say("the knocks went through a proxy: the door opens for the proxy's address, not for this machine's")
		}
		say("the paths, their order or their times may be wrong, or %s takes another way than the knocks did, so that it comes from another address (webknock explain ADDRESS, on the server, says what the knocks did)", r.p.Wait)
	}
	return advice
}

func (r *round) waitAddresses() []netip.Addr {
	host, _, err := splitHostPort(r.p.Wait)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	addrs, _ := resolve(ctx, host)
	return addrs
}
