package integration

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"webknock/integration/lab"
)

// with returns the standard configuration with more keys for the ssh door.
func with(keys string) string {
	return strings.Replace(standard, "    ports: [22/tcp]\n", "    ports: [22/tcp]\n    "+keys+"\n", 1)
}

// A talk is a TCP connection to an echo server.
type talk struct {
	t    testing.TB
	conn net.Conn
}

func (w *world) talk(from *lab.Host, to string, port int) *talk {
	w.t.Helper()
	c := &talk{t: w.t}
	err := from.Do(func() (err error) {
		c.conn, err = net.DialTimeout("tcp", net.JoinHostPort(to, fmt.Sprint(port)), 5*time.Second)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.conn.Close() })
	c.says("hello")
	return c
}

func (c *talk) says(text string) {
	c.t.Helper()
	c.conn.SetDeadline(time.Now().Add(patience))
	buf := make([]byte, len(text))
	if _, err := io.WriteString(c.conn, text); err != nil {
		c.t.Fatal(err)
	}
	if _, err := io.ReadFull(c.conn, buf); err != nil || string(buf) != text {
		c.t.Fatalf("%q came back, %v; want %q", buf, err, text)
	}
}

// isReset waits until the other side has reset the connection, without sending
// anything.
func (c *talk) isReset() {
	c.t.Helper()
	c.conn.SetDeadline(time.Now().Add(patience))
	if n, err := c.conn.Read(make([]byte, 1)); n > 0 || !errors.Is(err, syscall.ECONNRESET) {
		c.t.Errorf("read %d, %v; want a reset", n, err)
	}
}

func TestCutSessionsEndWithTheirGrant(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	before := w.talk(w.alice, serverIP, 22)
	w.serve(strings.Replace(with("established: cut"), "ttl: 30s", "ttl: 3s", 1))
	before.says("guarded")
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	w.mustBecome("ssh " + aliceIP)
	expires := w.talk(w.alice, serverIP, 22)
	expires.isReset()
	w.mustHold()
	for _, to := range []struct{ client, server string }{{aliceIP, serverIP}, {aliceIP6, serverIP6}} {
		w.must("open", "ssh", to.client)
		closed := w.talk(w.alice, to.server, 22)
		w.must("close", "--client", to.client)
		closed.isReset()
	}
	before.says("I was here before")
	w.silentToScans(w.mallory, "22")
}

