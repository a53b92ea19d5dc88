package client

import (
	"context"
	"encoding/base32"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pquerna/otp/hotp"

	"webknock/internal/ticket"
)

// The parameters of TOTP (RFC 6238) that the server has.
const (
	totpPeriod = 30 * time.Second
	totpSkew   = 1 // counters after the current one that the server accepts
)

// codes makes a user's one-time codes. A TOTP code counts once, so each is given
// out once, also over several runs of the program: the counter of the latest is
// kept in a file of the user's cache.
type codes struct {
	p    *Profile
	file string // empty: nothing is remembered

	mu   sync.Mutex
	last int64 // counter of the latest code given out
}

func newCodes(p *Profile) *codes {
	c := &codes{p: p}
	if dir, err := os.UserCacheDir(); err == nil && p.Secret != nil {
		// The key id says nothing about the secret.
		id, _ := ticket.NewKey(p.Secret).ID.MarshalText()
		c.file = filepath.Join(dir, "webknock", "counter-"+string(id))
	}
	if data, err := os.ReadFile(c.file); err == nil {
		c.last, _ = strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	}
	return c
}

// errNoSecret says what a path with a variable needs.
var errNoSecret = errors.New("a one-time step needs the user's secret, which a profile holds (webknock enroll on the server prints one)")

// path returns a step's path with its one-time code. It waits until the next
// code counts if those that count now are used up, and tells announce until
// when.
func (c *codes) path(ctx context.Context, s Step, announce func(until time.Time)) (string, error) {
	switch {
	case strings.Contains(s.Path, varTicket):
		sealed, err := c.ticket()
		return strings.Replace(s.Path, varTicket, sealed, 1), err
	case strings.Contains(s.Path, varTOTP):
		code, err := c.totp(ctx, announce)
		return strings.Replace(s.Path, varTOTP, code, 1), err
	}
	return s.Path, nil
}

func (c *codes) ticket() (string, error) {
	if c.p.Secret == nil {
		return "", errNoSecret
	}
	sealed, err := ticket.Seal(c.p.Secret, ticket.Ticket{
		Time: time.Now().Truncate(time.Second), User: c.p.User,
		Request: ticket.Request{TTL: c.p.TTL, Doors: c.p.Doors, Address: c.p.Address},
	})
	if err != nil {
		return "", fmt.Errorf("make a ticket: %w", err)
	}
	return sealed, nil
}

// totp returns the lowest code that has not been used. It waits until the server
// accepts it.
func (c *codes) totp(ctx context.Context, announce func(until time.Time)) (string, error) {
	if c.p.Secret == nil {
		return "", errNoSecret
	}
	if err := c.await(ctx, 1, announce); err != nil {
		return "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = c.next(time.Now())
	c.remember()
	return hotp.GenerateCode(base32.StdEncoding.EncodeToString(c.p.Secret), uint64(c.last))
}

// await waits until the server accepts the next n codes, at most 2: the current
// one and one ahead.
func (c *codes) await(ctx context.Context, n int, announce func(until time.Time)) error {
	for {
		now := time.Now()
		c.mu.Lock()
		latest := c.next(now) + int64(min(n, 1+totpSkew)) - 1
		c.mu.Unlock()
		from := time.Unix((latest-totpSkew)*int64(totpPeriod/time.Second), 0)
		if !now.Before(from) {
			return nil
		}
		late := fmt.Errorf("the next one-time code counts only at %s (a longer --timeout waits for it)", from.Format(time.TimeOnly))
		if deadline, ok := ctx.Deadline(); ok && from.After(deadline) {
			return late
		}
		announce(from)
		timer := time.NewTimer(from.Sub(now))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return late
		}
	}
}

// next returns the lowest counter that has not been used. The caller holds c.mu.
func (c *codes) next(now time.Time) int64 {
	current := now.Unix() / int64(totpPeriod/time.Second)
	// A counter far ahead was noted while the clock was wrong.
	if c.last >= current && c.last <= current+totpSkew {
		return c.last + 1
	}
	return current
}

// remember writes the counter down. If it cannot, a second run within the same
// half minute sends a used code, which the server takes for the same knock.
func (c *codes) remember() {
	if c.file == "" {
		return
	}
	if err := os.MkdirAll(filepath.Dir(c.file), 0o700); err != nil {
		return
	}
	os.WriteFile(c.file, []byte(strconv.FormatInt(c.last, 10)+"\n"), 0o600)
}
