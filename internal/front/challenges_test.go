package front

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/mholt/acmez/v3/acme"

	ours "webknock/internal/acme"
	"webknock/internal/seam"
)

const (
	token            = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0"
	keyAuthorization = token + ".9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
)

func challengeOf(kind, domain string) acme.Challenge {
	return acme.Challenge{Type: kind, Token: token, KeyAuthorization: keyAuthorization, Identifier: acme.Identifier{Type: "dns", Value: domain}}
}

// presenting returns what presents challenges to c.
func presenting(c *challenges) *ours.Challenges {
	return ours.NewChallenges(func(_ context.Context, pending []ours.Challenge) error {
		all := make([]seam.Challenge, len(pending))
		for i, p := range pending {
			all[i] = seam.Challenge{Domain: p.Domain, Path: p.Path, Answer: p.Answer}
			if p.Chain != nil {
				all[i].Certificate = &seam.Certificate{Chain: p.Chain, Key: p.Key}
			}
		}
		return c.use(all)
	})
}

func present(t testing.TB, c *ours.Challenges, all ...acme.Challenge) {
	t.Helper()
	for _, challenge := range all {
		if err := c.Present(t.Context(), challenge); err != nil {
			t.Fatal(err)
		}
	}
}

func head(line, host string) []byte { return []byte(line + "\r\nHost: " + host + "\r\n\r\n") }

func TestOnlyAPendingChallengeIsAnswered(t *testing.T) {
	const line = "GET /.well-known/acme-challenge/" + token + " HTTP/1.1"
	var c challenges
	authority := presenting(&c)
	right := head(line, "home.example.org")
	if got := c.answer(right); got != nil {
		t.Errorf("before it is pending: %q", got)
	}
	home, other := challengeOf(acme.ChallengeTypeHTTP01, "home.example.org"), challengeOf(acme.ChallengeTypeTLSALPN01, "other.example.org")
	present(t, authority, home, other)
	for _, head := range [][]byte{right, head(line, "HOME.example.org:80"), head(strings.Replace(line, "1.1", "1.0", 1), "home.example.org")} {
		r, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(c.answer(head))), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r.Body)
		if err != nil || r.StatusCode != http.StatusOK || string(body) != keyAuthorization || !r.Close {
			t.Errorf("%+v with %q, %v", r, body, err)
		}
	}
	for name, head := range map[string][]byte{
		"another token":      head("GET /.well-known/acme-challenge/other HTTP/1.1", "home.example.org"),
		"no token":           head("GET /.well-known/acme-challenge/ HTTP/1.1", "home.example.org"),
		"another host":       head(line, "other.example.org"),
		"another method":     head("POST"+line[len("GET"):], "home.example.org"),
		"a query":            head(strings.Replace(line, token, token+"?", 1), "home.example.org"),
		"an encoded path":    head(strings.Replace(line, "/acme", "/%61cme", 1), "home.example.org"),
		"a path behind it":   head(strings.Replace(line, token, token+"/", 1), "home.example.org"),
		"the whole URL":      head(strings.Replace(line, "/.well", "http://home.example.org/.well", 1), "home.example.org"),
		"a head without end": []byte(line + "\r\nHost: home.example.org\r\n"),
		"garbage":            []byte("\x16\x03\x01\n\n"),
		"nothing":            nil,
	} {
		if got := c.answer(head); got != nil {
			t.Errorf("%s is answered: %q", name, got)
		}
	}
	authority.CleanUp(t.Context(), home)
	if got := c.answer(right); got != nil {
		t.Errorf("after its end: %q", got)
	}
	if c.certificate("other.example.org") == nil {
		t.Error("the end of a challenge has ended another")
	}
}

func TestOnlyAPendingChallengeHasACertificate(t *testing.T) {
	var c challenges
	authority := presenting(&c)
	alpn, http := challengeOf(acme.ChallengeTypeTLSALPN01, "Home.example.org"), challengeOf(acme.ChallengeTypeHTTP01, "other.example.org")
	present(t, authority, alpn, http)
	certificate := c.certificate("home.example.org")
	if certificate == nil || certificate.Leaf.DNSNames[0] != "Home.example.org" {
		t.Errorf("%+v", certificate)
	}
	if c.certificate("other.example.org") != nil || c.certificate("") != nil {
		t.Error("a domain without such a challenge has a certificate")
	}
	authority.CleanUp(t.Context(), alpn)
	authority.CleanUp(t.Context(), http)
	if c.certificate("home.example.org") != nil || c.pending.Load() != nil {
		t.Error("something is pending after all has ended")
	}
}

func FuzzAnswer(f *testing.F) {
	var c challenges
	authority := presenting(&c)
	present(f, authority, challengeOf(acme.ChallengeTypeHTTP01, "home.example.org"))
	const line = "GET /.well-known/acme-challenge/" + token + " HTTP/1.1"
	f.Add(head(line, "home.example.org"))
	f.Add(head(line, "home.example.org:80"))
	f.Add([]byte("GET / HTTP/1.1\n\n"))
	f.Fuzz(func(t *testing.T, head []byte) {
		if answer := c.answer(head); answer != nil && !bytes.Contains(head, []byte("/.well-known/acme-challenge/"+token)) {
			t.Errorf("%q is answered", head)
		}
	})
}
