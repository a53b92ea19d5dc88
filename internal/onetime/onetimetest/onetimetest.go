// Package onetimetest is the contract of one-time use: the tests that every
// [onetime.Store] must pass. Start with [TestStore].
package onetimetest

import (
	"context"
	"encoding/base32"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/pquerna/otp/hotp"

	"webknock/internal/onetime"
	"webknock/internal/ticket"
	"webknock/sequence"
)

var (
	alice = ticket.NewKey([]byte("12345678901234567890")).ID
	bob   = ticket.NewKey([]byte("abcdefghijklmnopqrst")).ID
)

const now = 1_700_000_010 // in seconds since 1970

// TestStore runs the contract. open returns an empty store, and what closes it
// and opens it again, as a restart after a kill does.
func TestStore(t *testing.T, open func(t *testing.T) (s onetime.Store, reopen func() onetime.Store)) {
	t.Run("an empty store holds nothing", func(t *testing.T) {
		s, reopen := open(t)
		mustHold(t, s, onetime.NewUsed())
		mustHold(t, reopen(), onetime.NewUsed())
	})
	t.Run("recorded uses outlive a restart", func(t *testing.T) {
		s, reopen := open(t)
		want := uses(now, map[ticket.KeyID]int64{alice: 56666667, bob: 1}, map[ticket.KeyID][]int64{alice: {now, now + 60, now - 60}, bob: {now}})
		record(t, s, clone(want))
		mustHold(t, s, want)
		mustHold(t, reopen(), want)
	})
	t.Run("records add up", func(t *testing.T) {
		s, reopen := open(t)
		want := onetime.NewUsed()
		for i := range int64(20) {
			used := uses(now+i, map[ticket.KeyID]int64{alice: 100 + i}, map[ticket.KeyID][]int64{bob: {now + i}})
			want.Add(used)
			record(t, s, clone(used))
			if i%5 == 0 {
				s = reopen()
			}
		}
		mustHold(t, reopen(), want)
	})
	t.Run("no counter and no time goes back", func(t *testing.T) {
		s, reopen := open(t)
		record(t, s, uses(now, map[ticket.KeyID]int64{alice: 100}, nil))
		record(t, s, uses(now-100, map[ticket.KeyID]int64{alice: 99}, nil))
		mustHold(t, reopen(), uses(now, map[ticket.KeyID]int64{alice: 100}, nil))
	})
	t.Run("a ticket that could still count is not forgotten", func(t *testing.T) {
		s, reopen := open(t)
		record(t, s, uses(now, nil, map[ticket.KeyID][]int64{alice: {now - 60, now, now + 86400}}))
		record(t, s, uses(now+100, nil, nil))
		got := load(t, reopen())
		tickets := map[int64]bool{}
		for _, at := range got.Of(alice).Tickets {
			tickets[at] = true
		}
		if !tickets[now+86400] || got.Forgotten() <= now && !tickets[now] {
			t.Errorf("left are %v, by the time %d", tickets, got.Mark)
		}
	})
	t.Run("times before 1970", func(t *testing.T) {
		s, reopen := open(t)
		want := uses(5, nil, map[ticket.KeyID][]int64{alice: {-50, 3}})
		record(t, s, clone(want))
		mustHold(t, reopen(), want)
	})
	t.Run("records of many goroutines", func(t *testing.T) {
		s, reopen := open(t)
		want := onetime.NewUsed()
		var all sync.WaitGroup
		for i := range int64(100) {
			used := uses(now, map[ticket.KeyID]int64{alice: i + 1}, map[ticket.KeyID][]int64{bob: {now + i}})
			want.Add(used)
			all.Add(1)
			go s.Record(clone(used), func(err error) {
				defer all.Done()
				if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		mustHold(t, reopen(), want)
	})
	t.Run("no code opens twice, whatever the restarts", func(t *testing.T) { noCodeTwice(t, open) })
}

// noCodeTwice has a verifier use codes and tickets on a store, with restarts
// between, some of them before the use is recorded.
func noCodeTwice(t *testing.T, open func(t *testing.T) (s onetime.Store, reopen func() onetime.Store)) {
	secret := []byte("12345678901234567890")
	client := netip.MustParsePrefix("192.0.2.1/32")
	s, reopen := open(t)
	opened := map[string]int{}
	var sealed []string
	for i := range 8 {
		at := time.Unix(now, 0).Add(time.Duration(i) * 30 * time.Second)
		code, err := hotp.GenerateCode(base32.StdEncoding.EncodeToString(secret), uint64(at.Unix()/30))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			one, err := ticket.Seal(secret, ticket.Ticket{User: "alice", Time: at})
			if err != nil {
				t.Fatal(err)
			}
			sealed = append(sealed, one)
		}
		v := onetime.New(s, slog.New(slog.DiscardHandler))
		v.Configure([]onetime.User{{Name: "alice", Secret: secret}})
		ctx, kill := context.WithCancel(context.Background())
		var run sync.WaitGroup
		run.Go(func() { v.Run(ctx) })
		knock := func(variable, text string, wait bool) {
			claim := onetime.Claim{Variable: variable, Code: text, Admits: func(string) bool { return true }}
			credential := v.Verify(netip.PrefixFrom(client.Addr(), 32), at, []onetime.Claim{claim}, true)[0]
			if credential == nil {
				return
			}
			recorded := make(chan error, 1)
			v.Await(credential, func(err error) { recorded <- err })
			if wait {
				if err := <-recorded; err != nil {
					t.Fatal(err)
				}
				opened[text]++
			}
		}
		for _, text := range sealed[:len(sealed)-1] {
			knock(sequence.Ticket, text, true)
		}
		knock(sequence.TOTP, code, true)
		knock(sequence.TOTP, code, true)
		knock(sequence.Ticket, sealed[len(sealed)-1], false) // nobody waits: it has opened nothing
		kill()
		run.Wait()
		s = reopen()
	}
	if len(opened) < 16 {
		t.Errorf("only %d codes have opened", len(opened))
	}
	for code, n := range opened {
		if n != 1 {
			t.Errorf("%s has opened %d times", code, n)
		}
	}
}

// uses returns a set: counters, and the times of tickets. A ticket's nonce follows
// from its time.
func uses(mark int64, counters map[ticket.KeyID]int64, tickets map[ticket.KeyID][]int64) onetime.Used {
	u := onetime.NewUsed()
	u.Mark = mark
	for id, n := range counters {
		u.Of(id).Counter = n
	}
	for id, times := range tickets {
		for _, at := range times {
			u.Of(id).Tickets[ticket.Nonce{byte(at), byte(at >> 8), byte(at >> 16), byte(at >> 24), byte(at >> 32)}] = at
		}
	}
	return u
}

func clone(u onetime.Used) onetime.Used {
	c := onetime.NewUsed()
	c.Add(u)
	return c
}

func record(t *testing.T, s onetime.Store, used onetime.Used) {
	t.Helper()
	done := make(chan error, 2)
	s.Record(used, func(err error) { done <- err })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func load(t *testing.T, s onetime.Store) onetime.Used {
	t.Helper()
	used, err := s.Load()
	if err != nil {
		t.Fatal(err)
	}
	return used
}

// mustHold checks that a store holds some uses and no others.
func mustHold(t *testing.T, s onetime.Store, want onetime.Used) {
	t.Helper()
	got := load(t, s)
	if got.Mark != want.Mark || len(got.Secrets) != len(want.Secrets) {
		t.Errorf("mark %d, want %d; %d secrets, want %d", got.Mark, want.Mark, len(got.Secrets), len(want.Secrets))
	}
	for id, w := range want.Secrets {
		g := got.Of(id)
		if g.Counter != w.Counter || len(g.Tickets) != len(w.Tickets) {
			t.Errorf("%x: counter %d, want %d; %d tickets, want %d", id, g.Counter, w.Counter, len(g.Tickets), len(w.Tickets))
		}
		for n, at := range w.Tickets {
			if got, has := g.Tickets[n]; !has || got != at {
				t.Errorf("%x: ticket %x of %d is of %d, known %v", id, n, at, got, has)
			}
		}
	}
}
