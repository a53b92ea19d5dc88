package keeper

import (
	"cmp"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"webknock/config"
	"webknock/firewall"
	"webknock/internal/onetime"
	"webknock/internal/ticket"
	"webknock/sequence"
)

// redeem makes hits of the one-time steps that a knock passes, and reports
// whether it brought a code that was looked at and passes none. A code is
// looked at only for steps that the client has reached; in each sequence it
// counts for one step, the furthest.
func (s *shard) redeem(client netip.Addr, k *sequence.Match) (wrong bool) {
	if len(k.Candidates) == 0 {
		return false
	}
	slices.SortStableFunc(k.Candidates, func(a, b sequence.Candidate) int { return cmp.Compare(b.Step, a.Step) })
	var reached []sequence.Candidate
	var claims []onetime.Claim
	for _, c := range k.Candidates {
		if s.letter.ToSite && !onetime.WellFormed(c.Variable, c.Code) {
			continue // a visitor of the site wants another page
		}
		state := s.tracker.State(client, c.Machine)
		run, ok := c.Machine.Reaches(state, c.Step, s.now)
		if !ok {
			continue
		}
		seq := s.rules.sequences[c.Machine]
		reached = append(reached, c)
		claims = append(claims, onetime.Claim{
			Variable: c.Variable, Code: c.Code, Run: run,
			Admits: seq.Admits, Opens: seq.Opens, AllowAddress: seq.AllowAddress,
		})
	}
	if len(claims) == 0 {
		return false
	}
	s.count() // the same head again would be no second wrong code
	wrong = true
	for i, p := range s.verifier.Verify(firewall.Offender(s.letter.Client), s.letter.At, claims, s.again) {
		if p == nil {
			continue
		}
		wrong = false
		s.used.add(usedCode{client, strings.Clone(p.Code)}, p.Until, s.letter.At)
		if hit, _ := k.Hit(reached[i].Machine); hit.Credential == nil {
			k.Accept(reached[i], p)
		}
	}
	return wrong
}

// maxUsed bounds the used codes that a shard remembers. Beyond it all are forgotten.
const maxUsed = 1024

// A usedCode is a one-time code or ticket, and the client that has used it, as
// track.Widen returned it.
type usedCode struct {
	client netip.Addr
	code   string
}

// usedCodes remembers until when each would have been good. A client that sends
// such a code again has reloaded a page, or its browser has. That is not guessing,
// as the same code from another client may be. The codes are in memory alone:
// after a restart they are wrong.
type usedCodes map[usedCode]time.Time

func (u usedCodes) add(c usedCode, until, now time.Time) {
	maps.DeleteFunc(u, func(_ usedCode, until time.Time) bool { return now.After(until) })
	if len(u) >= maxUsed {
		clear(u)
	}
	u[c] = until
}

// usedBefore reports whether a knock brings a code, still within its validity, that
// its client has itself used before. It opens nothing, and does no harm either.
func (s *shard) usedBefore(client netip.Addr, k sequence.Match) bool {
	return len(s.used) > 0 && slices.ContainsFunc(k.Candidates, func(c sequence.Candidate) bool {
		until, used := s.used[usedCode{client, c.Code}]
		return used && !s.letter.At.After(until)
	})
}

// redeemed completes a sequence once no crash can bring back the codes of its
// run. Like complete, it is called by the shard of the client and does not wait.
func (d *Daemon) redeemed(c completion) {
	if c.by == nil {
		d.complete(c)
		return
	}
	d.verifier.Await(c.by, func(err error) {
		if err == nil && !c.permitted() {
			err = errNotPermitted
		}
		if err != nil {
			d.Log.Error("not let in", "sequence", c.sequence.Name, "client", c.letter.Client, "user", c.by.User, "error", err)
			return
		}
		d.complete(c)
	})
}

var errNotPermitted = errors.New("by the configuration as it is now, its user may not do that")

// permitted reports whether the run's user may do what it asks for. The
// configuration may be another than when its codes were looked at.
func (c completion) permitted() bool {
	return c.sequence.Admits(c.by.User) && c.ticket().Permitted(c.sequence.Opens, c.sequence.AllowAddress)
}

// ticket returns what a ticket of the run asks for, or nil.
func (c completion) ticket() *ticket.Request {
	if c.by == nil {
		return nil
	}
	ticket, _ := c.by.Request.(*ticket.Request)
	return ticket
}

// opening returns what a completion asks of the gate.
func (c completion) opening() firewall.OpenRequest {
	r := firewall.OpenRequest{Client: c.letter.Client, Doors: c.sequence.Opens, Closes: c.sequence.Closes, Sequence: c.sequence.Name, Cause: c}
	r.User = c.user()
	if ticket := c.ticket(); ticket != nil {
		r.TTL = ticket.TTL
		if len(ticket.Doors) > 0 {
			r.Doors = ticket.Doors
		}
		if ticket.Address.IsValid() {
			r.Client = ticket.Address
		}
	}
	return r
}

// user returns whose codes a completion was made with; empty: nobody's.
func (c completion) user() string {
	if c.by == nil {
		return ""
	}
	return c.by.User
}

// oneTimeUsers returns the users of a configuration.
func oneTimeUsers(cfg *config.Config) []onetime.User {
	users := make([]onetime.User, len(cfg.Users))
	for i, u := range cfg.Users {
		users[i] = onetime.User{Name: u.Name, Secret: u.Secret}
	}
	return users
}
