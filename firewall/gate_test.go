package firewall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var (
	ssh = Door{Name: "ssh", Ports: []Ports{{TCP, 22, 22}}, TTL: 30 * time.Second, MaxTTL: time.Hour, MaxGrants: 3, Prefix4: 32, Prefix6: 128}
	vpn = Door{Name: "vpn", Ports: []Ports{{UDP, 51820, 51820}}, TTL: time.Minute, MaxTTL: time.Minute, MaxGrants: 1000, Prefix4: 32, Prefix6: 128}
)

const (
	alice = "192.0.2.1"
	bob   = "192.0.2.2"
)

// faulty is a backend whose calls can be made to fail and are counted.
type faulty struct {
	*Memory
	mu      sync.Mutex
	fail    func(op string, changes []Change) error // nil: nothing fails
	after   func(op string) error                   // fails after the firewall has carried out the change
	commits [][]Change
	cut     []string // sessions, by door and client
}

func (f *faulty) Ban(ctx context.Context, bans []Ban) error {
	if err := f.failing("ban", nil); err != nil {
		return err
	}
	return f.Memory.Ban(ctx, bans)
}

func (f *faulty) EndSessions(_ context.Context, grants []Grant) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, g := range grants {
		f.cut = append(f.cut, g.Door+" "+g.Client.Addr().String())
	}
	return nil
}

func (f *faulty) failing(op string, changes []Change) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail == nil {
		return nil
	}
	return f.fail(op, changes)
}

func (f *faulty) setFail(fail func(op string, changes []Change) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = fail
}

func (f *faulty) Guard(ctx context.Context, g Guard, grants []Grant) error {
	if err := f.failing("guard", nil); err != nil {
		return err
	}
	err := f.Memory.Guard(ctx, g, grants)
	if f.after != nil {
		err = errors.Join(err, f.after("guard"))
	}
	return err
}

func (f *faulty) Commit(ctx context.Context, changes []Change) error {
	if err := f.failing("commit", changes); err != nil {
		return err
	}
	f.mu.Lock()
	f.commits = append(f.commits, changes)
	f.mu.Unlock()
	err := f.Memory.Commit(ctx, changes)
	if f.after != nil {
		err = errors.Join(err, f.after("commit"))
	}
	return err
}

func (f *faulty) Read(ctx context.Context) ([]Held, error) {
	if err := f.failing("read", nil); err != nil {
		return nil, err
	}
	return f.Memory.Read(ctx)
}

// house is a running gate with its backend and its events.
type house struct {
	*Gate
	backend *faulty
	t       *testing.T
	mu      sync.Mutex
	events  []string
	hear    func(Event) // called with each event, if not nil
}

// inHouse runs test in a bubble with a gate that guards ssh and vpn.
func inHouse(t *testing.T, test func(t *testing.T, h *house)) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, &faulty{Memory: NewMemory()})
		if err := h.Configure(t.Context(), Guard{Doors: []Door{ssh, vpn}}); err != nil {
			t.Fatal(err)
		}
		test(t, h)
	})
}

