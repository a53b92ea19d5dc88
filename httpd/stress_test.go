package httpd

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// manyLoops makes listeners use several event loops, however many processors this
// machine has.
func manyLoops(t *testing.T) {
	before := runtime.GOMAXPROCS(4)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
}

// descriptors counts those of this process.
func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// serveUntil starts a listener. What it returns closes it, and waits until
// nothing of it runs any more.
func serveUntil(t *testing.T, o Options) (l *Listener, end func()) {
	t.Helper()
	l, err := Listen(t.Context(), "127.0.0.1:0", o)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(l.Serve)
	return l, func() {
		l.Close()
		wg.Wait()
	}
}

// knock sends a head, in pieces if so wanted, and returns what comes back until
// the connection ends.
func knock(l *Listener, head func(local netip.AddrPort) string, pieces int) (got []byte, err error) {
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	text := head(addrPort(conn.LocalAddr()))
	for i := range pieces {
		if _, err := io.WriteString(conn, text[i*len(text)/pieces:(i+1)*len(text)/pieces]); err != nil {
			return nil, err
		}
		runtime.Gosched()
	}
	conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	return io.ReadAll(conn)
}

// While options change, and with them the kind of reader, each knock of a client is posted once,
// in order, and before the client sees the reset.
func TestKnocksKeepTheirOrderWhileOptionsChange(t *testing.T) {
	manyLoops(t)
	const clients, knocks = 8, 60
	var mu sync.Mutex
	var posted [clients][]int
	options := func(c Cover, source Source) Options {
		return Options{Max: 1000, Cover: c, Clients: Clients{Source: source}, Log: slog.New(slog.DiscardHandler), Post: func(k Knock) {
			var client, n int
			remote := k.Remote.String()
			r, err := open(k)
			if err == nil {
				_, err = fmt.Sscanf(r.URL.Path, "/%d/%d", &client, &n)
			}
			if err != nil || r.Host != remote {
				t.Errorf("knock %+v, %v, from %v", r, err, remote)
				return
			}
			mu.Lock()
			posted[client] = append(posted[client], n)
			mu.Unlock()
		}}
	}
	all := []Options{options(Drop{}, Peer), options(Status{Code: 404}, Peer), options(Drop{}, ProxyProtocol), options(Drop{}, XRealIP)}
	first, end := serveUntil(t, all[0])
	end() // what the runtime opens once is open
	before := descriptors(t)
	l, end := serveUntil(t, all[0])
	var over atomic.Bool
	var changes, work sync.WaitGroup
	changes.Go(func() {
		for i := 0; !over.Load(); i++ {
			l.Use(all[i%len(all)])
			runtime.Gosched()
		}
	})
	for client := range clients {
		work.Go(func() {
			for n := range knocks {
				got, err := knock(l, func(local netip.AddrPort) string {
					return fmt.Sprintf("GET /%d/%d HTTP/1.1\r\nHost: %v\r\n\r\n", client, n, local)
				}, 1+n%3)
				if len(got) > 0 && !strings.HasPrefix(string(got), "HTTP/1.1 404 ") || len(got) == 0 && !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("knock %d of %d: %q, %v", n, client, got, err)
				}
				mu.Lock()
				if len(posted[client]) != n+1 || posted[client][n] != n {
					t.Errorf("after knock %d of %d, posted: %d", n, client, posted[client])
				}
				mu.Unlock()
				if t.Failed() {
					return
				}
			}
		})
	}
	work.Wait()
	over.Store(true)
	changes.Wait()
	end()
	if n := l.pending.Len() + first.pending.Len(); n > 0 {
		t.Errorf("%d connections are still being read", n)
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

// Loops reset connections that other loops wait for, and descriptors are reused at
// once. Still nobody's bytes are taken for somebody else's.
func TestAnEvictedConnectionIsNeverTakenForANewOne(t *testing.T) {
	manyLoops(t)
	const clients, knocks = 16, 50
	var posted atomic.Int64
	o := Options{Max: 4, Log: slog.New(slog.DiscardHandler), Post: func(k Knock) {
		remote := k.Remote.String()
		if r, err := open(k); err != nil || r.Host != remote {
			t.Errorf("knock %+v, %v, from %v", r, err, remote)
		}
		posted.Add(1)
	}}
	_, end := serveUntil(t, o)
	end()
	before := descriptors(t)
	l, end := serveUntil(t, o)
	var work, slow sync.WaitGroup
	send := func(format string, n int) {
		got, err := knock(l, func(local netip.AddrPort) string { return fmt.Sprintf(format, strings.Repeat("a", n), local) }, 1+n%3)
		// A slow one may come too late, or be reset between two pieces.
		if len(got) > 0 || !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%q, %v", got, err)
		}
	}
	for range clients {
		work.Go(func() {
			for n := range knocks {
				slow.Go(func() { send("GET /%s HTTP/1.1\r\nHost: %v\r\n", n) })
				send("GET /%s HTTP/1.1\r\nHost: %v\r\n\r\n", n)
			}
		})
	}
	work.Wait()
	end()
	slow.Wait()
	if l.Refused().Evicted.Load() == 0 || posted.Load() == 0 || l.pending.Len() > 0 {
		t.Errorf("%d evicted, %d knocks, %d connections still being read", l.Refused().Evicted.Load(), posted.Load(), l.pending.Len())
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

func TestOtherOptionsHoldForTheNextConnection(t *testing.T) {
	manyLoops(t)
	drop, _ := listenWith(t, Options{})
	constant := drop.service.Load().Options
	constant.Cover = Status{Code: 404}
	dropping := drop.service.Load().Options
	for i := range 100 {
		drop.Use(dropping)
		for drop.pending.Len() > 0 { // of the round before
			runtime.Gosched()
		}
		// This connection keeps the options that it came under.
		waiting := dial(t, drop)
		io.WriteString(waiting, "GET /waiting HTTP/1.1\r\n")
		for drop.pending.Len() == 0 {
			runtime.Gosched()
		}
		drop.Use(constant)
		got, err := knock(drop, func(netip.AddrPort) string { return "GET /a HTTP/1.1\r\nHost: h\r\n\r\n" }, 1)
		if !strings.HasPrefix(string(got), "HTTP/1.1 404 ") || err != nil {
			t.Fatalf("round %d: %q, %v", i, got, err)
		}
		io.WriteString(waiting, "Host: h\r\n\r\n")
		mustReset(t, waiting)
	}
}

func TestCloseUnderLoadEndsAllConnections(t *testing.T) {
	manyLoops(t)
	for name, cover := range map[string]Cover{"drop": Drop{}, "status": Status{Code: 404}} {
		o := Options{Max: 1000, Cover: cover, Log: slog.New(slog.DiscardHandler), Post: func(k Knock) { k.Release() }}
		_, end := serveUntil(t, o)
		end()
		before := descriptors(t)
		l, end := serveUntil(t, o)
		var work sync.WaitGroup
		for i := range 32 {
			work.Go(func() {
				for {
					_, err := knock(l, func(netip.AddrPort) string { return "GET /a HTTP/1.1\r\nHost: h\r\n\r\n"[i%3:] }, 1)
					if errors.Is(err, syscall.ECONNREFUSED) {
						return
					}
				}
			})
		}
		for range 32 {
			work.Go(func() { knock(l, func(netip.AddrPort) string { return "GET /incomplete" }, 1) })
		}
		for l.pending.Len() < 8 {
			runtime.Gosched()
		}
		end()
		end() // once more does no harm
		work.Wait()
		if after := descriptors(t); l.pending.Len() > 0 || after > before {
			t.Errorf("%s: %d connections still being read, %d descriptors, %d before", name, l.pending.Len(), after, before)
		}
	}
}
