package keeper

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"webknock/firewall"
	"webknock/internal/event"
	"webknock/internal/notice"
)

var (
	alice = netip.MustParseAddr("192.0.2.7")
	grant = firewall.Grant{ID: "g1", Door: "ssh", Client: netip.PrefixFrom(alice, 32), Sequence: "ssh", User: "ann", Expires: time.Unix(1e9, 0).UTC()}
	made  = event.Completion{Sequence: "ssh", Client: alice, Address: netip.MustParseAddr("192.0.2.8"), User: "ann", Message: "hi"}
)

func TestTheLogLinesOfEvents(t *testing.T) {
	for _, tt := range []struct {
		event event.Event
		want  string
	}{
		{made, `level=INFO msg="sequence completed" sequence=ssh client=192.0.2.7 user=ann address=192.0.2.8 message=hi`},
		{event.Completion{Sequence: "x", Client: alice, Address: alice}, `level=INFO msg="sequence completed" sequence=x client=192.0.2.7`},
		{event.GrantRefused{Completion: made, Doors: []string{"ssh"}, Err: firewall.ErrFull}, `doors=[ssh] closes=[] error=`},
		{event.GrantRefused{Completion: event.Completion{Sequence: "x", Client: alice, Address: alice, User: "bob"}, Err: errNotPermitted}, `level=ERROR msg="not let in" sequence=x client=192.0.2.7 user=bob error="by the`},
		{event.GrantOpened{Grant: grant}, `level=INFO msg="grant opened" door=ssh client=192.0.2.7 grant=g1 sequence=ssh user=ann expires=2001-09-09T01:46:40.000Z`},
		{event.GrantExtended{Grant: grant}, `msg="grant extended" door=ssh`},
		{event.GrantAdopted{Grant: grant}, `msg="grant adopted" door=ssh`},
		{event.GrantClosed{Grant: grant, Reason: "expired"}, `msg="grant closed" door=ssh client=192.0.2.7 grant=g1 sequence=ssh user=ann reason=expired`},
		{event.Repair{Reason: "flushed"}, `level=WARN msg="guard repaired" reason=flushed`},
		{event.Ban{Ban: firewall.Ban{Client: grant.Client, Until: grant.Expires}, Reason: "a decoy"}, `level=WARN msg="client banned" client=192.0.2.7 reason="a decoy" until=2001-09-09`},
		{event.Unban{Client: grant.Client}, `level=INFO msg="ban lifted" client=192.0.2.7`},
		{event.Reload{File: "f"}, `level=INFO msg=reloaded config=f`},
		{event.Reload{File: "f", Err: errors.New("x")}, `level=ERROR msg="not reloaded, the configuration is as it was" error=x`},
	} {
		var out bytes.Buffer
		logEvent(slog.New(slog.NewTextHandler(&out, nil)), tt.event)
		if !strings.Contains(out.String(), tt.want) {
			t.Errorf("%#v: %s, want %s", tt.event, &out, tt.want)
		}
	}
}

func TestWhichEventsAreNotices(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct {
		event event.Event
		want  notice.Event // empty: none
	}{
		{made, notice.Completion},
		{event.GrantOpened{Grant: grant}, notice.Grant},
		{event.GrantExtended{Grant: grant}, ""},
		{event.GrantClosed{Grant: grant}, ""},
		{event.Repair{}, notice.Repair},
		{event.Ban{At: now}, notice.Ban},
		{event.Degraded{}, notice.Degraded},
		{event.Reload{}, ""},
	} {
		n, ok := noticeOf(event.Record{Time: now, Event: tt.event})
		if n.Event != tt.want || ok != (tt.want != "") {
			t.Errorf("%#v: %q", tt.event, n.Event)
		}
	}
}

// locked is a buffer for several goroutines.
type locked struct {
	mu  sync.Mutex
	out bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.String()
}

