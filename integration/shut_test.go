package integration

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"webknock/integration/lab"
	"webknock/integration/load"
)

const malloryIP6 = "fd20::3"

// A flood is SYNs over both families.
type flood []*load.SYNs

// flood sends SYNs to ports of the server without a pause.
func (w *world) flood(from *lab.Host, from4, from6 string, ports ...uint16) flood {
	w.t.Helper()
	var f flood
	for _, port := range ports {
		for _, a := range [][2]string{{from4, serverIP}, {from6, serverIP6}} {
			s := &load.SYNs{From: netip.AddrPortFrom(netip.MustParseAddr(a[0]), 0), To: netip.AddrPortFrom(netip.MustParseAddr(a[1]), port)}
			if err := s.Start(from); err != nil {
				w.t.Fatal(err)
			}
			w.t.Cleanup(func() {
				if err := s.Stop(); err != nil {
					w.t.Error(err)
				}
			})
			f = append(f, s)
		}
	}
	return f
}

func (f flood) sent() (n int64) {
	for _, s := range f {
		n += s.Sent()
	}
	return n
}

// answered returns how many SYNs were answered in a time.
func (f flood) answered(from, to time.Time) (n int) {
	for _, s := range f {
		for _, at := range s.Answered() {
			if at.After(from) && at.Before(to) {
				n++
			}
		}
	}
	return n
}

// mustStaySilent fails if a SYN is answered while do works. It tries before
// that an answer would be counted.
func (f flood) mustStaySilent(w *world, what string, do func()) {
	w.t.Helper()
	for _, s := range f {
		began := s.Sent()
		until(w.t, "SYNs are sent", func() bool { return s.Sent() > began+1000 })
	}
	from, before := time.Now(), f.sent()
	do()
	n := f.sent() - before
	if a := f.answered(from, time.Now()); a > 0 {
		w.t.Errorf("%s: of %d SYNs %d were answered", what, n, a)
	} else {
		w.t.Logf("%s: none of %d SYNs was answered", what, n)
	}
}

// mustBeHeard fails if no SYN to a port is answered: the flood can see what it
// looks for.
func (f flood) mustBeHeard(w *world) {
	w.t.Helper()
	for _, s := range f {
		began := len(s.Answered())
		until(w.t, fmt.Sprint("a SYN to ", s.To, " is answered"), func() bool { return len(s.Answered()) > began })
	}
}

// writings are configurations that each make the table another one.
func writings(text string) []string {
	return []string{
		text,
		strings.Replace(text, "doors:\n", "doors:\n  - {name: more, ports: [9000-9100/tcp, 9200/udp]}\n", 1) + "  - {name: more, steps: [/more], opens: [more]}\n",
		strings.Replace(text, "    ports: [22/tcp]\n", "    ports: [22-23/tcp]\n    connections: 3\n", 1),
		strings.Replace(text, "    ttl: 30s\n", "    ttl: 30s\n    established: cut\n", 1),
	}
}

