package integration

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"webknock/integration/lab"
)

// Two daemons on one table, each with its own socket and state, would undo each other's
// changes, and strangers would get in between two changes.
func TestATableHasOneDaemon(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(standard)
	before := w.nft("list", "ruleset")
	first := w.daemon
	other := func(args ...string) (stderr string, code int) {
		t.Helper()
		_, stderr, code = w.webknock(append(args, "--socket", w.dir+"/other.sock")...)
		return stderr, code
	}
	holder := fmt.Sprintf("process %d (%s serve", first.cmd.Process.Pid, binary)
	second := strings.NewReplacer(":8080", ":8081", "22/tcp", "2222/tcp").Replace(standard) + "state: " + w.dir + "/other\n"
	for _, command := range []string{"serve", "guard", "unguard"} {
		w.configure(second)
		if stderr, code := other(command); code != 1 || !strings.Contains(stderr, holder) || !strings.Contains(stderr, "firewall.table") {
			t.Errorf("%s beside a daemon: exit %d, %s; want %q in it", command, code, stderr, holder)
		}
	}
	if _, err := os.Stat(w.dir + "/other"); err == nil {
		t.Error("who was refused has made its state")
	}
	if after := w.nft("list", "ruleset"); after != before {
		t.Errorf("the table has changed:\n%s\nbefore:\n%s", after, before)
	}
	w.mustPass(w.mallory, serverIP, 22, false)
	// One with a table of its own starts.
	w.configure(second + "firewall: {table: other}\n")
	beside := w.start(w.server.Command(t.Context(), binary, "serve", "--config", w.config(), "--socket", w.dir+"/other.sock"))
	beside.wait(t, `"serving"`)
	beside.stop(t, syscall.SIGTERM)
	// A restart is never refused: after a stop that has begun, after a kill.
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := w.daemon.cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		w.serve(standard)
	}
}

const cutting = `
listeners: [{address: ":8080"}]
doors: [{name: ssh, ports: [22/tcp], ttl: 1h, max_ttl: 1h, established: cut}]
sequences: [{name: ssh, steps: [/a], opens: [ssh]}]
`

// A session is a TCP connection with a server that echoes.
type session struct {
	w    *world
	conn net.Conn
}

// connect returns a session from a port of a host, or nil if it is not let in.
func (w *world) connect(from *lab.Host, port int, to string) *session {
	w.t.Helper()
	s := &session{w: w}
	err := from.Do(func() (err error) {
		d := net.Dialer{Timeout: 700 * time.Millisecond, LocalAddr: &net.TCPAddr{Port: port}, Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
		}}
		s.conn, err = d.Dial("tcp", net.JoinHostPort(to, "22"))
		return err
	})
	if err != nil {
		return nil
	}
	w.t.Cleanup(func() { s.conn.Close() })
	return s
}

// lives reports whether what is sent comes back.
func (s *session) lives() bool {
	s.conn.SetDeadline(time.Now().Add(2 * time.Second))
	buf := make([]byte, 5)
	if _, err := s.conn.Write([]byte("hello")); err != nil {
		return false
	}
	_, err := io.ReadFull(s.conn, buf)
	return err == nil
}

// mustConnect returns a session that is let in.
func (w *world) mustConnect(from *lab.Host, port int, to string) (s *session) {
	w.t.Helper()
	until(w.t, fmt.Sprint("a session with ", to), func() bool { s = w.connect(from, port, to); return s != nil })
	return s
}

func (s *session) mustLive(when string) {
	s.w.t.Helper()
	if !s.lives() {
		s.w.t.Fatalf("%s, the session does not live", when)
	}
}

func (s *session) mustEnd(when string) {
	s.w.t.Helper()
	until(s.w.t, when+", the session ends", func() bool { return !s.lives() })
}

// ruin is what somebody does to the guard, and how it comes back.
type ruin struct {
	name string
	do   func(*world)
	ends bool // it ends the grants
}

var ruins = []ruin{
	{"flush ruleset", func(w *world) {
		w.nft("flush", "ruleset")
		w.mustBeRepaired()
	}, false},
	{"delete table", func(w *world) {
		w.nft("delete", "table", "inet", "webknock")
		w.mustBeRepaired()
	}, false},
	{"unguard and reload", func(w *world) {
		for _, command := range []string{"unguard", "reload"} {
			if _, stderr, code := w.webknock(command); code != 0 {
				w.t.Fatalf("%s: exit %d, %s", command, code, stderr)
			}
		}
	}, true},
	{"kill, flush and start", func(w *world) {
		w.daemon.stop(w.t, syscall.SIGKILL)
		w.nft("flush", "ruleset")
		w.serve(cutting)
	}, true},
	{"kill and start", func(w *world) {
		w.daemon.stop(w.t, syscall.SIGKILL)
		w.serve(cutting)
	}, false},
}

