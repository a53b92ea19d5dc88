package firewall

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

// passes has packets pass under a grant, of which the gate learns when it asks.
func (h *house) passes(g Grant, packets uint64) {
	m := h.backend.Memory
	m.mu.Lock()
	defer m.mu.Unlock()
	held := m.grants[keyOf(g)]
	held.Packets += packets
	held.Bytes += 100 * packets
	m.grants[keyOf(g)] = held
}

// ends collects what is said of the ends of grants.
func (h *house) ends() func() []string {
	var ends []string
	h.mu.Lock()
	h.hear = func(e Event) {
		if e.Kind == Closed {
			ends = append(ends, fmt.Sprintf("%s %s %d/%d", e.Grant.Client.Addr(), e.Reason, e.Grant.Packets, e.Grant.Bytes))
		}
	}
	h.mu.Unlock()
	return func() []string {
		h.said()
		h.mu.Lock()
		defer h.mu.Unlock()
		slices.Sort(ends)
		return ends
	}
}

func TestTheEndOfAGrantSaysWhatHasPassed(t *testing.T) {
	for name, tt := range map[string]struct {
		end  func(t *testing.T, h *house, g Grant) error
		want string
	}{
		"closed":  {func(t *testing.T, h *house, g Grant) error { return h.Close(t.Context(), g.ID) }, ByAdmin},
		"expired": {func(t *testing.T, h *house, g Grant) error { time.Sleep(ssh.TTL); return nil }, Expired},
		"extended, then expired": {func(t *testing.T, h *house, g Grant) error {
			time.Sleep(ssh.TTL - time.Second)
			h.mustOpen(alice, "ssh")
			time.Sleep(ssh.TTL)
			return nil
		}, Expired},
		"suspended, then expired": {func(t *testing.T, h *house, g Grant) error {
			h.backend.Suspend(ssh.TTL / 2)
			time.Sleep(ssh.TTL / 2)
			return nil
		}, Expired},
		"closed by a sequence": {func(t *testing.T, h *house, g Grant) error {
			_, err := h.Open(t.Context(), OpenRequest{Client: g.Client.Addr(), Doors: []string{"vpn"}, Closes: []string{"ssh"}, Sequence: "seq"})
			return err
		}, BySequence},
		"banned": {func(t *testing.T, h *house, g Grant) error {
			return h.Ban(t.Context(), []Ban{{Client: g.Client, Until: time.Now().Add(time.Hour)}}, true)
		}, Banned},
		"its door is gone": {func(t *testing.T, h *house, g Grant) error {
			return h.Configure(t.Context(), Guard{Doors: []Door{vpn}})
		}, DoorRemoved},
		"unguarded": {func(t *testing.T, h *house, g Grant) error { return h.Unguard(t.Context()) }, Unguarding},
	} {
		t.Run(name, func(t *testing.T) {
			inHouse(t, func(t *testing.T, h *house) {
				ends := h.ends()
				g := h.mustOpen(alice, "ssh")[0]
				h.passes(g, 7)
				if err := tt.end(t, h, g); err != nil {
					t.Fatal(err)
				}
				if want := fmt.Sprintf("%s %s 7/700", alice, tt.want); !slices.Equal(ends(), []string{want}) {
					t.Errorf("ends %q, want %q", ends(), want)
				}
			})
		})
	}
}

func (f *faulty) Traffic(ctx context.Context, grants []Grant) ([]Grant, error) {
	if err := f.failing("traffic", nil); errors.Is(err, context.DeadlineExceeded) {
		<-ctx.Done()
		return nil, err
	} else if err != nil {
		return nil, err
	}
	return f.Memory.Traffic(ctx, grants)
}

func TestAGrantEndsWithItsLastCountersIfTheyCannotBeRead(t *testing.T) {
	for _, failure := range []error{errors.New("no answer"), context.DeadlineExceeded} {
		inHouse(t, func(t *testing.T, h *house) {
			h.backend.setFail(func(op string, _ []Change) error {
				if op == "traffic" {
					return failure
				}
				return nil
			})
			ends := h.ends()
			g := h.mustOpen(alice, "ssh")[0]
			h.passes(g, 7)
			time.Sleep(pollInterval + 1)
			h.passes(g, 1) // nobody learns of it
			began := time.Now()
			if err := h.Close(t.Context(), g.ID); err != nil || time.Since(began) > countTimeout {
				t.Errorf("closing took %v, %v", time.Since(began), err)
			}
			h.mustHold()
			if want := []string{alice + " " + ByAdmin + " 7/700"}; !slices.Equal(ends(), want) {
				t.Errorf("ends %q, want %q", ends(), want)
			}
		})
	}
}
