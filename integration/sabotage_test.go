package integration

import (
	"fmt"
	"math/rand/v2"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// A prober is a stranger who connects without a pause.
type prober struct {
	stop     chan struct{}
	done     sync.WaitGroup
	mu       sync.Mutex
	attempts int
	in       []entry // since it was asked last
}

// An entry is a connection that was made.
type entry struct {
	from, to time.Time
	conn     net.Conn
}

// probe has mallory connect to ports of the server until the test ends.
func (w *world) probe(addresses ...string) *prober {
	p := &prober{stop: make(chan struct{})}
	for _, address := range addresses {
		p.done.Go(func() {
			for {
				select {
				case <-p.stop:
					return
				default:
				}
				var e entry
				err := w.mallory.Do(func() (err error) {
					e.from = time.Now()
					e.conn, err = net.DialTimeout("tcp", address, 100*time.Millisecond)
					e.to = time.Now()
					return err
				})
				p.mu.Lock()
				if p.attempts++; err == nil {
					p.in = append(p.in, e)
				}
				p.mu.Unlock()
				if err == nil { // the server keeps what dies in silence
					<-time.After(30 * time.Millisecond)
				}
			}
		})
	}
	w.t.Cleanup(func() {
		close(p.stop)
		p.done.Wait()
		for _, e := range p.entries() {
			e.conn.Close()
		}
	})
	return p
}

func (p *prober) entries() []entry {
	p.mu.Lock()
	defer p.mu.Unlock()
	in := p.in
	p.in = nil
	return in
}

// lives reports whether a session is answered by the echo server.
func (e entry) lives() bool {
	e.conn.SetDeadline(time.Now().Add(300 * time.Millisecond))
	if _, err := e.conn.Write([]byte("x")); err != nil {
		return false
	}
	n, _ := e.conn.Read(make([]byte, 1))
	return n > 0
}

// sabotage returns what somebody else may do to the firewall, by accident or to
// get in.
func (w *world) sabotage(random *rand.Rand, saved []string) string {
	pick := func(all ...string) string { return all[random.IntN(len(all))] }
	chain := pick("input", "forward", "door_ssh", "door_web")
	return pick(
		"flush ruleset",
		"delete table inet webknock",
		"delete table inet webknock; add table inet webknock",
		"flush table inet webknock",
		"flush chain inet webknock "+chain,
		"insert rule inet webknock "+chain+" accept",
		"insert rule inet webknock "+chain+" ip saddr "+malloryIP+" accept",
		"insert rule inet webknock "+chain+" meta mark set 0x40000000",
		"add chain inet webknock other { type filter hook input priority -200; }; add rule inet webknock other accept",
		"add set inet webknock other { type ipv4_addr; }",
		"flush set inet webknock ssh4; flush set inet webknock ssh6",
		"delete element inet webknock ssh4 { "+aliceIP+" }",
		"add element inet webknock ssh4 { "+malloryIP+" }",
		"add element inet webknock ssh4 { "+malloryIP+` timeout 1h comment "webknock2 end=99999999999 boot=00000000 id=abcd2345" }`,
		"add element inet webknock ssh6 { fd20::3 timeout 1s }",
		"add element inet webknock web4 { "+malloryIP+", 10.20.0.9 timeout 10s }",
		"add element inet webknock allow.4 { 10.20.0.0/28 }",
		"flush set inet webknock allow.4",
		"add chain inet webknock input { policy drop; }",
		"add table inet webknock { flags dormant; }",
		// Of others.
		"add table inet other; delete table inet other; table inet other { chain c { type filter hook input priority -200; accept; }; }",
		"add table inet other; delete table inet other; table inet other { chain c { type filter hook prerouting priority -300; meta mark set 0x40000000; }; }",
		"add table inet other; delete table inet other; table inet other { chain c { type filter hook input priority 0; ct state established,related accept; }; }",
		"add table inet other; delete table inet other; table inet other { chain c { type filter hook prerouting priority -150; ct mark set meta mark; meta mark set ct mark; }; }",
		"add table inet other; delete table inet other",
		saved[random.IntN(len(saved))],
	)
}

// volatile is what changes in a listing by itself, or when an element is put back.
var volatile = regexp.MustCompile(` (timeout|expires|packets|bytes) \S+|,?\s*comment "[^"]*"|end=\S+`)

// counted is the clients whose connections to listeners are counted.
var counted = regexp.MustCompile(`\n\s*elements = \{ [^}]* limit rate over [^}]*\}`)

// listing returns the table without what changes in it by itself.
func (w *world) listing() string {
	out, err := w.server.Command(w.t.Context(), "nft", "-s", "list", "table", "inet", "webknock").CombinedOutput()
	if err != nil {
		return err.Error() + ": " + string(out)
	}
	return volatile.ReplaceAllString(counted.ReplaceAllString(string(out), ""), "")
}

// unlike returns the first line in which two texts differ.
func unlike(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return fmt.Sprintf("line %d is\n%s\nand should be\n%s", i+1, g[i], w[i])
		}
	}
	return fmt.Sprintf("%d lines are there and should be %d", len(g), len(w))
}

