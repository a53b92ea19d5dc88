package nftsim

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"webknock/integration/lab"
)

func TestMain(m *testing.M) {
	lab.Enter()
	os.Exit(m.Run())
}

// load puts a ruleset into the kernel, in a namespace of its own, and reads it.
func load(t testing.TB, nft string) *Ruleset {
	t.Helper()
	h := newHost(t)
	loadInto(t, h, nft)
	return readFrom(t, h)
}

func newHost(t testing.TB) *lab.Host {
	t.Helper()
	n, err := lab.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	h, err := n.Host("host", "10.9.0.1/24", "fd09::1/64")
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func loadInto(t testing.TB, h *lab.Host, nft string) {
	t.Helper()
	if err := tryLoad(t, h, nft); err != nil {
		t.Fatalf("%v\n%s", err, nft)
	}
}

func tryLoad(t testing.TB, h *lab.Host, nft string) error {
	cmd := h.Command(t.Context(), "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(nft)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, out)
	}
	return nil
}

func readFrom(t testing.TB, h *lab.Host) (r *Ruleset) {
	t.Helper()
	if err := h.Do(func() (err error) { r, err = Read(); return err }); err != nil {
		t.Fatal(err)
	}
	return r
}

var (
	us4, us6     = netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("fd09::1")
	them4, them6 = netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")
)

func testHost() Host {
	return Host{
		Local:     []netip.Prefix{netip.MustParsePrefix("10.9.0.1/32"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("fd09::1/128"), netip.MustParsePrefix("::1/128")},
		Broadcast: []netip.Addr{netip.MustParseAddr("10.9.0.255")},
		Route:     func(netip.Addr) (int, bool) { return 2, true },
	}
}

// syn is an ordinary SYN from the internet.
func syn(port uint16) Packet {
	return Packet{From: them4, To: us4, Protocol: unix.IPPROTO_TCP, Port: port, In: Interface{Name: "eth0", Index: 2, Group: 5, Type: 1, Addresses: []netip.Addr{us4, us6}}}
}

func syn6(port uint16) Packet {
	p := syn(port)
	p.From, p.To = them6, us6
	return p
}

func udp(p Packet) Packet { p.Protocol = unix.IPPROTO_UDP; return p }

func needNFT(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Fatal("nft is missing (as root: make deps)")
	}
}

func describe(o Outcome) string {
	by := ""
	if o.By != nil {
		by = " by " + o.By.String()
	}
	return fmt.Sprintf("%s%s, to %s, delivered %v, ports %d-%d", o.Verdict, by, o.To, o.Delivered, o.First, o.Last)
}
