package nft

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"webknock/firewall"
	"webknock/firewall/firewalltest"
	"webknock/integration/lab"
)

func TestMain(m *testing.M) {
	lab.Enter()
	os.Exit(m.Run())
}

var ssh, vpn = firewalltest.SSH, firewalltest.VPN

func TestNFTablesKeepTheContract(t *testing.T) {
	firewalltest.Run(t, func(t *testing.T) firewall.Backend { return newBackend(t) })
}

func newBackend(t testing.TB) *Backend {
	t.Helper()
	b, err := New(Options{Table: "webknock", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Unguard(t.Context()); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
		b.Close()
		nft(t, "flush ruleset")
	})
	return b
}

func guard(t testing.TB, b *Backend, doors ...firewall.Door) {
	t.Helper()
	if err := b.Guard(t.Context(), firewall.Guard{Doors: doors, Mark: 0x40000000}, nil); err != nil {
		t.Fatal(err)
	}
}

// nft runs the nft program.
func nft(t testing.TB, command string) string {
	t.Helper()
	args := []string{"-f", "-"}
	if rest, ok := strings.CutPrefix(command, "-a "); ok { // with handles
		args, command = append(args, "-a"), rest
	}
	cmd := exec.Command("nft", args...)
	cmd.Stdin = strings.NewReader(command)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("nft %s: %v\n%s", command, err, out)
	}
	return string(out)
}

func set(t testing.TB, b *Backend, grants ...firewall.Grant) {
	t.Helper()
	var changes []firewall.Change
	for _, g := range grants {
		changes = append(changes, firewall.Change{Grant: g})
	}
	if err := b.Commit(t.Context(), changes); err != nil {
		t.Fatal(err)
	}
}

// held returns the grants in force as "door client".
func held(t testing.TB, b *Backend) (held []string) {
	t.Helper()
	grants, err := b.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range grants {
		held = append(held, g.Door+" "+g.Client.String())
	}
	slices.Sort(held)
	return held
}

func TestTheTableEqualsTheGoldenFile(t *testing.T) {
	b := newBackend(t)
	guard(t, b, ssh, vpn)
	got := nft(t, "list table inet webknock")
	want, err := os.ReadFile("testdata/table.nft")
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the table is\n%s\nwant\n%s", got, want)
	}
}

