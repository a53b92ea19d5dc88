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

// notes is an implementation of Closures in memory.
type notes struct {
	closed  map[string]bool
	unknown error
	upgrade bool
}

func (n *notes) Close(grants []Grant) {
	for _, g := range grants {
		n.closed[g.ID] = true
	}
}

func (n *notes) Closed(id string) bool  { return n.closed[id] }
func (n *notes) Known() error           { return n.unknown }
func (n *notes) Upgrade() bool          { return n.upgrade }
func (n *notes) Settle(context.Context) {}
func prefix(s string) netip.Prefix      { return netip.MustParsePrefix(s) }

func TestChangesOfGrantsByOthersAreUndone(t *testing.T) {
	for _, tt := range []struct {
		name   string
		tamper func(*Memory, Grant)
	}{
		{"deleted", func(m *Memory, g Grant) { m.Take(g.Door, g.Client) }},
		{"a longer time", func(m *Memory, g Grant) { m.Put(Held{Grant: g, Origin: Ours, Ends: g.Expires.Add(time.Hour)}) }},
		{"a shorter time", func(m *Memory, g Grant) { m.Put(Held{Grant: g, Origin: Ours, Ends: g.Expires.Add(-5 * time.Second)}) }},
		{"another end in its comment", func(m *Memory, g Grant) {
			g.Expires = g.Expires.Add(time.Hour)
			m.Put(Held{Grant: g, Origin: Ours, Ends: g.Expires})
		}},
		{"another end in its comment alone", func(m *Memory, g Grant) {
			ends := g.Expires
			g.Expires = g.Expires.Add(time.Hour)
			m.Put(Held{Grant: g, Origin: Ours, Ends: ends})
		}},
		{"a comment of another boot", func(m *Memory, g Grant) { m.Put(Held{Grant: g, Ends: g.Expires}) }},
		{"without a comment", func(m *Memory, g Grant) {
			m.Put(Held{Grant: Grant{Door: g.Door, Client: g.Client, Expires: g.Expires}, Ends: g.Expires})
		}},
		{"another id", func(m *Memory, g Grant) {
			g.ID = "zzzz2345"
			m.Put(Held{Grant: g, Origin: Ours, Ends: g.Expires})
		}},
		{"one more, without a comment", func(m *Memory, g Grant) {
			m.Put(Held{Grant: Grant{Door: "vpn", Client: prefix("192.0.2.9/32"), Expires: g.Expires}, Ends: g.Expires})
		}},
		{"one more, with the comment of a grant", func(m *Memory, g Grant) {
			g.Client = prefix("192.0.2.9/32")
			m.Put(Held{Grant: g, Origin: Ours, Ends: g.Expires})
		}},
		{"one more, of the version before", func(m *Memory, g Grant) {
			g.ID, g.Client = "zzzz2345", prefix("192.0.2.9/32")
			m.Put(Held{Grant: g, Origin: Earlier, Ends: g.Expires})
		}},
		{"its count of connections is unknown", func(m *Memory, g Grant) {
			m.Put(Held{Grant: g, Origin: Ours, Ends: g.Expires, Spent: true})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inHouse(t, func(t *testing.T, h *house) {
				g := h.mustOpen(alice, "ssh")[0]
				h.said()
				tt.tamper(h.backend.Memory, g)
				h.mustSay("repair")
				h.mustHold("ssh " + alice)
				got, err := h.backend.Memory.Read(t.Context())
				if err != nil || len(got) != 1 || got[0].Grant != g || !got[0].Ends.Equal(g.Expires) || got[0].Spent {
					t.Errorf("the firewall holds %+v, %v; want %+v", got, err, g)
				}
				for _, changes := range h.backend.commits[1:] {
					for _, c := range changes {
						if !c.Close && !c.Again {
							t.Errorf("the count of its connections starts again: %+v", c)
						}
					}
				}
				time.Sleep(time.Until(g.Expires))
				h.mustSay("grant.closed ssh " + alice + " expired")
				h.mustHold()
			})
		})
	}
}

