package front

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"webknock/httpd"
	"webknock/internal/event"
	"webknock/internal/onetime"
	"webknock/internal/seam"
	"webknock/sequence"
	"webknock/sequence/track"
)

// A cause says why a knock did what it did. The first ones are those of package
// sequence.
type cause uint8

const (
	causeUnmet     = cause(sequence.Completes) + 1 + iota // its path is a step's, but detail, a sequence.Condition, is not met
	causeIgnored                                          // the sequence ignores its path; without a machine: all do
	causeMalformed                                        // detail is one of malformations
	causePrefetch
	causeUsed      // its client has used the code, as long ago as span says
	causeCode      // its code does not count; detail is a onetime.Reason, span what goes with it
	causeUntracked // it would have begun a sequence, but the bound of clients is reached
	causeBanned    // its client is banned, as much longer as span says
)

// malformations are why a head is malformed, with what is said of it. The last is any
// other reason.
var malformations = []struct {
	err  error
	text string
}{
	{httpd.ErrTooLarge, fmt.Sprintf("head too large (over %d KiB)", httpd.MaxHead>>10)},
	{httpd.ErrTooManyLines, fmt.Sprintf("head with too many lines (over %d)", httpd.MaxLines)},
	{httpd.ErrControl, "head with a control character"},
	{httpd.ErrNoHost, "head without a Host field"},
	{httpd.ErrManyHosts, "head with several Host fields"},
	{nil, "not a valid HTTP request"},
}

// unparsed tells what became of a knock that was not parsed, and remembers it. The path
// is empty if it is not plain.
func (s *shard) unparsed(received *httpd.Knock, client netip.Addr, path string, outcome event.Outcome) {
	one := trace{at: received.At.UnixNano(), outcome: uint8(place(outcome)), listener: s.all.tallies.of(received.Listener)}
	one.listener.count(s.index, int(one.outcome))
	switch outcome {
	case event.Ignored:
		one.cause = causeIgnored
	case event.Banned:
		one.cause, one.span = causeBanned, s.all.bans.End(received.Client).Sub(received.At)
	}
	if received.ViaProxy {
		one.flags = viaProxy
	}
	s.traces.keep(client, &one, path, false, s.latest)
	if s.all.watch.wanted() {
		s.all.watch.tell(one.knock(received))
	}
}

// parsed tells what became of a knock that went through the pipeline, and remembers it.
func (s *shard) parsed(k *knock) {
	one, path, knows := k.trace()
	one.listener.count(s.index, int(one.outcome))
	if of := s.traces.keep(k.client, &one, path, knows, k.at); of != nil {
		of.standing = k.standingAfter(of.standing)
	}
	if s.all.watch.wanted() {
		s.all.watch.tell(one.knock(&k.received))
	}
}

// trace returns what is to be remembered of a knock. Knows reports whether it matches
// the path of a step.
func (k *knock) trace() (one trace, path string, knows bool) {
	one = trace{at: k.received.At.UnixNano(), outcome: uint8(place(k.outcome)), listener: k.shard.all.tallies.of(k.received.Listener)}
	path = k.pathAsked()
	knows = len(k.match.Hits)+len(k.match.Candidates) > 0 || path != "" && k.rules.set.Concerns(path)
	switch k.outcome {
	case event.Malformed:
		one.cause, one.detail = causeMalformed, k.malformation
	case event.Prefetch:
		one.cause = causePrefetch
	case event.Replayed:
		one.cause, one.span = causeUsed, k.usedFor
		one.at1(k.candidate)
	case event.WrongCode:
		one.cause, one.detail, one.span = causeCode, uint8(k.refusal.Reason), k.refusal.Off
		one.at1(k.candidate)
	case event.Untracked:
		one.cause, one.machine, one.step = causeUntracked, k.match.Hits[0].Machine, 1
	default:
		k.explain(&one, knows)
	}
	one.over = k.startsOver()
	if k.received.ViaProxy {
		one.flags |= viaProxy
	}
	if k.banFor != "" && k.shard.all.bans.Has(k.received.Client) {
		one.flags |= bansFor
		if k.banFor == decoy {
			one.flags |= bansDecoy
		}
	}
	return one, path, knows
}

