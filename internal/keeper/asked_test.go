package keeper

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"webknock/config"
	"webknock/firewall"
	"webknock/internal/event"
	"webknock/internal/onetime"
	"webknock/internal/onetime/onetimetest"
	"webknock/internal/seam"
	"webknock/internal/seam/seamtest"
	"webknock/internal/ticket"
)

// guarded is a configuration whose every part somebody may want more of.
const guarded = `
listeners: [{address: "127.0.0.1:1"}]
doors:
  - {name: ssh, ports: [22/tcp], ttl: 10s, max_ttl: 20s, max_grants: 3}
  - {name: web, ports: [8443/tcp], ttl: 10s, max_ttl: 1m}
  - {name: other, ports: [5432/tcp]}
sequences:
  - {name: plain, steps: [/a, /b], opens: [web]}
  - {name: code, steps: ["/k/{totp}"], users: [alice], opens: [ssh]}
  - {name: ticket, steps: ["/t/{ticket}"], opens: [ssh, web]}
  - {name: anywhere, steps: ["/u/{ticket}"], users: [alice], opens: [web], allow_address: true}
users:
  - {name: alice, totp_file: alice.totp}
  - {name: bob, totp_file: bob.totp}
firewall: {allow: [192.168.0.0/16, "2001:db8:a::/48"]}
shield: {ban: {knocks: 20, within: 1m, for: 10m}, decoys: [/wp-login.php]}
`

// askedKeeper returns a keeper whose gate keeps doors in memory, as far as a front can
// ask it for something.
func askedKeeper(t testing.TB, text string) *Keeper {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"w.yaml": text, "alice.totp": "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ", "bob.totp": "MFRGGZDFMZTWQ2LKNNWG23TPOBYXE43U",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := config.Load(filepath.Join(dir, "w.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	k := New(Options{Log: log, Level: new(slog.LevelVar)})
	k.gate = firewall.NewGate(firewall.NewMemory(), log, func(e firewall.Event) {})
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		k.gate.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-stopped
	})
	k.front = checkedFront{new(seamtest.Front), k}
	k.codes = newCodes(onetimetest.NewMemory())
	listeners := []listener{{Address: "127.0.0.1:1"}}
	if err := k.gate.Configure(ctx, guardOf(cfg, listeners)); err != nil {
		t.Fatal(err)
	}
	k.adopt(cfg, listeners)
	return k
}

