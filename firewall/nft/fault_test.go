package nft

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"webknock/firewall"
	"webknock/firewall/firewalltest"
)

// clients returns changes that open a grant for each of n clients.
func clients(n int) (changes []firewall.Change) {
	addr := netip.MustParseAddr("10.0.0.0")
	for range n {
		addr = addr.Next()
		changes = append(changes, firewall.Change{Grant: firewalltest.Grant("ssh", addr.String(), time.Hour)})
	}
	return changes
}

// A call may fail before the kernel has received the messages, or after. Either way it returns
// the error, and later calls work.
func TestACallAfterAnErrorWorks(t *testing.T) {
	for _, errno := range []error{syscall.EPERM, syscall.ENOBUFS, syscall.ENOMEM, syscall.EINTR, syscall.EAGAIN, syscall.EBUSY, os.ErrDeadlineExceeded, errors.New("garbage")} {
		for _, said := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v, kernel has received it: %v", errno, said), func(t *testing.T) {
				b := newBackend(t)
				guard(t, b, ssh)
				failing := true
				b.fault = func(what string, after bool) error {
					if failing && after == said {
						failing = false
						return errno
					}
					return nil
				}
				grant := firewalltest.Grant("ssh", "192.0.2.1", time.Minute)
				err := b.Commit(t.Context(), []firewall.Change{{Grant: grant}})
				want := []string{}
				if said {
					want = append(want, "ssh 192.0.2.1/32")
				}
				if errno == syscall.ENOBUFS && said { // Commit reads back that the kernel has done it
					if err != nil {
						t.Errorf("the change took effect, but the error is %v", err)
					}
				} else if !errors.Is(err, errno) {
					t.Errorf("error %v, want %v", err, errno)
				}
				if got := held(t, b); !slices.Equal(got, want) && len(got)+len(want) > 0 {
					t.Errorf("grants %q, want %q", got, want)
				}
				for _, step := range []struct {
					name string
					do   func() error
				}{
					{"guard", func() error { return b.Guard(t.Context(), *b.guard, nil) }},
					{"check", func() error { return b.Check(t.Context()) }},
					{"read", func() error { _, err := b.Read(t.Context()); return err }},
					{"unguard", func() error { return b.Unguard(t.Context()) }},
				} {
					failing = true
					first := step.do()
					failing = false
					if step.name == "unguard" {
						guard(t, b, ssh)
					}
					if second := step.do(); second != nil {
						t.Errorf("%s failed with %v, and again with %v", step.name, first, second)
					}
				}
			})
		}
	}
}

