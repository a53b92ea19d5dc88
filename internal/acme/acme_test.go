package acme

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mholt/acmez/v3/acme"
	"go.uber.org/zap"
)

const (
	token            = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0"
	keyAuthorization = token + ".9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
)

func challengeOf(kind, domain string) acme.Challenge {
	return acme.Challenge{Type: kind, Token: token, KeyAuthorization: keyAuthorization, Identifier: acme.Identifier{Type: "dns", Value: domain}}
}

func present(t testing.TB, c *Challenges, all ...acme.Challenge) {
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
	var c Challenges
	right := head(line, "home.example.org")
	if got := c.Answer(right); got != nil {
		t.Errorf("before it is pending: %q", got)
	}
	home, other := challengeOf(acme.ChallengeTypeHTTP01, "home.example.org"), challengeOf(acme.ChallengeTypeTLSALPN01, "other.example.org")
	present(t, &c, home, other)
	for _, head := range [][]byte{right, head(line, "HOME.example.org:80"), head(strings.Replace(line, "1.1", "1.0", 1), "home.example.org")} {
		r, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(c.Answer(head))), nil)
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
		if got := c.Answer(head); got != nil {
			t.Errorf("%s is answered: %q", name, got)
		}
	}
	c.CleanUp(t.Context(), home)
	if got := c.Answer(right); got != nil {
		t.Errorf("after its end: %q", got)
	}
	if c.Certificate("other.example.org") == nil {
		t.Error("the end of a challenge has ended another")
	}
}

func TestOnlyAPendingChallengeHasACertificate(t *testing.T) {
	var c Challenges
	alpn, http := challengeOf(acme.ChallengeTypeTLSALPN01, "Home.example.org"), challengeOf(acme.ChallengeTypeHTTP01, "other.example.org")
	present(t, &c, alpn, http)
	certificate := c.Certificate("home.example.org")
	if certificate == nil || certificate.Leaf.DNSNames[0] != "Home.example.org" {
		t.Errorf("%+v", certificate)
	}
	if c.Certificate("other.example.org") != nil || c.Certificate("") != nil {
		t.Error("a domain without such a challenge has a certificate")
	}
	c.CleanUp(t.Context(), alpn)
	c.CleanUp(t.Context(), http)
	if c.Certificate("home.example.org") != nil || c.pending.Load() != nil {
		t.Error("something is pending after all has ended")
	}
}

func TestCertificatesContactNobodyBeforeTheyRun(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "acme")
	o := Options{Domains: []string{"home.example.org", "other.example.org"}, Directory: "https://127.0.0.1:1/dir"}
	c, err := New(o, dir, new(Challenges), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := c.Missing(); len(got) != 2 {
		t.Errorf("missing %q", got)
	}
	if _, err := c.Get(&tls.ClientHelloInfo{ServerName: "home.example.org"}); err == nil {
		t.Error("there is a certificate")
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory: %v, %v", info.Mode(), err)
	}
	if _, err := New(o, "/dev/null/acme", new(Challenges), slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "/dev/null") {
		t.Errorf("a directory that cannot be made: %v", err)
	}
	o.Roots = []byte("none")
	if _, err := New(o, dir, new(Challenges), slog.New(slog.DiscardHandler)); err == nil {
		t.Error("roots that are none are trusted")
	}
}

func TestTheLogHasNoTokens(t *testing.T) {
	var out bytes.Buffer
	log := zap.New(core{log: slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	url := "http://home.example.org/.well-known/acme-challenge/" + token
	log.With(zap.String("with", url)).Error("cannot get "+url, zap.String("identifier", "home.example.org"), zap.Int("attempt", 3),
		zap.Any("problem", acme.Problem{Detail: `did not match this challenge "` + keyAuthorization + `"`}),
		zap.Any("fields", map[string]any{"detail": url}))
	log.Debug("http request", zap.String("url", url))
	text := out.String()
	if strings.Contains(text, token) || strings.Contains(text, "http request") {
		t.Errorf("logged:\n%s", text)
	}
	for _, want := range []string{`"level":"ERROR"`, `"identifier":"home.example.org"`, `"attempt":3`, `"with":"http://home.example.org/.well-known/acme-challenge/…"`, `"fields":{"detail":`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in:\n%s", want, text)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	var c Challenges
	present(f, &c, challengeOf(acme.ChallengeTypeHTTP01, "home.example.org"))
	const line = "GET /.well-known/acme-challenge/" + token + " HTTP/1.1"
	f.Add(head(line, "home.example.org"))
	f.Add(head(line, "home.example.org:80"))
	f.Add([]byte("GET / HTTP/1.1\n\n"))
	f.Fuzz(func(t *testing.T, head []byte) {
		if answer := c.Answer(head); answer != nil && !bytes.Contains(head, []byte("/.well-known/acme-challenge/"+token)) {
			t.Errorf("%q is answered", head)
		}
	})
}
