package acme

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
)

// Challenges are those that are pending right now, of all authorities. Listeners
// answer them. It is an acmez.Solver.
type Challenges struct {
	pending atomic.Pointer[[]challenge] // nil: none, so that nothing is looked at
	mu      sync.Mutex                  // held by who changes it
}

// A challenge is what proves to an authority that a domain is ours.
type challenge struct {
	kind, domain string
	path         string // HTTP-01: what is asked for
	answer       []byte
	certificate  *tls.Certificate // TLS-ALPN-01
}

// Present makes a challenge pending.
func (c *Challenges) Present(_ context.Context, of acme.Challenge) error {
	added := challenge{kind: of.Type, domain: strings.ToLower(of.Identifier.Value), path: of.HTTP01ResourcePath()}
	switch of.Type {
	case acme.ChallengeTypeHTTP01:
		added.answer = fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
			len(of.KeyAuthorization), of.KeyAuthorization)
	case acme.ChallengeTypeTLSALPN01:
		var err error
		if added.certificate, err = acmez.TLSALPN01ChallengeCert(of); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	all := append(slices.Clone(c.all()), added)
	c.pending.Store(&all)
	return nil
}

// CleanUp ends a challenge.
func (c *Challenges) CleanUp(_ context.Context, of acme.Challenge) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := slices.DeleteFunc(slices.Clone(c.all()), func(p challenge) bool {
		return p.kind == of.Type && p.path == of.HTTP01ResourcePath() && strings.EqualFold(p.domain, of.Identifier.Value)
	})
	if len(all) == 0 {
		c.pending.Store(nil)
	} else {
		c.pending.Store(&all)
	}
	return nil
}

func (c *Challenges) all() []challenge {
	if all := c.pending.Load(); all != nil {
		return *all
	}
	return nil
}

// Answer returns what a request head is answered with if it asks for an HTTP-01
// challenge that is pending (RFC 8555, section 8.3), and nil otherwise.
func (c *Challenges) Answer(head []byte) []byte {
	all := c.all()
	if all == nil {
		return nil
	}
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
	if err != nil || r.Method != http.MethodGet {
		return nil
	}
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	for _, p := range all {
		if p.kind == acme.ChallengeTypeHTTP01 && r.RequestURI == p.path && strings.EqualFold(host, p.domain) {
			return p.answer
		}
	}
	return nil
}

// Certificate returns the certificate that answers the TLS-ALPN-01 challenge
// (RFC 8737) of a domain, in lower case, if one is pending, and nil otherwise.
func (c *Challenges) Certificate(domain string) *tls.Certificate {
	for _, p := range c.all() {
		if p.kind == acme.ChallengeTypeTLSALPN01 && p.domain == domain {
			return p.certificate
		}
	}
	return nil
}
