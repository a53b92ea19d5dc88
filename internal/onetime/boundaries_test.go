package onetime

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"webknock/internal/ticket"
	"webknock/sequence"
)

func TestOnlySixDigitsHaveTheFormOfACode(t *testing.T) {
	for segment, want := range map[string]bool{
		"000000": true, "123456": true, "999999": true,
		"": false, "12345": false, "1234567": false, "12345a": false, "a12345": false, "123a56": false, "+12345": false, "-12345": false,
		" 12345": false, "12345 ": false, "1_2345": false, "0x1234": false, "12.456": false, "１２": false, "abcdef": false, "\x00\x00\x00\x00\x00\x00": false,
	} {
		if got := WellFormed(sequence.TOTP, segment); got != want {
			t.Errorf("%q: %v", segment, got)
		}
	}
	if WellFormed(sequence.Ticket, "123456") {
		t.Error("six digits have the form of a ticket")
	}
}

// A code that begins with 0 counts as it is written, and in no other way that is
// the same number.
func TestACodeHasOneSpelling(t *testing.T) {
	at := start
	for !strings.HasPrefix(totpAt(t, aliceSecret, at), "00") {
		at = at.Add(period)
	}
	code := totpAt(t, aliceSecret, at)
	v := newVerifier()
	for _, wrong := range []string{code[1:], code[2:], "+" + code[1:], "0" + code, " " + code[1:], "+0" + code[2:]} {
		if got := v.totp(wrong, at); got != "" {
			t.Errorf("%q counts as the code %q", wrong, code)
		}
	}
	if got := v.totp(code, at); got != "alice" {
		t.Errorf("the code %q is one of %q", code, got)
	}
}

// Claims of one knock share a match only if they are of one kind and for one code.
func TestEachClaimOfAKnockIsVerified(t *testing.T) {
	good := totpAt(t, aliceSecret, start)
	wrong := "000000"
	if good == wrong {
		wrong = "000001"
	}
	claim := func(variable, code string) Claim {
		return Claim{Variable: variable, Code: code, Admits: everybody}
	}
	for _, tt := range []struct {
		name   string
		claims []Claim
		want   []bool
	}{
		{"the code as a ticket", []Claim{claim(sequence.TOTP, good), claim(sequence.Ticket, good)}, []bool{true, false}},
		{"and the other way round", []Claim{claim(sequence.Ticket, good), claim(sequence.TOTP, good)}, []bool{false, true}},
		{"another code", []Claim{claim(sequence.TOTP, good), claim(sequence.TOTP, wrong)}, []bool{true, false}},
		{"another code first", []Claim{claim(sequence.TOTP, wrong), claim(sequence.TOTP, good)}, []bool{false, true}},
		{"the same twice", []Claim{claim(sequence.TOTP, good), claim(sequence.TOTP, good)}, []bool{true, true}},
	} {
		for i, credential := range newVerifier().Verify(home, start, tt.claims, false) {
			if (credential != nil) != tt.want[i] {
				t.Errorf("%s: claim %d passes: %v", tt.name, i, credential != nil)
			}
		}
	}
}

// A run goes on with the user it began with, and with the same secret.
func TestCodesOfARunAreOfOneUserAndOneSecret(t *testing.T) {
	alice, bob := ticket.NewKey(aliceSecret).ID, ticket.NewKey(bobSecret).ID
	for _, tt := range []struct {
		run  *sequence.Credential
		want bool
	}{
		{nil, true},
		{&sequence.Credential{User: "alice", KeyID: alice}, true},
		{&sequence.Credential{User: "alice", KeyID: bob}, false}, // her secret has been changed meanwhile
		{&sequence.Credential{User: "bob", KeyID: alice}, false},
		{&sequence.Credential{User: "bob", KeyID: bob}, false},
	} {
		credential := newVerifier().Verify(home, start, []Claim{{Variable: sequence.TOTP, Code: totpAt(t, aliceSecret, start), Admits: everybody, Run: tt.run}}, false)[0]
		if (credential != nil) != tt.want {
			t.Errorf("a run of %+v goes on: %v", tt.run, credential != nil)
		}
	}
}

