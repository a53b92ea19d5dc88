package onetime

import (
	"encoding/base32"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pquerna/otp/hotp"

	"webknock/internal/atomicfile"
	"webknock/internal/store"
	"webknock/sequence"
)

var (
	home  = netip.MustParsePrefix("192.0.2.1/32")
	start = time.Unix(1_700_000_010, 0) // in the middle of a counter
)

func everybody(string) bool { return true }

func only(names ...string) func(string) bool {
	return func(u string) bool { return slices.Contains(names, u) }
}

// totpAt returns the code of a secret at a time.
func totpAt(t testing.TB, secret []byte, at time.Time) string {
	t.Helper()
	code, err := hotp.GenerateCode(base32.StdEncoding.EncodeToString(secret), uint64(at.Unix()/30))
	if err != nil {
		t.Fatal(err)
	}
	return code
}

// newVerifier returns a verifier of alice and bob, in memory only.
func newVerifier(users ...User) *Verifier {
	if users == nil {
		users = []User{{"alice", aliceSecret}, {"bob", bobSecret}}
	}
	v := New(nowhere{}, slog.New(slog.DiscardHandler))
	v.Configure(users)
	return v
}

// nowhere is a Store that keeps nothing.
type nowhere struct{}

func (nowhere) Load() (Used, error)             { return NewUsed(), nil }
func (nowhere) Record(_ Used, done func(error)) { done(nil) }

// recorded returns what another verifier finds after the whole record of v was
// written to the disk and read again.
func recorded(t testing.TB, v *Verifier) (used Used) {
	t.Helper()
	dir := atomicfile.NewDir(t.TempDir())
	file := store.New(dir)
	defer func() { file.Close(); dir.Close() }()
	if err := file.Update(func(tx *store.Tx) error { return put(tx, v.used) }); err != nil {
		t.Fatal(err)
	}
	used, err := NewDisk(file).Load()
	if err != nil {
		t.Fatal(err)
	}
	return used
}

func (v *Verifier) totp(code string, at time.Time) string {
	return v.one(Claim{Variable: sequence.TOTP, Code: code, Admits: everybody}, at)
}

func (v *Verifier) ticket(code string, at time.Time) string {
	return v.one(Claim{Variable: sequence.Ticket, Code: code, Admits: everybody}, at)
}

// one returns the user that a claim of a client of its own names; empty: none.
func (v *Verifier) one(c Claim, at time.Time) string {
	delete(v.wrong, home)
	if p := v.Verify(home, at, []Claim{c}, false)[0]; p != nil {
		return p.User
	}
	return ""
}

// RFC 6238 appendix B, SHA-1; the last six of its eight digits.
func TestTOTPVectorsOfRFC6238(t *testing.T) {
	for at, code := range map[int64]string{
		59: "287082", 1111111109: "081804", 1111111111: "050471", 1234567890: "005924", 2000000000: "279037", 20000000000: "353130",
	} {
		if got := newVerifier().totp(code, time.Unix(at, 0)); got != "alice" {
			t.Errorf("at %d %s is a code of %q", at, code, got)
		}
	}
}

func TestCodesOfTheCounterBeforeAndAfterAreAccepted(t *testing.T) {
	for off, want := range map[time.Duration]string{-2 * period: "", -period: "alice", 0: "alice", period: "alice", 2 * period: ""} {
		if got := newVerifier().totp(totpAt(t, aliceSecret, start.Add(off)), start); got != want {
			t.Errorf("a code of %v: %q, want %q", off, got, want)
		}
	}
	for _, code := range []string{"", "12345", "1234567", "-12345", "+12345", "12 456", "０１２３４５"} {
		if got := newVerifier().totp(code, start); got != "" {
			t.Errorf("%q is a code of %q", code, got)
		}
	}
	if got := newVerifier().totp(totpAt(t, aliceSecret, time.Unix(0, 0)), time.Unix(-40, 0)); got != "" {
		t.Errorf("before 1970: %q", got)
	}
}

