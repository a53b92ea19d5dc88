package keeper

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"webknock/config"
	"webknock/internal/onetime"
	"webknock/internal/onetime/onetimetest"
	"webknock/internal/seam"
	"webknock/internal/ticket"
	"webknock/sequence"
)

var (
	aliceSecret = config.Secret("12345678901234567890")
	bobSecret   = config.Secret("abcdefghijklmnopqrst")
	aliceID     = ticket.NewKey(aliceSecret).ID
	bobID       = ticket.NewKey(bobSecret).ID

	byCode   = config.Sequence{Spec: sequence.Spec{Name: "code", Steps: []sequence.Step{{Trigger: sequence.Template("/k/{totp}")}, {Trigger: sequence.Exact("/b"), Within: time.Minute}}}}
	byTicket = config.Sequence{Spec: sequence.Spec{Name: "ticket", Steps: []sequence.Step{{Trigger: sequence.Template("/t/{ticket}")}}}}
)

const atStart = 100 * 30 // a time: TOTP counter 100

func someCodes(t *testing.T, before int64) *codes {
	t.Helper()
	store := onetimetest.NewMemory()
	used := onetime.NewUsed()
	used.Of(aliceID).Counter = before
	store.Record(used, func(error) {})
	c := newCodes(store)
	c.use(&config.Config{Users: []config.User{{Name: "alice", Secret: aliceSecret}, {Name: "bob", Secret: bobSecret}}, Sequences: []config.Sequence{byCode, byTicket}})
	if _, err := c.load(); err != nil {
		t.Fatal(err)
	}
	return c
}

func usedUpTo(id ticket.KeyID, n int64) (used onetime.Used) {
	used = onetime.NewUsed()
	used.Of(id).Counter = n
	return used
}

