package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"

	"webknock/firewall"
	"webknock/firewall/firewalltest"
)

// origins returns the elements of the doors' sets as "client origin".
func origins(t testing.TB, b *Backend) (found []string) {
	t.Helper()
	held, err := b.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range held {
		found = append(found, fmt.Sprint(h.Client.Addr(), " ", []string{"foreign", "ours", "earlier"}[h.Origin]))
	}
	slices.Sort(found)
	return found
}

func TestOurElementsAreDistinguishedFromForeignOnes(t *testing.T) {
	b := newBackend(t)
	guard(t, b, ssh)
	now := time.Now().UnixMilli()
	end := (BootTime() + time.Minute).Milliseconds()
	for i, comment := range []string{
		fmt.Sprintf("webknock2 end=%d boot=%s id=abcd2345 at=%d", end, BootID(), now), // as webknock writes it
		fmt.Sprintf("webknock2 end=%d boot=00000000 id=abcd2345 at=%d", end, now),     // from another boot
		fmt.Sprintf("webknock2 boot=%s id=abcd2345 at=%d", BootID(), now),             // without an end
		fmt.Sprintf("webknock2 end=soon boot=%s id=abcd2345 at=%d", BootID(), now),
		fmt.Sprintf("webknock3 end=%d boot=%s id=abcd2345 at=%d", end, BootID(), now), // from an unknown version
		fmt.Sprintf("webknock1 id=abcd2345 at=%d", now),                               // from the previous version
		"webknock1 id=abcd2345 at=1000",                                               // and from before the boot
		"webknock1 id=abcd2345",
		"the admin's own",
	} {
		nft(t, fmt.Sprintf("add element inet webknock ssh4 { 192.0.2.%d timeout 1h comment %q }", i+1, comment))
	}
	nft(t, "add element inet webknock ssh4 { 192.0.2.10 }")
	if got, want := origins(t, b), []string{
		"192.0.2.1 ours", "192.0.2.10 foreign", "192.0.2.2 foreign", "192.0.2.3 foreign", "192.0.2.4 foreign", "192.0.2.5 foreign",
		"192.0.2.6 earlier", "192.0.2.7 foreign", "192.0.2.8 foreign", "192.0.2.9 foreign"}; !slices.Equal(got, want) {
		t.Errorf("got\n%q, want\n%q", got, want)
	}
	held, _ := b.Read(t.Context())
	for _, h := range held {
		left, ends := time.Until(h.Expires), time.Until(h.Ends)
		if h.Origin == firewall.Ours && (left > time.Minute || left < 50*time.Second || ends < 50*time.Minute) {
			t.Errorf("it ends in %v by its comment, in %v by the kernel", left, ends)
		}
	}
}