func TestAUsedCodeAndOlderCodesAreRefused(t *testing.T) {
	v := newVerifier()
	before, now, after := totpAt(t, aliceSecret, start.Add(-period)), totpAt(t, aliceSecret, start), totpAt(t, aliceSecret, start.Add(period))
	for i, step := range []struct {
		code string
		at   time.Time
		want string
	}{
		{now, start, "alice"},
		{now, start, ""},
		{before, start, ""},
		{now, start.Add(period), ""},
		{after, start, "alice"},
		{after, start.Add(2 * period), ""},
		{now, start.Add(-10 * time.Minute), ""},
		{totpAt(t, aliceSecret, start.Add(-10*time.Minute)), start.Add(-10 * time.Minute), ""},
		{totpAt(t, bobSecret, start), start, "bob"},
	} {
		if got := v.totp(step.code, step.at); got != step.want {
			t.Errorf("step %d: %q, want %q", i, got, step.want)
		}
	}
}

// twins returns two secrets and a time with the same code.
func twins(t *testing.T) (User, User, time.Time) {
	t.Helper()
	of := map[string]int{}
	for i := range 5000 {
		secret := fmt.Appendf(nil, "a secret of number %d", i)
		code := totpAt(t, secret, start)
		if other, ok := of[code]; ok {
			return User{"carol", fmt.Appendf(nil, "a secret of number %d", other)}, User{"dave", secret}, start
		}
		of[code] = i
	}
	t.Fatal("no two are alike")
	return User{}, User{}, start
}

func TestACodeOfSeveralUsersIsUsedForAll(t *testing.T) {
	carol, dave, at := twins(t)
	code := totpAt(t, carol.Secret, at)
	for _, tt := range []struct {
		name   string
		admits func(string) bool
		want   string
	}{
		{"the first", everybody, "carol"},
		{"the first that is admitted", only("dave"), "dave"},
		{"nobody that is admitted", only("erin"), ""},
	} {
		v := newVerifier(carol, dave)
		if got := v.one(Claim{Variable: sequence.TOTP, Code: code, Admits: tt.admits}, at); got != tt.want {
			t.Errorf("%s: %q", tt.name, got)
		}
		for _, name := range []string{"carol", "dave"} {
			if got := v.one(Claim{Variable: sequence.TOTP, Code: code, Admits: only(name)}, at); got != "" {
				t.Errorf("%s: and then %q", tt.name, got)
			}
		}
	}
}

func TestAKnockUsesItsCodeOnceForAllClaims(t *testing.T) {
	v := newVerifier()
	claim := Claim{Variable: sequence.TOTP, Code: totpAt(t, aliceSecret, start), Admits: everybody}
	bobs, run := claim, claim
	bobs.Admits = only("bob")
	run.Run = &sequence.Credential{User: "bob"}
	passes := v.Verify(home, start, []Claim{claim, bobs, claim, run}, false)
	if passes[0] == nil || passes[1] != nil || passes[2] == nil || passes[3] != nil || len(v.wrong) != 0 {
		t.Errorf("passes %v, wrong %v", passes, v.wrong)
	}
}

func TestCodesOfARunAreOfOneUser(t *testing.T) {
	v := newVerifier()
	first := v.Verify(home, start, []Claim{{Variable: sequence.TOTP, Code: totpAt(t, aliceSecret, start), Admits: everybody}}, false)[0]
	for code, want := range map[string]string{totpAt(t, bobSecret, start): "", totpAt(t, aliceSecret, start.Add(period)): "alice"} {
		if got := v.one(Claim{Variable: sequence.TOTP, Code: code, Admits: everybody, Run: first}, start); got != want {
			t.Errorf("it goes on by %q, want %q", got, want)
		}
	}
}

