// Package onetime verifies one-time codes (TOTP) and tickets, and keeps the
// replay log: each code counts once, whatever happens to the process, the
// machine and its clock.
//
// Start with [Verifier.Verify]. It marks a code as used in memory before it
// returns a credential for it. The completion that the credential leads to waits
// ([Verifier.Await]) until the use is recorded on the disk, so that no crash can
// make a code that has opened a door unused again.
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
	skew   = 1 // how many counters before and after the current one are accepted
)

const (
	// validity is how far a ticket's time may be from the server's, in seconds. It
	// is not a time.Duration, which cannot hold all times that a ticket may have.
	validity = 60
	// maxEarly is how far off the time of an authentic ticket may be for the
	// ticket to be marked as used although it is refused. Otherwise it could
	// become valid later, when somebody sets a clock.
	maxEarly = 24 * 60 * 60

	maxTickets = 1024 // used tickets of a user that are remembered; beyond it no more are accepted

	maxWrong    = 5           // wrong codes of a client within wrongWithin; after them its codes are not verified
	wrongWithin = time.Minute // from the first of them
	maxClients  = 1 << 16     // clients whose wrong codes are counted; beyond it all counts are forgotten
)

// A User is a named secret.
type User struct {
	Name   string
	Secret []byte
}

// A Verifier knows the users, and the replay log of the codes that they have
// used. Goroutines may share it.
type Verifier struct {
	store Store
	log   *slog.Logger
	wake  chan struct{} // there are uses to record

	loading sync.Mutex // held while the record is read

	mu         sync.Mutex
	users      []*user
	keys       map[ticket.KeyID]*user
	wrong      map[netip.Prefix]wrong
	loaded     bool // used holds what the record held; until then no code is accepted
	used       Used
	unrecorded Used   // the part of used that the store does not have yet
	whole      bool   // the store is to record all of used, whether or not anything is new
	uses       uint64 // how many uses there were
	recorded   uint64 // how many of them are recorded
	waiting    []waiter
	sent       time.Time // since when the store has been recording uses; zero: it is not
	problem    error     // why uses cannot be recorded; nil: they can
}

// user is a configured user.
type user struct {
	name   string
	base32 string // secret
	id     ticket.KeyID
	key    ticket.Key
	codes  [2*skew + 2]totp // a ring buffer, by counter
}

// totp is the code for a counter.
type totp struct {
	counter int64
	code    int32
}

// wrong is how many wrong codes a client has sent since a time.
type wrong struct {
	codes int
	since time.Time
}

// New returns a verifier without users that records uses in a store.
func New(store Store, log *slog.Logger) *Verifier {
	return &Verifier{
		store: store, log: log, wake: make(chan struct{}, 1), wrong: map[netip.Prefix]wrong{},
		used: NewUsed(), unrecorded: NewUsed(), whole: true,
	}
}

// Configure sets the users whose codes count. Used codes stay used. The verifier
// does not touch its store before it has users.
func (v *Verifier) Configure(users []User) {
	var all []*user
	keys := map[ticket.KeyID]*user{}
	for _, u := range users {
		key := ticket.NewKey(u.Secret)
		of := &user{name: u.Name, base32: base32.StdEncoding.EncodeToString(u.Secret), id: key.ID, key: key}
		all = append(all, of)
		keys[key.ID] = of
	}
	v.mu.Lock()
	v.users, v.keys = all, keys
	v.mu.Unlock()
	if len(users) > 0 {
		v.load()
	}
}

// WellFormed reports whether a path segment has the form of a code. A segment
// without it cannot be valid.
func WellFormed(variable, segment string) bool {
	if variable == sequence.Ticket {
		return ticket.WellFormed(segment)
	}
	return len(segment) == digits && strings.Trim(segment, "0123456789") == ""
}

// A Claim is a step for which a code may count.
type Claim struct {
	Variable     string // sequence.TOTP or sequence.Ticket
	Code         string // the path segment in its place
	Admits       func(user string) bool
	Opens        []string             // doors that a ticket may name
	AllowAddress bool                 // a ticket may name an address
	Run          *sequence.Credential // of the run that goes on with the code, which must be of the same user; nil: any user
}

// match is what is known of a code: whose valid and unused code it was.
type match struct {
	variable, code string
	use            uint64 // the number under which its use is recorded
	owners         []owner
	request        *ticket.Request // of a ticket; nil: it is a TOTP code
	refusal        Refusal         // why it has no owners, if it has none
}

// owner is a user whose code it is, which one it is, and until when it is valid.
type owner struct {
	*user
	until   time.Time
	counter int64 // 0: it is a ticket
	nonce   ticket.Nonce
}

// Verify verifies the codes of a knock that a client made at a time of the wall
// clock. For each claim it returns the credential of the first user whose code it
// is and whom the claim admits, or nil. It marks each code as used for all users
// whose code it is.
//
// A knock without any valid code is counted against its client, and after too
// many of them Verify refuses all codes of the client for a while. Again says
// that the client has just sent the same request, as browsers do by themselves;
// such a knock is not counted.
func (v *Verifier) Verify(client netip.Prefix, at time.Time, claims []Claim, again bool) []*sequence.Credential {
	credentials, _ := v.VerifyWhy(client, at, claims, again)
	return credentials
}