// at1 notes the step of a candidate.
func (t *trace) at1(c sequence.Candidate) { t.machine, t.step = c.Machine, uint8(c.Step+1) }

// pathAsked returns the path of a knock, parsed or not; empty: it is not known.
func (k *knock) pathAsked() string {
	if k.request != nil {
		return k.request.URL.Path
	}
	return string(k.shard.unparsedPath)
}

// explain finds out what a well-formed knock did: of all sequences, the one in which it
// did most.
func (k *knock) explain(one *trace, knows bool) {
	var best sequence.Why
	consider := func(m *sequence.Machine, steps sequence.Steps) {
		why := m.Why(k.before(m), steps, k.at)
		if one.machine == nil || why.Reason > best.Reason || why.Reason == best.Reason && why.Step > best.Step {
			one.machine, best = m, why
		}
	}
	for _, hit := range k.match.Hits {
		consider(hit.Machine, hit.Steps)
	}
	for _, c := range k.unreached {
		consider(c.Machine, 1<<c.Step)
	}
	if one.machine == nil && knows {
		if unmet := k.unmet(); unmet.Machine != nil {
			one.cause, one.machine, one.step, one.detail = causeUnmet, unmet.Machine, uint8(unmet.Step), uint8(unmet.Condition)
			return
		}
	}
	if one.machine == nil {
		for _, before := range k.standing {
			if _, counts := k.match.Hit(before.Machine); counts {
				consider(before.Machine, 0)
			} else {
				one.machine, one.cause = before.Machine, causeIgnored
				return
			}
		}
	}
	if one.machine == nil && k.outcome == event.Ignored {
		one.cause = causeIgnored
		return
	}
	one.cause, one.step, one.awaited, one.span = cause(best.Reason), uint8(best.Step), uint8(best.Awaited), best.Late
	if best.Reason == sequence.NoStep {
		one.machine = nil
	}
}

// unmet returns a step whose path the knock matches but not its conditions, rather the
// one that is awaited; one without a machine: there is none.
func (k *knock) unmet() sequence.Unmet {
	if k.request == nil {
		return sequence.Unmet{}
	}
	all := k.rules.set.Unmet(k.asked(k.request))
	for _, u := range all {
		if u.Step == k.before(u.Machine).Step()+1 {
			return u
		}
	}
	if len(all) == 0 {
		return sequence.Unmet{}
	}
	return all[0]
}

// before returns how far the client was in a sequence before the knock, expired or not.
func (k *knock) before(m *sequence.Machine) sequence.State {
	for _, s := range k.standing {
		if s.Machine == m {
			return s.State
		}
	}
	return sequence.State{}
}

// startsOver returns a sequence in which the knock has made its client start over, were
// it with the first step; nil: there is none.
func (k *knock) startsOver() *sequence.Machine {
	for _, before := range k.standing {
		m := before.Machine
		completed := slices.ContainsFunc(k.completed, func(done track.Completion) bool { return done.Machine == m })
		if !completed && m.Deadline(before.State) >= k.at && k.shard.tracker.State(k.client, m).Step() < before.State.Step() {
			return m
		}
	}
	return nil
}

// standingAfter returns how far the client is after the knock. What has expired stays,
// so that a knock that comes too late can be told from one in the wrong order, until a
// knock counts that makes the client start over.
func (k *knock) standingAfter(before []track.Standing) []track.Standing {
	after := k.shard.tracker.Standing(k.client, nil)
	for _, b := range before {
		m := b.Machine
		if k.rules.sequences[m] == nil || slices.ContainsFunc(after, func(a track.Standing) bool { return a.Machine == m }) {
			continue
		}
		if steps, counts := k.match.Steps(m); !k.advances || !counts || steps == 0 && !k.rules.sequences[m].Strict {
			after = append(after, b)
		}
	}
	return after
}

