package keeper

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"webknock/config"
	"webknock/internal/onetime"
	"webknock/internal/seam"
	"webknock/internal/ticket"
	"webknock/sequence"
)

// codes is what the keeper itself knows of used one-time codes. The front verifies codes
// and has their use recorded; a completion then names the code it was made with. The
// keeper takes that only if the code was recorded in this run of the daemon, and takes
// each code once for each sequence. So no completion leaves the record without a trace.
type codes struct {
	store onetime.Store

	mu      sync.Mutex
	loaded  bool
	known   onetime.Used
	before  map[ticket.KeyID]int64       // counters that were used before this run
	tickets map[ticket.Nonce]freshTicket // that were recorded in this run
	spent   map[spending]time.Time       // by what was completed with them, until when they are remembered
	secrets map[ticket.KeyID]string      // users, by what identifies their secrets
	ever    map[ticket.KeyID]bool        // secrets that have been configured in this run
	longest time.Duration                // that a run takes
	swept   time.Time                    // when what no run needs any more was forgotten last
}

// A freshTicket was recorded in this run.
type freshTicket struct {
	secret    ticket.KeyID
	at, until time.Time // when it was recorded, and when no run can complete with it any more
}

// A spending is a code that has completed a sequence.
type spending struct {
	seam.Code
	sequence string
}

const (
	codePeriod = 30 * time.Second // of TOTP (RFC 6238)
	// clockSlack is how far the times of codes may be ahead of the clock: somebody may
	// set it back while a use waits to be recorded.
	clockSlack = 10 * time.Minute
	maxEarly   = 24 * time.Hour // how early a ticket may be that is recorded as used
	maxTickets = 1024           // of a secret
	maxSpent   = 1 << 16        // codes that are remembered
)

func newCodes(store onetime.Store) *codes {
	return &codes{
		store: store, known: onetime.NewUsed(), before: map[ticket.KeyID]int64{},
		tickets: map[ticket.Nonce]freshTicket{}, spent: map[spending]time.Time{}, secrets: map[ticket.KeyID]string{}, ever: map[ticket.KeyID]bool{},
	}
}