func newHouse(t *testing.T, backend *faulty) *house {
	h := &house{backend: backend, t: t}
	h.Gate = NewGate(backend, slog.New(slog.DiscardHandler), h.record)
	h.minCommitInterval = 0
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { h.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return h
}

func (h *house) record(e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.hear != nil {
		h.hear(e)
	}
	text := strings.TrimSpace(fmt.Sprintf("%s %s %v %s", e.Kind, e.Grant.Door, e.Grant.Client.Addr(), e.Reason))
	if e.Kind == Repaired {
		text = string(e.Kind)
	}
	h.events = append(h.events, text)
}

// said returns the events since the last call.
func (h *house) said() []string {
	synctest.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	said := h.events
	h.events = nil
	return said
}

func (h *house) mustSay(want ...string) {
	h.t.Helper()
	if got := h.said(); !slices.Equal(got, want) {
		h.t.Errorf("events:\n got %q\nwant %q", got, want)
	}
}

func (h *house) open(client string, doors ...string) ([]Grant, error) {
	return h.Open(h.t.Context(), OpenRequest{Client: netip.MustParseAddr(client), Doors: doors, Sequence: "seq", User: "user"})
}

func (h *house) mustOpen(client string, doors ...string) []Grant {
	h.t.Helper()
	grants, err := h.open(client, doors...)
	if err != nil {
		h.t.Fatalf("open %v for %s: %v", doors, client, err)
	}
	return grants
}

// held returns the doors and clients that the firewall itself lets through.
func (h *house) held() (held []string) {
	h.t.Helper()
	grants, err := h.backend.Memory.Read(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	for _, g := range grants {
		held = append(held, g.Door+" "+g.Client.Addr().String())
	}
	slices.Sort(held)
	return held
}

func (h *house) mustHold(want ...string) {
	h.t.Helper()
	if got := h.held(); !slices.Equal(got, want) {
		h.t.Errorf("the firewall lets through %q, want %q", got, want)
	}
}

func TestAGrantIsForOneClientAndOneDoorAndEnds(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		g := h.mustOpen(alice, "ssh")[0]
		if time.Until(g.Expires) != ssh.TTL || g.Opened != time.Now() || g.Sequence != "seq" || g.User != "user" || len(g.ID) != 8 {
			t.Errorf("grant %+v", g)
		}
		h.mustHold("ssh " + alice)
		h.mustSay("grant.opened ssh " + alice)
		time.Sleep(ssh.TTL - time.Millisecond)
		h.mustHold("ssh " + alice)
		h.mustSay()
		time.Sleep(time.Millisecond)
		h.mustSay("grant.closed ssh " + alice + " expired")
		h.mustHold()
	})
}

func TestSeveralDoorsOpenTogetherOrNotAtAll(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.mustOpen(alice, "ssh", "vpn")
		h.mustHold("ssh "+alice, "vpn "+alice)
		if n := len(h.backend.commits); n != 1 {
			t.Errorf("two doors took %d transactions", n)
		}
		if _, err := h.open(bob, "vpn", "cellar"); !errors.Is(err, ErrNoDoor) {
			t.Errorf("open an unknown door: %v", err)
		}
		h.mustHold("ssh "+alice, "vpn "+alice)
		h.backend.setFail(func(op string, _ []Change) error {
			if op == "commit" {
				return errors.New("disk on fire")
			}
			return nil
		})
		if _, err := h.open(bob, "ssh", "vpn"); err == nil || !strings.Contains(err.Error(), "disk on fire") {
			t.Errorf("open while commits fail: %v", err)
		}
		h.mustHold("ssh "+alice, "vpn "+alice)
	})
}

func TestARenewalExtendsAndNeverShortens(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		first := h.mustOpen(alice, "ssh")[0]
		time.Sleep(20 * time.Second)
		second := h.mustOpen(alice, "ssh")[0]
		if second.ID != first.ID || !second.Opened.Equal(first.Opened) || second.Expires.Sub(first.Expires) != 20*time.Second {
			t.Errorf("renewal %+v of %+v", second, first)
		}
		short, err := h.Open(t.Context(), OpenRequest{Client: netip.MustParseAddr(alice), Doors: []string{"ssh"}, TTL: time.Second})
		if err != nil || !short[0].Expires.Equal(second.Expires) {
			t.Errorf("a shorter renewal: %+v, %v", short, err)
		}
		h.mustSay("grant.opened ssh "+alice, "grant.extended ssh "+alice)
		time.Sleep(29 * time.Second)
		h.mustHold("ssh " + alice)
		time.Sleep(time.Second)
		h.mustHold()
		h.mustSay("grant.closed ssh " + alice + " expired")
	})
}

func TestCloseEndsAGrant(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		g := h.mustOpen(alice, "ssh")[0]
		if err := h.Close(t.Context(), g.ID); err != nil {
			t.Fatal(err)
		}
		h.mustHold()
		h.mustSay("grant.opened ssh "+alice, "grant.closed ssh "+alice+" closed by an administrator")
		if err := h.Close(t.Context(), g.ID); !errors.Is(err, ErrNoGrant) {
			t.Errorf("close it again: %v", err)
		}
		time.Sleep(time.Minute)
		h.mustSay() // no event when it would have expired
	})
}

