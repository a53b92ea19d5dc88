// Package onetime verifies one-time codes and tickets, and burns them: each
// counts once, whatever happens to the process, the machine and its clock.
//
// A [Verifier] burns a code in memory the moment it is verified. What the code
// buys waits ([Verifier.Await]) until the burn is on the disk, so that no crash
// can make a code that has opened a door unused again.
package onetime

import (
	"crypto/subtle"
	"encoding/base32"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pquerna/otp/hotp"

	"webknock/internal/ticket"
	"webknock/sequence"
)

// The parameters of TOTP (RFC 6238), with HMAC-SHA-1.
const (
	period = 30 * time.Second
	digits = 6
	skew   = 1 // counters before and after the current one that are accepted
)

const (
	// validity is how far a ticket's time may be from the server's, in seconds: a
	// time.Duration does not hold all that a ticket may say.
	validity = 60
	// An authentic ticket that is refused is burnt as well, as it could come
	// into its time when a clock is set right; but not one that is further off.
	burnable = 24 * 60 * 60

	maxTickets = 1024 // burnt tickets of a user that could still matter; beyond it none is accepted

	maxWrong    = 5           // codes of a client in wrongWithin, before its codes are not looked at
	wrongWithin = time.Minute // of the first of them
	maxClients  = 1 << 16     // whose wrong codes are counted; beyond it all are forgotten
)

// A User is a named secret.
type User struct {
	Name   string
	Secret []byte
}

// A Verifier knows the users and what they have used. It may be used from several
// goroutines.
type Verifier struct {
	store Store
	log   *slog.Logger
	wake  chan struct{} // something is to be recorded

	loading sync.Mutex // held while the record is read

	mu      sync.Mutex
	users   []*user
	keys    map[ticket.KeyID]*user
	wrong   map[netip.Prefix]wrong
	loaded  bool // burnt holds what the record held; until then nothing passes
	burnt   Used
	fresh   Used   // of it, what the store was not told yet
	whole   bool   // the store is to be told all of burnt, burns or not
	burns   uint64 // burns so far
	written uint64 // of them recorded
	waiting []waiter
	sent    time.Time // since when a burn is being recorded; zero: none is
	problem error     // why nothing can be recorded; nil: it can
}

// user is a configured user.
type user struct {
	name   string
	base32 string // secret
	id     ticket.KeyID
	key    ticket.Key
	codes  [2*skew + 2]totp // by counter, modulo
}

// totp is the code of a counter.
type totp struct {
	counter int64
	code    int32
}

// wrong is how many wrong codes a client has brought since a time.
type wrong struct {
	codes int
	since time.Time
}

// New returns a verifier without users, whose memory is a store.
func New(store Store, log *slog.Logger) *Verifier {
	return &Verifier{
		store: store, log: log, wake: make(chan struct{}, 1), wrong: map[netip.Prefix]wrong{},
		burnt: NewUsed(), fresh: NewUsed(), whole: true,
	}
}

// Configure makes users the ones whose codes count. What was used stays used.
// A verifier touches its store only
// once it has users.
func (l *Verifier) Configure(users []User) {
	var all []*user
	keys := map[ticket.KeyID]*user{}
	for _, u := range users {
		key := ticket.NewKey(u.Secret)
		of := &user{name: u.Name, base32: base32.StdEncoding.EncodeToString(u.Secret), id: key.ID, key: key}
		all = append(all, of)
		keys[key.ID] = of
	}
	l.mu.Lock()
	l.users, l.keys = all, keys
	l.mu.Unlock()
	if len(users) > 0 {
		l.load()
	}
}

// WellFormed reports whether a path segment has the form of a code; none that has
// not is good.
func WellFormed(variable, segment string) bool {
	if variable == sequence.Ticket {
		return ticket.WellFormed(segment)
	}
	return len(segment) == digits && strings.Trim(segment, "0123456789") == ""
}

// A Claim is a step for which a code may count.
type Claim struct {
	Variable     string // sequence.TOTP or sequence.Ticket
	Code         string // what stood in its place
	Admits       func(user string) bool
	Opens        []string             // doors that a ticket may name
	AllowAddress bool                 // a ticket may name an address
	Run          *sequence.Credential // of the run that goes on with it, whose user it must be; nil: anybody's
}

// proof is whose unused code a code was.
type proof struct {
	variable, code string
	burn           uint64
	bearers        []bearer
	request        *ticket.Request // of a ticket
}

type bearer struct {
	*user
	until time.Time
}

// Verify burns the codes of a knock made at a time of the wall clock, each for
// all users whose code it is, and returns for each claim the pass of the first
// user that it admits, or nil. A knock that gets no pass counts against its
// client, and after too many of them that client's codes are not looked at for
// a while. Again says that the client has just sent the same request, as browsers
// do by themselves: that does not count once more.
func (l *Verifier) Verify(client netip.Prefix, at time.Time, claims []Claim, again bool) []*sequence.Credential {
	passes := make([]*sequence.Credential, len(claims))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.limited(client, at) {
		return passes
	}
	var proofs []proof // nearly always one
	passed := false
	for i, claim := range claims {
		of := slices.IndexFunc(proofs, func(p proof) bool { return p.variable == claim.Variable && p.code == claim.Code })
		if of < 0 {
			of = len(proofs)
			proofs = append(proofs, l.prove(claim.Variable, claim.Code, at))
		}
		if passes[i] = claim.pass(proofs[of]); passes[i] != nil {
			passed = true
		}
	}
	if !passed && !again {
		l.countWrong(client, at)
	}
	if !l.loaded { // nobody knows whether they were used before; now they are
		clear(passes)
	}
	return passes
}