func TestATicketIsValidOnceWithinAMinute(t *testing.T) {
	for off, want := range map[time.Duration]string{-61: "", -60: "alice", 0: "alice", 60: "alice", 61: ""} {
		v := newVerifier()
		ticket := mustSeal(t, aliceSecret, Ticket{Time: start.Add(off * time.Second), User: "alice"})
		if got := v.ticket(ticket, start); got != want {
			t.Errorf("a ticket of %d s: %q", off, got)
		}
		if got := v.ticket(ticket, start.Add(off*time.Second)); got != "" {
			t.Errorf("a ticket of %d s, when the clock is set to its time: %q", off, got)
		}
	}
}

func TestATicketOfTheFarFutureIsRefusedAndNotRemembered(t *testing.T) {
	for at := int64(1) << 33; at <= 1<<40; at += 1 << 33 { // most are further off than a time.Duration tells
		v := newVerifier()
		ticket := mustSeal(t, aliceSecret, Ticket{Time: time.Unix(at, 0), User: "alice"})
		if got := v.ticket(ticket, start); got != "" || len(v.used.Secrets) > 0 {
			t.Errorf("a ticket of %d is good for %q at %d", at, got, start.Unix())
		}
	}
}

func TestATicketStaysInvalidWhenTheClockIsSetBack(t *testing.T) {
	v := newVerifier()
	ticket := mustSeal(t, aliceSecret, Ticket{Time: start, User: "alice"})
	later := start.Add(10 * time.Minute)
	if got := v.ticket(ticket, start) + v.ticket(mustSeal(t, bobSecret, Ticket{Time: later, User: "bob"}), later); got != "alicebob" {
		t.Fatalf("good for %q", got)
	}
	if n := len(v.used.Secrets); n != 1 {
		t.Errorf("the first ticket is remembered for ever: %d secrets", n)
	}
	if got := v.ticket(ticket, start); got != "" {
		t.Errorf("it is good again for %q", got)
	}
}

func TestTicketsAskOnlyForWhatTheSequencePermits(t *testing.T) {
	address := netip.MustParseAddr("198.51.100.7")
	for _, tt := range []struct {
		name    string
		request Request
		allow   bool
		want    bool
	}{
		{"nothing of its own", Request{}, false, true},
		{"a door of the sequence", Request{Doors: []string{"web"}}, false, true},
		{"all of them", Request{Doors: []string{"web", "ssh"}}, false, true},
		{"another door beside", Request{Doors: []string{"web", "vpn"}}, true, false},
		{"an address", Request{Address: address}, true, true},
		{"an address that is not allowed", Request{Address: address}, false, false},
	} {
		v := newVerifier()
		ticket := mustSeal(t, aliceSecret, Ticket{Time: start, User: "alice", Request: tt.request})
		claim := Claim{Variable: sequence.Ticket, Code: ticket, Admits: everybody, Opens: []string{"ssh", "web"}, AllowAddress: tt.allow}
		p := v.Verify(home, start, []Claim{claim}, false)[0]
		if (p != nil) != tt.want {
			t.Errorf("%s: pass %+v", tt.name, p)
		}
		claim.Opens, claim.AllowAddress = append(claim.Opens, "vpn"), true
		if v.Verify(home, start, []Claim{claim}, false)[0] != nil {
			t.Errorf("%s: good a second time", tt.name)
		}
	}
}

func TestATicketsRequestStaysWithItsRun(t *testing.T) {
	v := newVerifier()
	ticket := mustSeal(t, aliceSecret, Ticket{Time: start, User: "alice", Request: Request{TTL: time.Minute}})
	first := v.Verify(home, start, []Claim{{Variable: sequence.Ticket, Code: ticket, Admits: everybody}}, false)[0]
	next := v.Verify(home, start, []Claim{{Variable: sequence.TOTP, Code: totpAt(t, aliceSecret, start), Admits: everybody, Run: first}}, false)[0]
	if r, ok := next.Request.(*Request); !ok || r.TTL != time.Minute {
		t.Errorf("request %+v", next.Request)
	}
}