// use sets whose codes there are, and what they are for.
func (c *codes) use(cfg *config.Config) {
	secrets := map[ticket.KeyID]string{}
	for _, u := range cfg.Users {
		secrets[ticket.NewKey(u.Secret).ID] = u.Name
	}
	var longest time.Duration
	for i := range cfg.Sequences {
		longest = max(longest, runTime(&cfg.Sequences[i]))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.secrets, c.longest = secrets, longest
	for id := range secrets {
		c.ever[id] = true
	}
}

// load returns what was used.
func (c *codes) load() (onetime.Used, error) {
	used, err := c.store.Load()
	if err != nil {
		return used, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.know(used)
	return used, nil
}

// know takes over what the store holds. The caller holds c.mu.
func (c *codes) know(used onetime.Used) {
	for id, s := range used.Secrets {
		if !c.loaded {
			c.before[id] = s.Counter
		}
	}
	c.known.Add(used)
	c.loaded = true
}

// Why the use of codes is not recorded.
var (
	errForeignSecret = errors.New("codes of a secret that nobody has")
	errFuture        = errors.New("codes of the future")
	errManyTickets   = fmt.Errorf("more than %d tickets of a user at once", maxTickets)
)

// record records uses, if they may be recorded, and returns when no crash can lose them.
func (c *codes) record(used onetime.Used, now time.Time) error {
	c.mu.Lock()
	loaded := c.loaded
	c.mu.Unlock()
	if !loaded {
		if _, err := c.load(); err != nil {
			return err
		}
	}
	c.mu.Lock()
	err := c.check(used, now)
	c.mu.Unlock()
	if err != nil {
		return &refusedError{err}
	}
	done := make(chan error, 1)
	c.store.Record(used, func(err error) { done <- err })
	if err := <-done; err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, s := range used.Secrets {
		for nonce := range s.Tickets {
			if !c.has(id, nonce) && c.room(now) {
				c.tickets[nonce] = freshTicket{id, now, now.Add(c.longest + clockSlack)}
			}
		}
	}
	c.known.Add(used)
	return nil
}

// A refusedError is a request of the front that is refused.
type refusedError struct{ error }

func (e *refusedError) Unwrap() error { return e.error }

func (c *codes) has(id ticket.KeyID, nonce ticket.Nonce) bool {
	s := c.known.Secrets[id]
	if s == nil {
		return false
	}
	_, has := s.Tickets[nonce]
	return has
}

func (c *codes) counter(id ticket.KeyID) int64 {
	if s := c.known.Secrets[id]; s != nil {
		return s.Counter
	}
	return 0
}

// check returns why uses may not be recorded: a front that was taken over could keep
// users out for ever with them, or fill the disk. What is recorded already may be
// recorded again.
func (c *codes) check(used onetime.Used, now time.Time) error {
	latest := now.Add(clockSlack)
	if used.Mark > max(latest.Unix(), c.known.Mark) {
		return errFuture
	}
	for id, s := range used.Secrets {
		switch {
		case s == nil || s.Counter < 0, !c.ever[id] && c.known.Secrets[id] == nil:
			return errForeignSecret
		case s.Counter > max(counterOf(latest), c.counter(id)):
			return errFuture
		}
		all := c.lately(id, max(used.Mark, c.known.Mark))
		for nonce, at := range s.Tickets {
			if c.has(id, nonce) {
				continue
			}
			if at > max(latest.Unix(), c.known.Mark)+int64(maxEarly/time.Second) {
				return errFuture
			}
			all++
		}
		if all > maxTickets {
			return errManyTickets
		}
	}
	return nil
}

// lately returns how many tickets of a secret are known that are not forgotten at a mark.
func (c *codes) lately(id ticket.KeyID, mark int64) (n int) {
	s := c.known.Secrets[id]
	if s == nil {
		return 0
	}
	forgotten := onetime.Used{Mark: mark}
	for _, at := range s.Tickets {
		if at >= forgotten.Forgotten() {
			n++
		}
	}
	return n
}

func counterOf(t time.Time) int64 { return t.Unix() / int64(codePeriod/time.Second) }

// Why a code completes nothing.
var (
	errNoCode    = errors.New("its sequence asks for a one-time code, and the front names none")
	errNotBurnt  = errors.New("the front names a one-time code that was not recorded as used just now")
	errSpent     = errors.New("the front names a one-time code that has completed the sequence before")
	errOtherUser = errors.New("the front names a one-time code of another user")
)

// spend notes that a code completes a sequence, or returns why it does not.
func (c *codes) spend(s *config.Sequence, user string, code *seam.Code, now time.Time) error {
	if code == nil {
		return errNoCode
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if name, known := c.secrets[code.Secret]; !known || name != user {
		return errOtherUser
	}
	until := now.Add(c.longest + 2*clockSlack)
	if code.Counter != 0 {
		// Of codes that were used at once the record has the latest alone.
		oldest := now.Add(-runTime(s) - clockSlack)
		if !hasVariable(s, sequence.TOTP) || code.Counter <= c.before[code.Secret] || code.Counter > c.counter(code.Secret) || code.Counter < counterOf(oldest) {
			return errNotBurnt
		}
	} else {
		fresh, ok := c.tickets[code.Ticket]
		if !hasVariable(s, sequence.Ticket) || !ok || fresh.secret != code.Secret || now.After(fresh.until) || now.Sub(fresh.at) > runTime(s)+clockSlack {
			return errNotBurnt
		}
		until = fresh.until
	}
	spending := spending{*code, s.Name}
	if code.Counter != 0 {
		spending.Ticket = ticket.Nonce{}
	}
	if _, spent := c.spent[spending]; spent || !c.room(now) {
		return errSpent
	}
	c.spent[spending] = until
	return nil
}

// room reports whether one more code can be remembered. It forgets those that no run can
// complete with any more. The caller holds c.mu.
func (c *codes) room(now time.Time) bool {
	if len(c.tickets)+len(c.spent) < maxSpent {
		return true
	}
	if now.Sub(c.swept) < time.Second {
		return false
	}
	c.swept = now
	for code, until := range c.spent {
		if now.After(until) {
			delete(c.spent, code)
			c.before[code.Secret] = max(c.before[code.Secret], code.Counter)
		}
	}
	for nonce, fresh := range c.tickets {
		if now.After(fresh.until) {
			delete(c.tickets, nonce)
		}
	}
	return len(c.tickets)+len(c.spent) < maxSpent
}

// runTime returns how long a client has from the first step to the last.
func runTime(s *config.Sequence) (t time.Duration) {
	for _, step := range s.Steps {
		t += step.Within
	}
	if s.Window > 0 {
		t = min(t, s.Window)
	}
	return t
}

func hasVariable(s *config.Sequence, variables ...string) bool {
	for _, step := range s.Steps {
		for _, variable := range variables {
			if step.Trigger.Variable() == variable {
				return true
			}
		}
	}
	return false
}
