package firewall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestATTLIsBoundedByTheDoor(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		for _, tt := range []struct{ asked, want time.Duration }{
			{0, ssh.TTL}, {time.Minute, time.Minute}, {48 * time.Hour, ssh.MaxTTL},
		} {
			grants, err := h.Open(t.Context(), OpenRequest{Client: netip.MustParseAddr(alice), Doors: []string{"ssh"}, TTL: tt.asked})
			if err != nil || time.Until(grants[0].Expires) != tt.want {
				t.Errorf("asked for %v, got %v, %v; want %v", tt.asked, grants, err, tt.want)
			}
		}
	})
}

func TestAnExtendedGrantIsNeverShorterAndKeepsItsUser(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		opened, err := h.Open(t.Context(), OpenRequest{Client: netip.MustParseAddr(alice), Doors: []string{"ssh"}, TTL: time.Minute, Sequence: "s", User: "ann"})
		if err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct{ asked, want time.Duration }{
			{0, time.Minute}, {time.Second, time.Minute}, {2 * time.Minute, 2 * time.Minute}, {48 * time.Hour, ssh.MaxTTL}, {time.Minute, ssh.MaxTTL},
		} {
			g, err := h.Extend(t.Context(), opened[0].ID, tt.asked)
			if err != nil || time.Until(g.Expires) != tt.want || g.ID != opened[0].ID || g.Sequence != "s" || g.User != "ann" || !g.Opened.Equal(opened[0].Opened) {
				t.Errorf("asked for %v: %+v, %v; want %v", tt.asked, g, err, tt.want)
			}
			if held, err := h.backend.Memory.Read(t.Context()); err != nil || len(held) != 1 || time.Until(held[0].Expires) != tt.want {
				t.Errorf("asked for %v: the firewall holds %+v, %v", tt.asked, held, err)
			}
		}
		if err := h.Close(t.Context(), opened[0].ID); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Extend(t.Context(), opened[0].ID, 0); !errors.Is(err, ErrNoGrant) {
			t.Errorf("a closed grant: %v", err)
		}
		again := h.mustOpen(alice, "ssh")[0]
		time.Sleep(ssh.TTL)
		if _, err := h.Extend(t.Context(), again.ID, 0); !errors.Is(err, ErrNoGrant) || len(h.held()) != 0 {
			t.Errorf("a grant at the instant it ends: %v, held %v", err, h.held())
		}
	})
}

func TestAGrantThatIsBeingClosedIsNotExtended(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		g := h.mustOpen(alice, "ssh")[0]
		h.backend.setFail(func(op string, changes []Change) error {
			if op == "commit" && len(changes) > 0 && changes[0].Close {
				return errors.New("bad luck")
			}
			return nil
		})
		if err := h.Close(t.Context(), g.ID); err == nil {
			t.Fatal("closed")
		}
		if _, err := h.Extend(t.Context(), g.ID, time.Minute); !errors.Is(err, ErrNoGrant) {
			t.Errorf("extend a grant that is being closed: %v", err)
		}
	})
}

func TestADoorHasAtMostMaxGrants(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		for i := range ssh.MaxGrants {
			h.mustOpen(fmt.Sprint("192.0.2.", i+1), "ssh")
		}
		if _, err := h.open("192.0.2.99", "ssh"); !errors.Is(err, ErrFull) {
			t.Errorf("one grant too many: %v", err)
		}
		h.mustOpen(alice, "ssh") // a renewal takes no additional place
		h.mustOpen("192.0.2.99", "vpn")
		time.Sleep(ssh.TTL)
		h.mustOpen("192.0.2.99", "ssh") // at the instant when the others end
	})
}