func TestGrantsHaveTheCountersOfTheFirewall(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		g := h.mustOpen(alice, "ssh")[0]
		g.Packets, g.Bytes = 7, 700
		h.backend.Put(Held{Grant: g, Origin: Ours, Ends: g.Expires})
		if got, err := h.Grants(t.Context()); err != nil || len(got) != 1 || got[0] != g {
			t.Errorf("grants %+v, %v", got, err)
		}
		h.mustSay("grant.opened ssh " + alice) // and no repair is reported
	})
}

// The firewall's clock may be slightly ahead.
func TestAGrantThatTheFirewallEndsAMomentEarlierIsNotPutBack(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		g := h.mustOpen(alice, "ssh")[0]
		time.Sleep(time.Until(g.Expires) - nearEnd/2)
		h.backend.Take(g.Door, g.Client)
		h.mustSay("grant.opened ssh "+alice, "grant.closed ssh "+alice+" expired")
	})
}

// The gate may correct the element or let it end; in neither case does it outlive its grant.
func TestAnElementChangedJustBeforeItsEndEnds(t *testing.T) {
	for _, origin := range []Origin{Foreign, Ours} {
		inHouse(t, func(t *testing.T, h *house) {
			time.Sleep(pollInterval / 3) // so that the gate does not poll meanwhile
			g := h.mustOpen(alice, "ssh")[0]
			time.Sleep(time.Until(g.Expires) - nearEnd/2)
			h.backend.Put(Held{Grant: g, Origin: origin, Ends: g.Expires.Add(time.Hour)})
			synctest.Wait()
			time.Sleep(nearEnd)
			h.mustHold()
		})
	}
}

func TestWhichElementsAreAdoptedAtAStart(t *testing.T) {
	all := func(n *notes, g Grant) Held { return Held{Grant: g, Origin: Ours, Ends: g.Expires} }
	for _, tt := range []struct {
		name    string
		element func(*notes, Grant) Held
		adopted bool
	}{
		{"one of ours", all, true},
		{"one whose time was counted anew by a saved ruleset", func(_ *notes, g Grant) Held {
			return Held{Grant: g, Origin: Ours, Ends: g.Expires.Add(time.Hour)}
		}, true},
		{"one past its end", func(_ *notes, g Grant) Held {
			g.Expires = time.Now()
			return Held{Grant: g, Origin: Ours, Ends: time.Now().Add(time.Minute)}
		}, false},
		{"one that was closed", func(n *notes, g Grant) Held {
			n.closed[g.ID] = true
			return Held{Grant: g, Origin: Ours, Ends: g.Expires}
		}, false},
		{"one of somebody else, or of another boot", func(_ *notes, g Grant) Held { return Held{Grant: g, Ends: g.Expires} }, false},
		{"one of the version before, at an upgrade", func(n *notes, g Grant) Held {
			n.upgrade = true
			return Held{Grant: g, Origin: Earlier, Ends: g.Expires}
		}, true},
		{"one of the version before, later", func(_ *notes, g Grant) Held { return Held{Grant: g, Origin: Earlier, Ends: g.Expires} }, false},
		{"one without an id", func(_ *notes, g Grant) Held {
			g.ID = ""
			return Held{Grant: g, Origin: Ours, Ends: g.Expires}
		}, false},
		{"one of a client that the door does not know so", func(_ *notes, g Grant) Held {
			g.Client = prefix("192.0.2.0/24")
			return Held{Grant: g, Origin: Ours, Ends: g.Expires}
		}, false},
		{"one, and it is not known which were closed", func(n *notes, g Grant) Held {
			n.unknown = errors.New("the file is damaged")
			return all(n, g)
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				backend := &faulty{Memory: NewMemory()}
				n := &notes{closed: map[string]bool{}}
				guard := Guard{Doors: []Door{ssh, vpn}}
				if err := backend.Guard(t.Context(), guard, nil); err != nil {
					t.Fatal(err)
				}
				g := Grant{ID: "abcd2345", Door: "ssh", Client: prefix(alice + "/32"), Opened: time.Now(), Expires: time.Now().Add(10 * time.Second)}
				backend.Put(tt.element(n, g))
				h := newHouse(t, backend)
				h.Remember(n)
				if err := h.Configure(t.Context(), guard); err != nil {
					t.Fatal(err)
				}
				if !tt.adopted {
					h.mustSay()
					h.mustHold()
					return
				}
				h.mustSay("grant.adopted ssh " + alice)
				held, err := backend.Memory.Read(t.Context())
				if err != nil || len(held) != 1 || held[0].Origin != Ours || !held[0].Ends.Equal(g.Expires) || held[0].ID != g.ID {
					t.Errorf("the firewall holds %+v, %v", held, err)
				}
				time.Sleep(10 * time.Second)
				h.mustHold()
				h.mustSay("grant.closed ssh " + alice + " expired")
			})
		})
	}
}