// Loading a saved ruleset restarts the timeout of an element in the kernel.
func TestLoadingASavedRulesetDoesNotExtendGrants(t *testing.T) {
	b := newBackend(t)
	guard(t, b, ssh)
	want := firewalltest.Grant("ssh", "192.0.2.1", 2*time.Second)
	set(t, b, want)
	saved := filepath.Join(t.TempDir(), "ruleset")
	list, err := exec.Command("nft", "list", "ruleset").Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(saved, []byte("flush ruleset\n"+string(list)), 0o600); err != nil {
		t.Fatal(err)
	}
	for time.Now().Before(want.Expires) {
		if out, err := exec.Command("nft", "-f", saved).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if err := b.Guard(t.Context(), *b.guard, nil); err != nil { // the table has been replaced
		t.Fatal(err)
	}
	held, err := b.Read(t.Context())
	if err != nil || len(held) != 1 || held[0].Origin != firewall.Ours || held[0].Expires.Sub(want.Expires).Abs() > 100*time.Millisecond || !held[0].Ends.After(time.Now()) {
		t.Errorf("got %+v, %v; want the end of %v", held, err, want.Expires)
	}
}

func TestAForeignElementIsDeletedByItsKey(t *testing.T) {
	b := newBackend(t)
	wide := ssh
	wide.Prefix4 = 24
	guard(t, b, wide)
	set(t, b, firewalltest.Grant("ssh", "192.0.2.0", time.Minute))
	nft(t, "add element inet webknock ssh4.24 { 192.0.2.7, 198.51.100.0 }")
	held, err := b.Read(t.Context())
	if err != nil || len(held) != 3 {
		t.Fatalf("%v, %v", held, err)
	}
	var remove []firewall.Change
	for _, h := range held {
		if h.Origin == firewall.Foreign {
			remove = append(remove, firewall.Change{Grant: firewall.Grant{Door: h.Door, Client: h.Client}, Close: true})
		}
	}
	if err := b.Commit(t.Context(), remove); err != nil {
		t.Fatal(err)
	}
	if got := origins(t, b); !slices.Equal(got, []string{"192.0.2.0 ours"}) {
		t.Errorf("left: %q", got)
	}
}

func TestChangedNetworksAreNoticedAndCorrected(t *testing.T) {
	for _, command := range []string{
		"add element inet webknock allow.4 { 192.0.2.99 }",
		"delete element inet webknock allow.4 { 10.0.0.0/8 }",
		"flush set inet webknock allow.6",
		"flush set inet webknock exempt.4",
		"add element inet webknock exempt.6 { 2001:db9::/48 }",
	} {
		t.Run(command, func(t *testing.T) {
			b := newBackend(t)
			if err := b.Guard(t.Context(), everything, nil); err != nil {
				t.Fatal(err)
			}
			before := nft(t, "list table inet webknock")
			if err := b.Check(t.Context()); err != nil {
				t.Fatal(err)
			}
			nft(t, command)
			if err := b.Check(t.Context()); !errors.Is(err, firewall.ErrNotGuarded) {
				t.Errorf("check: %v", err)
			}
			if err := b.Guard(t.Context(), everything, nil); err != nil {
				t.Fatal(err)
			}
			if err := b.Check(t.Context()); err != nil {
				t.Error(err)
			}
			if after := nft(t, "list table inet webknock"); after != before {
				t.Errorf("before\n%s\nafter\n%s", before, after)
			}
		})
	}
}

func TestBansOfOthersAreDistinguishedFromOurs(t *testing.T) {
	b := newBackend(t)
	if err := b.Guard(t.Context(), everything, nil); err != nil {
		t.Fatal(err)
	}
	mine := firewall.Ban{Client: netip.MustParsePrefix("192.0.2.1/32"), Until: time.Now().Add(time.Hour)}
	if err := b.Ban(t.Context(), []firewall.Ban{mine}); err != nil {
		t.Fatal(err)
	}
	nft(t, fmt.Sprintf(`add element inet webknock banned.4 { 192.0.2.2, 192.0.2.3 timeout 1h comment "webknock2 end=%d boot=%s" }`, time.Minute.Milliseconds(), BootID()))
	nft(t, "add element inet webknock banned.6 { 2001:db8::1 timeout 1h }") // not a /64
	ours, foreign, err := b.Bans(t.Context())
	if err != nil || len(ours) != 1 || ours[0].Client != mine.Client || len(foreign) != 3 {
		t.Errorf("ours %v, of others %v, %v", ours, foreign, err)
	}
	var lift []firewall.Ban
	for _, ban := range foreign {
		lift = append(lift, firewall.Ban{Client: ban.Client})
	}
	if err := b.Ban(t.Context(), lift); err != nil {
		t.Fatal(err)
	}
	if ours, foreign, err := b.Bans(t.Context()); err != nil || len(ours) != 1 || len(foreign) != 0 {
		t.Errorf("ours %v, of others %v, %v", ours, foreign, err)
	}
}

// spent returns the clients whose count of connections is no longer known.
func spent(t testing.TB, b *Backend) (clients []string) {
	t.Helper()
	held, err := b.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range held {
		if h.Spent {
			clients = append(clients, h.Client.Addr().String())
		}
	}
	return clients
}

func TestATamperedCountOfConnectionsIsNoticed(t *testing.T) {
	b := newBackend(t)
	door := ssh
	door.Connections = 2
	guard(t, b, door)
	one, two := firewalltest.Grant("ssh", "192.0.2.1", time.Minute), firewalltest.Grant("ssh", "192.0.2.2", time.Minute)
	set(t, b, one, two)
	nft(t, "add element inet webknock ssh4.connections { 192.0.2.1 limit rate over 1/week burst 2 packets }")
	until := func(want ...string) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !slices.Equal(spent(t, b), want); {
			if time.Now().After(deadline) {
				t.Fatalf("unknown counts of %q, want %q", spent(t, b), want)
			}
		}
	}
	until("192.0.2.1")
	if err := b.Commit(t.Context(), []firewall.Change{{Grant: one, Again: true, Spent: true}}); err != nil {
		t.Fatal(err)
	}
	until()
	if list := nft(t, "list set inet webknock ssh4.connections"); !strings.Contains(list, "192.0.2.1 timeout") && !strings.Contains(list, "192.0.2.1 expires") || strings.Contains(list, "192.0.2.1 limit") {
		t.Errorf("the element of an exhausted count has a limit or is missing:\n%s", list)
	}
	nft(t, "flush set inet webknock ssh4.connections")
	until("192.0.2.1")
	set(t, b, one) // a renewal restarts the count
	until()
	if list := nft(t, "list set inet webknock ssh4.connections"); strings.Contains(list, "192.0.2") {
		t.Errorf("after a renewal:\n%s", list)
	}
	// A new table has lost all counts.
	nft(t, "flush ruleset")
	if err := b.Guard(t.Context(), *b.guard, []firewall.Grant{one, two}); err != nil {
		t.Fatal(err)
	}
	if list := nft(t, "list set inet webknock ssh4.connections"); strings.Count(list, "192.0.2.") != 2 || strings.Contains(list, "limit rate") {
		t.Errorf("after a flush:\n%s", list)
	}
}