// VerifyWhy is Verify, and returns why the code of the first claim does not count, if
// it does not.
func (v *Verifier) VerifyWhy(client netip.Prefix, at time.Time, claims []Claim, again bool) (credentials []*sequence.Credential, refusal Refusal) {
	credentials = make([]*sequence.Credential, len(claims))
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.limited(client, at) {
		return credentials, Refusal{Reason: TooManyWrong}
	}
	var matches []match // nearly always one; each code of the knock is used once, for all its claims
	valid := false
	for i, claim := range claims {
		of := slices.IndexFunc(matches, func(m match) bool { return m.variable == claim.Variable && m.code == claim.Code })
		if of < 0 {
			of = len(matches)
			matches = append(matches, v.match(claim.Variable, claim.Code, at))
		}
		if credentials[i] = claim.credential(matches[of]); credentials[i] != nil {
			valid = true
		}
		if i == 0 {
			refusal = claim.refusal(matches[of], credentials[i] != nil)
		}
	}
	if !valid && !again {
		v.countWrong(client, at)
	}
	if !v.loaded {
		clear(credentials) // the codes may have been used before the restart; now they certainly are
		refusal = Refusal{Reason: NotReady}
	}
	return credentials, refusal
}

// match finds the owners of a code, and marks it as used for all of them.
func (v *Verifier) match(variable, code string, at time.Time) match {
	m := match{variable: variable, code: code}
	if variable == sequence.Ticket {
		m.owners, m.request, m.refusal = v.matchTicket(code, at)
	} else {
		m.owners, m.refusal = v.matchTOTP(code, at)
	}
	m.use = v.uses
	return m
}

// credential returns the credential of the first owner that the claim admits, or
// nil.
func (c Claim) credential(m match) *sequence.Credential {
	for _, o := range m.owners {
		if !c.admits(o, m.request) {
			continue
		}
		credential := &sequence.Credential{User: o.name, KeyID: o.id, Code: m.code, Counter: o.counter, Nonce: o.nonce, Until: o.until, Use: m.use}
		if m.request != nil {
			credential.Request = m.request
		} else if c.Run != nil {
			credential.Request = c.Run.Request
		}
		return credential
	}
	return nil
}

func (c Claim) admits(o owner, r *ticket.Request) bool {
	if !c.Admits(o.name) || c.Run != nil && (c.Run.User != o.name || c.Run.KeyID != o.id) {
		return false
	}
	return r.Permitted(c.Opens, c.AllowAddress)
}

// limited reports whether the client has sent too many wrong codes.
func (v *Verifier) limited(client netip.Prefix, at time.Time) bool {
	w := v.wrong[client]
	return w.codes >= maxWrong && at.Sub(w.since) <= wrongWithin
}

func (v *Verifier) countWrong(client netip.Prefix, at time.Time) {
	w, known := v.wrong[client]
	if !known && len(v.wrong) >= maxClients {
		clear(v.wrong)
	}
	if !known || at.Sub(w.since) > wrongWithin {
		w = wrong{since: at}
	}
	w.codes++
	v.wrong[client] = w
}

// matchTOTP returns the users whose unused code it is. It compares the code with
// those of all users and counters, so that the time taken does not depend on
// which of them it is. Counters up to the latest used one count as used: so a
// clock that is set back makes none unused again, and a code that happens to be
// the code of two counters counts once.
func (v *Verifier) matchTOTP(code string, at time.Time) (owners []owner, refusal Refusal) {
	refusal.Reason = Wrong
	given, err := strconv.Atoi(code)
	if err != nil || !WellFormed(sequence.TOTP, code) {
		return nil, refusal
	}
	now := at.Unix() / int64(period/time.Second)
	for _, u := range v.users {
		var latest int64
		for counter := now - skew; counter <= now+skew; counter++ {
			if subtle.ConstantTimeEq(u.code(counter), int32(given)) == 1 {
				latest = counter
			}
		}
		if latest > v.used.counter(u.id) {
			v.useCounter(u.id, latest)
			owners = append(owners, owner{u, time.Unix((latest+skew+1)*int64(period/time.Second), 0), latest, ticket.Nonce{}})
		} else if latest > 0 {
			refusal.Reason = UsedAlready
		}
	}
	if len(owners) > 0 {
		v.recordSoon()
	}
	return owners, refusal
}

// code returns the code for a counter, and remembers the codes around the current
// one. Counters before 1970 have no code.
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

// matchTicket returns whose valid and unused ticket it is, and what it asks for.
// The ticket's time is compared with the later of the clock and the mark, so that
// a clock that is set back does not make an old ticket valid again.
func (v *Verifier) matchTicket(code string, clock time.Time) ([]owner, *ticket.Request, Refusal) {
	t, id, n, ok := ticket.Open(code, func(id ticket.KeyID) *ticket.Key {
		if u := v.keys[id]; u != nil {
			return &u.key
		}
		return nil
	})
	u := v.keys[id]
	if !ok || t.User != u.name {
		return nil, nil, Refusal{Reason: Wrong}
	}
	now := max(clock.Unix(), v.used.Mark)
	at := t.Time.Unix()
	off := max(at-now, now-at)
	if v.used.has(u.id, n) {
		return nil, nil, Refusal{Reason: UsedAlready}
	}
	wrongTime := Refusal{Reason: WrongTime, Off: time.Duration(at-now) * time.Second}
	if at < v.used.Forgotten() || off > maxEarly {
		return nil, nil, wrongTime
	}
	valid := off <= validity
	if valid && v.used.full(u.id) {
		v.used.advance(now)
	}
	if v.used.full(u.id) {
		return nil, nil, Refusal{Reason: TooManyUsed}
	}
	v.useTicket(u.id, n, at)
	if valid {
		v.used.advance(now)
	}
	v.recordSoon()
	if !valid {
		return nil, nil, wrongTime
	}
	return []owner{{u, t.Time.Add(validity * time.Second), 0, n}}, &t.Request, Refusal{}
}

// errGone refuses a completion whose user is no longer configured.
var errGone = errors.New("its user was removed meanwhile, or has another secret")