// Nothing that writes the table lets a stranger's SYN in: reloads that change
// something or nothing, restarts, kills, repairs of what somebody else changed,
// openings and closings.
func TestNoWritingOfTheTableLetsASYNIn(t *testing.T) {
	for name, firewall := range map[string]string{"plain": "firewall: {allow: [%s]}\n", "owner": "firewall: {owner: true, allow: [%s]}\n"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.listen(22)
			w.listen(8005)
			f := w.flood(w.mallory, malloryIP, malloryIP6, 22, 8005)
			f.mustBeHeard(w)
			config := func(i int, text string) string {
				return text + fmt.Sprintf(firewall, []string{"192.0.2.0/24", "192.0.2.0/24, '2001:db8::/32'", "198.51.100.0/24"}[i%3])
			}
			w.serve(config(0, standard))
			texts := writings(standard)
			f.mustStaySilent(w, "reloads that change something", func() {
				for i := range 60 {
					w.configure(config(i, texts[i%len(texts)]))
					w.must("reload")
				}
			})
			w.configure(config(0, standard))
			w.must("reload")
			f.mustStaySilent(w, "reloads that change nothing", func() {
				for range 20 {
					w.must("reload")
				}
			})
			f.mustStaySilent(w, "openings and closings", func() {
				for range 10 {
					w.must("open", "ssh", aliceIP)
					w.must("open", "web", aliceIP6)
					w.must("close", "--all")
				}
			})
			f.mustStaySilent(w, "restarts and kills", func() {
				for i := range 8 {
					w.daemon.stop(t, []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL}[i%2])
					w.serve(config(i/2, texts[i/2%len(texts)]))
				}
			})
			if name == "owner" { // nobody else can change the table
				w.must("open", "ssh", malloryIP)
				w.must("open", "ssh", malloryIP6)
				flood{f[0], f[1]}.mustBeHeard(w)
				return
			}
			// Somebody else changes the table without opening a door, and the daemon repairs
			// it.
			f.mustStaySilent(w, "repairs", func() {
				for i := range 20 {
					tampering := []struct {
						command string
						right   func(table string) bool
					}{
						{"add chain inet webknock extra", func(table string) bool { return !strings.Contains(table, "chain extra") }},
						{"insert rule inet webknock door_ssh ip saddr 192.0.2.99 counter", func(table string) bool { return !strings.Contains(table, "192.0.2.99") }},
						{"add set inet webknock more { type ipv4_addr; }", func(table string) bool { return !strings.Contains(table, "set more") }},
						{"flush chain inet webknock forward", func(table string) bool { return strings.Count(table, "goto asked_for") == 2 }},
					}[i%4]
					w.nft(tampering.command)
					until(t, "the repair of "+tampering.command, func() bool { return tampering.right(w.table()) })
				}
			})
			// While the table was deleted the doors were open. Nothing gets in before that, nor
			// after the repair.
			for range 5 {
				gone := time.Now()
				w.nft("delete", "table", "inet", "webknock")
				until(t, "the repair", func() bool { return strings.Contains(w.table(), "goto asked_for") })
				repaired := time.Now()
				t.Logf("the table was gone for %v at most, and %d SYNs were answered", repaired.Sub(gone), f.answered(gone, repaired))
				f.mustStaySilent(w, "after a repair", func() {
					began := f.sent()
					until(t, "SYNs are sent", func() bool { return f.sent() > began+10_000 })
				})
				if n := f.answered(repaired, time.Now()); n > 0 {
					t.Errorf("%d SYNs were answered after the repair", n)
				}
			}
			w.must("open", "ssh", malloryIP)
			w.must("open", "ssh", malloryIP6)
			flood{f[0], f[1]}.mustBeHeard(w)
		})
	}
}

// The table exists at all times while it gets an owner or loses it.
func TestSwitchingTheOwnerLetsNoSYNIn(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	f := w.flood(w.mallory, malloryIP, malloryIP6, 22)
	f.mustBeHeard(w)
	w.serve(standard)
	w.must("open", "ssh", aliceIP)
	f.mustStaySilent(w, "owner on and off", func() {
		for i := range 40 {
			w.configure(standard + fmt.Sprintf("firewall: {owner: %v}\n", i%2 == 0))
			w.must("reload")
			if owned := strings.Contains(w.table(), "owner"); owned != (i%2 == 0) {
				t.Errorf("reload %d: owned %v", i, owned)
			}
		}
	})
	w.mustPass(w.alice, serverIP, 22, true)
}

// table lists the guard; empty if there is none.
func (w *world) table() string {
	w.t.Helper()
	out, _ := w.server.Command(w.t.Context(), "nft", "list", "table", "inet", "webknock").Output()
	return string(out)
}

// A session that began while the table was gone ends with the gap.
func TestNoSessionFromARepairLives(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(standard)
	for _, to := range []string{serverIP, serverIP6} {
		// The daemon is stopped meanwhile, so that the gap lasts.
		if err := w.daemon.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		w.nft("delete", "table", "inet", "webknock")
		session := w.talk(w.mallory, to, 22)
		if err := w.daemon.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		until(t, "the repair", func() bool { return strings.Contains(w.table(), "goto asked_for") })
		session.isCutOff()
	}
}

// isCutOff fails if what is said is heard.
func (c *talk) isCutOff() {
	c.t.Helper()
	c.conn.SetDeadline(time.Now().Add(700 * time.Millisecond))
	c.conn.Write([]byte("anybody there?"))
	if n, err := c.conn.Read(make([]byte, 64)); n > 0 {
		c.t.Errorf("%d bytes came back, %v; want none", n, err)
	}
}

