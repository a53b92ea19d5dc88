package onetime

import (
	"context"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pquerna/otp/hotp"
	"pgregory.net/rapid"

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

// Whatever the order of knocks, writes, crashes and steps of the clock: nothing
// opens twice. What opens is what Await lets through, and a crash loses all but
// what was written.
func TestNoCodeOpensTwice(t *testing.T) {
	type code struct {
		variable, text string
	}
	rapid.Check(t, func(t *rapid.T) {
		now := start
		disk := NewUsed()
		opened := map[code]int{}
		boot := func() *Verifier {
			v := newVerifier(User{"alice", aliceSecret}, User{"bob", bobSecret})
			v.used = disk.clone()
			return v
		}
		v := boot()
		var writing *batch
		finish := func() {
			if writing != nil {
				v.end(*writing)
				writing = nil
			}
		}
		var made []code
		knock := func(c code) {
			clear(v.wrong)
			p := v.Verify(home, now, []Claim{{Variable: c.variable, Code: c.text, Admits: everybody}}, false)[0]
			if p == nil {
				return
			}
			v.Await(p, func(err error) {
				if err == nil {
					opened[c]++
				}
				if opened[c] > 1 {
					t.Fatalf("%v has opened %d times", c, opened[c])
				}
			})
		}
		secrets := map[string][]byte{"alice": aliceSecret, "bob": bobSecret}
		ticket := func(name string, at time.Time) {
			sealed, err := sealWith(secrets[name], Ticket{Time: at, User: name}, Nonce{byte(len(made) >> 8), byte(len(made))})
			if err != nil {
				t.Fatal(err)
			}
			made = append(made, code{sequence.Ticket, sealed})
			knock(made[len(made)-1])
		}
		t.Repeat(map[string]func(*rapid.T){
			"a new ticket": func(t *rapid.T) {
				at := now.Add(time.Duration(rapid.SampledFrom([]int{0, 0, -60, 60, -61, 61}).Draw(t, "off")) * time.Second)
				ticket(rapid.SampledFrom([]string{"alice", "bob"}).Draw(t, "user"), at)
			},
			"a ticket of later, and the clock set back": func(t *rapid.T) {
				now = now.Add(130 * time.Second)
				ticket("bob", now)
				now = now.Add(-130 * time.Second)
			},
			"a new code": func(t *rapid.T) {
				counter := now.Unix()/30 + rapid.Int64Range(-1, 1).Draw(t, "counter")
				text, err := hotp.GenerateCode(base32.StdEncoding.EncodeToString(aliceSecret), uint64(counter))
				if err != nil {
					t.Fatal(err)
				}
				c := code{sequence.TOTP, text}
				if !slices.Contains(made, c) {
					made = append(made, c)
				}
				knock(c)
			},
			"an old one": func(t *rapid.T) {
				if len(made) == 0 {
					t.Skip("no code yet")
				}
				knock(rapid.SampledFrom(made).Draw(t, "code"))
			},
			"a whole write": func(t *rapid.T) {
				if writing != nil {
					t.Skip("one write at a time")
				}
				b := v.begin()
				if b.used != nil {
					disk.Add(*b.used)
				}
				v.end(b)
			},
			"clock": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.SampledFrom([]int{1, 30, 130, 600, -1, -30, -130, -600}).Draw(t, "step")) * time.Second)
			},
			"begin to write": func(t *rapid.T) {
				if writing != nil {
					t.Skip("one write at a time")
				}
				b := v.begin()
				writing = &b
			},
			"the disk has it": func(t *rapid.T) {
				if writing != nil && writing.used != nil {
					disk.Add(*writing.used)
				}
				finish()
			},
			"the disk is full": func(t *rapid.T) {
				if writing != nil && writing.used != nil {
					writing.err = os.ErrInvalid
				}
				finish()
			},
			"a crash": func(t *rapid.T) {
				if writing != nil && writing.used != nil && rapid.Bool().Draw(t, "written") {
					disk.Add(*writing.used)
				}
				writing = nil
				v = boot()
			},
		})
	})
}

// A process is a verifier of alice with a file in a state directory.
type process struct {
	*Verifier
	file *store.Store
	kill func()
}

func on(t testing.TB, path string) process {
	dir := atomicfile.NewDir(path)
	file := store.New(dir)
	ctx, stop := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { file.Run(ctx) })
	p := process{New(NewDisk(file), slog.New(slog.DiscardHandler)), file, sync.OnceFunc(func() {
		stop()
		run.Wait()
		file.Close()
		dir.Close()
	})}
	t.Cleanup(p.kill)
	p.Configure([]User{{"alice", aliceSecret}})
	return p
}