func (w *world) mustBeRepaired() {
	w.t.Helper()
	until(w.t, "the guard is back", func() bool { return strings.Contains(w.nft("list", "ruleset"), "chain door_ssh") })
}

// What a grant has let in does not become a session from before the guard,
// whatever happens to the guard.
func TestASessionOfACutDoorEndsWithItsGrantWhateverHappensToTheGuard(t *testing.T) {
	for _, r := range ruins {
		for _, by := range []string{"close", "expiry"} {
			t.Run(r.name+", "+by, func(t *testing.T) {
				w := newWorld(t)
				w.listen(22)
				w.serve(cutting)
				clients := map[string]string{aliceIP: serverIP, aliceIP6: serverIP6}
				up := map[string]*session{}
				length := "1h"
				if by == "expiry" {
					length = "8s"
				}
				for client, server := range clients {
					if _, stderr, code := w.webknock("open", "ssh", client, "--for", length); code != 0 {
						t.Fatalf("open: exit %d, %s", code, stderr)
					}
					up[client] = w.mustConnect(w.alice, 40000, server)
					up[client].mustLive("under its grant")
				}
				r.do(w)
				if !r.ends {
					for _, s := range up {
						s.mustLive("after " + r.name)
					}
				}
				if by == "close" && !r.ends {
					if _, stderr, code := w.webknock("close", "--all"); code != 0 {
						t.Fatalf("close: exit %d, %s", code, stderr)
					}
				} else {
					w.mustBecome()
				}
				for client, server := range clients {
					up[client].mustEnd("after the end of its grant")
					up[client].conn.Close()
					if again := w.connect(w.alice, 40000, server); again != nil {
						t.Errorf("a new connection from the port of a session that has ended gets from %s to %s", client, server)
					}
				}
			})
		}
	}
}

// A session from before the guard lives on, and opens nothing for another from
// its port. When it is over nothing is left of it.
func TestASessionFromBeforeTheGuardLivesWhateverHappensToTheGuard(t *testing.T) {
	for _, r := range ruins {
		t.Run(r.name, func(t *testing.T) {
			w := newWorld(t)
			w.listen(22)
			servers := []string{serverIP, serverIP6}
			var up []*session
			for _, server := range servers {
				up = append(up, w.mustConnect(w.mallory, 40000, server))
				up[len(up)-1].mustLive("before the guard")
			}
			w.serve(cutting)
			for range 2 {
				for _, s := range up {
					s.mustLive("after " + r.name)
				}
				r.do(w)
			}
			for i, s := range up {
				s.mustLive("after " + r.name)
				s.conn.(*net.TCPConn).SetLinger(0)
				s.conn.Close()
				if w.connect(w.mallory, 40000, servers[i]) != nil {
					t.Error("a new connection from the port of a session from before the guard gets in")
				}
			}
			until(t, "the sessions that are over are forgotten", func() bool {
				return !strings.Contains(w.nft("list", "set", "inet", "webknock", "before4")+w.nft("list", "set", "inet", "webknock", "before6"), ". 40000 .")
			})
		})
	}
}

// Who comes in while the guard is gone is not from before the guard, unless it
// was taken away on purpose.
func TestASessionBegunWithoutTheTableEnds(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(cutting)
	servers := []string{serverIP, serverIP6}
	w.daemon.stop(t, syscall.SIGKILL)
	w.nft("flush", "ruleset")
	var up []*session
	for _, server := range servers {
		up = append(up, w.mustConnect(w.mallory, 40000, server))
		up[len(up)-1].mustLive("in the gap")
	}
	w.serve(cutting)
	for _, s := range up {
		s.mustEnd("after the gap")
	}
	for _, how := range []string{"by the daemon", "without a daemon"} {
		if how == "without a daemon" {
			w.daemon.stop(t, syscall.SIGTERM)
		}
		if _, stderr, code := w.webknock("unguard"); code != 0 {
			t.Fatalf("unguard: exit %d, %s", code, stderr)
		}
		up = nil
		for _, server := range servers {
			up = append(up, w.mustConnect(w.mallory, 40001, server))
			up[len(up)-1].mustLive("unguarded")
		}
		if how == "without a daemon" {
			w.serve(cutting)
		} else if _, stderr, code := w.webknock("reload"); code != 0 {
			t.Fatalf("reload: exit %d, %s", code, stderr)
		}
		for _, s := range up {
			s.mustLive("guarded again " + how)
			s.conn.(*net.TCPConn).SetLinger(0)
			s.conn.Close()
		}
	}
}