// Somebody loads a saved ruleset that contains the closed grant, while the gate runs and while
// it does not.
func TestAClosedGrantStaysClosedWhateverClosedIt(t *testing.T) {
	for reason, end := range map[string]func(*house, Grant) error{
		ByAdmin: func(h *house, g Grant) error { return h.Close(h.t.Context(), g.ID) },
		BySequence: func(h *house, g Grant) error {
			_, err := h.Open(h.t.Context(), OpenRequest{Client: g.Client.Addr(), Closes: []string{"ssh"}})
			return err
		},
		Banned: func(h *house, g Grant) error {
			return h.Ban(h.t.Context(), []Ban{{g.Client, time.Now().Add(time.Minute)}}, true)
		},
		DoorRemoved: func(h *house, g Grant) error { return h.Configure(h.t.Context(), Guard{Doors: []Door{vpn}}) },
		Unguarding:  func(h *house, g Grant) error { return h.Unguard(h.t.Context()) },
	} {
		t.Run(reason, func(t *testing.T) {
			inHouse(t, func(t *testing.T, h *house) {
				n := &notes{closed: map[string]bool{}}
				h.Remember(n)
				saved := h.mustOpen(alice, "ssh")[0]
				other := h.mustOpen(bob, "vpn")[0]
				h.said()
				if err := end(h, saved); err != nil {
					t.Fatal(err)
				}
				if got := h.said(); !slices.Contains(got, "grant.closed ssh "+alice+" "+reason) {
					t.Errorf("events %q", got)
				}
				if !n.closed[saved.ID] || n.closed[other.ID] && reason != Unguarding {
					t.Errorf("remembered as closed: %v", n.closed)
				}
				if err := h.Configure(t.Context(), Guard{Doors: []Door{ssh, vpn}}); err != nil {
					t.Fatal(err)
				}
				h.backend.Put(Held{Grant: saved, Origin: Ours, Ends: saved.Expires.Add(time.Minute)})
				synctest.Wait()
				if held := h.held(); slices.Contains(held, "ssh "+alice) {
					t.Errorf("the firewall lets through %q", held)
				}
			})
		})
	}
}

func TestTheTimeOfASuspendCountsForGrants(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.mustOpen(alice, "ssh") // 30 s
		h.mustOpen(bob, "vpn")   // a minute
		h.said()
		h.backend.Suspend(40 * time.Second)
		time.Sleep(pollInterval)
		synctest.Wait()
		h.mustHold("vpn " + bob)
		if got := h.said(); !slices.Contains(got, "grant.closed ssh "+alice+" expired") {
			t.Errorf("events %q", got)
		}
		time.Sleep(10 * time.Second)
		h.mustHold()
	})
}

// Somebody deletes grants unnoticed. Configure puts them back; if it fails, the gate puts the
// earlier guard back with them.
func TestConfigurePutsMissingGrantsBack(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.mustOpen(alice, "ssh")
		h.said()
		h.backend.Memory.Unguard(t.Context())
		if err := h.Configure(t.Context(), Guard{Doors: []Door{ssh}}); err != nil {
			t.Fatal(err)
		}
		h.mustHold("ssh " + alice)
		h.mustSay()
		once := true
		h.backend.after = func(op string) error {
			if op == "guard" && once {
				once = false
				return errors.New("lost")
			}
			return nil
		}
		if err := h.Configure(t.Context(), Guard{Doors: []Door{vpn}}); err == nil {
			t.Fatal("no error")
		}
		h.mustHold("ssh " + alice)
		h.mustSay()
	})
}