// The kernel carries out a transaction and sends more answers than fit into the socket's
// buffer, so some are lost.
func TestACommitSucceedsThoughAnswersAreLost(t *testing.T) {
	b := newBackend(t)
	b.closeConn()
	b.buffer = 1 // the kernel raises it to its minimum
	var doors []firewall.Door
	for i := range 100 {
		door := ssh
		door.Name, door.Ports = fmt.Sprint("door", i), []firewall.Ports{{Protocol: firewall.TCP, First: uint16(1000 + i), Last: uint16(1000 + i)}}
		doors = append(doors, door)
	}
	doors = append(doors, ssh)
	if err := b.Guard(t.Context(), firewall.Guard{Doors: doors, Mark: 1}, nil); err != nil {
		t.Fatal(err)
	}
	changes := clients(1000)
	if err := b.Commit(t.Context(), changes); err != nil {
		t.Fatal(err)
	}
	if n := len(held(t, b)); n != len(changes) {
		t.Errorf("%d grants, want %d", n, len(changes))
	}
	if err := b.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAFullSetOfGrantsIsAnErrorAndChangesNothing(t *testing.T) {
	b := newBackend(t)
	b.timeout = time.Minute // the race detector makes reading 65,536 grants slow
	guard(t, b, ssh)
	changes := clients(setSize)
	for part := range slices.Chunk(changes, 8192) {
		if err := b.Commit(t.Context(), part); err != nil {
			t.Fatal(err)
		}
	}
	one := firewalltest.Grant("ssh", "192.0.2.1", time.Minute)
	for _, isNew := range []bool{false, true} {
		if err := b.Commit(t.Context(), []firewall.Change{{Grant: one, New: isNew}}); !errors.Is(err, firewall.ErrFull) {
			t.Errorf("error %v", err)
		}
	}
	if n := len(held(t, b)); n != setSize {
		t.Errorf("%d grants, want %d", n, setSize)
	}
	// A full set can also be put back after the table was deleted.
	var grants []firewall.Grant
	for _, c := range changes {
		grants = append(grants, c.Grant)
	}
	nft(t, "flush ruleset")
	began := time.Now()
	if err := b.Guard(t.Context(), *b.guard, grants); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d grants put back in %v", len(grants), time.Since(began))
	if n := len(held(t, b)); n != setSize {
		t.Errorf("%d grants, want %d", n, setSize)
	}
	changes[0].Close = true
	if err := b.Commit(t.Context(), []firewall.Change{changes[0]}); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := b.Commit(t.Context(), []firewall.Change{{Grant: one}}); err != nil {
		t.Errorf("open in the place that became free: %v", err)
	}
}

func TestACommitFailsIfTheTableWasDeleted(t *testing.T) {
	b := newBackend(t)
	guard(t, b, ssh)
	nft(t, "flush ruleset")
	if err := b.Commit(t.Context(), clients(1)); !errors.Is(err, firewall.ErrNotGuarded) {
		t.Errorf("error %v", err)
	}
	if list := nft(t, "list ruleset"); strings.Contains(list, "webknock") {
		t.Errorf("a part of the table was created:\n%s", list)
	}
}

// The kernel sends more events than fit into the buffer of the monitor's socket.
func TestAChangeIsNoticedAfterEventsWereLost(t *testing.T) {
	b := newBackend(t)
	guard(t, b, ssh)
	other, err := New(Options{Table: "other", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	guard(t, other, ssh)
	for part := range slices.Chunk(clients(40_000), 8192) {
		if err := other.Commit(t.Context(), part); err != nil {
			t.Fatal(err)
		}
	}
	nft(t, "delete table inet webknock")
	deadline := time.After(10 * time.Second)
	for !errors.Is(b.Check(t.Context()), firewall.ErrNotGuarded) {
		select {
		case <-b.Changed():
		case <-deadline:
			t.Fatal("the change was not noticed")
		}
	}
	guard(t, b, ssh)
	nft(t, "flush ruleset")
	for { // the monitor still watches
		select {
		case <-b.Changed():
			return
		case <-deadline:
			t.Fatal("no change is signalled any more")
		}
	}
}

// Otherwise the gate would read the table after every grant that it commits, and after every
// change of any other firewall on the host.
func TestOnlyChangesOfOthersToTheTableAreSignalled(t *testing.T) {
	b := newBackend(t)
	guard(t, b, ssh)
	other, err := New(Options{Table: "webknock", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for len(other.Changed()) == 0 || len(b.Changed()) == 0 { // until both backends watch
		for _, backend := range []*Backend{b, other} {
			guard(t, backend, ssh, vpn)
			guard(t, backend, ssh)
		}
	}
	for by := (firewall.By{}); by.Process != "nft"; by = <-b.Changed() { // read all earlier changes
		nft(t, "add element inet webknock ssh4 { 192.0.2.99 }; delete element inet webknock ssh4 { 192.0.2.99 }")
	}
	for len(other.Changed()) == 0 {
		runtime.Gosched()
	}
	for i, change := range clients(100) {
		<-other.Changed()
		if err := b.Commit(t.Context(), []firewall.Change{change}); err != nil {
			t.Fatal(err)
		}
		for len(other.Changed()) == 0 { // until the kernel has sent the event to all monitors
			runtime.Gosched()
		}
		if len(b.Changed()) > 0 {
			t.Fatalf("its own change %d was signalled", i)
		}
	}
	nft(t, "add table inet other; add set inet other s { type ipv4_addr; }; add element inet other s { 192.0.2.1 }")
	nft(t, "add table ip webknock; add chain ip webknock guard; delete table ip webknock") // the same name in another family
	if err := b.Commit(t.Context(), clients(1)); err != nil {
		t.Fatal(err)
	}
	<-other.Changed() // events arrive in order, so b has seen the earlier ones too
	if len(b.Changed()) > 0 {
		t.Error("a change of another table was signalled")
	}
	nft(t, "add table inet other; add element inet other s { 192.0.2.2 }; add element inet webknock ssh4 { 192.0.2.99 }; add element inet other s { 192.0.2.3 }")
	if by := <-b.Changed(); by.Process != "nft" || by.PID == 0 {
		t.Errorf("changed by %v, want nft", by)
	}
}

// mute delays the kernel's answers until answer is called.
func mute(b *Backend) (asked <-chan struct{}, answer func()) {
	heard, silence := make(chan struct{}), make(chan struct{})
	var first sync.Once
	b.fault = func(string, bool) error {
		first.Do(func() { close(heard) })
		<-silence
		return nil
	}
	return heard, sync.OnceFunc(func() { close(silence) })
}

func TestCloseDoesNotWaitForAKernelThatDoesNotAnswer(t *testing.T) {
	b := newBackend(t)
	guard(t, b, ssh)
	asked, answer := mute(b)
	checked := make(chan error)
	go func() { checked <- b.Check(context.Background()) }()
	<-asked
	if err := b.Close(); err == nil {
		t.Error("closed while the kernel does not answer")
	}
	answer()
	if err := <-checked; err != nil {
		t.Error(err)
	}
}

// A call ends with its context even if the kernel does not answer, and so does a call that
// waits for the first one. When the kernel answers at last, the first call takes effect.
func TestACallEndsWithItsContext(t *testing.T) {
	b := newBackend(t)
	guard(t, b, ssh)
	grant := firewalltest.Grant("ssh", "192.0.2.1", time.Minute)
	for _, c := range []struct {
		name string
		call func(context.Context) error
	}{
		{"guard", func(ctx context.Context) error { return b.Guard(ctx, *b.guard, nil) }},
		{"commit", func(ctx context.Context) error { return b.Commit(ctx, []firewall.Change{{Grant: grant}}) }},
		{"check", b.Check},
		{"read", func(ctx context.Context) error { _, err := b.Read(ctx); return err }},
		{"traffic", func(ctx context.Context) error { _, err := b.Traffic(ctx, []firewall.Grant{grant}); return err }},
		{"ban", func(ctx context.Context) error { return b.Ban(ctx, nil) }},
		{"end sessions", func(ctx context.Context) error { return b.EndSessions(ctx, []firewall.Grant{grant}) }},
		{"expel", func(ctx context.Context) error { return b.Expel(ctx, []firewall.Grant{grant}) }},
		{"sessions", func(ctx context.Context) error { _, err := b.Sessions(ctx); return err }},
		{"unguard", b.Unguard},
	} {
		t.Run(c.name, func(t *testing.T) {
			asked, answer := mute(b)
			defer answer()
			ctx, cancel := context.WithCancel(t.Context())
			first := make(chan error)
			go func() { first <- b.Commit(ctx, []firewall.Change{{Grant: grant}}) }()
			<-asked
			second := make(chan error)
			go func() { second <- c.call(ctx) }()
			cancel()
			for _, result := range []chan error{first, second} {
				if err := <-result; !errors.Is(err, context.Canceled) {
					t.Errorf("error %v", err)
				}
			}
			if err := b.Problem(); err != nil {
				t.Error(err)
			}
			answer()
			if got := held(t, b); !slices.Equal(got, []string{"ssh 192.0.2.1/32"}) {
				t.Errorf("grants %q", got)
			}
		})
	}
}
