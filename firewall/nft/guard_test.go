package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"webknock/firewall"
	"webknock/firewall/firewalltest"
)

// transactions returns how many transactions the kernel has carried out.
func transactions(t *testing.T, b *Backend) (n uint32) {
	t.Helper()
	err := b.doLocking("read the generation", func(c *nftables.Conn) error {
		const attrID = 1 // NFTA_GEN_ID
		answers, err := b.sock.Execute(b.message(unix.NFT_MSG_GETGEN, netlink.Request))
		if err != nil {
			return err
		}
		ad, err := netlink.NewAttributeDecoder(answers[0].Data[4:])
		if err != nil {
			return err
		}
		ad.ByteOrder = binary.BigEndian
		for ad.Next() {
			if ad.Type() == attrID {
				n = ad.Uint32()
			}
		}
		return ad.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestGuardWritesNothingIfNothingHasChanged(t *testing.T) {
	for name, g := range map[string]firewall.Guard{"everything": everything, "plain": {Doors: []firewall.Door{ssh, vpn}, Mark: 0x40000000}} {
		t.Run(name, func(t *testing.T) {
			b := newBackend(t)
			if err := b.Guard(t.Context(), g, nil); err != nil {
				t.Fatal(err)
			}
			set(t, b, firewalltest.Grant("ssh", "192.0.2.1", time.Minute))
			before := transactions(t, b)
			if err := b.Guard(t.Context(), g, nil); err != nil {
				t.Fatal(err)
			}
			restarted := newBackend(t)
			if err := restarted.Guard(t.Context(), g, nil); err != nil {
				t.Fatal(err)
			}
			if after := transactions(t, b); after != before {
				t.Errorf("%d transactions, want none", after-before)
			}
			for _, b := range []*Backend{b, restarted} {
				if got := held(t, b); !slices.Equal(got, []string{"ssh 192.0.2.1/32"}) {
					t.Errorf("grants %v", got)
				}
			}
			// A difference is written.
			changed := g
			changed.Mark = 0x2
			if err := restarted.Guard(t.Context(), changed, nil); err != nil {
				t.Fatal(err)
			}
			if list := nft(t, "list table inet webknock"); !strings.Contains(list, "0x00000002") {
				t.Errorf("the mark is not changed:\n%s", list)
			}
		})
	}
}

// Networks that stay in a set are not written again when others are added or removed.
func TestOnlyChangedNetworksAreWritten(t *testing.T) {
	b := newBackend(t)
	for _, networks := range []string{
		"10.0.0.0/8 2001:db8::/32",
		"10.0.0.0/8 10.1.0.0/16 192.0.2.1/32 2001:db8::/32",
		"10.0.0.0/8 11.0.0.0/8",
		"10.0.0.0/8",
		"0.0.0.0/1 255.255.255.255/32 ::/1 ffff::/16",
		"0.0.0.0/0 ::/0",
		"128.0.0.0/1 0.0.0.0/32",
		"192.0.2.0/25 192.0.2.128/26 192.0.2.255/32",
		"192.0.2.0/24",
	} {
		g := firewall.Guard{Doors: []firewall.Door{ssh}, Mark: 1}
		var want []string
		for _, n := range strings.Fields(networks) {
			g.Allow = append(g.Allow, netip.MustParsePrefix(n))
		}
		if err := b.Guard(t.Context(), g, nil); err != nil {
			t.Fatalf("%s: %v", networks, err)
		}
		for _, f := range families {
			all, err := allowedNetworks(g.Allow, f)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range all.Ranges() {
				want = append(want, r.String())
			}
			var got []string
			err = b.doLocking("read", func(c *nftables.Conn) error {
				elements, err := c.GetSetElements(b.allowSet(f))
				if err != nil {
					return err
				}
				ranges, err := rangesOf(elements)
				for _, r := range ranges {
					got = append(got, r.String())
				}
				return err
			})
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("%s: the set is %v, %v; want %v", networks, got, err, want)
			}
			want = nil
		}
		before := transactions(t, b)
		if err := b.Guard(t.Context(), g, nil); err != nil || transactions(t, b) != before {
			t.Errorf("%s: written again, %v", networks, err)
		}
	}
	// Networks that somebody else has added or removed are corrected.
	for _, command := range []string{"add element inet webknock allow.4 { 203.0.113.0/24 }", "flush set inet webknock allow.4"} {
		nft(t, command)
		if err := b.Guard(t.Context(), *b.guard, nil); err != nil {
			t.Fatal(err)
		}
		if list := nft(t, "list set inet webknock allow.4"); strings.Contains(list, "203.0.113") || !strings.Contains(list, "192.0.2.0/24") {
			t.Errorf("after %s:\n%s", command, list)
		}
	}
}

// An earlier version guarded at prerouting. Guard changes its table in place and keeps the
// sets with their grants.
func TestTheTableOfAnEarlierVersionIsChangedInPlace(t *testing.T) {
	old, err := os.ReadFile("testdata/before-labels.nft")
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/table.nft")
	if err != nil {
		t.Fatal(err)
	}
	b := newBackend(t)
	nft(t, string(old)+`
add chain inet webknock forward { type nat hook prerouting priority -105; }
add element inet webknock ssh4 { 192.0.2.1 timeout 1m comment "webknock1 id=abcd2345 at=1700000000000 seq=ssh" }`)
	before := nft(t, "-a list set inet webknock ssh4")
	guard(t, b, ssh, vpn)
	if got := held(t, b); !slices.Equal(got, []string{"ssh 192.0.2.1/32"}) {
		t.Errorf("grants %v", got)
	}
	if after := nft(t, "-a list set inet webknock ssh4"); handleOf(after) != handleOf(before) {
		t.Errorf("the set was created again:\n%s\nbefore:\n%s", after, before)
	}
	nft(t, "flush set inet webknock ssh4")
	if got := nft(t, "list table inet webknock"); got != string(want) {
		t.Errorf("the table is\n%s\nwant\n%s", got, want)
	}
}

func handleOf(list string) string {
	_, handle, _ := strings.Cut(list, "ssh4 { # handle ")
	handle, _, _ = strings.Cut(handle, "\n")
	return handle
}

func TestAKernelWithoutLabelsIsGuardedAndReported(t *testing.T) {
	b := newBackend(t)
	b.fault = func(what string, said bool) error {
		if what == "try labels of connections" || what == "guard the doors" && !b.noLabels.Load() {
			return fmt.Errorf("injected: %w", syscall.EOPNOTSUPP)
		}
		return nil
	}
	guard(t, b, ssh)
	if !errors.Is(b.Problem(), errNoLabels) {
		t.Errorf("problem: %v", b.Problem())
	}
	list := nft(t, "list table inet webknock")
	if strings.Contains(list, "label") || !strings.Contains(list, "tcp flags != syn / syn,ack ct state established accept") || strings.Contains(list, "related") {
		t.Errorf("the table is\n%s", list)
	}
	other := newBackend(t)
	guard(t, other, ssh)
	if err := other.Problem(); err != nil {
		t.Errorf("this kernel has labels, but the problem is %v", err)
	}
}

func TestAMarkOf0MarksNothing(t *testing.T) {
	for _, mode := range []firewall.Mode{firewall.Guarded, firewall.Sets} {
		b := newBackend(t)
		g := everything
		g.Mark, g.Mode = 0, mode
		if err := b.Guard(t.Context(), g, nil); err != nil {
			t.Fatal(err)
		}
		if list := nft(t, "list table inet webknock"); strings.Contains(list, "mark") {
			t.Errorf("mode %s: the table is\n%s", mode, list)
		}
	}
}

// When the owner of a table has ended, a start takes the table over without deleting it, so
// that no door is open meanwhile.
func TestATableWithoutItsOwnerIsTakenOverUnchanged(t *testing.T) {
	owned := firewall.Guard{Doors: []firewall.Door{ssh}, Mark: 1, Owner: true}
	handle := func() string { return handleOf(nft(t, "-a list set inet webknock ssh4")) }
	b := newBackend(t)
	if err := b.Guard(t.Context(), owned, nil); err != nil {
		t.Fatal(err)
	}
	set(t, b, firewalltest.Grant("ssh", "192.0.2.1", time.Minute))
	before := handle()
	for _, doors := range [][]firewall.Door{{ssh}, {ssh, vpn}} {
		b.Close() // ends the ownership with the socket
		b = newBackend(t)
		owned.Doors = doors
		if err := b.Guard(t.Context(), owned, nil); err != nil {
			t.Fatal(err)
		}
		if got := held(t, b); !slices.Equal(got, []string{"ssh 192.0.2.1/32"}) {
			t.Errorf("grants %v", got)
		}
		if after := handle(); after != before {
			t.Errorf("the set has handle %s, before %s: it was created again", after, before)
		}
		if out, err := exec.Command("nft", "add", "chain", "inet", "webknock", "extra").CombinedOutput(); err == nil {
			t.Errorf("another process could change the table: %s", out)
		}
	}
}

// The table, with its grants, is never absent while it gets an owner.
func TestATableGetsItsOwnerInOneTransaction(t *testing.T) {
	for _, from := range []string{"no table", "a plain table"} {
		t.Run(from, func(t *testing.T) {
			b := newBackend(t)
			owned := everything
			owned.Owner = true
			grants := 500
			var want []string
			if from == "a plain table" {
				plain := everything
				plain.Owner = false
				if err := b.Guard(t.Context(), plain, nil); err != nil {
					t.Fatal(err)
				}
				for _, c := range clients(grants) {
					set(t, b, c.Grant)
				}
				if want = held(t, b); len(want) != grants {
					t.Fatalf("%d grants, want %d", len(want), grants)
				}
			}
			before, late := transactions(t, b), uint32(0)
			b.fault = func(what string, said bool) error {
				if said && what == "correct the time of grants" { // the machine is slow
					late++
				}
				return nil
			}
			if err := b.Guard(t.Context(), owned, nil); err != nil {
				t.Fatal(err)
			}
			b.fault = nil
			if n := transactions(t, b) - before - late; n != 1 {
				t.Errorf("%d transactions, want 1", n)
			}
			if got := held(t, b); !slices.Equal(got, want) {
				t.Errorf("%d grants, want %d", len(got), len(want))
			}
			if list := nft(t, "list table inet webknock"); !strings.Contains(list, "owner") {
				t.Errorf("the table has no owner:\n%s", list)
			}
			if err := b.Check(t.Context()); err != nil {
				t.Error(err)
			}
			set(t, b, firewalltest.Grant("ssh", "192.0.2.1", time.Minute))
		})
	}
}

// Another process replaces a rule just after the table was written. The number of rules stays
// the same.
func TestGuardNoticesARuleReplacedRightAfterItWasWritten(t *testing.T) {
	b := newBackend(t)
	replaced := 0
	b.fault = func(what string, said bool) error {
		if said && what == "guard the doors" && replaced == 0 {
			replaced++
			list := nft(t, "-a list chain inet webknock door_ssh")
			lines := strings.Split(strings.TrimSpace(list), "\n")
			last := ""
			for _, line := range lines {
				if strings.Contains(line, "drop # handle ") {
					last = line
				}
			}
			nft(t, "replace rule inet webknock door_ssh handle "+strings.TrimSpace(last[strings.LastIndex(last, " "):])+" accept")
		}
		return nil
	}
	guard(t, b, ssh)
	if list := nft(t, "list chain inet webknock door_ssh"); replaced != 1 || !strings.Contains(list, "drop") {
		t.Errorf("replaced %d times:\n%s", replaced, list)
	}
	if err := b.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// Some kernels return a rule in another form than it was written.
func TestRulesThatTheKernelReturnsInAnotherFormAreAccepted(t *testing.T) {
	b := newBackend(t)
	b.fault = func(what string, said bool) error {
		if said && what == "guard the doors" {
			nft(t, "insert rule inet webknock door_ssh ip saddr 192.0.2.99 counter")
			list := nft(t, "-a list chain inet webknock door_ssh")
			for line := range strings.Lines(list) {
				if strings.Contains(line, "drop # handle ") {
					nft(t, "delete rule inet webknock door_ssh handle "+strings.TrimSpace(line[strings.LastIndex(line, " "):]))
				}
			}
		}
		return nil
	}
	guard(t, b, ssh)
	if err := b.Check(t.Context()); err != nil {
		t.Error(err)
	}
}