// A log that is stuck delays no part that publishes, and a stop writes what was
// published before.
func TestASlowLogDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		var out locked
		log := slog.New(slog.NewTextHandler(writer(func(p []byte) (int, error) { <-stuck; return out.Write(p) }), nil))
		k := New(Options{Log: log, DryRun: true})
		cfg := parse(t, strings.Replace(file, "opens: [ssh]", "opens: [ssh], run: [{on: close, command: [/bin/true]}]", 1))
		var err error
		if k.commands, err = k.newCommands(cfg); err != nil {
			t.Fatal(err)
		}
		k.subscribe(t.Context())
		for range 1000 {
			k.events.Publish(event.Repair{Reason: "again"})
		}
		k.events.Publish(event.GrantOpened{Grant: grant})
		synctest.Wait()
		close(stuck)
		k.Stop()
		if n := strings.Count(out.String(), "guard repaired"); n != 1000 || !strings.Contains(out.String(), "grant opened") {
			t.Errorf("%d of 1000 events are in the log", n)
		}
	})
}

type writer func(p []byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// Whatever commands have missed, the gate knows which grants there are.
func TestCommandsRecoverMissedEventsFromTheGate(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	ran := filepath.Join(t.TempDir(), "ran")
	k := New(Options{Log: log, DryRun: true})
	cfg := parse(t, strings.Replace(file, "opens: [ssh]", "opens: [ssh], run: [{on: close, command: [/bin/sh, -c, 'echo $WEBKNOCK_GRANT >>"+ran+"']}]", 1))
	var err error
	if k.commands, err = k.newCommands(cfg); err != nil {
		t.Fatal(err)
	}
	ended := k.events.Subscribe(10, event.KindCommand)
	defer background(t.Context(), k.commands.run)(context.Background())
	k.gate = firewall.NewGate(firewall.NewMemory(), log, func(firewall.Event) {}) // all events are missed
	defer background(t.Context(), k.gate.Run)(context.Background())
	if err := k.gate.Configure(t.Context(), cfg.Firewall.Guard); err != nil {
		t.Fatal(err)
	}
	open, err := k.gate.Open(t.Context(), firewall.OpenRequest{Client: alice, Doors: []string{"ssh"}, Sequence: "ssh"})
	if err != nil {
		t.Fatal(err)
	}
	gone := grant
	gone.ID = "gone"
	k.commands.handle(event.GrantOpened{Grant: gone}) // its end is missed
	k.recoverCommands()
	commandsRan := func(want string) {
		t.Helper()
		for {
			got, _ := os.ReadFile(ran)
			if string(got) == want {
				return
			}
			if t.Context().Err() != nil || len(got) > len(want) {
				t.Fatalf("commands ran for %q, want %q", got, want)
			}
			runtime.Gosched()
		}
	}
	commandsRan("gone\n")
	// The grant that was opened meanwhile is known: its end has its command too.
	if err := k.gate.Close(t.Context(), open[0].ID); err != nil {
		t.Fatal(err)
	}
	k.recoverCommands()
	commandsRan("gone\n" + open[0].ID + "\n")
	var events []string
	for len(events) < 2 {
		records, _, err := ended.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			e := r.Event.(event.Command)
			events = append(events, e.On+" "+e.Grant+" "+e.Result)
		}
	}
	slices.Sort(events) // the two run side by side
	want := []string{"close gone done", "close " + open[0].ID + " done"}
	if slices.Sort(want); !slices.Equal(events, want) {
		t.Errorf("events %q, want %q", events, want)
	}
}

// A flood of completions does not fill the disk, and hides no new grant.
func TestAFloodOfCompletionsHasAFewLines(t *testing.T) {
	k := New(Options{Log: slog.New(slog.DiscardHandler)})
	const flood = 50_000
	lines := 0
	for range flood {
		if k.hasLine(event.Completion{Sequence: "s"}) {
			lines++
		}
		if !k.hasLine(event.GrantOpened{}) {
			t.Fatal("a new grant has no line")
		}
	}
	if lines < 10_000 || lines > 15_000 || k.missed.log.n.Load() != uint64(flood-lines) {
		t.Errorf("%d lines, %d missed", lines, k.missed.log.n.Load())
	}
}