// knock returns a trace as the keeper is told of it.
func (t *trace) knock(received *httpd.Knock) event.Knock {
	k := t.value()
	k.At, k.Client, k.Listener = received.At, received.Client, received.Listener
	return k
}

// value returns a trace as the keeper is told of it, without its client.
func (t *trace) value() event.Knock {
	k := event.Knock{At: time.Unix(0, t.at), Outcome: outcomes[t.outcome], Step: int(t.step), Why: t.why()}
	if t.listener != nil {
		k.Listener = t.listener.listener
	}
	if t.machine != nil {
		k.Sequence, k.Steps = t.machine.Name(), t.machine.Len()
	}
	return k
}

// recalled returns a trace as the keeper asks for it.
func (t *trace) recalled() seam.Recalled {
	return seam.Recalled{Knock: t.value(), Path: t.path, ViaProxy: t.flags&viaProxy != 0, Cause: t.name()}
}

// why says in a clause what a knock did and why. It holds nothing that the client has
// sent, nor any path.
func (t *trace) why() string {
	text := t.because()
	switch {
	case t.over == nil || t.cause == cause(sequence.StartedOver) && t.over == t.machine:
	case t.over != t.machine:
		text += ", and starts " + t.over.Name() + " over"
	case t.step == 1 && t.cause == cause(sequence.Reaches):
		text += ", which starts over"
	default:
		text += ": starts over"
	}
	switch {
	case t.flags&bansDecoy != 0:
		text += "; banned for it, a decoy"
	case t.flags&bansFor != 0:
		text += "; banned for it, one knock too many"
	}
	return text
}

func (t *trace) because() string {
	switch t.cause {
	case cause(sequence.PassedOver):
		return fmt.Sprintf("matches no step, which does no harm: step %d is awaited", t.awaited)
	case cause(sequence.StartedOver):
		return fmt.Sprintf("matches no step: starts over (strict), step %d was awaited", t.awaited)
	case cause(sequence.WrongOrder):
		was := "is"
		if t.awaited > 1 {
			was = "was"
		}
		return fmt.Sprintf("wrong order: matches step %d, step %d %s awaited", t.step, t.awaited, was)
	case cause(sequence.LateWindow):
		return fmt.Sprintf("%s too late for step %d (window %v)", spell(t.span), t.step, t.machine.Window())
	case cause(sequence.LateWithin):
		return fmt.Sprintf("%s too late for step %d (within %v)", spell(t.span), t.step, t.machine.Within(int(t.step)))
	case cause(sequence.Repeats):
		return fmt.Sprintf("matched step %d of %d once more", t.step, t.machine.Len())
	case cause(sequence.Reaches), cause(sequence.Completes):
		return fmt.Sprintf("matched step %d of %d", t.step, t.machine.Len())
	case causeUnmet:
		return t.unmet()
	case causeIgnored:
		if t.machine != nil {
			return "ignored path of " + t.machine.Name()
		}
		return "ignored path"
	case causeMalformed:
		return malformations[t.detail].text
	case causePrefetch:
		return "a browser sent it ahead of its user"
	case causeUsed:
		return fmt.Sprintf("code used already, %s ago", spell(t.span))
	case causeCode:
		return t.code()
	case causeUntracked:
		return fmt.Sprintf("matches step 1 of %d, but clients.max is reached", t.machine.Len())
	case causeBanned:
		if t.span == 0 {
			return "banned"
		}
		return "banned until " + time.Unix(0, t.at).Add(t.span).Format("2006-01-02 15:04:05")
	}
	return "matches no step"
}