func TestGrantsOfAnEarlierRunAreAdopted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := NewMemory()
		first := newHouse(t, &faulty{Memory: memory})
		if err := first.Configure(t.Context(), Guard{Doors: []Door{ssh}}); err != nil {
			t.Fatal(err)
		}
		g := first.mustOpen(alice, "ssh")[0]
		time.Sleep(10 * time.Second)
		second := newHouse(t, &faulty{Memory: memory})
		if err := second.Configure(t.Context(), Guard{Doors: []Door{ssh}}); err != nil {
			t.Fatal(err)
		}
		second.mustSay("grant.adopted ssh " + alice)
		grants, err := second.Grants(t.Context())
		if err != nil || len(grants) != 1 || grants[0].ID != g.ID || grants[0].Sequence != "seq" || grants[0].User != "user" || time.Until(grants[0].Expires) != 20*time.Second {
			t.Errorf("adopted %+v, %v", grants, err)
		}
		time.Sleep(20 * time.Second)
		second.mustSay("grant.closed ssh " + alice + " expired")
	})
}

// The firewall's clock may be behind the gate's, so an element may outlive its grant for a
// moment.
func TestAGrantThatTheFirewallEndsAMomentLaterIsReportedOnce(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		g := h.mustOpen(alice, "ssh")[0]
		time.Sleep(ssh.TTL)
		h.mustSay("grant.opened ssh "+alice, "grant.closed ssh "+alice+" expired")
		hold := func(d time.Duration) {
			g.Expires = time.Now().Add(d)
			if err := h.backend.Memory.Commit(t.Context(), []Change{{Grant: g, New: true}}); err != nil {
				t.Fatal(err)
			}
			if _, err := h.Grants(t.Context()); err != nil { // reads the firewall
				t.Fatal(err)
			}
		}
		hold(50 * time.Millisecond)
		h.mustHold("ssh " + alice)
		time.Sleep(time.Second)
		h.mustSay()
		hold(time.Minute) // too long for a late element: somebody has added it
		h.mustSay("repair")
		h.mustHold()
	})
}

func TestReconfigureKeepsGrantsOfDoorsThatStay(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.mustOpen(alice, "ssh", "vpn")
		h.said()
		if err := h.Configure(t.Context(), Guard{Doors: []Door{vpn}}); err != nil {
			t.Fatal(err)
		}
		h.mustSay("grant.closed ssh " + alice + " its door was removed or changed")
		h.mustHold("vpn " + alice)
		if _, err := h.open(bob, "ssh"); !errors.Is(err, ErrNoDoor) {
			t.Errorf("open the removed door: %v", err)
		}
	})
}

func TestAFailedReconfigureKeepsTheOldGuard(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.mustOpen(alice, "ssh")
		fail := true
		h.backend.setFail(func(op string, _ []Change) error {
			if op == "guard" && fail {
				fail = false
				return errors.New("no luck")
			}
			return nil
		})
		if err := h.Configure(t.Context(), Guard{Doors: []Door{vpn}}); err == nil {
			t.Fatal("no error")
		}
		h.mustOpen(bob, "ssh")
	})
}

func TestAFlushedFirewallIsPutBackWithItsGrants(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.mustOpen(alice, "ssh")
		time.Sleep(10 * time.Second)
		h.said()
		h.backend.Flush()
		h.mustSay("repair")
		h.mustHold("ssh " + alice)
		time.Sleep(20 * time.Second)
		h.mustHold()
		h.mustSay("grant.closed ssh " + alice + " expired")
	})
}

func TestAClosedGrantIsNotPutBack(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		g := h.mustOpen(alice, "ssh")[0]
		h.mustOpen(bob, "ssh")
		h.backend.setFail(func(op string, _ []Change) error {
			if op == "commit" {
				return errors.New("no luck")
			}
			return nil
		})
		if err := h.Close(t.Context(), g.ID); err == nil {
			t.Fatal("no error")
		}
		h.said()
		h.backend.Flush()
		h.mustSay("grant.closed ssh "+alice+" closed by an administrator", "repair")
		h.mustHold("ssh " + bob)
	})
}

func TestClosingAGrantIsRetriedUntilItSucceeds(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		g := h.mustOpen(alice, "ssh")[0]
		h.backend.setFail(func(op string, _ []Change) error {
			if op == "commit" {
				return errors.New("no luck")
			}
			return nil
		})
		if err := h.Close(t.Context(), g.ID); err == nil {
			t.Fatal("no error")
		}
		if _, err := h.Guarding(t.Context()); err == nil {
			t.Error("the gate is sure of itself")
		}
		time.Sleep(10 * time.Second)
		h.mustHold("ssh " + alice)
		h.backend.setFail(nil)
		time.Sleep(maxRetry)
		synctest.Wait()
		h.mustHold()
		h.mustSay("grant.opened ssh "+alice, "grant.closed ssh "+alice+" closed by an administrator")
		if guarded, err := h.Guarding(t.Context()); !guarded || err != nil {
			t.Errorf("after the backend has recovered: %v, %v", guarded, err)
		}
	})
}

