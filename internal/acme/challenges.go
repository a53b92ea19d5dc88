package acme

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
)

// A Challenge is what proves to an authority that a domain is ours. A listener answers
// it.
type Challenge struct {
	Domain     string // in lower case
	Path       string // HTTP-01: the request target, of a GET
	Answer     []byte // to that: a whole response
	Chain, Key []byte // TLS-ALPN-01: the certificate of the handshake, in PEM; nil: it is HTTP-01
}

// Challenges are those that are pending right now, of all authorities. It is an
// acmez.Solver.
type Challenges struct {
	use func(context.Context, []Challenge) error

	mu      sync.Mutex // held while use is called
	pending []Challenge
}

// NewChallenges returns an empty set of challenges. Whenever it changes, it is passed to use.
func NewChallenges(use func(context.Context, []Challenge) error) *Challenges {
	return &Challenges{use: use}
}

// Present makes a challenge pending.
func (c *Challenges) Present(ctx context.Context, of acme.Challenge) error {
	added := Challenge{Domain: strings.ToLower(of.Identifier.Value), Path: of.HTTP01ResourcePath()}
	switch of.Type {
	case acme.ChallengeTypeHTTP01:
		added.Answer = fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
			len(of.KeyAuthorization), of.KeyAuthorization)
	case acme.ChallengeTypeTLSALPN01:
		certificate, err := acmez.TLSALPN01ChallengeCert(of)
		if err == nil {
			added.Chain, added.Key, err = encode(certificate)
		}
		if err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pending = append(c.pending, added)
	return c.use(ctx, c.pending)
}

// CleanUp ends a challenge.
func (c *Challenges) CleanUp(ctx context.Context, of acme.Challenge) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pending = slices.DeleteFunc(c.pending, func(p Challenge) bool {
		return (p.Chain == nil) == (of.Type == acme.ChallengeTypeHTTP01) && p.Path == of.HTTP01ResourcePath() && p.Domain == strings.ToLower(of.Identifier.Value)
	})
	return c.use(ctx, c.pending)
}

// Tell passes on what is pending to somebody who answers from now on.
func (c *Challenges) Tell(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pending) == 0 {
		return nil
	}
	return c.use(ctx, c.pending)
}
