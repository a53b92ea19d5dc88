package onetime

import (
	"testing"
	"time"

	"webknock/internal/ticket"
)

// Tests call many a variable ticket.
type (
	Ticket  = ticket.Ticket
	Request = ticket.Request
	Nonce   = ticket.Nonce
)

var sealWith = ticket.SealWith

var (
	aliceSecret = []byte("12345678901234567890") // that of RFC 6238's test vectors
	bobSecret   = []byte("abcdefghijklmnopqrst")
)

func mustSeal(t testing.TB, secret []byte, of Ticket) string {
	t.Helper()
	s, err := ticket.Seal(secret, of)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestATicketOfAnotherUserIsRefused(t *testing.T) {
	sealed := mustSeal(t, bobSecret, Ticket{Time: start, User: "alice"})
	if credential := newVerifier().Verify(home, start, []Claim{{Variable: "{ticket}", Code: sealed, Admits: everybody}}, false)[0]; credential != nil {
		t.Error("a ticket of alice under bob's key was accepted")
	}
	own := mustSeal(t, bobSecret, Ticket{Time: start.Add(time.Second), User: "bob"})
	if credential := newVerifier().Verify(home, start, []Claim{{Variable: "{ticket}", Code: own, Admits: everybody}}, false)[0]; credential == nil {
		t.Error("bob's own was refused")
	}
}