// Whatever somebody else does to the firewall, it is put right. A stranger gets
// in only while it is not, and no session from then lives on; a client with a
// grant gets in before and after.
func TestChangesOfTheTableByOthersAreRepaired(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.listen(8005)
	w.serve(strings.Replace(standard, "doors:", "firewall: {allow: [192.0.2.0/24]}\ndoors:", 1))
	w.knock(w.mallory, serverIP, "/a", "/b", "/c")
	w.mustBecome("ssh " + malloryIP)
	saved := []string{"flush ruleset\n" + w.nft("list", "ruleset")}
	w.must("close", "--all")
	w.configure(strings.Replace(strings.Replace(standard, "doors:", "firewall: {allow: [192.0.2.0/24]}\ndoors:", 1), "ttl: 30s", "ttl: 1h", 1))
	w.must("reload")
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	w.knock(w.alice, serverIP6, "/a", "/b", "/c")
	w.mustBecome("ssh "+aliceIP, "ssh "+aliceIP6)
	right := w.listing()
	saved = append(saved, "flush ruleset\n"+w.nft("list", "ruleset"), w.nft("list", "ruleset"))
	live := w.talk(w.alice, serverIP, 22)
	p := w.probe(net.JoinHostPort(serverIP, "22"), net.JoinHostPort(serverIP6, "22"), net.JoinHostPort(serverIP, "8005"))
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	let, done, last := 0, 0, ""
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("of the table %s", unlike(last, right))
		}
	})
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); done++ {
		var commands []string
		for range 1 + random.IntN(3) {
			commands = append(commands, w.sabotage(random, saved))
		}
		began := time.Now()
		for _, command := range commands {
			// What one has taken away the next may not find.
			nft := w.server.Command(t.Context(), "nft", "-f", "-")
			nft.Stdin = strings.NewReader(command)
			nft.Run()
		}
		until(t, fmt.Sprintf("the table is right again after %q", commands), func() bool { last = w.listing(); return last == right })
		ended := time.Now()
		w.mustPass(w.alice, serverIP, 22, true)
		w.mustPass(w.alice, serverIP6, 22, true)
		w.mustPass(w.mallory, serverIP, 22, false)
		var checks sync.WaitGroup
		for _, e := range p.entries() {
			let++
			if e.from.After(ended) || e.to.Before(began) {
				t.Errorf("a stranger got in from %v to %v, while the table was right (%q)", e.from, e.to, commands)
			}
			checks.Go(func() {
				if e.lives() {
					t.Errorf("a stranger's session from the time of a repair lives on (%q)", commands)
				}
				e.conn.Close()
			})
		}
		checks.Wait()
		if t.Failed() {
			return
		}
	}
	live.says("still here")
	p.mu.Lock()
	defer p.mu.Unlock()
	t.Logf("%d times something was done; of %d connections a stranger tried, %d were made during repairs", done, p.attempts, let)
	if done < 3 || p.attempts < 50 {
		t.Errorf("%d rounds, %d attempts", done, p.attempts)
	}
}

// Somebody flushes the ruleset without a pause: it is put back each time, and the
// log and the status say so without growing with it.
func TestRepairsInAFightAreReportedInSums(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(standard)
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	w.mustBecome("ssh " + aliceIP)
	right := w.listing()
	for range 60 {
		w.nft("flush", "ruleset")
	}
	last := ""
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("of the table %s", unlike(last, right))
		}
	})
	until(t, "the table is right again", func() bool { last = w.listing(); return last == right })
	w.mustPass(w.alice, serverIP, 22, true)
	w.mustPass(w.mallory, serverIP, 22, false)
	until(t, "the status says who it is", func() bool {
		problems := w.problems()
		return strings.Contains(problems, "somebody keeps changing the firewall") && strings.Contains(problems, "came from nft (process ") && strings.Contains(problems, "firewall.owner: true")
	})
	lines := 0
	for _, line := range w.daemon.lines() {
		if strings.Contains(line, "guard repaired") || strings.Contains(line, "the firewall failed; retrying") {
			lines++
		}
	}
	if lines > 12 {
		t.Errorf("%d lines of the log tell of 60 flushes", lines)
	}
	w.must("close", "--all")
	w.mustPass(w.alice, serverIP, 22, false)
}