func TestWrongCodesLimitTheirClientForAMinute(t *testing.T) {
	wrong := func(v *Verifier, client string, at time.Time) {
		v.Verify(netip.MustParsePrefix(client), at, []Claim{{Variable: sequence.TOTP, Code: "x", Admits: everybody}}, false)
	}
	limited := func(v *Verifier, client string, at time.Time) bool {
		return v.limited(netip.MustParsePrefix(client), at)
	}
	const alice, bob = "192.0.2.1/32", "192.0.2.2/32"

	v := newVerifier()
	for range maxWrong - 1 {
		wrong(v, alice, start)
	}
	if limited(v, alice, start) {
		t.Errorf("limited after %d wrong codes", maxWrong-1)
	}
	wrong(v, bob, start) // counts for himself alone, and takes nothing away
	wrong(v, alice, start.Add(wrongWithin))
	if !limited(v, alice, start.Add(wrongWithin)) {
		t.Error("not limited after the last wrong code just within the minute")
	}
	if limited(v, alice, start.Add(wrongWithin+1)) {
		t.Error("limited after the minute")
	}
	if limited(v, bob, start) {
		t.Error("limited for the codes of another client")
	}

	v = newVerifier()
	for range maxWrong - 1 {
		wrong(v, alice, start)
	}
	wrong(v, alice, start.Add(wrongWithin+1)) // begins a new minute
	if limited(v, alice, start.Add(wrongWithin+1)) {
		t.Error("wrong codes of the minute before count")
	}
	for range maxWrong - 1 {
		wrong(v, alice, start.Add(wrongWithin+2))
	}
	if !limited(v, alice, start.Add(wrongWithin+2)) {
		t.Error("the new minute does not count")
	}

	v = newVerifier()
	for i := range maxClients {
		wrong(v, fmt.Sprintf("10.%d.%d.%d/32", i>>16, i>>8&255, i&255), start)
	}
	if len(v.wrong) != maxClients {
		t.Errorf("%d clients are remembered, of %d", len(v.wrong), maxClients)
	}
	wrong(v, "10.0.0.0/32", start) // known already
	if len(v.wrong) != maxClients {
		t.Error("a client that is known makes all others forgotten")
	}
	wrong(v, alice, start)
	if len(v.wrong) != 1 {
		t.Errorf("%d clients are remembered after the bound was reached", len(v.wrong))
	}
}

// The edges of the times at which a code and a ticket count.
func TestCodesAndTicketsAreValidUpToTheirEdges(t *testing.T) {
	counter := start.Unix() / 30
	begins := time.Unix(counter*30, 0)
	code := totpAt(t, aliceSecret, begins)
	for off, want := range map[time.Duration]bool{
		-31 * time.Second: false, -30*time.Second - 1: false, -30 * time.Second: true, -1: true, 0: true,
		59*time.Second + 999*time.Millisecond: true, 60 * time.Second: false,
	} {
		if got := newVerifier().totp(code, begins.Add(off)) != ""; got != want {
			t.Errorf("a code is good %v after its time began: %v", off, got)
		}
	}
	credential := newVerifier().Verify(home, begins, []Claim{{Variable: sequence.TOTP, Code: code, Admits: everybody}}, false)[0]
	if credential == nil || !credential.Until.Equal(begins.Add(60*time.Second)) {
		t.Errorf("the code counts until %+v", credential)
	}
	for off, want := range map[int]bool{-validity - 1: false, -validity: true, 0: true, validity: true, validity + 1: false} {
		sealed, err := ticket.Seal(aliceSecret, ticket.Ticket{User: "alice", Time: start})
		if err != nil {
			t.Fatal(err)
		}
		if got := newVerifier().ticket(sealed, start.Add(time.Duration(off)*time.Second)) != ""; got != want {
			t.Errorf("a ticket is good %d s after its time: %v", off, got)
		}
	}
}

// A code that opens nothing, as the last step of no run, is used as well.
func TestAUseIsRecordedThoughNobodyWaitsForIt(t *testing.T) {
	v := on(t, t.TempDir())
	for len(v.wake) > 0 {
		<-v.wake
	}
	if v.totp(totpAt(t, aliceSecret, start), start) == "" {
		t.Fatal("a good code counts for nobody")
	}
	if len(v.wake) == 0 {
		t.Error("nothing is written until somebody waits for it")
	}
}

// Strangers cause no writing: a wrong code is not recorded.
func TestAWrongCodeIsNotRecorded(t *testing.T) {
	v := on(t, t.TempDir())
	v.write()
	for len(v.wake) > 0 {
		<-v.wake
	}
	uses := v.uses
	for _, code := range []string{"x", "", "12345a", totpAt(t, aliceSecret, start.Add(time.Hour))} {
		if v.totp(code, start) != "" || v.ticket(code, start) != "" {
			t.Errorf("%q is a good code", code)
		}
	}
	if v.uses != uses || len(v.wake) > 0 {
		t.Errorf("wrong codes cause %d uses, and wake the writer: %v", v.uses-uses, len(v.wake) > 0)
	}
}

