package firewall

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAFailedRepairIsRetriedEveryTenthOfASecondWithoutEvents(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		var tries []time.Time
		h.backend.setFail(func(op string, _ []Change) error {
			if op == "guard" {
				tries = append(tries, time.Now())
				return errors.New("no luck")
			}
			return nil
		})
		h.backend.Flush()
		time.Sleep(10 * time.Second)
		h.mustSay()
		if guarded, err := h.Guarding(t.Context()); err == nil {
			t.Errorf("guarding: %v, %v", guarded, err)
		}
		for i := range tries[1:] {
			if apart := tries[i+1].Sub(tries[i]); apart > maxExposedRetry {
				t.Fatalf("the pause between two tries is %v", apart)
			}
		}
		if len(tries) < 100 || len(tries) > 110 {
			t.Errorf("%d tries in 10 s", len(tries))
		}
		h.backend.setFail(nil)
		time.Sleep(maxExposedRetry)
		h.mustSay("repair")
		if _, err := h.Guarding(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestFailuresAreRetriedLessAndLessOften(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		reads := 0
		h.backend.setFail(func(op string, _ []Change) error {
			if op == "read" {
				reads++
				return errors.New("no luck")
			}
			return nil
		})
		if _, err := h.Grants(t.Context()); err == nil || !strings.Contains(err.Error(), "no luck") {
			t.Errorf("a read failure is hidden: %v", err)
		}
		if guarded, err := h.Guarding(t.Context()); !guarded || err == nil || !strings.Contains(err.Error(), "no luck") {
			t.Errorf("guarding: %v, %v", guarded, err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if reads < 12 || reads > 30 {
			t.Errorf("the firewall was read %d times in a minute", reads)
		}
		h.backend.setFail(nil)
		time.Sleep(maxRetry)
		if _, err := h.Guarding(t.Context()); err != nil {
			t.Error(err)
		}
		// After the next failure the first retry comes soon again.
		for _, find := range []func(){func() { time.Sleep(pollInterval + time.Second/2) }, func() { h.Grants(t.Context()) }} {
			h.fails(1, "read")
			find()
			time.Sleep(minRetry)
			if _, err := h.Guarding(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
}

// Somebody flushes the ruleset twenty times a second. The guard is put back at once each time,
// but not each repair is reported.
func TestRepairsThatDoNotLastAreReportedInSums(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.mustOpen(alice, "vpn")
		h.said()
		var all []Event
		h.mu.Lock()
		h.hear = func(e Event) { all = append(all, e) }
		h.mu.Unlock()
		for range 20 * 30 {
			h.backend.Flush()
			synctest.Wait()
			h.mustHold("vpn " + alice)
			time.Sleep(50 * time.Millisecond)
		}
		_, err := h.Guarding(t.Context())
		if !errors.Is(err, ErrContested) || !strings.Contains(err.Error(), "firewall.owner: true") || !strings.Contains(err.Error(), "nft (process 4711)") {
			t.Errorf("guarding: %v", err)
		}
		time.Sleep(sumInterval)
		synctest.Wait()
		h.mu.Lock()
		h.hear = nil
		h.mu.Unlock()
		repairs := 0
		for _, e := range all {
			repairs += e.Repairs
			if e.Kind != Repaired || e.Repairs < 1 || !strings.Contains(e.Reason, "nft (process 4711)") {
				t.Errorf("event %+v", e)
			}
		}
		if repairs != 600 || len(all) > 7 {
			t.Errorf("%d events report %d repairs, of 600", len(all), repairs)
		}
		for i := range all[1:] {
			if apart := all[i+1].Time.Sub(all[i].Time); apart > sumInterval {
				t.Errorf("two sums are %v apart", apart)
			}
		}
		time.Sleep(repairsApart)
		if _, err := h.Guarding(t.Context()); err != nil {
			t.Errorf("long after: %v", err)
		}
		if err := h.Configure(t.Context(), Guard{Doors: []Door{ssh}, Owner: true}); err != nil {
			t.Fatal(err)
		}
		for range fewRepairs {
			h.backend.Flush()
			synctest.Wait()
		}
		if _, err := h.Guarding(t.Context()); err != nil {
			t.Errorf("after a few repairs: %v", err)
		}
		h.backend.Flush()
		synctest.Wait()
		if _, err := h.Guarding(t.Context()); !errors.Is(err, ErrContested) || strings.Contains(err.Error(), "firewall.owner") {
			t.Errorf("guarding with an owner: %v", err)
		}
	})
}

func TestRepairsFarApartAreReportedOneByOne(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		for range 3 * fewRepairs {
			h.backend.Flush()
			h.mustSay("repair")
			if _, err := h.Guarding(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(repairsApart + time.Second)
		}
	})
}
