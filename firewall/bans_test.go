package firewall

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestBansComeBackWithTheGuard(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		ban := func(client string, until time.Time) {
			t.Helper()
			if err := h.Ban(t.Context(), []Ban{{netip.MustParsePrefix(client), until}}, false); err != nil {
				t.Fatal(err)
			}
		}
		shielded := Guard{Doors: []Door{ssh}, Shield: Shield{BanPorts: []uint16{8080}}}
		if err := h.Configure(t.Context(), shielded); err != nil {
			t.Fatal(err)
		}
		later := time.Now().Add(time.Hour)
		ban("192.0.2.66/32", later)
		ban("192.0.2.68/32", later)
		if err := h.Unguard(t.Context()); err != nil {
			t.Fatal(err)
		}
		ban("192.0.2.67/32", later) // while nothing is guarded
		ban("192.0.2.68/32", time.Time{})
		if err := h.Configure(t.Context(), shielded); err != nil {
			t.Fatal(err)
		}
		h.mustSay() // writing bans with a new guard is not a repair
		if bans, foreign, err := h.backend.Bans(t.Context()); err != nil || len(bans) != 2 || len(foreign) != 0 {
			t.Errorf("the firewall holds %v, %v, %v", bans, foreign, err)
		}
		time.Sleep(2 * time.Hour)
		ban("192.0.2.69/32", time.Now().Add(time.Hour))
		if len(h.bans) != 1 {
			t.Errorf("%d bans are kept after their time", len(h.bans))
		}
	})
}

func TestBansAddedByOthersAreDeleted(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		if err := h.Configure(t.Context(), Guard{Doors: []Door{ssh}, Shield: Shield{BanPorts: []uint16{8080}}}); err != nil {
			t.Fatal(err)
		}
		until := time.Now().Add(time.Hour)
		must := func() {
			t.Helper()
			h.mustSay("repair")
			if ours, foreign, err := h.backend.Bans(t.Context()); err != nil || len(foreign) != 0 || !slices.Equal(ours, []Ban{{prefix("192.0.2.66/32"), until}}) {
				t.Errorf("bans %v, of others %v, %v", ours, foreign, err)
			}
		}
		if err := h.Ban(t.Context(), []Ban{{prefix("192.0.2.66/32"), until}}, false); err != nil {
			t.Fatal(err)
		}
		h.backend.PutBan(Ban{prefix("192.0.2.67/32"), until})
		must()
		h.backend.PutBan(Ban{Client: prefix("192.0.2.66/32")})
		must()
		h.backend.PutBan(Ban{prefix("192.0.2.66/32"), until.Add(time.Hour)})
		must()
		time.Sleep(2 * repairsApart) // otherwise the repair is reported in a sum
		h.backend.Memory.Ban(t.Context(), []Ban{{prefix("192.0.2.66/32"), until.Add(time.Hour)}, {prefix("192.0.2.68/32"), until}})
		h.backend.signal()
		must()
	})
}

func TestBansOfAnEarlierRunAreAdopted(t *testing.T) {
	for _, upgrade := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			backend := &faulty{Memory: NewMemory()}
			guard := Guard{Doors: []Door{ssh}, Shield: Shield{BanPorts: []uint16{8080}}}
			until := time.Now().Add(time.Hour)
			err := errors.Join(backend.Guard(t.Context(), guard, nil), backend.Ban(t.Context(), []Ban{{prefix("192.0.2.1/32"), until}}))
			if err != nil {
				t.Fatal(err)
			}
			backend.PutBan(Ban{prefix("192.0.2.2/32"), until}) // without a mark, as an earlier version wrote it
			h := newHouse(t, backend)
			h.Remember(&notes{closed: map[string]bool{}, upgrade: upgrade})
			if err := h.Configure(t.Context(), guard); err != nil {
				t.Fatal(err)
			}
			want := 1
			if upgrade {
				want = 2
			}
			bans, err := h.Bans(t.Context())
			ours, foreign, _ := backend.Bans(t.Context())
			if err != nil || len(bans) != want || len(ours) != want || len(foreign) != 0 {
				t.Errorf("upgrade %v: bans %v, %v; in the firewall %v, of others %v", upgrade, bans, err, ours, foreign)
			}
			h.mustSay()
		})
	}
}

func TestABanThatFailsIsRetried(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		if err := h.Configure(t.Context(), Guard{Doors: []Door{ssh}, Shield: Shield{BanPorts: []uint16{8080}}}); err != nil {
			t.Fatal(err)
		}
		h.mustOpen(alice, "ssh")
		h.said()
		until := time.Now().Add(time.Hour)
		h.backend.setFail(func(op string, _ []Change) error {
			if op == "ban" {
				return errors.New("no luck")
			}
			return nil
		})
		if err := h.Ban(t.Context(), []Ban{{prefix(alice + "/32"), until}}, true); err == nil || !strings.Contains(err.Error(), "no luck") {
			t.Fatalf("error %v", err)
		}
		h.mustSay("grant.closed ssh " + alice + " its client was banned") // closed although the ban failed
		if _, err := h.Guarding(t.Context()); err == nil {
			t.Error("the gate is sure of itself")
		}
		h.backend.setFail(nil)
		time.Sleep(maxRetry)
		synctest.Wait()
		if ours, _, _ := h.backend.Bans(t.Context()); len(ours) != 1 {
			t.Errorf("bans %v", ours)
		}
		h.mustSay() // no repair is reported
		if _, err := h.Guarding(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestABanEndsOnlyGrantsOfItsClient(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.mustOpen(alice, "ssh", "vpn")
		h.mustOpen(bob, "ssh")
		h.said()
		if err := h.Ban(t.Context(), []Ban{{prefix(alice + "/32"), time.Now().Add(time.Hour)}}, false); err != nil {
			t.Fatal(err)
		}
		h.mustSay()
		if err := h.Ban(t.Context(), []Ban{{Client: prefix(alice + "/32")}}, true); err != nil { // lifted
			t.Fatal(err)
		}
		h.mustSay()
		if err := h.Ban(t.Context(), []Ban{{prefix(alice + "/32"), time.Now().Add(time.Hour)}}, true); err != nil {
			t.Fatal(err)
		}
		got := h.said()
		slices.Sort(got)
		if want := []string{"grant.closed ssh " + alice + " " + Banned, "grant.closed vpn " + alice + " " + Banned}; !slices.Equal(got, want) {
			t.Errorf("events %q, want %q", got, want)
		}
		h.mustHold("ssh " + bob)
	})
}

func TestABanThatCannotEndGrantsSaysSo(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.mustOpen(alice, "ssh")
		h.fails(1, "commit")
		if err := h.Ban(t.Context(), []Ban{{prefix(alice + "/32"), time.Now().Add(time.Hour)}}, true); err == nil {
			t.Error("no error")
		}
		time.Sleep(maxRetry)
		synctest.Wait()
		h.mustHold()
	})
}

func TestBansArePutBackAfterAFlush(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		if err := h.Configure(t.Context(), Guard{Doors: []Door{ssh}, Shield: Shield{BanPorts: []uint16{8080}}}); err != nil {
			t.Fatal(err)
		}
		if err := h.Ban(t.Context(), []Ban{{prefix("192.0.2.66/32"), time.Now().Add(time.Hour)}}, false); err != nil {
			t.Fatal(err)
		}
		h.backend.Flush()
		h.mustSay("repair")
		if ours, _, _ := h.backend.Bans(t.Context()); len(ours) != 1 {
			t.Errorf("bans %v", ours)
		}
	})
}