// kernelEnds returns the earliest times at which the kernel may remove the elements of the
// door ssh.
func kernelEnds(t *testing.T, b *Backend) (ends []time.Time) {
	t.Helper()
	err := b.doLocking("read", func(c *nftables.Conn) error {
		asked := time.Now()
		elements, err := c.GetSetElements(b.grantSet(ssh, families[0]))
		for _, e := range elements {
			ends = append(ends, asked.Add(e.Expires))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return ends
}

func TestNoElementOutlivesItsGrant(t *testing.T) {
	b := newBackend(t)
	guard(t, b, ssh)
	for _, n := range []int{1, 1000, maxChanges} {
		changes := clients(n)
		for i := range changes {
			changes[i].Grant.Expires = changes[0].Grant.Expires
		}
		for _, try := range []string{"new", "renewed"} {
			if err := b.Commit(t.Context(), changes); err != nil {
				t.Fatal(err)
			}
			ends := kernelEnds(t, b)
			if len(ends) != n {
				t.Fatalf("%d elements, want %d", len(ends), n)
			}
			if last := slices.MaxFunc(ends, time.Time.Compare); last.After(changes[0].Grant.Expires) {
				t.Errorf("%d %s: an element ends %v after its grant", n, try, last.Sub(changes[0].Grant.Expires))
			}
		}
	}
}

// Another process's transaction may delay ours, so that the kernel reads an element late.
func TestAnElementThatIsWrittenLateEndsWithItsGrant(t *testing.T) {
	for _, kind := range []string{"opened", "put back"} {
		t.Run(kind, func(t *testing.T) {
			b := newBackend(t)
			door := ssh
			door.Connections = 3
			guard(t, b, door)
			const late = 2 * maxEndMargin
			grant := firewalltest.Grant("ssh", "192.0.2.1", time.Hour)
			comment := comment(grant, clock())
			corrected := 0
			b.fault = func(what string, said bool) error {
				switch {
				case said && (what == "change grants" || what == "guard the doors"):
					time.Sleep(late)
					nft(t, "delete element inet webknock ssh4 { 192.0.2.1 }; add element inet webknock ssh4 { 192.0.2.1 timeout 2h comment \""+comment+"\" }")
				case said && what == "correct the time of grants":
					corrected++
				}
				return nil
			}
			var err error
			if kind == "opened" {
				err = b.Commit(t.Context(), []firewall.Change{{Grant: grant, New: true}})
			} else {
				nft(t, "flush ruleset")
				err = b.Guard(t.Context(), *b.guard, []firewall.Grant{grant})
			}
			if err != nil {
				t.Fatal(err)
			}
			b.fault = nil
			if ends := kernelEnds(t, b); len(ends) != 1 || ends[0].After(grant.Expires) || corrected == 0 {
				t.Errorf("corrected %d times, the element ends %v, want %v", corrected, ends, grant.Expires)
			}
			if list := nft(t, "list set inet webknock ssh4.connections"); strings.Contains(list, "192.0.2.1") != (kind == "put back") {
				t.Errorf("the count of connections is not as it was written:\n%s", list)
			}
		})
	}
}