// write has the uses recorded, and waits for it.
func (p process) write() {
	for p.flush() {
		runtime.Gosched()
	}
	answered := make(chan struct{}) // those that wait are, in the order of writes
	p.file.Submit(store.Write{Do: func(*store.Tx) error { return nil }, Done: func(error) { close(answered) }})
	<-answered
}

func TestAwaitIsAnsweredWhenTheUseIsRecorded(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	var done []error
	wait := func(err error) { done = append(done, err) }
	v := on(t, dir)
	p := v.Verify(home, start, []Claim{{Variable: sequence.TOTP, Code: totpAt(t, aliceSecret, start), Admits: everybody}}, false)[0]
	v.Await(p, wait)
	if len(done) != 0 {
		t.Fatal("answered before it was written")
	}
	v.write()
	if len(done) != 1 || done[0] != nil || v.Problem() != nil {
		t.Fatalf("answers %v, problem %v", done, v.Problem())
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if v.Await(p, wait); len(done) != 2 || done[1] != nil {
		t.Errorf("a later one: %v", done)
	}
	if other := on(t, dir); other.totp(totpAt(t, aliceSecret, start.Add(period)), start) != "" || other.Problem() == nil {
		t.Errorf("another process uses the same file: %v", other.Problem())
	}
	v.kill()
	next := on(t, dir)
	if got := next.totp(totpAt(t, aliceSecret, start), start); got != "" || next.Problem() != nil {
		t.Errorf("after a restart it is a code of %q", got)
	}
	v.Configure([]User{{"alice", bobSecret}})
	if v.Await(p, wait); len(done) != 3 || done[2] == nil {
		t.Errorf("with another secret: %v", done)
	}
}

func TestCodesOpenNothingUntilTheirUseCanBeRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		state := filepath.Join(dir, "state")
		v := on(t, state)
		if err := errors.Join(os.Remove(state), os.WriteFile(state, nil, 0o600)); err != nil { // no directory can be made here
			t.Fatal(err)
		}
		ended := make(chan struct{})
		ctx, stop := context.WithCancel(t.Context())
		defer func() { stop(); <-ended }()
		go func() { v.Run(ctx); close(ended) }()
		code := func(off time.Duration) error {
			p := v.Verify(home, start, []Claim{{Variable: sequence.TOTP, Code: totpAt(t, aliceSecret, start.Add(off)), Admits: everybody}}, false)[0]
			if p == nil {
				return os.ErrInvalid
			}
			answer := make(chan error)
			v.Await(p, func(err error) { answer <- err })
			return <-answer
		}
		if err := code(-period); err == nil || !strings.Contains(err.Error(), state) {
			t.Errorf("a code while nothing can be recorded: %v", err)
		}
		if err := v.Problem(); err == nil || !strings.Contains(err.Error(), state) {
			t.Errorf("problem %v", err)
		}
		if err := os.Remove(state); err != nil {
			t.Fatal(err)
		}
		time.Sleep(retry + time.Millisecond) // in the bubble
		synctest.Wait()
		if err := v.Problem(); err != nil {
			t.Errorf("it is not mended: %v", err)
		}
		if err := code(-period); err != os.ErrInvalid {
			t.Errorf("a used code: %v", err)
		}
		if err := code(0); err != nil {
			t.Errorf("a new code: %v", err)
		}
	})
}

func TestWhoAsksWhileTheUseIsBeingRecordedIsAnsweredWithIt(t *testing.T) {
	for _, failure := range []error{nil, os.ErrInvalid} {
		v := on(t, t.TempDir())
		p := v.Verify(home, start, []Claim{{Variable: sequence.TOTP, Code: totpAt(t, aliceSecret, start), Admits: everybody}}, false)[0]
		b := v.begin()
		answers := 0
		v.Await(p, func(err error) {
			if answers++; !errors.Is(err, failure) {
				t.Errorf("answer %v, want %v", err, failure)
			}
		})
		b.err = failure
		v.end(b)
		if answers != 1 {
			t.Errorf("%d answers", answers)
		}
	}
}