// counters returns the packets that the counters of a table have counted.
func (w *world) counters(table string) map[string]int64 {
	w.t.Helper()
	var list struct {
		Nftables []struct {
			Counter *struct {
				Name    string
				Packets int64
			}
		}
	}
	if err := json.Unmarshal([]byte(w.nft("-j", "list", "counters", "table", "inet", table)), &list); err != nil {
		w.t.Fatal(err)
	}
	counted := map[string]int64{}
	for _, e := range list.Nftables {
		if e.Counter != nil {
			counted[e.Counter.Name] = e.Counter.Packets
		}
	}
	return counted
}

// witness counts the packets to port 22 that pass the guard, by client and by mark, and all that
// come to prerouting.
const witness = `table inet witness {
	counter came { }
	counter marked { }
	counter unmarked { }
	counter strangers { }
	chain pre { type filter hook prerouting priority -300; policy accept;
		ip saddr 10.20.0.2 tcp dport 22 counter name came
		ip6 saddr fd20::2 tcp dport 22 counter name came
	}
	chain input { type filter hook input priority 0; policy accept;
		ip saddr 10.20.0.2 tcp dport 22 meta mark & 0x40000000 != 0 counter name marked
		ip6 saddr fd20::2 tcp dport 22 meta mark & 0x40000000 != 0 counter name marked
		ip saddr 10.20.0.2 tcp dport 22 meta mark & 0x40000000 == 0 counter name unmarked
		ip6 saddr fd20::2 tcp dport 22 meta mark & 0x40000000 == 0 counter name unmarked
		ip saddr 10.20.0.3 tcp dport 22 meta mark & 0x40000000 != 0 counter name strangers
		ip6 saddr fd20::3 tcp dport 22 meta mark & 0x40000000 != 0 counter name strangers
	}
}`

// In both modes every packet of a client with a grant is marked, once, while the
// table is written, and none of a stranger.
func TestEveryGrantedPacketIsMarkedWhileTheTableIsWritten(t *testing.T) {
	for _, mode := range []string{"guard", "sets"} {
		t.Run(mode, func(t *testing.T) {
			w := newWorld(t)
			w.listen(22)
			standard := strings.Replace(standard, "ttl: 30s", "ttl: 1h", 1)
			w.serve(standard + "firewall: {mode: " + mode + "}\n")
			w.must("open", "ssh", aliceIP)
			w.must("open", "ssh", aliceIP6)
			w.load(witness)
			mallory := w.flood(w.mallory, malloryIP, malloryIP6, 22)
			alice := w.flood(w.alice, aliceIP, aliceIP6, 22)
			more := strings.Replace(standard, "doors:\n", "doors:\n  - {name: more, ports: [9000-9100/tcp, 9200/udp]}\n", 1) + "  - {name: more, steps: [/more], opens: [more]}\n"
			for i := range 30 {
				text := []string{standard, more}[i%2] + "firewall: {mode: " + mode + "}\n"
				if i%10 == 9 {
					w.daemon.stop(t, []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL}[i/10%2])
					w.serve(text)
					continue
				}
				w.configure(text)
				w.must("reload")
			}
			for _, s := range append(alice, mallory...) {
				if err := s.Stop(); err != nil {
					t.Fatal(err)
				}
			}
			if n := len(w.grants()); n != 2 {
				t.Fatalf("%d grants, want 2", n)
			}
			c := w.counters("witness")
			t.Logf("counted %v", c)
			if c["came"] == 0 || c["marked"] != c["came"] || c["unmarked"] > 0 || c["strangers"] > 0 {
				t.Errorf("counted %v; want all that came marked, and none of a stranger", c)
			}
			var granted uint64
			for _, g := range w.grants() {
				granted += g.Packets
			}
			// A restart goes on from what the table has counted.
			if diff := int64(granted) - c["marked"]; diff < 0 || diff > 4 { // what came before the witness
				t.Errorf("the grants have counted %d packets, want %d: each once", granted, c["marked"])
			}
		})
	}
}