// A steady stream of requests must not delay expiry and repair.
func TestGrantsExpireAndTheGuardIsRepairedUnderSteadyLoad(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.mustOpen(alice, "ssh")
		for range 31 {
			time.Sleep(time.Second)
			h.mustOpen(bob, "vpn")
		}
		for _, e := range h.said() {
			if e == "grant.closed ssh "+alice+" expired" {
				return
			}
		}
		t.Error("alice's grant has not ended")
	})
}

func TestNothingOpensUnguarded(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.mustOpen(alice, "ssh")
		h.said()
		if err := h.Unguard(t.Context()); err != nil {
			t.Fatal(err)
		}
		h.mustSay("grant.closed ssh " + alice + " the guard was taken away")
		if _, err := h.open(alice, "ssh"); !errors.Is(err, ErrUnguarded) {
			t.Errorf("open: %v", err)
		}
		time.Sleep(time.Minute)
		if _, err := h.backend.Memory.Read(t.Context()); !errors.Is(err, ErrNotGuarded) {
			t.Errorf("the guard was put back: %v", err)
		}
		if err := h.Configure(t.Context(), Guard{Doors: []Door{ssh}}); err != nil {
			t.Fatal(err)
		}
		h.mustOpen(alice, "ssh")
	})
}

func TestAStoppedGateSaysSoAndLeavesTheGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := NewMemory()
		g := NewGate(memory, slog.New(slog.DiscardHandler), func(Event) {})
		ctx, cancel := context.WithCancel(t.Context())
		go g.Run(ctx)
		if err := g.Configure(ctx, Guard{Doors: []Door{ssh}}); err != nil {
			t.Fatal(err)
		}
		cancel()
		synctest.Wait()
		if _, err := g.Open(t.Context(), OpenRequest{Client: netip.MustParseAddr(alice), Doors: []string{"ssh"}}); !errors.Is(err, ErrStopped) {
			t.Errorf("open: %v", err)
		}
		if err := memory.Check(t.Context()); err != nil {
			t.Errorf("the guard ended with the gate: %v", err)
		}
	})
}

func TestIDsAreShortAndDiffer(t *testing.T) {
	g := NewGate(NewMemory(), nil, nil)
	seen := map[string]bool{}
	for range 10000 {
		id := g.newID()
		if len(id) != idLength || strings.Trim(id, idAlphabet) != "" || seen[id] {
			t.Fatalf("id %q", id)
		}
		seen[id] = true
	}
}

// A call of the backend that gets no answer ends with its context.
func TestABackendThatDoesNotAnswerDelaysNoStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend := &faulty{Memory: NewMemory()}
		gate := NewGate(silent{backend}, slog.New(slog.DiscardHandler), func(Event) {})
		gate.minCommitInterval = 0
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			gate.Run(ctx)
			close(ended)
		}()
		if err := gate.Configure(t.Context(), Guard{Doors: []Door{ssh}}); err != nil {
			t.Fatal(err)
		}
		for range 100 {
			gate.Submit(OpenRequest{Client: netip.MustParseAddr(alice), Doors: []string{"ssh"}}, func(_ []Grant, err error) {
				if err == nil {
					t.Error("opened by a backend that does not answer")
				}
			})
		}
		synctest.Wait()
		began := time.Now()
		stop()
		<-ended
		if took := time.Since(began); took > stopPatience {
			t.Errorf("the stop took %v", took)
		}
	})
}

// silent is a backend that no longer answers after Guard.
type silent struct{ *faulty }

func (silent) Commit(ctx context.Context, _ []Change) error {
	<-ctx.Done()
	return ctx.Err()
}

func (silent) Read(ctx context.Context) ([]Held, error) { return nil, nil }

func (silent) EndSessions(ctx context.Context, _ []Grant) error {
	<-ctx.Done()
	return ctx.Err()
}