// A file that was cut off, wherever, is damaged: it never passes for one that
// knows of fewer codes.
func TestAFileThatWasCutOffIsDamaged(t *testing.T) {
	v := newVerifier()
	sealed, err := ticket.Seal(aliceSecret, ticket.Ticket{User: "alice", Time: start})
	if err != nil {
		t.Fatal(err)
	}
	if v.ticket(sealed, start) == "" || v.totp(totpAt(t, bobSecret, start), start) == "" {
		t.Fatal("good codes count for nobody")
	}
	whole, err := json.Marshal(struct {
		Version int `json:"version"`
		Used
	}{oldVersion, v.used})
	if err != nil {
		t.Fatal(err)
	}
	whole = append(whole, '\n')
	if got, err := decodeOld(whole); err != nil || len(got.Secrets) != 2 || got.Mark != start.Unix() {
		t.Fatalf("the whole file: %+v, %v", got, err)
	}
	for n := range len(whole) - 1 { // the last byte is a newline
		if got, err := decodeOld(whole[:n]); err == nil {
			t.Errorf("the first %d of %d bytes pass: %+v", n, len(whole), got)
		}
	}
	for _, other := range []string{
		`{"version":1,"mark":1,"secrets":{},"more":1}`,
		`{"version":1,"mark":1,"secrets":{"0102030405060708":{"counter":1}}}`,
		`{"version":1,"mark":1,"secrets":{"0102030405060708":{"counter":-1,"tickets":{}}}}`,
		`{"version":1,"mark":1,"secrets":{"0102030405060708":{"tickets":{},"counter":1,"x":1}}}`,
	} {
		if _, err := decodeOld([]byte(other)); err == nil {
			t.Errorf("a file of another form passes: %s", other)
		}
	}
	if _, err := decodeOld([]byte(`{"version":1,"mark":1,"secrets":{"0102030405060708":{"counter":1,"tickets":{}}}}`)); err != nil {
		t.Errorf("a small file that is right: %v", err)
	}
	for _, more := range []string{"x", "{}", string(whole)} {
		if _, err := decodeOld(append(whole[:len(whole):len(whole)], more...)); err == nil {
			t.Errorf("the file passes with %q behind it", more)
		}
	}
}

// A ticket whose time is up to a day off is used up, so that it opens nothing when
// a clock is set right; one that is further off is not looked at.
func TestARefusedTicketOfTheSameDayIsUsed(t *testing.T) {
	seal := func(at time.Time) string {
		sealed, err := ticket.Seal(aliceSecret, ticket.Ticket{User: "alice", Time: at})
		if err != nil {
			t.Fatal(err)
		}
		return sealed
	}
	for off, want := range map[int]string{validity + 1: "", maxEarly - 1: "", maxEarly: "", maxEarly + 1: "alice"} {
		at := start.Add(time.Duration(off) * time.Second)
		v, sealed := newVerifier(), seal(at)
		if got := v.ticket(sealed, start); got != "" {
			t.Errorf("a ticket of %d s later counts for %q", off, got)
		}
		if got := v.ticket(sealed, at); got != want {
			t.Errorf("a ticket that came %d s early is one of %q in its time, want %q", off, got, want)
		}
	}
	// The mark is the time of the latest good ticket: what is older than it by more
	// than the validity may have been forgotten.
	for off, want := range map[int]string{-validity - 1: "", -validity: "alice", 0: "alice"} {
		v := newVerifier()
		if v.ticket(seal(start), start) == "" || v.used.Mark != start.Unix() {
			t.Fatalf("the mark is %d, not %d", v.used.Mark, start.Unix())
		}
		if got := v.ticket(seal(start.Add(time.Duration(off)*time.Second)), start); got != want {
			t.Errorf("a ticket %d s from the mark is one of %q, want %q", off, got, want)
		}
	}
}

// Only a good ticket moves the mark, by which older ones may be forgotten: one that
// comes early makes no room for itself.
func TestAnEarlyTicketForgetsNoOther(t *testing.T) {
	v := newVerifier()
	key := ticket.NewKey(aliceSecret).ID
	before := start.Unix() - 10
	v.used.Mark = before
	for i := range maxTickets {
		v.used.Of(key).Tickets[ticket.Nonce{byte(i >> 8), byte(i)}] = before
	}
	early, err := ticket.Seal(aliceSecret, ticket.Ticket{User: "alice", Time: start.Add(2 * time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	if got := v.ticket(early, start); got != "" {
		t.Errorf("a ticket of two minutes later counts for %q", got)
	}
	if v.used.Mark != before || len(v.used.Of(key).Tickets) != maxTickets {
		t.Errorf("the mark moved by %d s, %d tickets are known", v.used.Mark-before, len(v.used.Of(key).Tickets))
	}
}

// The mark is in the file: after a restart no clock that is set back makes an old
// ticket young again.
func TestTheLatestTicketTimeSurvivesARestart(t *testing.T) {
	seal := func(at time.Time) string {
		sealed, err := ticket.Seal(aliceSecret, ticket.Ticket{User: "alice", Time: at})
		if err != nil {
			t.Fatal(err)
		}
		return sealed
	}
	dir := t.TempDir()
	v := on(t, dir)
	if v.ticket(seal(start), start) == "" {
		t.Fatal("a good ticket counts for nobody")
	}
	v.write()
	v.kill()
	back := start.Add(-10 * time.Minute)
	next := on(t, dir)
	if got := next.ticket(seal(back), back); got != "" {
		t.Errorf("a ticket from before the mark is one of %q", got)
	}
	if got := next.ticket(seal(start.Add(time.Second)), back); got != "alice" { // the mark is the time that counts
		t.Errorf("a ticket at the mark is one of %q", got)
	}
}
