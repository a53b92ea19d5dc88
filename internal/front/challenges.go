package front

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"strings"
	"sync/atomic"

	"webknock/internal/seam"
)

// challenges are those of certificate authorities that are pending right now.
type challenges struct {
	pending atomic.Pointer[[]challenge] // nil: none, so that nothing is looked at
}

type challenge struct {
	seam.Challenge
	certificate *tls.Certificate // TLS-ALPN-01; nil: it is HTTP-01
}

// use replaces the challenges.
func (c *challenges) use(pending []seam.Challenge) error {
	if len(pending) == 0 {
		c.pending.Store(nil)
		return nil
	}
	all := make([]challenge, len(pending))
	for i, p := range pending {
		all[i].Challenge = p
		if p.Certificate == nil {
			continue
		}
		pair, err := tls.X509KeyPair(p.Certificate.Chain, p.Certificate.Key)
		if err != nil {
			return err
		}
		all[i].certificate = &pair
	}
	c.pending.Store(&all)
	return nil
}

func (c *challenges) all() []challenge {
	if all := c.pending.Load(); all != nil {
		return *all
	}
	return nil
}

// answer returns what a request head is answered with if it asks for an HTTP-01
// challenge that is pending (RFC 8555, section 8.3), and nil otherwise.
func (c *challenges) answer(head []byte) []byte {
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
		if p.certificate == nil && r.RequestURI == p.Path && strings.EqualFold(host, p.Domain) {
			return p.Answer
		}
	}
	return nil
}

// certificate returns the certificate that answers the TLS-ALPN-01 challenge
// (RFC 8737) of a domain, in lower case, if one is pending, and nil otherwise.
func (c *challenges) certificate(domain string) *tls.Certificate {
	for _, p := range c.all() {
		if p.certificate != nil && p.Domain == domain {
			return p.certificate
		}
	}
	return nil
}

// UseChallenges implements seam.Front.
func (f *Front) UseChallenges(_ context.Context, pending []seam.Challenge) error {
	return f.challenges.use(pending)
}