func TestASecondBackendReadsTheGrantsOfTheFirst(t *testing.T) {
	b := newBackend(t)
	guard(t, b, ssh, vpn)
	want := firewalltest.Grant("ssh", "192.0.2.1", time.Minute)
	set(t, b, want, firewalltest.Grant("vpn", "2001:db8::1", time.Hour))
	if got := held(t, b); !slices.Equal(got, []string{"ssh 192.0.2.1/32", "vpn 2001:db8::1/128"}) {
		t.Errorf("grants %v", got)
	}
	// A second backend, as after a restart, reads them.
	second := newBackend(t)
	guard(t, second, ssh, vpn)
	grants, err := second.Read(t.Context())
	if err != nil || len(grants) != 2 {
		t.Fatalf("%v, %v", grants, err)
	}
	for _, got := range grants {
		if got.Door != "ssh" {
			continue
		}
		if got.ID != want.ID || got.Sequence != want.Sequence || got.User != want.User || !got.Opened.Equal(want.Opened) ||
			got.Expires.Sub(want.Expires).Abs() > time.Second {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

func TestOneTransactionHoldsManyGrants(t *testing.T) {
	b := newBackend(t)
	guard(t, b, ssh)
	var grants []firewall.Grant
	addr := netip.MustParseAddr("10.0.0.0")
	for range 5000 {
		addr = addr.Next()
		grants = append(grants, firewalltest.Grant("ssh", addr.String(), time.Hour))
	}
	set(t, b, grants...)
	if got := len(held(t, b)); got != len(grants) {
		t.Errorf("%d grants, want %d", got, len(grants))
	}
}

func TestGuardKeepsGrantsAndDeletesRemovedDoors(t *testing.T) {
	b := newBackend(t)
	guard(t, b, ssh, vpn)
	set(t, b, firewalltest.Grant("ssh", "192.0.2.1", time.Minute), firewalltest.Grant("vpn", "192.0.2.1", time.Minute))
	guard(t, b, vpn)
	if got := held(t, b); !slices.Equal(got, []string{"vpn 192.0.2.1/32"}) {
		t.Errorf("grants %v", got)
	}
	if list := nft(t, "list table inet webknock"); strings.Contains(list, "ssh") {
		t.Errorf("the door is gone, but not from the table:\n%s", list)
	}
}

func TestChangesOfTheTableByOthersAreNoticed(t *testing.T) {
	for _, command := range []string{
		"flush ruleset",
		"delete table inet webknock",
		"delete table inet webknock\nadd table inet webknock",
		"flush chain inet webknock input",
		"flush chain inet webknock forward",
		"flush chain inet webknock door_ssh",
		"insert rule inet webknock door_ssh accept",
		"add chain inet webknock input { policy drop; }",
		"add chain inet webknock extra",
	} {
		t.Run(command, func(t *testing.T) {
			b := newBackend(t)
			guard(t, b, ssh)
			set(t, b, firewalltest.Grant("ssh", "192.0.2.1", time.Minute))
			if err := b.Check(t.Context()); err != nil {
				t.Fatal(err)
			}
			for len(b.changed) > 0 {
				<-b.changed
			}
			nft(t, command)
			if err := b.Check(t.Context()); !errors.Is(err, firewall.ErrNotGuarded) {
				t.Errorf("check: %v", err)
			}
			select {
			case <-b.Changed():
			case <-time.After(5 * time.Second):
				t.Error("no change was signalled")
			}
			if err := b.Guard(t.Context(), *b.guard, []firewall.Grant{firewalltest.Grant("ssh", "192.0.2.1", time.Minute)}); err != nil {
				t.Fatal(err)
			}
			if got := held(t, b); !slices.Equal(got, []string{"ssh 192.0.2.1/32"}) {
				t.Errorf("grants %v", got)
			}
		})
	}
}

func TestAForeignTableOfThatNameIsRebuilt(t *testing.T) {
	for _, command := range []string{
		"add table inet webknock\nadd set inet webknock ssh4 { type inet_service; }",
		"add table inet webknock\nadd chain inet webknock input { type filter hook prerouting priority 0; }",
		"add table inet webknock { flags dormant; }",
	} {
		b := newBackend(t)
		nft(t, "flush ruleset\n"+command)
		guard(t, b, ssh)
		if err := b.Check(t.Context()); err != nil {
			t.Error(err)
		}
		if list := nft(t, "list table inet webknock"); !strings.Contains(list, "hook input priority mangle") || strings.Contains(list, "hook prerouting") || strings.Contains(list, "dormant") {
			t.Errorf("after %s:\n%s", command, list)
		}
	}
}

func TestUnguardRemovesTheTable(t *testing.T) {
	b := newBackend(t)
	guard(t, b, ssh)
	for range 2 {
		if err := b.Unguard(t.Context()); err != nil {
			t.Fatal(err)
		}
		if list := nft(t, "list ruleset"); strings.Contains(list, "webknock") {
			t.Errorf("left over:\n%s", list)
		}
	}
	if err := b.Check(t.Context()); !errors.Is(err, firewall.ErrNotGuarded) {
		t.Errorf("check: %v", err)
	}
}

func TestADoorWithTheReservedNameIsRefused(t *testing.T) {
	b := newBackend(t)
	if err := b.Guard(t.Context(), firewall.Guard{Doors: []firewall.Door{{Name: "before"}}}, nil); err == nil {
		t.Error("no error")
	}
}

func TestACommentIsReadAsWrittenWhateverTheNames(t *testing.T) {
	for _, name := range []string{"", "alice", "a b", "quote\"", "new\nline", "nul\x00", "ü", strings.Repeat("x", 300), "id=evil"} {
		g := firewall.Grant{ID: "abcd2345", Sequence: name, User: name, Opened: time.UnixMilli(1234)}
		now := clock()
		g.Expires, g.Packets, g.Bytes = now.wall.Add(time.Minute), 1<<63, 1<<63
		text := comment(g, now)
		var got firewall.Held
		parseComment(text, &got, now)
		if got.Origin != firewall.Ours || got.Expires.Sub(g.Expires).Abs() > time.Millisecond {
			t.Errorf("%q: %+v", name, got)
		}
		if len(text) > 200 || got.ID != g.ID || !got.Opened.Equal(g.Opened) || got.Sequence != clean(name) {
			t.Errorf("%q: comment %q reads %+v", name, text, got)
		}
	}
}

// everything is a guard with every kind of door.
var everything = firewall.Guard{
	Doors: []firewall.Door{
		ssh,
		{Name: "cut", Ports: []firewall.Ports{{Protocol: firewall.TCP, First: 80, Last: 90}}, Established: firewall.Cut, Connections: 3, MaxGrants: 10, Prefix4: 24, Prefix6: 64},
		{Name: "four", Ports: []firewall.Ports{{Protocol: firewall.TCP, First: 100, Last: 100}, {Protocol: firewall.UDP, First: 100, Last: 110}}, Forward: netip.MustParseAddrPort("10.0.0.5:22"), MaxGrants: 10},
		{Name: "six", Ports: []firewall.Ports{{Protocol: firewall.TCP, First: 101, Last: 101}}, Forward: netip.MustParseAddrPort("[2001:db8::5]:22"), MaxGrants: 10},
	},
	Mark: 0x1,
	Shield: firewall.Shield{BanPorts: []uint16{80, 443}, RatePorts: []uint16{443}, Rate: 20, Per: time.Second, Burst: 40,
		Exempt: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}},
	Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("255.255.255.255/32"), netip.MustParsePrefix("2001:db8::/32")},
}

// The printed file loads as the table that Guard writes. Loading it again keeps the grants.
func TestThePrintedFileLoadsAsTheTable(t *testing.T) {
	sets := everything
	sets.Mode = firewall.Sets
	sets.Doors = slices.Clone(sets.Doors)
	sets.Doors[1].Established = firewall.Keep
	for name, g := range map[string]firewall.Guard{"everything": everything, "sets": sets, "plain": {Doors: []firewall.Door{ssh, vpn}, Mark: 0x40000000}} {
		t.Run(name, func(t *testing.T) {
			b := newBackend(t)
			if err := b.Guard(t.Context(), g, nil); err != nil {
				t.Fatal(err)
			}
			if err := b.Check(t.Context()); err != nil {
				t.Error(err)
			}
			written := nft(t, "list table inet webknock")
			var file strings.Builder
			if err := Print(&file, "webknock", g); err != nil {
				t.Fatal(err)
			}
			if err := b.Unguard(t.Context()); err != nil {
				t.Fatal(err)
			}
			nft(t, file.String())
			if loaded := nft(t, "list table inet webknock"); loaded != written {
				t.Errorf("printed:\n%s\nloads as\n%s\nwant\n%s", &file, loaded, written)
			}
			if err := b.Guard(t.Context(), g, nil); err != nil {
				t.Fatal(err)
			}
			set(t, b, firewalltest.Grant("ssh", "192.0.2.1", time.Minute))
			nft(t, file.String())
			if err := b.Guard(t.Context(), g, nil); err != nil {
				t.Fatal(err)
			}
			if got := held(t, b); !slices.Equal(got, []string{"ssh 192.0.2.1/32"}) {
				t.Errorf("grants %v", got)
			}
		})
	}
}

func TestATableDeletedAndRestoredByOthersIsNoticed(t *testing.T) {
	b := newBackend(t)
	guard(t, b, ssh)
	saved := nft(t, "list table inet webknock")
	set(t, b, firewalltest.Grant("ssh", "192.0.2.1", time.Minute))
	nft(t, "flush ruleset\n"+saved)
	if err := b.Check(t.Context()); !errors.Is(err, firewall.ErrNotGuarded) {
		t.Errorf("check: %v", err)
	}
}

// A full set refuses another ban. The doors and the bans in it are unaffected.
func TestAFullSetOfBansHarmsNothing(t *testing.T) {
	b := newBackend(t)
	if err := b.Guard(t.Context(), everything, nil); err != nil {
		t.Fatal(err)
	}
	bans := make([]firewall.Ban, setSize+1)
	for i := range bans {
		client := netip.AddrFrom4([4]byte{198, byte(18 + i>>16), byte(i >> 8), byte(i)})
		bans[i] = firewall.Ban{Client: firewall.Offender(client), Until: time.Now().Add(time.Hour)}
	}
	for part := range slices.Chunk(bans[:setSize], 4096) {
		var elements []string
		for _, ban := range part {
			elements = append(elements, ban.Client.Addr().String()+" timeout 1h")
		}
		nft(t, "add element inet webknock banned.4 { "+strings.Join(elements, ", ")+" }")
	}
	if err := b.Ban(t.Context(), bans[setSize:]); err == nil {
		t.Error("one ban too many is accepted")
	}
	if err := b.Ban(t.Context(), bans[:1]); err != nil {
		t.Errorf("extending a ban: %v", err)
	}
	if held, foreign, err := b.Bans(t.Context()); err != nil || len(held) != 1 || len(foreign) != setSize-1 {
		t.Errorf("%d bans, %d of others, %v", len(held), len(foreign), err)
	}
	set(t, b, firewalltest.Grant("ssh", "192.0.2.1", time.Minute))
	if err := b.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if err := b.Guard(t.Context(), everything, nil); err != nil {
		t.Error(err)
	}
	if held, foreign, err := b.Bans(t.Context()); err != nil || len(held) != 1 || len(foreign) != setSize-1 {
		t.Errorf("%d bans, %d of others after Guard was called again, %v", len(held), len(foreign), err)
	}
	bans[0].Until = time.Time{}
	for _, ban := range []firewall.Ban{bans[0], bans[setSize]} {
		if err := b.Ban(t.Context(), []firewall.Ban{ban}); err != nil {
			t.Errorf("lifting one ban and adding another: %v", err)
		}
	}
}
