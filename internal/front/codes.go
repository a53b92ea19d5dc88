package front

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"webknock/firewall"
	"webknock/internal/onetime"
	"webknock/internal/seam"
	"webknock/sequence"
)

// verify makes hits of the one-time steps whose code is good, and reports whether
// the knock brought a code that was looked at and passes none. A code is looked at
// only for steps that the client has reached; in each sequence it counts for one
// step, the furthest.
func (k *knock) verify() (wrong bool) {
	if len(k.match.Candidates) == 0 {
		return false
	}
	slices.SortStableFunc(k.match.Candidates, func(a, b sequence.Candidate) int { return cmp.Compare(b.Step, a.Step) })
	var reached []sequence.Candidate
	var claims []onetime.Claim
	for _, c := range k.match.Candidates {
		if k.received.ToSite && !onetime.WellFormed(c.Variable, c.Code) {
			continue // a visitor of the site wants another page
		}
		state := k.shard.tracker.State(k.client, c.Machine)
		run, ok := c.Machine.Reaches(state, c.Step, k.at)
		if !ok {
			k.unreached = append(k.unreached, c)
			continue
		}
		seq := k.rules.sequences[c.Machine]
		reached = append(reached, c)
		claims = append(claims, onetime.Claim{
			Variable: c.Variable, Code: c.Code, Run: run,
			Admits: seq.Admits, Opens: seq.Opens, AllowAddress: seq.AllowAddress,
		})
	}
	if len(claims) == 0 {
		return false
	}
	k.count() // the same head again would be no second wrong code
	wrong = true
	credentials, refusal := k.shard.all.verifier.VerifyWhy(firewall.Offender(k.received.Client), k.received.At, claims, k.again)
	k.candidate, k.refusal = reached[0], refusal
	for i, credential := range credentials {
		if credential == nil {
			continue
		}
		wrong = false
		k.shard.used.add(usedCode{k.client, strings.Clone(credential.Code)}, use{k.received.At, credential.Until}, k.received.At)
		if hit, _ := k.match.Hit(reached[i].Machine); hit.Credential == nil {
			k.match.Accept(reached[i], credential)
		}
	}
	return wrong
}

// maxUsed bounds the used codes that a shard remembers. When there are more, it
// forgets all.
const maxUsed = 1024

// A usedCode is a one-time code or ticket, and the client that has used it, as
// track.Widen returned it.
type usedCode struct {
	client netip.Addr
	code   string
}

// A use is when a code was used, and until when it would have been good.
type use struct{ at, until time.Time }

// usedCodes remembers the use of each. A client that sends
// such a code again has reloaded a page, or its browser has. That is not guessing,
// as the same code from another client may be. The codes are in memory alone:
// after a restart they are wrong.
type usedCodes map[usedCode]use

func (u usedCodes) add(c usedCode, of use, now time.Time) {
	maps.DeleteFunc(u, func(_ usedCode, of use) bool { return now.After(of.until) })
	if len(u) >= maxUsed {
		clear(u)
	}
	u[c] = of
}

// bringsUsedCode reports whether a knock brings a code, still within its validity,
// that its client has itself used before. It opens nothing, and does no harm
// either.
func (k *knock) bringsUsedCode() bool {
	used := k.shard.used
	return len(used) > 0 && slices.ContainsFunc(k.match.Candidates, func(c sequence.Candidate) bool {
		of, known := used[usedCode{k.client, c.Code}]
		if !known || k.received.At.After(of.until) {
			return false
		}
		k.candidate, k.usedFor = c, k.received.At.Sub(of.at)
		return true
	})
}

// A record is the keeper's record of used codes, as the verifier asks for it.
type record struct{ keeper seam.Keeper }

// Load implements onetime.Store.
func (r record) Load() (onetime.Used, error) { return r.keeper.UsedCodes() }

// Record implements onetime.Store.
func (r record) Record(used onetime.Used, done func(error)) {
	go func() { done(r.keeper.RecordCodes(used)) }()
}

func oneTimeUsers(all []seam.User) []onetime.User {
	users := make([]onetime.User, len(all))
	for i, u := range all {
		users[i] = onetime.User{Name: u.Name, Secret: u.Secret}
	}
	return users
}