// A file that is put away while codes come gets a successor that knows all that
// was used.
func TestAFileThatIsReplacedKnowsWhatWasUsedBefore(t *testing.T) {
	dir := t.TempDir()
	v := on(t, dir)
	used := v.Verify(home, start, []Claim{{Variable: sequence.TOTP, Code: totpAt(t, aliceSecret, start), Admits: everybody}}, false)[0]
	v.write()
	if err := os.Remove(filepath.Join(dir, "webknock.db")); err != nil {
		t.Fatal(err)
	}
	ticket := mustSeal(t, aliceSecret, Ticket{Time: start, User: "alice"})
	p := v.Verify(home, start, []Claim{{Variable: sequence.Ticket, Code: ticket, Admits: everybody}}, false)[0]
	answers := 0
	v.Await(p, func(err error) {
		if answers++; err != nil {
			t.Error(err)
		}
	})
	v.write()
	v.write() // the first has found out
	v.kill()
	if answers != 1 {
		t.Errorf("%d answers", answers)
	}
	next := on(t, dir)
	if used == nil || next.totp(totpAt(t, aliceSecret, start), start)+next.ticket(ticket, start) != "" {
		t.Error("a code that was used before the file was replaced is good again")
	}
}

func TestADiskThatHangsIsAProblem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := on(t, t.TempDir())
		p := v.Verify(home, start, []Claim{{Variable: sequence.TOTP, Code: totpAt(t, aliceSecret, start), Admits: everybody}}, false)[0]
		var answer error
		v.Await(p, func(err error) { answer = err })
		b := v.begin()
		time.Sleep(maxWait) // in the bubble
		if err := v.Problem(); err != nil {
			t.Errorf("too early: %v", err)
		}
		time.Sleep(time.Nanosecond)
		if v.Problem() == nil {
			t.Error("nobody is told")
		}
		v.end(b)
		if answer == nil || v.Problem() != nil {
			t.Errorf("when it is done: answer %v, problem %v", answer, v.Problem())
		}
	})
}

func TestAFileThatCannotBeReadIsNotForgotten(t *testing.T) {
	const valid = `{"version":1,"mark":0,"secrets":{}}` + "\n"
	for _, content := range []string{"", "{}", "null", valid + "x", valid[:len(valid)-3], strings.Replace(valid, ":1,", ":2,", 1),
		`{"version":1,"mark":-1,"secrets":{}}`, `{"version":1,"mark":1,"secrets":{"0102":{"counter":1,"tickets":{}}}}`,
		`{"version":1,"mark":1,"secrets":{"0102030405060708":null}}`, `{"version":1,"mark":1,"secrets":{"0102030405060708":{"counter":1,"tickets":{"00":1}}}}`} {
		dir := t.TempDir()
		path := filepath.Join(dir, "onetime.json")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		v := on(t, dir)
		if got := v.totp(totpAt(t, aliceSecret, start), start); got != "" {
			t.Errorf("%q: a code of %q counts", content, got)
		}
		if err := v.Problem(); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "move it away") {
			t.Errorf("%q: problem %v", content, err)
		}
		v.write()
		if data, err := os.ReadFile(path); err != nil || string(data) != content {
			t.Errorf("%q was replaced by %q, %v", content, data, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		v.write()
		if got := v.totp(totpAt(t, aliceSecret, start), start); got != "" || v.Problem() != nil {
			t.Errorf("%q moved away: a code that came before is one of %q, %v", content, got, v.Problem())
		}
		if got := v.totp(totpAt(t, aliceSecret, start.Add(period)), start); got != "alice" {
			t.Errorf("%q moved away: a new code is one of %q", content, got)
		}
	}
}

// What comes while another process has the file is used up, and so is what that
// process has noted meanwhile.
func TestCodesVerifiedBeforeTheRecordIsLoadedAreUsed(t *testing.T) {
	dir := t.TempDir()
	first, second := on(t, dir), on(t, dir)
	ticket := func() string { return mustSeal(t, aliceSecret, Ticket{Time: start, User: "alice"}) }
	seen, used := ticket(), ticket()
	if got := second.totp(totpAt(t, aliceSecret, start), start) + second.ticket(seen, start); got != "" {
		t.Errorf("without the file: codes of %q", got)
	}
	if got := first.ticket(used, start); got != "alice" {
		t.Fatalf("a ticket of %q", got)
	}
	first.write()
	first.kill()
	second.write()
	if err := second.Problem(); err != nil {
		t.Fatal(err)
	}
	if got := second.totp(totpAt(t, aliceSecret, start), start) + second.ticket(seen, start) + second.ticket(used, start); got != "" {
		t.Errorf("used codes of %q", got)
	}
	if got := second.ticket(ticket(), start); got != "alice" {
		t.Errorf("a new ticket of %q", got)
	}
	second.write()
	second.kill()
	if third := on(t, dir); third.ticket(seen, start)+third.ticket(used, start) != "" || third.Problem() != nil {
		t.Errorf("after a restart they are good again, %v", third.Problem())
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
