package acme

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mholt/acmez/v3/acme"
	"go.uber.org/zap"
)

const (
	token            = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0"
	keyAuthorization = token + ".9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
)

func TestWhoAnswersIsToldWhatIsPending(t *testing.T) {
	var told [][]Challenge
	c := NewChallenges(func(_ context.Context, pending []Challenge) error {
		told = append(told, slices.Clone(pending))
		return nil
	})
	of := func(kind, domain string) acme.Challenge {
		return acme.Challenge{Type: kind, Token: token, KeyAuthorization: keyAuthorization, Identifier: acme.Identifier{Type: "dns", Value: domain}}
	}
	plain, tls := of(acme.ChallengeTypeHTTP01, "home.example.org"), of(acme.ChallengeTypeTLSALPN01, "Home.example.org")
	if err := errors.Join(c.Tell(t.Context()), c.Present(t.Context(), plain), c.Present(t.Context(), tls), c.Tell(t.Context()),
		c.CleanUp(t.Context(), plain), c.CleanUp(t.Context(), tls)); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, pending := range told {
		var names []string
		for _, p := range pending {
			kind := "http"
			if p.Chain != nil && p.Key != nil {
				kind = "tls"
			}
			names = append(names, kind+" "+p.Domain)
		}
		got = append(got, strings.Join(names, "+"))
	}
	if want := "http home.example.org, http home.example.org+tls home.example.org, http home.example.org+tls home.example.org, tls home.example.org, "; strings.Join(got, ", ") != want {
		t.Errorf("told %q, want %q", strings.Join(got, ", "), want)
	}
}

func TestCertificatesContactNobodyBeforeTheyRun(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "acme")
	o := Options{Domains: []string{"home.example.org", "other.example.org"}, Directory: "https://127.0.0.1:1/dir"}
	c, err := New(o, dir, NewChallenges(nil), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := c.Missing(); len(got) != 2 {
		t.Errorf("missing %q", got)
	}
	if chains, keys, err := c.PEM(); err != nil || len(chains)+len(keys) > 0 {
		t.Errorf("there are %d certificates, %v", len(chains), err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory: %v, %v", info.Mode(), err)
	}
	if _, err := New(o, "/dev/null/acme", NewChallenges(nil), slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "/dev/null") {
		t.Errorf("a directory that cannot be made: %v", err)
	}
	o.Roots = []byte("none")
	if _, err := New(o, dir, NewChallenges(nil), slog.New(slog.DiscardHandler)); err == nil {
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