func TestWaitingRequestsShareOneTransaction(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		release := make(chan struct{})
		var once sync.Once
		h.backend.setFail(func(op string, _ []Change) error {
			if op == "commit" {
				once.Do(func() { <-release })
			}
			return nil
		})
		var mu sync.Mutex
		results := map[error]int{}
		submit := func(client string) {
			h.Submit(OpenRequest{Client: netip.MustParseAddr(client), Doors: []string{"vpn"}}, func(_ []Grant, err error) {
				mu.Lock()
				results[err]++
				mu.Unlock()
			})
		}
		submit("10.0.0.0")
		synctest.Wait()
		for i := range 100 {
			submit(fmt.Sprint("10.0.1.", i))
			submit(fmt.Sprint("10.0.1.", i)) // again: one change for both
		}
		close(release)
		synctest.Wait()
		if n := len(h.backend.commits); n != 2 || len(h.backend.commits[1]) != 100 {
			t.Errorf("%d transactions, want 2, the second of 100 changes", n)
		}
		if results[nil] != 201 {
			t.Errorf("results %v", results)
		}
		if got := len(h.held()); got != 101 {
			t.Errorf("%d grants", got)
		}
	})
}

func TestRequestsThatFollowCloselyShareATransaction(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.mustOpen(alice, "ssh")
		before := len(h.backend.commits)
		h.minCommitInterval = time.Millisecond // no transaction is running
		for i := range 20 {                    // a fifth of a millisecond apart
			h.Submit(OpenRequest{Client: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), Doors: []string{"vpn"}}, func([]Grant, error) {})
			time.Sleep(time.Millisecond / 5)
		}
		synctest.Wait()
		if n := len(h.backend.commits) - before; n < 4 || n > 6 {
			t.Errorf("%d transactions in 4 ms", n)
		}
		time.Sleep(time.Second)
		began := time.Now()
		h.mustOpen(bob, "ssh")
		if waited := time.Since(began); waited > 0 {
			t.Errorf("a single request waited %v", waited)
		}
	})
}

func TestARequestThatFailsMakesNoOtherFail(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		bad := netip.MustParsePrefix("10.0.0.13/32")
		release := make(chan struct{})
		var once sync.Once
		h.backend.setFail(func(op string, changes []Change) error {
			if op == "commit" {
				once.Do(func() { <-release })
			}
			if slices.ContainsFunc(changes, func(c Change) bool { return c.Grant.Client == bad }) {
				return errors.New("bad luck")
			}
			return nil
		})
		var mu sync.Mutex
		var failed []string
		for i := range 50 {
			addr := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
			h.Submit(OpenRequest{Client: addr, Doors: []string{"vpn"}}, func(_ []Grant, err error) {
				if err != nil {
					mu.Lock()
					failed = append(failed, addr.String())
					mu.Unlock()
				}
			})
			if i == 0 {
				synctest.Wait()
			}
		}
		close(release)
		synctest.Wait()
		if !slices.Equal(failed, []string{"10.0.0.13"}) || len(h.held()) != 49 {
			t.Errorf("failed: %v; %d let in", failed, len(h.held()))
		}
	})
}

func TestRenewalsDoNotGrowTheHeapOfExpiries(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		for range 5000 {
			h.mustOpen(alice, "vpn")
			time.Sleep(time.Millisecond)
		}
		var ends int
		h.wait(t.Context(), request{exclusive: func(context.Context) error { ends = len(h.expiries); return nil }})
		if ends > 2000 {
			t.Errorf("a renewed grant has %d entries in the heap", ends)
		}
	})
}

func TestWaitingRequestsAreCommittedBeforeTheStop(t *testing.T) {
	backend := &faulty{Memory: NewMemory()}
	g := NewGate(backend, slog.New(slog.DiscardHandler), func(Event) {})
	many := vpn
	many.MaxGrants = maxRequests
	ctx, cancel := context.WithCancel(t.Context())
	ready := make(chan error, 1)
	g.requests <- request{exclusive: func(ctx context.Context) error { return g.configure(ctx, Guard{Doors: []Door{many}}) }, done: func(err error) { ready <- err }}
	opened := 0 // written by Run
	for i := range maxRequests - 1 {
		client := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		g.Submit(OpenRequest{Client: client, Doors: []string{"vpn"}}, func(_ []Grant, err error) {
			if err == nil {
				opened++
			}
		})
	}
	cancel()
	g.Run(ctx)
	if err := <-ready; err != nil || opened != maxRequests-1 {
		t.Errorf("%d of %d opened, %v", opened, maxRequests-1, err)
	}
}