// If one of the doors to close does not exist, none is closed.
func TestASequenceClosesAllItsDoorsOrNone(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.mustOpen(alice, "ssh")
		h.said()
		_, err := h.Open(t.Context(), OpenRequest{Client: netip.MustParseAddr(alice), Doors: []string{"vpn"}, Closes: []string{"ssh", "gone"}})
		if !errors.Is(err, ErrNoDoor) {
			t.Errorf("error %v", err)
		}
		h.mustSay()
		h.mustOpen(bob, "vpn") // commits what was left in the plan, if anything
		h.mustSay("grant.opened vpn " + bob)
		h.mustHold("ssh "+alice, "vpn "+bob)
	})
}

// fails makes the given operations fail so many times.
func (h *house) fails(n int, ops ...string) {
	h.backend.setFail(func(op string, _ []Change) error {
		if n > 0 && slices.Contains(ops, op) {
			n--
			return errors.New("no luck")
		}
		return nil
	})
}

func TestATransactionThatFailsOnceIsRetried(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.fails(1, "commit")
		h.mustOpen(alice, "ssh")
		h.mustHold("ssh " + alice)
		h.mustSay("grant.opened ssh " + alice)
	})
}

// The kernel has carried out the transaction, but its answer was lost.
func TestATransactionWhoseAnswerIsLostLeavesOneGrant(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		once := true
		h.backend.after = func(op string) error {
			if op == "commit" && once {
				once = false
				return errors.New("lost")
			}
			return nil
		}
		g := h.mustOpen(alice, "ssh")[0]
		held, err := h.backend.Memory.Read(t.Context())
		if err != nil || len(held) != 1 || held[0].ID != g.ID {
			t.Errorf("the firewall holds %+v, %v; want %s", held, err, g.ID)
		}
		grants, err := h.Grants(t.Context())
		if err != nil || len(grants) != 1 || grants[0].ID != g.ID {
			t.Errorf("grants %+v, %v", grants, err)
		}
	})
}

func TestAnUnsignalledChangeIsFoundByPolling(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.mustOpen(alice, "vpn")
		h.said()
		h.backend.Memory.Unguard(t.Context())
		time.Sleep(pollInterval)
		h.mustSay("repair")
		h.mustHold("vpn " + alice)
	})
}

func TestSessionsAreCutWhenAndOnlyWhenTheirGrantEnds(t *testing.T) {
	cut, keep := vpn, ssh
	cut.Established = Cut
	for _, tt := range []struct {
		name string
		end  func(*house, Grant) error
		want string
	}{
		{"it expires", func(h *house, g Grant) error { time.Sleep(time.Until(g.Expires)); return nil }, "vpn " + alice},
		{"it is closed", func(h *house, g Grant) error { return h.Close(h.t.Context(), g.ID) }, "vpn " + alice},
		{"it goes on", func(*house, Grant) error { return nil }, ""},
		{"its client needs none", func(h *house, g Grant) error {
			err := h.Configure(h.t.Context(), Guard{Doors: []Door{cut, keep}, Allow: []netip.Prefix{prefix("192.0.2.0/24")}})
			return errors.Join(err, h.Close(h.t.Context(), g.ID))
		}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inHouse(t, func(t *testing.T, h *house) {
				if err := h.Configure(t.Context(), Guard{Doors: []Door{cut, keep}}); err != nil {
					t.Fatal(err)
				}
				h.mustOpen(alice, "ssh")
				if err := tt.end(h, h.mustOpen(alice, "vpn")[0]); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				h.backend.mu.Lock()
				defer h.backend.mu.Unlock()
				if got := strings.Join(h.backend.cut, ","); got != tt.want {
					t.Errorf("reset the sessions of %q, want %q", got, tt.want)
				}
			})
		})
	}
}