// unmet says which condition of a step a knock does not meet.
func (t *trace) unmet() string {
	wants := t.machine.Conditions(int(t.step))
	switch sequence.Condition(t.detail) {
	case sequence.OfScheme:
		came := sequence.HTTP
		if wants.Scheme == sequence.HTTP {
			came = sequence.HTTPS
		}
		return fmt.Sprintf("came by %s, step %d wants %s", came, t.step, wants.Scheme)
	case sequence.OfMethod:
		return fmt.Sprintf("came with another method, step %d wants %s", t.step, wants.Method)
	case sequence.OfHost:
		return fmt.Sprintf("came for another host, step %d wants %s", t.step, wants.Host)
	}
	return fmt.Sprintf("came without the query that step %d wants", t.step)
}

// code says why a one-time code does not count.
func (t *trace) code() string {
	var text string
	switch onetime.Reason(t.detail) {
	case onetime.UsedAlready:
		text = "code used already, by another client or before a restart"
	case onetime.WrongTime:
		text = "ticket " + spell(max(t.span, -t.span)) + " old"
		if t.span > 0 {
			text = "ticket " + spell(t.span) + " ahead of this host's clock"
		}
	case onetime.OtherUser:
		text = "code of another user than that of the step before"
	case onetime.NotAdmitted:
		text = "good code, but its user may not do that"
	case onetime.TooManyWrong:
		text = "too many wrong codes: for a minute none of this client counts"
	case onetime.TooManyUsed:
		text = "its user has used too many tickets"
	case onetime.NotReady:
		text = "used codes cannot be read, so that none counts"
	default:
		text = "wrong code"
	}
	return fmt.Sprintf("%s (step %d of %d)", text, t.step, t.machine.Len())
}

// spell writes a time for people: 40 ms, 3.2 s, 12 s, 5m3s.
func spell(d time.Duration) string {
	switch {
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%d ms", (d+time.Millisecond-1)/time.Millisecond)
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	}
	return d.Round(time.Second).String()
}

// causes are the causes as the keeper is told of them.
var causes = map[cause]seam.Cause{
	cause(sequence.NoStep): seam.NoStep, cause(sequence.PassedOver): seam.PassedOver, cause(sequence.StartedOver): seam.StartedOver,
	cause(sequence.WrongOrder): seam.WrongOrder, cause(sequence.LateWindow): seam.LateWindow, cause(sequence.LateWithin): seam.LateWithin,
	cause(sequence.Repeats): seam.Repeated, cause(sequence.Reaches): seam.Reached, cause(sequence.Completes): seam.Completed,
	causeIgnored: seam.IgnoredPath, causePrefetch: seam.Prefetch, causeUsed: seam.UsedCode, causeUntracked: seam.Untracked, causeBanned: seam.Banned,
}

// name returns the cause of a trace as the keeper is told of it.
func (t *trace) name() seam.Cause {
	switch t.cause {
	case causeUnmet:
		return map[sequence.Condition]seam.Cause{
			sequence.OfMethod: seam.WrongMethod, sequence.OfScheme: seam.WrongScheme, sequence.OfHost: seam.WrongHost, sequence.OfQuery: seam.WrongQuery,
		}[sequence.Condition(t.detail)]
	case causeMalformed:
		switch malformations[t.detail].err {
		case httpd.ErrTooLarge, httpd.ErrTooManyLines:
			return seam.HeadTooLong
		case httpd.ErrNoHost:
			return seam.NoHost
		}
		return seam.Malformed
	case causeCode:
		switch onetime.Reason(t.detail) {
		case onetime.UsedAlready:
			return seam.UsedCode
		case onetime.WrongTime:
			return seam.WrongTime
		case onetime.OtherUser, onetime.NotAdmitted:
			return seam.WrongUser
		case onetime.TooManyWrong:
			return seam.TooManyCode
		}
		return seam.WrongCode
	}
	return causes[t.cause]
}

// malformationOf returns the place of a parser's error among malformations.
func malformationOf(err error) uint8 {
	i := slices.IndexFunc(malformations, func(m struct {
		err  error
		text string
	}) bool {
		return m.err == nil || errors.Is(err, m.err)
	})
	return uint8(i)
}