// prove burns a code.
func (l *Verifier) prove(variable, code string, at time.Time) proof {
	p := proof{variable: variable, code: code}
	if variable == sequence.Ticket {
		p.bearers, p.request = l.burnTicket(code, at)
	} else {
		p.bearers = l.burnTOTP(code, at)
	}
	p.burn = l.burns
	return p
}

// pass returns what a proof buys, or nil.
func (c Claim) pass(p proof) *sequence.Credential {
	for _, b := range p.bearers {
		if !c.admits(b, p.request) {
			continue
		}
		pass := &sequence.Credential{User: b.name, KeyID: b.id, Code: p.code, Until: b.until, Use: p.burn}
		if p.request != nil {
			pass.Request = p.request
		} else if c.Run != nil {
			pass.Request = c.Run.Request
		}
		return pass
	}
	return nil
}

func (c Claim) admits(b bearer, r *ticket.Request) bool {
	if !c.Admits(b.name) || c.Run != nil && (c.Run.User != b.name || c.Run.KeyID != b.id) {
		return false
	}
	return r.Permitted(c.Opens, c.AllowAddress)
}

func (l *Verifier) limited(client netip.Prefix, at time.Time) bool {
	w := l.wrong[client]
	return w.codes >= maxWrong && at.Sub(w.since) <= wrongWithin
}

func (l *Verifier) countWrong(client netip.Prefix, at time.Time) {
	w, known := l.wrong[client]
	if !known && len(l.wrong) >= maxClients {
		clear(l.wrong)
	}
	if !known || at.Sub(w.since) > wrongWithin {
		w = wrong{since: at}
	}
	w.codes++
	l.wrong[client] = w
}

// burnTOTP compares a code with those of all users and counters, whichever of
// them it is. A counter that is not above the latest used one is used: so a
// clock that is set back brings none back, and a code that is by chance that of
// two counters counts once.
func (l *Verifier) burnTOTP(code string, at time.Time) (bearers []bearer) {
	given, err := strconv.Atoi(code)
	if err != nil || !WellFormed(sequence.TOTP, code) {
		return nil
	}
	now := at.Unix() / int64(period/time.Second)
	for _, u := range l.users {
		var latest int64
		for counter := now - skew; counter <= now+skew; counter++ {
			if subtle.ConstantTimeEq(u.code(counter), int32(given)) == 1 {
				latest = counter
			}
		}
		if latest > l.burnt.counter(u.id) {
			l.useCounter(u.id, latest)
			bearers = append(bearers, bearer{u, time.Unix((latest+skew+1)*int64(period/time.Second), 0)})
		}
	}
	if len(bearers) > 0 {
		l.burned()
	}
	return bearers
}

// code returns the code of a counter, and remembers those of the window. No
// code stands for a counter before 1970.
func (u *user) code(counter int64) int32 {
	if counter < 1 {
		return -1
	}
	t := &u.codes[counter%int64(len(u.codes))]
	if t.counter != counter {
		text, err := hotp.GenerateCode(u.base32, uint64(counter))
		code, atoiErr := strconv.Atoi(text)
		if err != nil || atoiErr != nil {
			return -1
		}
		*t = totp{counter, int32(code)}
	}
	return t.code
}

// burnTicket opens a ticket. The time that counts is the later of the clock and
// the mark, so that no clock that is set back makes an old ticket young again.
func (l *Verifier) burnTicket(code string, clock time.Time) ([]bearer, *ticket.Request) {
	t, id, n, ok := ticket.Open(code, func(id ticket.KeyID) *ticket.Key {
		if u := l.keys[id]; u != nil {
			return &u.key
		}
		return nil
	})
	u := l.keys[id]
	if !ok || t.User != u.name {
		return nil, nil
	}
	now := max(clock.Unix(), l.burnt.Mark)
	at := t.Time.Unix()
	off := max(at-now, now-at)
	if at < l.burnt.Forgotten() || off > burnable || l.burnt.has(u.id, n) {
		return nil, nil
	}
	good := off <= validity
	if good && l.burnt.full(u.id) {
		l.burnt.advance(now)
	}
	if l.burnt.full(u.id) {
		return nil, nil
	}
	l.useTicket(u.id, n, at)
	if good {
		l.burnt.advance(now)
	}
	l.burned()
	if !good {
		return nil, nil
	}
	return []bearer{{u, t.Time.Add(validity * time.Second)}}, &t.Request
}

// errGone ends a run whose user has gone.
var errGone = errors.New("its user was removed meanwhile, or has another secret")