func TestTheEventOfAnEndHasItsReasonAndTime(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		var all []Event
		h.mu.Lock()
		h.hear = func(e Event) { all = append(all, e) }
		h.mu.Unlock()
		g := h.mustOpen(alice, "ssh")[0]
		opened := time.Now()
		time.Sleep(10 * time.Second)
		h.Close(t.Context(), g.ID)
		closed := time.Now()
		g = h.mustOpen(alice, "ssh")[0]
		time.Sleep(ssh.TTL)
		synctest.Wait()
		for i, want := range []Event{{Kind: Opened, Time: opened}, {Kind: Closed, Time: closed, Reason: ByAdmin}, {Kind: Opened, Time: closed}, {Kind: Closed, Time: g.Expires, Reason: Expired}} {
			if got := all[i]; got.Kind != want.Kind || !got.Time.Equal(want.Time) || got.Reason != want.Reason {
				t.Errorf("event %d: %+v, want %+v", i, got, want)
			}
		}
	})
}

func TestSubmitAfterTheStopReturnsErrStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(NewMemory(), nil, func(Event) {})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { g.Run(ctx) })
		cancel()
		wg.Wait()
		var got []error
		for range 2 * maxRequests { // more than the queue holds: none waits for ever
			g.Submit(OpenRequest{Client: netip.MustParseAddr(alice), Doors: []string{"ssh"}}, func(_ []Grant, err error) { got = append(got, err) })
		}
		if len(got) != 2*maxRequests || slices.ContainsFunc(got, func(err error) bool { return !errors.Is(err, ErrStopped) }) {
			t.Errorf("%d answers, the last %v", len(got), got[len(got)-1:])
		}
	})
}

func TestByNamesTheProcess(t *testing.T) {
	for by, want := range map[By]string{{"nft", 7}: "nft (process 7)", {}: "an unknown process"} {
		if got := fmt.Sprint(by); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// expelling is a backend that records who is expelled when.
type expelling struct {
	*Memory
	began    time.Time
	expelled []string // time since began, clients
	ended    []string // time since began, client
}

func (x *expelling) Expel(_ context.Context, intruders []Grant) error {
	var clients []string
	for _, i := range intruders {
		clients = append(clients, i.Client.Addr().String())
	}
	slices.Sort(clients)
	x.expelled = append(x.expelled, fmt.Sprint(time.Since(x.began), clients))
	return nil
}

func (x *expelling) EndSessions(_ context.Context, grants []Grant) error {
	for _, g := range grants {
		x.ended = append(x.ended, fmt.Sprint(time.Since(x.began), " ", g.Client.Addr()))
	}
	return nil
}

func TestIntrudersAreExpelledTwiceHoweverOftenTheyComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend := &expelling{Memory: NewMemory(), began: time.Now()}
		terminator := newSessionTerminator(backend, slog.New(slog.DiscardHandler))
		stop := terminator.start(t.Context())
		for range 3 {
			terminator.expel([]Grant{{Door: "ssh", Client: prefix(alice + "/32")}})
		}
		time.Sleep(20 * time.Millisecond)
		for range 3 {
			terminator.expel([]Grant{{Door: "ssh", Client: prefix(alice + "/32")}, {Door: "ssh", Client: prefix(bob + "/32")}})
		}
		terminator.add([]Grant{{Door: "vpn", Client: prefix(alice + "/32")}})
		time.Sleep(time.Second)
		terminator.expel([]Grant{{Door: "ssh", Client: prefix(bob + "/32")}})
		stop()
		want := []string{
			"0s [192.0.2.1]", "50ms [192.0.2.1 192.0.2.2]", "100ms [192.0.2.1 192.0.2.2]",
			"1.02s [192.0.2.2]", "1.07s [192.0.2.2]",
		}
		if !slices.Equal(backend.expelled, want) {
			t.Errorf("expelled %q, want %q", backend.expelled, want)
		}
		if want := []string{"50ms 192.0.2.1"}; !slices.Equal(backend.ended, want) {
			t.Errorf("ended the sessions of %q, want %q", backend.ended, want)
		}
	})
}