// opens returns the doors that a completion opens, with for whom and how long.
func opens(t testing.TB, k *Keeper, c seam.Completion) string {
	t.Helper()
	k.Complete(c)
	grants, err := k.gate.Grants(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, g := range grants {
		all = append(all, fmt.Sprintf("%s for %s %v", g.Door, g.Client.Addr(), time.Until(g.Expires).Round(time.Second)))
		if err := k.gate.Close(t.Context(), g.ID); err != nil {
			t.Fatal(err)
		}
	}
	return strings.Join(all, ", ")
}

func TestAFrontOpensOnlyWhatItsSequencesOpen(t *testing.T) {
	k := askedKeeper(t, guarded)
	now := time.Now()
	alice, bob := ticket.NewKey([]byte("12345678901234567890")).ID, ticket.NewKey([]byte("abcdefghijklmnopqrst")).ID
	used := onetime.NewUsed()
	used.Of(alice).Counter = counterOf(now)
	used.Of(bob).Counter = counterOf(now)
	next := byte(0)
	fresh := func(id ticket.KeyID) *seam.Code {
		next++
		used.Of(id).Tickets[ticket.Nonce{next}] = now.Unix()
		return &seam.Code{Secret: id, Ticket: ticket.Nonce{next}}
	}
	code := &seam.Code{Secret: alice, Counter: counterOf(now)}
	somebody := netip.MustParseAddr("192.0.2.7")
	by := func(change func(*seam.Completion)) seam.Completion {
		c := seam.Completion{Sequence: "ticket", Client: somebody, At: now, User: "alice", Code: fresh(alice), Ticket: &ticket.Request{}}
		change(&c)
		return c
	}
	plain := seam.Completion{Sequence: "plain", Client: somebody, At: now}
	with := func(c seam.Completion, change func(*seam.Completion)) seam.Completion {
		change(&c)
		return c
	}
	address := func(s string) func(*seam.Completion) {
		return func(c *seam.Completion) { c.Client = netip.MustParseAddr(s) }
	}
	asks := func(r ticket.Request) func(*seam.Completion) { return func(c *seam.Completion) { c.Ticket = &r } }
	tests := []struct {
		name string
		c    seam.Completion
		want string
	}{
		{"a plain sequence", plain, "web for 192.0.2.7 10s"},
		{"no sequence", with(plain, func(c *seam.Completion) { c.Sequence = "" }), ""},
		{"a sequence that there is not", with(plain, func(c *seam.Completion) { c.Sequence = "other" }), ""},
		{"a name that is none", with(plain, func(c *seam.Completion) { c.Sequence = strings.Repeat("x", 60000) }), ""},
		{"nobody", with(plain, func(c *seam.Completion) { c.Client = netip.Addr{} }), ""},
		{"an unspecified address", with(plain, address("0.0.0.0")), ""},
		{"an unspecified address of IPv6", with(plain, address("::")), ""},
		{"a multicast address", with(plain, address("224.0.0.1")), ""},
		{"an address with a zone", with(plain, address("fe80::1%eth0")), ""},
		{"IPv4 written as IPv6", with(plain, address("::ffff:192.0.2.7")), ""},
		{"a user for nothing", with(plain, func(c *seam.Completion) { c.User = "alice" }), ""},
		{"a user with a code", with(plain, func(c *seam.Completion) { c.User, c.Code = "alice", code }), ""},
		{"a ticket for nothing", with(plain, func(c *seam.Completion) { c.Ticket = &ticket.Request{} }), ""},
		{"a code that was not asked for", with(plain, func(c *seam.Completion) { c.Code = code }), ""},

		{"no code where one is asked for", seam.Completion{Sequence: "code", Client: somebody, At: now}, ""},
		{"a user without a code", seam.Completion{Sequence: "code", Client: somebody, At: now, User: "alice"}, ""},
		{"a code that was not used", seam.Completion{Sequence: "code", Client: somebody, At: now, User: "alice", Code: &seam.Code{Secret: alice, Counter: counterOf(now) + 1}}, ""},
		{"a code", seam.Completion{Sequence: "code", Client: somebody, At: now, User: "alice", Code: code}, "ssh for 192.0.2.7 10s"},
		{"the same code", seam.Completion{Sequence: "code", Client: somebody, At: now, User: "alice", Code: code}, ""},
		{"a user whom the sequence does not admit", seam.Completion{Sequence: "code", Client: somebody, At: now, User: "bob", Code: &seam.Code{Secret: bob, Counter: counterOf(now)}}, ""},
		{"a ticket in a sequence of codes", seam.Completion{Sequence: "code", Client: somebody, At: now, User: "alice", Code: fresh(alice), Ticket: &ticket.Request{TTL: time.Hour}}, ""},

		{"a ticket", by(func(*seam.Completion) {}), "ssh for 192.0.2.7 10s, web for 192.0.2.7 10s"},
		{"a ticket of another user", by(func(c *seam.Completion) { c.User = "bob" }), ""},
		{"one door", by(asks(ticket.Request{Doors: []string{"web"}})), "web for 192.0.2.7 10s"},
		{"a door that the sequence does not open", by(asks(ticket.Request{Doors: []string{"other"}})), ""},
		{"a door that there is not", by(asks(ticket.Request{Doors: []string{"none"}})), ""},
		{"a door twice", by(asks(ticket.Request{Doors: []string{"web", "web"}})), ""},
		{"all the time there is", by(asks(ticket.Request{TTL: 1 << 62})), "ssh for 192.0.2.7 20s, web for 192.0.2.7 1m0s"},
		{"less than no time", by(asks(ticket.Request{TTL: -1})), ""},
		{"another address", by(asks(ticket.Request{Address: netip.MustParseAddr("192.0.2.8")})), ""},
		{"another address where that is allowed", by(func(c *seam.Completion) {
			c.Sequence, c.Ticket = "anywhere", &ticket.Request{Address: netip.MustParseAddr("192.0.2.8")}
		}), "web for 192.0.2.8 10s"},
		{"everybody", by(func(c *seam.Completion) {
			c.Sequence, c.Ticket = "anywhere", &ticket.Request{Address: netip.MustParseAddr("0.0.0.0")}
		}), ""},
		{"this host", by(func(c *seam.Completion) {
			c.Sequence, c.Ticket = "anywhere", &ticket.Request{Address: netip.MustParseAddr("127.0.0.1")}
		}), ""},
	}
	if _, err := k.UsedCodes(); err != nil {
		t.Fatal(err)
	}
	if err := k.RecordCodes(used); err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		if got := opens(t, k, tt.c); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	if k.asked.count() == 0 {
		t.Error("no refusal is counted")
	}
}

func TestAFrontBansOnlyWhomTheConfigurationBans(t *testing.T) {
	k := askedKeeper(t, guarded)
	now := time.Now()
	ban := func(client string, change func(*seam.Ban)) seam.Ban {
		b := seam.Ban{Ban: firewall.Ban{Client: netip.MustParsePrefix(client), Until: now.Add(10 * time.Minute)}, At: now, Reason: event.TooManyKnocks}
		change(&b)
		return b
	}
	nothing := func(*seam.Ban) {}
	for _, tt := range []struct {
		name string
		ban  seam.Ban
		want bool
	}{
		{"a client", ban("198.51.100.1/32", nothing), true},
		{"a client of IPv6", ban("2001:db8::/64", nothing), true},
		{"for a decoy", ban("198.51.100.2/32", func(b *seam.Ban) { b.Reason = event.Decoy }), true},
		{"for no reason", ban("198.51.100.3/32", func(b *seam.Ban) { b.Reason = "I do not like it" }), false},
		{"an allowed client", ban("192.168.1.1/32", nothing), false},
		{"an allowed client of IPv6", ban("2001:db8:a:1::/64", nothing), false},
		{"a network", ban("198.51.100.0/24", nothing), false},
		{"everybody", ban("0.0.0.0/0", nothing), false},
		{"a single address of IPv6", ban("2001:db8::1/128", nothing), false},
		{"more of IPv6", ban("2001:db8::/32", nothing), false},
		{"bits beyond the prefix", ban("2001:db8::1/64", nothing), false},
		{"nobody", seam.Ban{Ban: firewall.Ban{Until: now.Add(time.Minute)}, Reason: event.Decoy}, false},
		{"in the past", ban("198.51.100.4/32", func(b *seam.Ban) { b.Until = now.Add(-time.Second) }), false},
	} {
		k.Ban(tt.ban)
		if got := k.bans.list.Remove(tt.ban.Client); got != tt.want {
			t.Errorf("%s: banned %v, want %v", tt.name, got, tt.want)
		}
	}
	k.Ban(ban("198.51.100.9/32", func(b *seam.Ban) { b.Until = now.Add(10000 * time.Hour) }))
	if all := k.bans.list.All(); len(all) != 1 || all[0].Until.After(time.Now().Add(10*time.Minute)) {
		t.Errorf("bans %v", all)
	}
	without := askedKeeper(t, strings.Replace(guarded, "ban: {knocks: 20, within: 1m, for: 10m}, ", "", 1))
	without.Ban(ban("198.51.100.1/32", nothing))
	if all := without.bans.list.All(); len(all) != 0 {
		t.Errorf("though nobody is banned for knocks: %v", all)
	}
}

func TestAFrontTellsOnlyOfKnocksThatThereMayBe(t *testing.T) {
	k := askedKeeper(t, guarded)
	cfg, listeners, now := k.config.Load(), k.currentListeners(), time.Now()
	good := event.Knock{At: now, Client: netip.MustParseAddr("192.0.2.7"), Listener: "127.0.0.1:1", Outcome: event.Matched, Sequence: "plain", Step: 1, Steps: 2, Why: "it takes its client to step 1 of 2"}
	with := func(change func(*event.Knock)) event.Knock {
		k := good
		change(&k)
		return k
	}
	if got, ok := publishable(cfg, listeners, good, now); !ok || got != good {
		t.Errorf("%+v, %v", got, ok)
	}
	for name, knock := range map[string]event.Knock{
		"nobody's":                with(func(k *event.Knock) { k.Client = netip.Addr{} }),
		"of an unknown outcome":   with(func(k *event.Knock) { k.Outcome = "a label" }),
		"with a long reason":      with(func(k *event.Knock) { k.Why = strings.Repeat("x", 1000) }),
		"with lines":              with(func(k *event.Knock) { k.Why = "a\nb" }),
		"with terminal sequences": with(func(k *event.Knock) { k.Why = "\x1b[2J" }),
		"of a step beyond":        with(func(k *event.Knock) { k.Step = 3 }),
		"of a negative step":      with(func(k *event.Knock) { k.Step = -1 }),
	} {
		if got, ok := publishable(cfg, listeners, knock, now); ok {
			t.Errorf("%s: %+v", name, got)
		}
	}
	got, ok := publishable(cfg, listeners, with(func(k *event.Knock) {
		k.Listener, k.Sequence, k.At = "198.51.100.1:1", "gone", now.Add(time.Hour)
	}), now)
	if !ok || got.Listener != "" || got.Sequence != "" || got.Step != 0 || !got.At.Equal(now) {
		t.Errorf("of another configuration: %+v, %v", got, ok)
	}
}

// No label of a metric and no line of a log is a stranger's.
func TestTheStateOfAFrontHasNothingOfItsOwn(t *testing.T) {
	k := askedKeeper(t, guarded)
	f := &seamtest.Front{Status: seam.State{
		Clients: -5, Bans: 3, Problems: slices.Repeat([]string{"a\nb" + strings.Repeat("x", 5000)}, 1000),
		Losses: []seam.Loss{{Kind: "a label\n"}},
		Knocks: []seam.KnockCount{
			{Listener: "127.0.0.1:1", Outcome: event.Missed, Count: 1}, {Listener: "127.0.0.1:1", Outcome: "odd"}, {Listener: "x", Outcome: event.Missed},
		},
		Connections: []seam.ConnectionCount{{Listener: "127.0.0.1:1", Open: 2}, {Listener: "127.0.0.1:1", Open: -2}, {Listener: "y"}},
	}}
	for i := range 100 {
		f.Status.Losses = append(f.Status.Losses, seam.Loss{Kind: fmt.Sprint("k", i), Message: "m\x1b"})
	}
	s := checkedFront{f, k}.State()
	if s.Clients != 0 || s.Bans != 3 || len(s.Problems) != maxProblems || len(s.Problems[0]) > maxLine || strings.Contains(s.Problems[0], "\n") {
		t.Errorf("clients %d, bans %d, %d problems", s.Clients, s.Bans, len(s.Problems))
	}
	if len(s.Losses) != maxLosses-1 || s.Losses[0].Message != "m " || len(s.Knocks) != 1 || len(s.Connections) != 1 || s.Connections[0].Open != 2 {
		t.Errorf("%d losses, knocks %+v, connections %+v", len(s.Losses), s.Knocks, s.Connections)
	}
}

func TestAFrontListsOnlyProgressThatClientsCanHave(t *testing.T) {
	k := askedKeeper(t, guarded)
	good := seam.Client{Client: netip.MustParsePrefix("192.0.2.7/32"), Sequence: "plain", Step: 1, Steps: 2}
	with := func(change func(*seam.Client)) seam.Client {
		c := good
		change(&c)
		return c
	}
	f := &seamtest.Front{All: []seam.Client{
		good, with(func(c *seam.Client) { c.Client = netip.Prefix{} }), with(func(c *seam.Client) { c.Sequence = "\x1b[2J" }),
		with(func(c *seam.Client) { c.Step = 3 }), with(func(c *seam.Client) { c.Step = -1 }), with(func(c *seam.Client) { c.Step, c.Steps = 40, 50 }),
	}}
	if all, err := (checkedFront{f, k}).Clients(t.Context()); err != nil || len(all) != 1 || all[0] != good {
		t.Errorf("%+v, %v", all, err)
	}
}

func TestABucketBoundsARate(t *testing.T) {
	now := time.Unix(1, 0)
	b := newBucket(10, 5)
	taken := func(n int) (ok int) {
		for range n {
			if b.take(now) {
				ok++
			}
		}
		return ok
	}
	if got := taken(10); got != 5 {
		t.Errorf("at once %d", got)
	}
	now = now.Add(200 * time.Millisecond)
	if got := taken(10); got != 2 {
		t.Errorf("after 200 ms %d", got)
	}
	now = now.Add(-time.Hour) // somebody sets the clock
	if got := taken(10); got != 0 {
		t.Errorf("earlier %d", got)
	}
	now = now.Add(2 * time.Hour)
	if got := taken(10); got != 5 {
		t.Errorf("after an hour %d", got)
	}
}

func TestAFrontThatAsksTooOftenGetsNoMore(t *testing.T) {
	k := askedKeeper(t, guarded)
	k.asked.completions, k.asked.bans, k.asked.knocks, k.asked.loads = newBucket(0, 2), newBucket(0, 2), newBucket(0, 2), newBucket(0, 2)
	for i := range 5 {
		at := netip.AddrFrom4([4]byte{198, 51, 100, byte(i)})
		k.Complete(seam.Completion{Sequence: "plain", Client: at, At: time.Now()})
		k.Ban(seam.Ban{Ban: firewall.Ban{Client: firewall.Offender(at), Until: time.Now().Add(time.Minute)}, Reason: event.Decoy})
		k.Knocks(nil, 0)
		k.UsedCodes()
	}
	grants, err := k.gate.Grants(t.Context())
	if err != nil || len(grants) != 2 || len(k.bans.list.All()) != 2 || k.asked.count() != 4*3 {
		t.Errorf("%d grants, %d bans, %d refusals, %v", len(grants), len(k.bans.list.All()), k.asked.count(), err)
	}
}

// A flood of refused completions pushes nothing out of the log and the history.
func TestAFloodOfRefusalsIsToldInSums(t *testing.T) {
	k := New(Options{Log: slog.New(slog.DiscardHandler)})
	events := k.events.Subscribe(1<<14, event.KindGrantRefused)
	const flood = 10 * refusalsInHour
	for range flood {
		k.refuse(event.GrantRefused{Completion: event.Completion{Sequence: "none"}, Err: errNoSequence})
	}
	told, missed, err := events.Next(t.Context())
	if n := len(told); err != nil || missed > 0 || n < refusalsInHour || n > refusalsInHour+10 || k.untold.n.Load() != uint64(flood-n) {
		t.Errorf("%d are told and %d counted, %d missed, %v", n, k.untold.n.Load(), missed, err)
	}
}