func TestACompletionTakesACodeThatWasRecordedOnce(t *testing.T) {
	now := time.Unix(atStart, 0)
	c := someCodes(t, 95)
	spend := func(s config.Sequence, user string, code seam.Code, after time.Duration) error {
		return c.spend(&s, user, &code, now.Add(after))
	}
	totp := func(n int64) seam.Code { return seam.Code{Secret: aliceID, Counter: n} }
	if err := spend(byCode, "alice", totp(100), 0); !errors.Is(err, errNotBurnt) {
		t.Errorf("before it was recorded: %v", err)
	}
	if err := c.record(usedUpTo(aliceID, 100), now); err != nil {
		t.Fatal(err)
	}
	other := byCode
	other.Name = "other"
	for _, tt := range []struct {
		name     string
		sequence config.Sequence
		user     string
		code     seam.Code
		after    time.Duration
		want     error
	}{
		{"a code that was used before this run", byCode, "alice", totp(95), 0, errNotBurnt},
		{"a later one than was recorded", byCode, "alice", totp(101), 0, errNotBurnt},
		{"another user's", byCode, "bob", totp(100), 0, errOtherUser},
		{"a user without that secret", byCode, "alice", seam.Code{Secret: bobID, Counter: 100}, 0, errOtherUser},
		{"nobody's", byCode, "alice", seam.Code{Secret: ticket.KeyID{9}, Counter: 100}, 0, errOtherUser},
		{"for a sequence that takes tickets", byTicket, "alice", totp(100), 0, errNotBurnt},
		{"a ticket that is none", byTicket, "alice", seam.Code{Secret: aliceID, Ticket: ticket.Nonce{1}}, 0, errNotBurnt},
		{"too late for the run", byCode, "alice", totp(100), 12 * time.Minute, errNotBurnt},
		{"the code", byCode, "alice", totp(100), time.Minute, nil},
		{"the code again", byCode, "alice", totp(100), time.Minute, errSpent},
		{"the code under another nonce", byCode, "alice", seam.Code{Secret: aliceID, Counter: 100, Ticket: ticket.Nonce{1}}, time.Minute, errSpent},
		{"the code in another sequence", other, "alice", totp(100), time.Minute, nil},
		{"one that was used at the same time", byCode, "alice", totp(99), time.Minute, nil},
	} {
		if err := spend(tt.sequence, tt.user, tt.code, tt.after); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	if err := c.spend(&byCode, "alice", nil, now); !errors.Is(err, errNoCode) {
		t.Errorf("no code: %v", err)
	}
}

func TestATicketIsTakenOnceAndNotAfterItsTime(t *testing.T) {
	now := time.Unix(atStart, 0)
	c := someCodes(t, 0)
	used := onetime.NewUsed()
	for n := range 3 {
		used.Of(aliceID).Tickets[ticket.Nonce{byte(n)}] = atStart
	}
	if err := c.record(used, now); err != nil {
		t.Fatal(err)
	}
	code := func(n byte) *seam.Code { return &seam.Code{Secret: aliceID, Ticket: ticket.Nonce{n}} }
	for _, tt := range []struct {
		name  string
		code  *seam.Code
		user  string
		after time.Duration
		want  error
	}{
		{"the ticket", code(0), "alice", 0, nil},
		{"again", code(0), "alice", 0, errSpent},
		{"of another", &seam.Code{Secret: bobID, Ticket: ticket.Nonce{1}}, "bob", 0, errNotBurnt},
		{"in time", code(1), "alice", 9 * time.Minute, nil},
		{"too late", code(2), "alice", 11 * time.Minute, errNotBurnt},
	} {
		if err := c.spend(&byTicket, tt.user, tt.code, now.Add(tt.after)); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	if err := c.record(used, now); err != nil { // the whole record again, as after a disk was full
		t.Error(err)
	}
	if err := c.spend(&byTicket, "alice", code(0), now); !errors.Is(err, errSpent) {
		t.Errorf("recorded again: %v", err)
	}
}

// A front that was taken over can keep nobody out for longer than it is there, and does
// not fill the disk.
func TestTheRecordTakesOnlyWhatMayHaveBeenUsed(t *testing.T) {
	now := time.Unix(atStart, 0)
	tickets := func(id ticket.KeyID, n int, at int64) onetime.Used {
		used := onetime.NewUsed()
		for i := range n {
			used.Of(id).Tickets[ticket.Nonce{byte(i), byte(i >> 8), 7}] = at
		}
		return used
	}
	marked := func(at int64) onetime.Used {
		used := onetime.NewUsed()
		used.Mark = at
		return used
	}
	const day = 24 * 60 * 60
	for _, tt := range []struct {
		name string
		used onetime.Used
		want error
	}{
		{"nothing", onetime.NewUsed(), nil},
		{"a code of now", usedUpTo(aliceID, 101), nil},
		{"what is recorded already", usedUpTo(aliceID, 5000), nil},
		{"a code of tomorrow", usedUpTo(bobID, 100+2880), errFuture},
		{"the last code ever", usedUpTo(bobID, 1<<62), errFuture},
		{"a negative one", usedUpTo(bobID, -1), errForeignSecret},
		{"a secret that nobody has", usedUpTo(ticket.KeyID{1}, 100), errForeignSecret},
		{"nothing of a secret", onetime.Used{Secrets: map[ticket.KeyID]*onetime.Spent{bobID: nil}}, errForeignSecret},
		{"a mark of now", marked(atStart), nil},
		{"a mark of tomorrow", marked(atStart + day), errFuture},
		{"a ticket that is early", tickets(aliceID, 1, atStart+day), nil},
		{"a ticket of next year", tickets(aliceID, 1, atStart+365*day), errFuture},
		{"as many tickets as there may be", tickets(aliceID, maxTickets, atStart), nil},
		{"more tickets than there may be", tickets(aliceID, maxTickets+1, atStart), errManyTickets},
	} {
		c := someCodes(t, 5000)
		if err := c.record(tt.used, now); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
		stored, err := c.store.Load()
		if err != nil {
			t.Fatal(err)
		}
		if tt.want != nil && (stored.Mark != 0 || len(stored.Secrets) != 1) {
			t.Errorf("%s: %+v is recorded", tt.name, stored)
		}
	}
	// A user who has just been removed may have used a code.
	c := someCodes(t, 0)
	c.use(&config.Config{})
	if err := c.record(usedUpTo(bobID, 100), now); err != nil {
		t.Errorf("of a user who was removed: %v", err)
	}
	if err := c.spend(&byCode, "bob", &seam.Code{Secret: bobID, Counter: 100}, now); !errors.Is(err, errOtherUser) {
		t.Errorf("a user who was removed completes: %v", err)
	}
}

func TestRememberedCodesAreBounded(t *testing.T) {
	now := time.Unix(atStart, 0)
	c := someCodes(t, 0)
	cfg := &config.Config{Users: []config.User{{Name: "alice", Secret: aliceSecret}}, Sequences: []config.Sequence{byCode, byTicket}}
	for i := range maxSpent/maxTickets + 5 {
		cfg.Users = append(cfg.Users, config.User{Name: fmt.Sprint("user", i), Secret: config.Secret(fmt.Sprintf("%020d", i))})
	}
	c.use(cfg)
	tickets := func(user config.User) (used onetime.Used) {
		used = onetime.NewUsed()
		for i := range maxTickets {
			used.Of(ticket.NewKey(user.Secret).ID).Tickets[ticket.Nonce{byte(i), byte(i >> 8), user.Name[len(user.Name)-1], user.Name[len(user.Name)-2]}] = now.Unix()
		}
		return used
	}
	for _, user := range cfg.Users[1:] {
		if err := c.record(tickets(user), now); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(c.tickets) + len(c.spent); n > maxSpent {
		t.Errorf("%d codes are remembered", n)
	}
	if err := c.record(usedUpTo(aliceID, 100), now); err != nil {
		t.Fatal(err)
	}
	if err := c.spend(&byCode, "alice", &seam.Code{Secret: aliceID, Counter: 100}, now); !errors.Is(err, errSpent) {
		t.Errorf("beyond the bound: %v", err)
	}
	later := now.Add(time.Hour)
	if err := c.record(usedUpTo(aliceID, counterOf(later)), later); err != nil {
		t.Fatal(err)
	}
	if err := c.spend(&byCode, "alice", &seam.Code{Secret: aliceID, Counter: counterOf(later)}, later); err != nil {
		t.Errorf("when there is room again: %v", err)
	}
}

func TestTheTicketsOfAUserAreBoundedOverRecords(t *testing.T) {
	now := time.Unix(atStart, 0)
	c := someCodes(t, 0)
	tickets := func(round byte, at time.Time) onetime.Used {
		used := onetime.NewUsed()
		used.Mark = at.Unix()
		for i := range maxTickets {
			used.Of(aliceID).Tickets[ticket.Nonce{byte(i), byte(i >> 8), round}] = at.Unix()
		}
		return used
	}
	later := now.Add(2 * time.Minute)
	if err := errors.Join(c.record(tickets(0, now), now), c.record(tickets(0, now), now)); err != nil {
		t.Errorf("the same tickets again: %v", err)
	}
	if err := c.record(tickets(1, now), now); !errors.Is(err, errManyTickets) {
		t.Errorf("others at the same time: %v", err)
	}
	if err := c.record(tickets(1, later), later); err != nil {
		t.Errorf("when the others are too old: %v", err)
	}
}