func TestUsedTicketsOfEachUserAreBounded(t *testing.T) {
	v := newVerifier()
	for i := range maxTickets + 1 {
		if got := v.ticket(mustSeal(t, aliceSecret, Ticket{Time: start, User: "alice"}), start); (got == "alice") != (i < maxTickets) {
			t.Fatalf("ticket %d: %q", i, got)
		}
	}
	if got := v.ticket(mustSeal(t, bobSecret, Ticket{Time: start, User: "bob"}), start); got != "bob" {
		t.Error("one user's tickets keep another out")
	}
	later := start.Add((validity + 1) * time.Second)
	if got := v.ticket(mustSeal(t, aliceSecret, Ticket{Time: later, User: "alice"}), later); got != "alice" || len(v.used.Secrets) != 1 {
		t.Errorf("later: %q", got)
	}
	if n := len(v.used.Of(v.users[0].id).Tickets); n != 1 {
		t.Errorf("%d tickets are kept", n)
	}
}

func TestWrongCodesAreLimitedByClient(t *testing.T) {
	v := newVerifier()
	claim := func(client string, code string, at time.Time) bool {
		return v.Verify(netip.MustParsePrefix(client), at, []Claim{{Variable: sequence.TOTP, Code: code, Admits: everybody}}, false)[0] != nil
	}
	good := totpAt(t, aliceSecret, start)
	for range maxWrong {
		claim("192.0.2.1/32", "x", start)
	}
	if claim("192.0.2.1/32", good, start) {
		t.Error("a client is looked at after too many wrong codes")
	}
	if !claim("198.51.100.1/32", good, start) {
		t.Error("a code was used that was not verified, or a user is locked out elsewhere")
	}
	if claim("192.0.2.1/32", totpAt(t, aliceSecret, start.Add(period)), start.Add(wrongWithin)) {
		t.Error("the minute is not over")
	}
	later := start.Add(wrongWithin + time.Second)
	if !claim("192.0.2.1/32", totpAt(t, aliceSecret, later), later) {
		t.Error("the minute is over")
	}
	for i := range maxClients + 10 {
		claim(fmt.Sprintf("10.%d.%d.%d/32", i>>16, i>>8&255, i&255), "x", start)
	}
	if len(v.wrong) > maxClients {
		t.Errorf("%d clients are remembered", len(v.wrong))
	}
}

func TestUsedCodesOfARemovedUserStayUsed(t *testing.T) {
	v := newVerifier()
	code := totpAt(t, aliceSecret, start)
	ticket := mustSeal(t, aliceSecret, Ticket{Time: start, User: "alice"})
	v.totp(code, start)
	v.ticket(ticket, start)
	v.Configure([]User{{"bob", bobSecret}})
	v.used = recorded(t, v)
	v.Configure([]User{{"carol", aliceSecret}, {"alice", aliceSecret}})
	if a, b := v.totp(code, start), v.ticket(ticket, start); a+b != "" {
		t.Errorf("used again by %q, %q", a, b)
	}
}

func BenchmarkWrong(b *testing.B) {
	var users []User
	for i := range 100 {
		users = append(users, User{fmt.Sprint("user", i), fmt.Appendf(nil, "a secret of number %d", i)})
	}
	v := newVerifier(users...)
	sealed := mustSeal(b, users[7].Secret, Ticket{Time: start, User: "user7"})
	unknown := mustSeal(b, aliceSecret, Ticket{Time: start, User: "alice"})
	bad := sealed[:len(sealed)-4] + "AAAA"
	for _, bb := range []struct{ name, variable, code string }{
		{"totp/users=100", sequence.TOTP, "000000"},
		{"ticket/unknown-id", sequence.Ticket, unknown},
		{"ticket/bad-tag", sequence.Ticket, bad},
		{"ticket/garbage", sequence.Ticket, strings.Repeat("A", 200)},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			claims := []Claim{{Variable: bb.variable, Code: bb.code, Admits: everybody}}
			for b.Loop() {
				clear(v.wrong)
				v.Verify(home, start, claims, false)
			}
		})
	}
}