// A client has sent packets to a door that forwards before it had a grant. They were not
// forwarded, and connection tracking knows the flow. The grant must change that.
func TestAFlowFromBeforeItsGrantIsForwarded(t *testing.T) {
	w := newWorld(t)
	inner := w.inner()
	// Connection tracking is active, and somebody answers on this host.
	w.nft("add table inet tracking; add chain inet tracking input { type filter hook input priority 0; }; add rule inet tracking input ct state established counter")
	answer := func(host *lab.Host, port int, text string) {
		t.Helper()
		err := host.Do(func() error {
			server, err := net.ListenPacket("udp", fmt.Sprint(":", port))
			if err != nil {
				return err
			}
			t.Cleanup(func() { server.Close() })
			go func() {
				buf := make([]byte, 512)
				for _, from, err := server.ReadFrom(buf); err == nil; _, from, err = server.ReadFrom(buf) {
					server.WriteTo([]byte(text), from)
				}
			}()
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	answer(w.server, 5000, "this host")
	answer(inner, 51820, "the other")
	for _, tt := range []struct{ client, server, to string }{{aliceIP, serverIP, innerIP}, {aliceIP6, serverIP6, innerIP6}} {
		var conn net.Conn
		err := w.alice.Do(func() (err error) {
			conn, err = net.DialUDP("udp", &net.UDPAddr{Port: 51820}, net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(tt.server), 5000)))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		asked := func() string {
			conn.SetDeadline(time.Now().Add(300 * time.Millisecond))
			conn.Write([]byte("who is there?"))
			buf := make([]byte, 512)
			n, _ := conn.Read(buf)
			return string(buf[:n])
		}
		until(t, "an answer without a guard", func() bool { return asked() == "this host" })
		door := fmt.Sprintf(`
listeners: [{address: ":8080"}]
doors: [{name: vpn, ports: [5000/udp], ttl: 1h, forward: "%s"}]
sequences: [{name: vpn, steps: [/a], opens: [vpn]}]
`, net.JoinHostPort(tt.to, "51820"))
		w.serve(door)
		until(t, "the end of answers", func() bool { return asked() == "" })
		w.must("open", "vpn", tt.client)
		until(t, "an answer of the other host", func() bool { return asked() == "the other" })
		w.must("close", "--all")
		w.must("unguard")
		w.daemon.stop(t, syscall.SIGTERM)
		conn.Close()
	}
}

// A session through a published port has no socket on this host.
func TestASessionThroughAPublishedPortIsFromBeforeTheGuard(t *testing.T) {
	w := newWorld(t)
	inner := w.inner()
	w.listenOn(inner, 22)
	published := fmt.Sprintf("add table inet docker; add chain inet docker pre { type nat hook prerouting priority -100; }; "+
		"add rule inet docker pre meta nfproto ipv4 fib daddr type local tcp dport 22 dnat ip to %s:22; "+
		"add rule inet docker pre meta nfproto ipv6 fib daddr type local tcp dport 22 dnat ip6 to [%s]:22", innerIP, innerIP6)
	w.nft(published)
	servers := []string{serverIP, serverIP6}
	var up []*session
	for _, server := range servers {
		up = append(up, w.mustConnect(w.mallory, 40000, server))
	}
	w.serve(cutting)
	for _, when := range []string{"after the guard came", "after a repair", "after a kill, a flush and a start"} {
		for _, s := range up {
			s.mustLive(when)
		}
		switch when {
		case "after the guard came":
			w.nft("delete", "table", "inet", "webknock")
			w.mustBeRepaired()
		case "after a repair":
			w.daemon.stop(t, syscall.SIGKILL)
			w.nft("delete", "table", "inet", "webknock")
			w.serve(cutting)
		}
	}
	for i, s := range up {
		s.conn.(*net.TCPConn).SetLinger(0)
		s.conn.Close()
		if w.connect(w.mallory, 40000, servers[i]) != nil {
			t.Error("a new connection from the port of a session from before the guard gets in")
		}
	}
	until(t, "the sessions that are over are forgotten", func() bool {
		return !strings.Contains(w.nft("list", "table", "inet", "webknock"), ". 40000 .")
	})
}
