package front

import (
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"webknock/httpd"
	"webknock/internal/event"
	"webknock/internal/onetime"
	"webknock/internal/seam"
	"webknock/sequence"
)

// told is a keeper that remembers what it is told.
type told struct {
	mu    sync.Mutex
	names []string
	bans  []seam.Ban

	knocks  []event.Knock
	missed  uint64
	batches int
}

func (k *told) Knocks(knocks []event.Knock, missed uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.knocks = append(k.knocks, knocks...)
	k.missed += missed
	k.batches++
}

// told returns how often the keeper was told of knocks.
func (k *told) told() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.batches
}

func (k *told) Complete(c seam.Completion) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.names = append(k.names, c.Sequence)
}

func (*told) UsedCodes() (onetime.Used, error) { return onetime.NewUsed(), nil }

func (*told) RecordCodes(onetime.Used) error { return nil }

func (k *told) Ban(b seam.Ban) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.bans = append(k.bans, b)
}

func (k *told) String() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return strings.Join(k.names, " ")
}

// Under covers that answer, what completions bring about waits for the answers,
// and keeps the order of each client's completions whatever the answers take.
func TestCompletionsKeepTheirOrderWhileAnswersAreSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var keeper told
		c := newCompletions(&keeper, nil, slog.New(slog.DiscardHandler))
		alice, bob := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("192.0.2.8")
		at := func(client netip.Addr, name string, answered <-chan struct{}) {
			c.add(completion{sequence: &seam.Sequence{Name: name}, knock: httpd.Knock{Client: client, Answered: answered}})
		}
		done := func() string {
			synctest.Wait()
			return keeper.String()
		}
		answered := make(chan struct{})
		close(answered)
		at(alice, "streams", make(chan struct{})) // never ends
		at(alice, "answered", answered)
		at(alice, "dropped", nil)
		if got := done(); got != "" {
			t.Errorf("before any answer could be out: %s", got)
		}
		at(bob, "other", nil)
		if got := done(); got != "other" {
			t.Errorf("of another client: %s", got)
		}
		c.working.Wait()
		at(alice, "last", nil)
		if got := done(); got != "other streams answered dropped last" {
			t.Errorf("in the end: %s", got)
		}
		if len(c.last) > 0 {
			t.Errorf("%d clients are still waited for", len(c.last))
		}
	})
}

// slowDisk has a use recorded, or fails, when it is told to.
type slowDisk []func(error)

func (s *slowDisk) Await(_ *sequence.Credential, done func(error)) { *s = append(*s, done) }

// A client that completes a plain sequence while the codes of another are being
// recorded: a door that the first opens and the second closes ends up closed.
func TestCompletionsKeepTheirOrderWhileCodesAreRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var keeper told
		var disk slowDisk
		c := newCompletions(&keeper, &disk, slog.New(slog.DiscardHandler))
		add := func(name string, credential *sequence.Credential) {
			c.add(completion{sequence: &seam.Sequence{Name: name}, credential: credential, knock: httpd.Knock{Client: netip.MustParseAddr("192.0.2.7")}})
		}
		add("first", new(sequence.Credential))
		add("second", nil)
		add("third", new(sequence.Credential))
		add("fourth", nil)
		disk[1](errors.New("full"))
		synctest.Wait()
		if got := keeper.String(); got != "" {
			t.Errorf("before the first is recorded: %s", got)
		}
		disk[0](nil)
		c.working.Wait()
		if got := keeper.String(); got != "first second fourth" {
			t.Errorf("in the end: %s", got)
		}
	})
}
