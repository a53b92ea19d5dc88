package client

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pquerna/otp/totp"
)

var secret = []byte("12345678901234567890")

// In the bubble of a test it is midnight, the beginning of a period.
func TestEachCodeIsReturnedOnce(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		p := &Profile{Secret: secret, Steps: []Step{{Path: "/k/{totp}"}}}
		begin := time.Now()
		var waits []time.Duration
		announce := func(until time.Time) { waits = append(waits, until.Sub(begin)) }
		for i := range 4 {
			c := newCodes(p) // as a program that is started again
			path, err := c.path(t.Context(), p.Steps[0], announce)
			if err != nil {
				t.Fatal(err)
			}
			want, err := totp.GenerateCode("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ", begin.Add(time.Duration(i)*30*time.Second))
			if err != nil || path != "/k/"+want {
				t.Errorf("code %d: %s, want %s (%v)", i, path, want, err)
			}
		}
		// Two codes count at once; each further one waits for its period.
		if len(waits) != 2 || waits[0] != 30*time.Second || waits[1] != 60*time.Second {
			t.Errorf("waited until %v", waits)
		}
	})
}

func TestWaitingForACodeEndsWithTheContext(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		c := newCodes(&Profile{Secret: secret})
		for range 2 {
			if _, err := c.totp(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.totp(ctx, func(time.Time) {}); err == nil {
			t.Error("a third code")
		}
	})
}

func TestTheFirstOfTwoCodesWaitsForBoth(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		c := newCodes(&Profile{Secret: secret})
		if _, err := c.totp(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if err := c.await(t.Context(), 2, func(time.Time) {}); err != nil || time.Since(begin) != 30*time.Second {
			t.Errorf("waited %v, %v", time.Since(begin), err)
		}
	})
}
