package integration

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"webknock/integration/lab"
)

// otherTable moves the routes to the server's own addresses out of the table
// "local", as policy routing and VRF have them.
func (w *world) otherTable() {
	w.t.Helper()
	for _, f := range []struct{ ip, addr, network string }{{"-4", serverIP, "10.20.0.0/24"}, {"-6", serverIP6, "fd20::/64"}} {
		for _, command := range []string{
			"route add local " + f.addr + " dev eth0 table 10",
			"route add " + f.network + " dev eth0 table 10",
			"rule add iif eth0 lookup 10 pref 100",
			"rule add from " + f.addr + " lookup 10 pref 101",
			"rule add lookup local pref 200",
			"rule del pref 0",
			"route del local " + f.addr + " dev eth0 table local",
		} {
			if err := w.server.Run("ip", append([]string{f.ip}, strings.Fields(command)...)...); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

func TestADoorIsShutWhateverRoutingTableLeadsToIt(t *testing.T) {
	w := newWorld(t)
	w.otherTable()
	w.listen(22)
	for _, to := range []string{serverIP, serverIP6} {
		until(t, "the routes work", func() bool { return w.passes(w.mallory, to, 22) })
	}
	w.serve(standard + "shield: {ban: {knocks: 100, for: 1h}, decoys: [/wp-login.php]}\n")
	for _, to := range []struct{ client, server string }{{aliceIP, serverIP}, {aliceIP6, serverIP6}} {
		w.mustPass(w.mallory, to.server, 22, false)
		w.knock(w.alice, to.server, "/a", "/b", "/c")
		w.mustBecome("ssh " + to.client)
		w.mustPass(w.alice, to.server, 22, true)
		w.mustPass(w.mallory, to.server, 22, false)
		w.must("close", "--all")
		w.mustPass(w.alice, to.server, 22, false)
		// A ban keeps its client from the listener.
		w.mustPass(w.mallory, to.server, 8080, true)
		w.knock(w.mallory, to.server, "/wp-login.php")
		until(t, "the ban", func() bool { return !w.passes(w.mallory, to.server, 8080) })
		w.mustPass(w.alice, to.server, 8080, to.server == serverIP) // mallory's /64 is alice's
	}
	w.silentToScans(w.mallory, "22")
}

// Whatever port or address a packet comes to, it reaches no shut door.
func TestADoorIsShutWhateverSendsPacketsToIt(t *testing.T) {
	w := newWorld(t)
	inner := w.inner()
	w.listen(22)
	w.listenOn(inner, 22)
	w.listenOn(inner, 80)
	for _, h := range []*lab.Host{w.alice, w.mallory} {
		for _, route := range []string{"-4 route add 10.99.0.0/24 via " + serverIP, "-6 route add fd99::/64 via " + serverIP6} {
			if err := h.Run("ip", strings.Fields(route)...); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.load(fmt.Sprintf(`table inet nat { chain pre { type nat hook prerouting priority -100;
		fib daddr type local tcp dport 443 redirect to :22
		ip daddr 10.99.0.1 tcp dport 444 dnat ip to %[1]s:22
		ip6 daddr fd99::1 tcp dport 444 dnat ip6 to [%[2]s]:22
		ip daddr %[1]s tcp dport 8001 dnat ip to %[3]s:80
		ip6 daddr %[2]s tcp dport 8001 dnat ip6 to [%[4]s]:80
		ip daddr 10.99.0.2 tcp dport 22 dnat ip to %[3]s:80
		ip6 daddr fd99::2 tcp dport 22 dnat ip6 to [%[4]s]:80
		fib daddr type local tcp dport 8002 redirect to :2222
	}
	}`, serverIP, serverIP6, innerIP, innerIP6))
	w.listen(2222)
	ways := []struct {
		what   string
		v4, v6 string
		port   int
		door   string
	}{
		{"a redirect from another port", serverIP, serverIP6, 443, "ssh"},
		{"DNAT of a routed address to this host", "10.99.0.1", "fd99::1", 444, "ssh"},
		{"DNAT of a guarded port to another host", serverIP, serverIP6, 8001, "web"},
		{"DNAT of a routed address's guarded port to another host", "10.99.0.2", "fd99::2", 22, "ssh"},
		{"a redirect from a guarded port", serverIP, serverIP6, 8002, "web"},
	}
	for _, way := range ways {
		for _, to := range []string{way.v4, way.v6} {
			until(t, way.what+", to "+to+", without a guard", func() bool { return w.passes(w.mallory, to, way.port) })
		}
	}
	w.serve(strings.ReplaceAll(standard, "ttl: 3s", "ttl: 1m"))
	for _, way := range ways {
		for _, to := range []struct{ client, server string }{{aliceIP, way.v4}, {aliceIP6, way.v6}} {
			if w.passes(w.mallory, to.server, way.port) {
				t.Errorf("%s, to %s: a stranger passes", way.what, to.server)
			}
			w.must("open", way.door, to.client)
			if !w.passes(w.alice, to.server, way.port) {
				t.Errorf("%s, to %s: a grant does not pass", way.what, to.server)
			}
			session := w.talk(w.alice, to.server, way.port)
			if w.passes(w.mallory, to.server, way.port) {
				t.Errorf("%s, to %s: a stranger passes beside a grant", way.what, to.server)
			}
			w.must("close", "--all")
			session.says("kept")
			if w.passes(w.alice, to.server, way.port) {
				t.Errorf("%s, to %s: the door stays open", way.what, to.server)
			}
		}
	}
}

// A router in between keeps its traffic, to whatever port.
func TestTrafficThatPassesIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	inner := w.inner()
	w.listenOn(inner, 22)
	for _, command := range []string{"sysctl -q net.ipv4.conf.eth0.accept_redirects=0 net.ipv6.conf.eth0.accept_redirects=0",
		"ip -4 route add 10.30.0.0/24 via " + serverIP, "ip -6 route add fd30::/64 via " + serverIP6} {
		args := strings.Fields(command)
		if err := w.mallory.Run(args[0], args[1:]...); err != nil {
			t.Fatal(err)
		}
	}
	reaches := func() bool { return w.passes(w.mallory, innerIP, 22) && w.passes(w.mallory, innerIP6, 22) }
	until(t, "the routes work", reaches)
	w.serve(standard)
	w.mustPass(w.mallory, innerIP, 22, true)
	w.mustPass(w.mallory, innerIP6, 22, true)
}

// Marks that others restore at prerouting wipe off none of ours.
func TestMarksRestoredAtPreroutingKeepNobodyOut(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.load(`table inet wg { chain pre { type filter hook prerouting priority -150; meta mark set ct mark; }; chain late { type filter hook prerouting priority 100; meta mark set ct mark; }; }
` + strings.NewReplacer("; } }", "; }; }").Replace(input(marked)))
	w.serve(standard)
	for _, to := range []struct{ client, server string }{{aliceIP, serverIP}, {aliceIP6, serverIP6}} {
		w.must("open", "ssh", to.client)
		w.mustPass(w.alice, to.server, 22, true)
		w.mustPass(w.mallory, to.server, 22, false)
	}
}

// reusing returns a connection from one port of the client, or an error.
func (w *world) reusing(from *lab.Host, port int, to string, at int) (conn net.Conn, err error) {
	d := net.Dialer{
		LocalAddr: &net.TCPAddr{Port: port}, Timeout: 1500 * time.Millisecond,
		Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
		},
	}
	return conn, from.Do(func() error {
		var err error
		conn, err = d.Dial("tcp", net.JoinHostPort(to, strconv.Itoa(at)))
		return err
	})
}

// dies ends a session on both sides without a packet that says so: as when both
// hosts lose their power. Connection tracking goes on to know it.
func (w *world) dies(conn net.Conn, service, client *lab.Host, port int) {
	w.t.Helper()
	from := fmt.Sprint(port)
	for _, h := range []*lab.Host{service, client} {
		for _, args := range [][]string{
			{"nft", "add table inet dead; add chain inet dead out { type filter hook output priority -300; policy accept; }; add rule inet dead out meta l4proto tcp tcp flags & (fin | rst) != 0 drop"},
			{"ss", "-K", "sport", "=", from, "or", "dport", "=", from},
		} {
			if err := h.Run(args[0], args[1:]...); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	conn.Close()
	until(w.t, "the session is gone", func() bool {
		out, err := client.Command(w.t.Context(), "ss", "-Htan", "sport", "=", from).CombinedOutput()
		return err == nil && len(out) == 0
	})
	for _, h := range []*lab.Host{service, client} {
		if err := h.Run("nft", "delete", "table", "inet", "dead"); err != nil {
			w.t.Fatal(err)
		}
	}
}

// A SYN inside an old flow begins a connection. It needs a grant, whether the
// flow is of a grant that has ended, from before the guard, or sent on.
func TestASYNInsideAnOldFlowNeedsAGrant(t *testing.T) {
	for _, tt := range []struct {
		name    string
		forward bool
		before  bool
	}{{"of a grant that has ended", false, false}, {"of a grant for another host", true, false}, {"from before the guard", false, true}} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			service := w.server
			text := standard
			port := 22
			inner := w.inner()
			if tt.forward {
				service, port = inner, 2222
				text = fmt.Sprintf(`
listeners: [{address: ":8080"}]
doors:
  - {name: ssh, ports: [2222/tcp], forward: "%s:22"}
  - {name: six, ports: [2223/tcp], forward: "[%s]:22"}
sequences:
  - {name: ssh, steps: [/four], opens: [ssh, six]}
`, innerIP, innerIP6)
			}
			w.listenOn(service, 22)
			if !tt.before {
				w.serve(text)
			}
			for i, to := range []struct{ client, server, door string }{{aliceIP, serverIP, "ssh"}, {aliceIP6, serverIP6, map[bool]string{true: "six", false: "ssh"}[tt.forward]}} {
				at := port
				if tt.forward {
					at += i
				}
				if !tt.before {
					w.must("open", to.door, to.client)
				}
				var conn net.Conn
				until(t, "the first connection", func() bool { // routers look for their neighbours first
					var err error
					conn, err = w.reusing(w.alice, 40000+i, to.server, at)
					return err == nil
				})
				c := &talk{t: t, conn: conn}
				c.says("hello")
				if tt.before {
					w.serve(text)
				} else {
					w.must("close", "--all")
				}
				c.says("kept")
				w.dies(conn, service, w.alice, 40000+i)
				if conn, err := w.reusing(w.alice, 40000+i, to.server, at); err == nil {
					conn.Close()
					t.Errorf("to %s: a new connection passes inside the old flow", to.server)
				}
				w.must("open", to.door, to.client)
				conn, err := w.reusing(w.alice, 40000+i, to.server, at)
				if err != nil {
					t.Errorf("to %s: with a grant: %v", to.server, err)
				} else {
					conn.Close()
				}
				w.must("close", "--all")
				if tt.before && i == 0 {
					w.must("unguard")
					w.daemon.stop(t, syscall.SIGTERM)
				}
			}
		})
	}
}

// An FTP server repeats what the stranger wants of it, and the kernel's helper
// expects a connection to a shut port.
func TestWhatAHelperExpectsNeedsAGrant(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.listen(21) // an echo
	w.load(`table inet helper {
		ct helper ftp4 { type "ftp" protocol tcp; l3proto ip; }
		ct helper ftp6 { type "ftp" protocol tcp; l3proto ip6; }
		counter expected { }
		chain pre { type filter hook prerouting priority -150; policy accept;
			meta nfproto ipv4 tcp dport 21 ct helper set "ftp4"
			meta nfproto ipv6 tcp dport 21 ct helper set "ftp6"
			tcp dport 22 ct state related counter name expected
		}
	}`)
	w.serve(standard)
	for i, to := range []struct{ server, reply string }{
		{serverIP, "227 Entering Passive Mode (10,20,0,1,0,22)\r\n"},
		{serverIP6, "229 Entering Extended Passive Mode (|||22|)\r\n"},
	} {
		control := w.talk(w.mallory, to.server, 21)
		control.says("220 ready\r\n") // the helper reads from the second line on
		control.says(to.reply)
		if w.passes(w.mallory, to.server, 22) {
			t.Errorf("to %s: a stranger passes by what the helper expects", to.server)
		}
		if n := w.counters("helper")["expected"]; n <= int64(i) {
			t.Errorf("to %s: the helper expected nothing, so nothing was tried", to.server)
		}
	}
}

// Answers to what this host asks pass, though the ports it asks from are
// guarded.
func TestAnswersToGuardedPortsPass(t *testing.T) {
	w := newWorld(t)
	if err := w.server.Run("sysctl", "-q", "net.ipv4.ip_local_port_range=60000 60100"); err != nil {
		t.Fatal(err)
	}
	w.serve(strings.Replace(standard, "ports: [22/tcp]", "ports: [22/tcp, 60000-61000/udp, 60000-61000/tcp]", 1))
	w.listenOn(w.alice, 53)
	for _, address := range []string{aliceIP, aliceIP6} {
		w.echo(w.alice, "udp", net.JoinHostPort(address, "53"))
		for range 10 {
			err := w.server.Do(func() error {
				conn, err := net.Dial("udp", net.JoinHostPort(address, "53"))
				if err != nil {
					return err
				}
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(patience))
				if _, err := conn.Write([]byte("who?")); err != nil {
					return err
				}
				_, err = conn.Read(make([]byte, 4))
				return err
			})
			if err != nil {
				t.Errorf("a question to %s: %v", address, err)
			}
		}
		w.talk(w.server, address, 53).says("by TCP")
	}
}

// The table that the version before wrote, with its chains at prerouting, is
// taken over: no granted packet is lost, no stranger's passes, and sessions live.
func TestTheTableOfTheVersionBeforeIsTakenOver(t *testing.T) {
	old, err := os.ReadFile("testdata/prerouting.nft")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	inner := w.inner()
	w.listen(22)
	w.listenOn(inner, 22)
	w.load(string(old) + strings.ReplaceAll(`
add element inet webknock ssh4 { 10.20.0.2 timeout 5m comment "webknock1 id=abcd2345 at=1700000000000 seq=ssh" }
add element inet webknock ssh6 { fd20::2 timeout 5m comment "webknock1 id=abcd2346 at=1700000000000 seq=ssh" }
add element inet webknock four4 { 10.20.0.2 timeout 5m comment "webknock1 id=abcd2347 at=1700000000000 seq=four" }
`, "1700000000000", fmt.Sprint(time.Now().UnixMilli())))
	w.load(witness)
	w.nft("delete", "chain", "inet", "witness", "pre") // the mark was set at prerouting: what comes there must pass
	w.load(`table inet witness { chain pre { type filter hook prerouting priority -300; policy accept;
		ip saddr 10.20.0.2 tcp dport 22 counter name came
		ip6 saddr fd20::2 tcp dport 22 counter name came
	}
	}`)
	var sessions []*talk
	for _, to := range []string{serverIP, serverIP6} {
		sessions = append(sessions, w.talk(w.alice, to, 22))
	}
	sentOn := w.talk(w.alice, serverIP, 2222)
	w.mustPass(w.mallory, serverIP, 22, false)
	strangers := w.flood(w.mallory, malloryIP, malloryIP6, 22)
	granted := w.flood(w.alice, aliceIP, aliceIP6, 22)
	granted.mustBeHeard(w)
	const text = `
listeners: [{address: ":8080"}]
doors:
  - {name: ssh, ports: [22/tcp]}
  - {name: web, ports: [8000-8010/tcp, 5000/udp]}
  - {name: four, ports: [2222/tcp], forward: "10.30.0.5:22"}
sequences:
  - {name: ssh, steps: [/a, /b, /c], opens: [ssh]}
  - {name: four, steps: [/a, /x], opens: [four, web]}
`
	strangers.mustStaySilent(w, "the table is taken over", func() {
		w.serve(text)
		granted.mustBeHeard(w)
	})
	for _, s := range append(granted, strangers...) {
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	c := w.counters("witness")
	if lost := c["came"] - c["marked"] - c["unmarked"]; lost != 0 || c["strangers"] > 0 {
		t.Errorf("of %d granted packets %d were lost; counted %v", c["came"], lost, c)
	}
	w.mustHold("four "+aliceIP, "ssh "+aliceIP, "ssh "+aliceIP6)
	if list := w.nft("list", "table", "inet", "webknock"); strings.Contains(list, "vmap") || strings.Contains(list, "chain guard") || strings.Contains(list, "related") {
		t.Errorf("of the old table is left:\n%s", list)
	}
	for _, s := range append(sessions, sentOn) {
		s.says("taken over")
	}
	w.must("close", "--all")
	for _, s := range append(sessions, sentOn) {
		s.says("kept")
	}
	w.mustPass(w.alice, serverIP, 22, false)
	w.mustPass(w.alice, serverIP6, 22, false)
	w.mustPass(w.alice, serverIP, 2222, false)
}
