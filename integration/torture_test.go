package integration

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"webknock/integration/lab"
)

var tortureTime = flag.Duration("torture", 20*time.Second, "how long each torture test lasts")

// torture is a daemon to which all sorts of things happen, and what its clients
// count meanwhile.
type torture struct {
	*world
	until   time.Time
	mu      sync.Mutex
	windows []window // in which doors may be open to all

	opens, renewals, closes, expiries, lost, silent, passed, excused atomic.Int64
}

type window struct{ from, to time.Time }

// A door is never open to a client without a grant, except between a flush and its repair, and
// never closed to a client with a grant.
func TestTorture(t *testing.T) {
	for _, owner := range []bool{false, true} {
		t.Run(fmt.Sprint("owner ", owner), func(t *testing.T) {
			w := newWorld(t)
			w.listen(22)
			config := standard + fmt.Sprintf("firewall: {owner: %v}\n", owner)
			w.serve(config)
			x := &torture{world: w, until: time.Now().Add(*tortureTime)}
			var clients sync.WaitGroup
			for _, c := range []struct {
				from         *lab.Host
				addr, server string
			}{{w.alice, aliceIP, serverIP}, {w.mallory, malloryIP, serverIP}, {w.alice, aliceIP6, serverIP6}} {
				clients.Go(func() { x.client(c.from, c.addr, c.server) })
			}
			flushes, kills, stops, reloads := 0, 0, 0, 0
			var longest time.Duration
			for time.Now().Before(x.until) {
				pause := time.NewTimer(time.Duration(rand.IntN(1500)) * time.Millisecond)
				<-pause.C
				switch rand.IntN(4) {
				case 0:
					flushes++
					x.mu.Lock()
					began := time.Now()
					w.nft("flush", "ruleset")
					if !owner {
						until(t, "the repair", func() bool { // of which the log tells in sums
							list, err := w.server.Command(t.Context(), "nft", "list", "ruleset").Output()
							return err == nil && strings.Contains(string(list), "goto door_")
						})
						x.windows = append(x.windows, window{began, time.Now()})
						longest = max(longest, time.Since(began))
					}
					x.mu.Unlock()
				case 1:
					kills++
					w.daemon.stop(t, syscall.SIGKILL)
					w.serve(config)
				case 2:
					stops++
					w.daemon.stop(t, syscall.SIGTERM)
					w.serve(config)
				case 3:
					reloads++
					w.daemon.cmd.Process.Signal(syscall.SIGHUP)
				}
			}
			clients.Wait()
			t.Logf("%d opens, %d renewals, %d closes, %d expiries, %d commands lost; %d times silent, %d times passed, %d times open in the window of a flush; %d flushes (longest window %v, with the start of nft), %d kill -9, %d stops, %d reloads",
				x.opens.Load(), x.renewals.Load(), x.closes.Load(), x.expiries.Load(), x.lost.Load(), x.silent.Load(), x.passed.Load(), x.excused.Load(), flushes, longest, kills, stops, reloads)
			if x.silent.Load() == 0 || x.passed.Load() == 0 {
				t.Error("nothing was tried")
			}
		})
	}
}

// client opens, renews, closes and lets expire its own grant, and tries the
// door all the while.
func (x *torture) client(from *lab.Host, addr, server string) {
	command := func(args ...string) bool {
		cmd := x.server.Command(x.t.Context(), binary, append(args, "--socket", filepath.Join(x.dir, "webknock.sock"), "--config", x.config())...)
		return cmd.Run() == nil
	}
	// The kernel's clock and ours, and the time between a command's start and
	// its effect, are apart by less.
	const slack = 300 * time.Millisecond
	const longest = 3 * time.Second
	mustBe := func(open bool, reason string) {
		began := time.Now()
		passed := x.passes(from, server, 22)
		switch {
		case passed == open && open:
			x.passed.Add(1)
		case passed == open:
			x.silent.Add(1)
		case passed && x.excuse(began, time.Now()):
			x.excused.Add(1)
		default:
			x.t.Errorf("%s passes %v, want %v: %s", addr, passed, open, reason)
		}
	}
	after := func(d time.Duration) { // passes the time by trying the closed door, or just waits
		timer := time.NewTimer(d)
		<-timer.C
	}
	for time.Now().Before(x.until) {
		mustBe(false, "it has no grant")
		ttl := time.Second + time.Duration(rand.Int64N(int64(longest-time.Second)))
		began := time.Now()
		if !command("open", "ssh", addr, "--for", ttl.String()) {
			x.lost.Add(1)
			after(longest + slack) // it may have a grant, or not
			continue
		}
		x.opens.Add(1)
		sure := began.Add(ttl)        // until then it has a grant
		latest := time.Now().Add(ttl) // then it has none any more
		for renewals := rand.IntN(3); ; renewals-- {
			for time.Until(sure) > slack+700*time.Millisecond {
				mustBe(true, fmt.Sprintf("it has a grant for another %v", time.Until(sure)))
				after(time.Duration(rand.IntN(200)) * time.Millisecond)
			}
			if renewals <= 0 {
				break
			}
			began := time.Now()
			ok := command("open", "ssh", addr, "--for", ttl.String())
			latest = time.Now().Add(ttl)
			if !ok {
				x.lost.Add(1)
				break
			}
			x.renewals.Add(1)
			sure = began.Add(ttl)
		}
		if rand.IntN(2) == 0 && command("close", "--client", addr) {
			x.closes.Add(1)
			continue
		}
		x.expiries.Add(1)
		after(time.Until(latest) + slack)
	}
}

// excuse reports whether a flush was being repaired at some time between two.
func (x *torture) excuse(from, to time.Time) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, w := range x.windows {
		if from.Before(w.to) && w.from.Before(to) {
			return true
		}
	}
	return false
}