func TestAServiceBoundToOneAddressIsAsSilent(t *testing.T) {
	w := newWorld(t)
	err := w.server.Do(func() error {
		l, err := net.Listen("tcp", serverIP+":22")
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	w.serve(standard)
	w.silentToScans(w.mallory, "22")
}

func TestARenewalKeepsCutSessions(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(strings.Replace(with("established: cut"), "ttl: 30s", "ttl: 2s", 1))
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	w.mustBecome("ssh " + aliceIP)
	first := w.grants()[0].ID
	session := w.talk(w.alice, serverIP, 22)
	for range 4 {
		w.knock(w.alice, serverIP, "/a", "/b", "/c")
		until(t, "the renewal", func() bool { g := w.grants(); return len(g) == 1 && g[0].Remaining > 1.5 })
		session.says("still here")
		until(t, "most of its time", func() bool { g := w.grants(); return len(g) == 1 && g[0].Remaining < 1 })
	}
	if id := w.grants()[0].ID; id != first {
		t.Errorf("grant %s, at first %s", id, first)
	}
	session.isReset()
}

func TestAGrantAllowsSoManyConnections(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(with("connections: 2"))
	for range 2 { // again after a renewal
		w.knock(w.alice, serverIP, "/a", "/b", "/c")
		until(t, "the grant", func() bool { g := w.grants(); return len(g) == 1 && g[0].Remaining > 25 })
		one, two := w.talk(w.alice, serverIP, 22), w.talk(w.alice, serverIP, 22)
		w.mustPass(w.alice, serverIP, 22, false)
		one.says("one")
		two.says("two")
		w.must("close", "--all")
	}
}

func TestAGrantCoversTheDoorsPrefix(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(with("prefix: {ipv4: 31, ipv6: 64}"))
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	w.mustBecome("ssh 10.20.0.2/31")
	w.mustPass(w.mallory, serverIP, 22, true) // 10.20.0.3
	w.mustPass(w.mallory, serverIP6, 22, false)
	w.knock(w.alice, serverIP6, "/a", "/b", "/c")
	w.mustBecome("ssh 10.20.0.2/31", "ssh fd20::/64")
	w.mustPass(w.mallory, serverIP6, 22, true)
	// A grant means what it meant; where that changes, it ends.
	w.configure(with("prefix: {ipv4: 32, ipv6: 64}"))
	w.must("reload")
	w.mustHold("ssh fd20::/64")
	w.mustPass(w.alice, serverIP, 22, false)
}

func TestADoorForwardsToAnotherHost(t *testing.T) {
	w := newWorld(t)
	inner := w.inner()
	w.serve(fmt.Sprintf(`
listeners: [{address: ":8080"}]
doors:
  - {name: four, ports: [2222/tcp], forward: "%s:22", established: cut}
  - {name: six, ports: [2223/tcp], forward: "[%s]:22"}
sequences:
  - {name: four, steps: [/four], opens: [four]}
  - {name: six, steps: [/six], opens: [six]}
`, innerIP, innerIP6))
	w.listenOn(inner, 22)
	w.listen(2222) // what would answer here if it were not forwarded
	w.listen(2223)
	w.mustPass(w.alice, serverIP, 2222, false)
	w.mustPass(w.alice, serverIP6, 2223, false)
	w.silentToScans(w.mallory, "2222")
	w.knock(w.alice, serverIP, "/four")
	w.mustBecome("four " + aliceIP)
	cut := w.talk(w.alice, serverIP, 2222)
	if from := w.peers(inner, 22); !strings.Contains(from, aliceIP) {
		t.Errorf("at the other host the peers are %q, want %s", from, aliceIP)
	}
	w.mustPass(w.mallory, serverIP, 2222, false)
	w.knock(w.alice, serverIP6, "/six")
	w.mustBecome("four "+aliceIP, "six "+aliceIP6)
	kept := w.talk(w.alice, serverIP6, 2223)
	w.must("close", "--all")
	w.mustPass(w.alice, serverIP, 2222, false)
	w.mustPass(w.alice, serverIP6, 2223, false)
	kept.says("kept")
	io.WriteString(cut.conn, "anybody there?")
	cut.isReset()
	// An address of the other family cannot be sent there.
	if _, stderr, code := w.webknock("open", "four", aliceIP6); code != 1 || !strings.Contains(stderr, "other family") {
		t.Errorf("open: exit %d, %s", code, stderr)
	}
}

func TestASequenceClosesDoors(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(standard + "  - {name: leave, steps: [/leave], closes: [ssh], opens: [web]}\n")
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	w.knock(w.mallory, serverIP, "/a", "/b", "/c")
	w.mustBecome("ssh "+aliceIP, "ssh "+malloryIP)
	w.knock(w.alice, serverIP, "/leave")
	w.mustBecome("ssh "+malloryIP, "web "+aliceIP)
	w.mustPass(w.alice, serverIP, 22, false)
	w.mustPass(w.mallory, serverIP, 22, true)
}

func TestAllowedNetworksNeverKnock(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(standard + "firewall: {allow: [" + aliceIP + ", 'fd20::2/127']}\n")
	w.mustPass(w.alice, serverIP, 22, true)
	w.mustPass(w.alice, serverIP6, 22, true)
	w.mustPass(w.mallory, serverIP, 22, false)
	w.configure(standard + "firewall: {allow: [" + malloryIP + "]}\n")
	w.must("reload")
	w.mustPass(w.alice, serverIP, 22, false)
	w.mustPass(w.mallory, serverIP, 22, true)
}

func TestUDPDoors(t *testing.T) {
	w := newWorld(t)
	w.serve(standard)
	w.echo(w.server, "udp", ":5000")
	answers := func(from *lab.Host) bool {
		return from.Do(func() error {
			conn, err := net.Dial("udp", serverIP+":5000")
			if err != nil {
				return err
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(500 * time.Millisecond))
			if _, err := io.WriteString(conn, "ping"); err != nil {
				return err
			}
			_, err = conn.Read(make([]byte, 4))
			return err
		}) == nil
	}
	if answers(w.alice) {
		t.Error("answered without a grant")
	}
	w.knock(w.alice, serverIP, "/a", "/x")
	w.mustBecome("web " + aliceIP)
	if !answers(w.alice) || answers(w.mallory) {
		t.Error("want an answer for who has a grant, and for nobody else")
	}
	w.mustBecome()
	if answers(w.alice) {
		t.Error("answered after the grant has ended")
	}
}

func TestModeSetsGuardsNothingAndMarks(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(standard + "firewall: {mode: sets}\n")
	w.mustPass(w.alice, serverIP, 22, true)
	w.nft("add table inet admin; add chain inet admin input { type filter hook input priority 0; policy drop; }; " +
		"add rule inet admin input ct state established,related accept; add rule inet admin input tcp dport 8080 accept; " +
		"add rule inet admin input meta mark and 0x40000000 == 0x40000000 accept; add rule inet admin input icmpv6 type nd-neighbor-solicit accept; add rule inet admin input icmpv6 type nd-neighbor-advert accept")
	w.mustPass(w.alice, serverIP, 22, false)
	for _, to := range []struct{ client, server string }{{aliceIP, serverIP}, {aliceIP6, serverIP6}} {
		w.knock(w.alice, to.server, "/a", "/b", "/c")
		w.mustBecome("ssh " + to.client)
		w.mustPass(w.alice, to.server, 22, true)
		w.mustPass(w.mallory, to.server, 22, false)
		w.must("close", "--all")
		w.mustPass(w.alice, to.server, 22, false)
	}
}

func TestAnOwnedTableSurvivesAFlush(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	owned := standard + "firewall: {owner: true}\n"
	w.serve(owned)
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	w.mustBecome("ssh " + aliceIP)
	w.nft("flush", "ruleset")
	w.mustPass(w.mallory, serverIP, 22, false)
	w.mustPass(w.alice, serverIP, 22, true)
	if log := strings.Join(w.daemon.lines(), "\n"); strings.Contains(log, "repaired") {
		t.Errorf("it was repaired:\n%s", log)
	}
	if out, err := w.server.Command(t.Context(), "nft", "add", "chain", "inet", "webknock", "extra").CombinedOutput(); err == nil {
		t.Errorf("somebody else may change it: %s", out)
	}
	// The orphan of a daemon that was killed is taken over, with its grants.
	w.daemon.stop(t, syscall.SIGKILL)
	w.mustPass(w.mallory, serverIP, 22, false)
	w.serve(owned)
	w.mustHold("ssh " + aliceIP)
	w.must("close", "--all")
	w.mustPass(w.alice, serverIP, 22, false)
	// So it is by a daemon that wants a plain table, and the other way round.
	for _, text := range []string{standard, owned} {
		w.must("open", "ssh", aliceIP)
		w.daemon.stop(t, syscall.SIGTERM)
		w.serve(text)
		w.mustHold("ssh " + aliceIP)
		w.mustPass(w.alice, serverIP, 22, true)
		w.mustPass(w.mallory, serverIP, 22, false)
	}
	w.daemon.stop(t, syscall.SIGTERM)
	w.must("unguard")
	w.mustPass(w.mallory, serverIP, 22, true)
}

// must runs a command of the program that must be done.
func (w *world) must(args ...string) string {
	w.t.Helper()
	stdout, stderr, code := w.webknock(args...)
	if code != 0 {
		w.t.Fatalf("webknock %v: exit %d, %s", args, code, stderr)
	}
	return stdout
}

const innerIP, innerIP6 = "10.30.0.5", "fd30::5"

// inner adds a host that is reached through the server alone.
func (w *world) inner() *lab.Host {
	w.t.Helper()
	h, err := w.net.Host("inner", innerIP+"/24", innerIP6+"/64")
	if err != nil {
		w.t.Fatal(err)
	}
	err = errors.Join(
		w.server.Run("ip", "address", "add", "10.30.0.1/24", "dev", "eth0"),
		w.server.Run("ip", "address", "add", "fd30::1/64", "dev", "eth0", "nodad"),
		w.server.Run("sysctl", "-q", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.eth0.send_redirects=0", "net.ipv6.conf.all.forwarding=1"),
		h.Run("sysctl", "-q", "net.ipv4.conf.eth0.accept_redirects=0", "net.ipv6.conf.eth0.accept_redirects=0"),
		h.Run("ip", "route", "add", "default", "via", "10.30.0.1"),
		h.Run("ip", "-6", "route", "add", "default", "via", "fd30::1"),
	)
	if err != nil {
		w.t.Fatal(err)
	}
	return h
}

// peers lists who is connected to a port of a host.
func (w *world) peers(h *lab.Host, port int) string {
	w.t.Helper()
	out, err := h.Command(w.t.Context(), "ss", "-Htn", "state", "established", "sport", "=", fmt.Sprint(port)).CombinedOutput()
	if err != nil {
		w.t.Fatalf("ss: %v\n%s", err, out)
	}
	return string(out)
}

// silentToScans fails unless nmap sees nothing of a TCP port.
func (w *world) silentToScans(from *lab.Host, port string) {
	w.t.Helper()
	for _, scan := range []string{"-sS", "-sA", "-sF", "-sN", "-sX", "-sM"} {
		for _, to := range [][]string{{serverIP}, {"-6", serverIP6}} {
			args := append([]string{"-n", "-Pn", "--disable-arp-ping", "--max-retries", "1", scan, "-p", port}, to...)
			out, err := from.Command(w.t.Context(), "nmap", args...).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "filtered") || strings.Contains(string(out), "unfiltered") {
				w.t.Errorf("nmap %v: %v\n%s", args, err, out)
			}
		}
	}
}
