package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// saveRuleset saves the ruleset as Debian's nftables.conf has it, and returns what
// loads it again.
func (w *world) saveRuleset() (load func()) {
	w.t.Helper()
	path := filepath.Join(w.t.TempDir(), "ruleset")
	if err := os.WriteFile(path, []byte("flush ruleset\n"+w.nft("list", "ruleset")), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return func() { w.nft("-f", path) }
}

// problems returns what the status says.
func (w *world) problems() string {
	out, _, _ := w.webknock("status", "-o", "json")
	var status struct{ Problems []string }
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		return "no status: " + err.Error()
	}
	return strings.Join(status.Problems, "; ")
}

func TestASavedRulesetRevivesNothing(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.listen(8001)
	w.serve(standard)
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	w.knock(w.alice, serverIP6, "/a", "/b", "/c")
	w.knock(w.mallory, serverIP, "/a", "/x") // 3 s
	w.mustBecome("ssh "+aliceIP, "ssh "+aliceIP6, "web "+malloryIP)
	load := w.saveRuleset()
	closed := w.grants()[0]
	w.must("close", closed.ID)
	w.daemon.stop(t, syscall.SIGKILL)
	until(t, "the grant of 3 s ends", func() bool { return !strings.Contains(w.nft("list", "set", "inet", "webknock", "web4"), malloryIP) })
	load() // and its time begins anew
	w.serve(standard)
	w.mustBecome("ssh " + aliceIP6)
	w.mustPass(w.alice, serverIP, 22, false)
	w.mustPass(w.mallory, serverIP, 8001, false)
	w.mustPass(w.alice, serverIP6, 22, true)
	// The same while the daemon runs.
	load()
	w.daemon.wait(t, "guard repaired")
	until(t, "only the grant that runs is left", func() bool {
		ssh, web := w.nft("list", "set", "inet", "webknock", "ssh4"), w.nft("list", "set", "inet", "webknock", "web4")
		return !strings.Contains(ssh+web, "10.20.0.")
	})
	w.mustPass(w.alice, serverIP, 22, false)
	w.mustPass(w.mallory, serverIP, 8001, false)
	w.mustPass(w.alice, serverIP6, 22, true)
}

func TestOnlyCloseTheAPIAndTheEndEndGrants(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(strings.Replace(standard, "ttl: 30s", "ttl: 1h", 1))
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	w.knock(w.alice, serverIP6, "/a", "/b", "/c")
	w.mustBecome("ssh "+aliceIP, "ssh "+aliceIP6)
	ours := regexp.MustCompile(aliceIP + ` counter.* expires (59m|1h).*comment "webknock2 `)
	for _, command := range []string{
		"flush set inet webknock ssh4",
		"delete element inet webknock ssh4 { " + aliceIP + " }",
		"delete element inet webknock ssh4 { " + aliceIP + " }; add element inet webknock ssh4 { " + aliceIP + " timeout 20h }",
		"add element inet webknock ssh4 { " + malloryIP + " timeout 20h }",
		"add element inet webknock ssh4 { " + malloryIP + ` timeout 20h comment "webknock1 id=abcd2345 at=1" }`,
		"add element inet webknock ssh6 { fd20::3 }",
	} {
		w.nft(command)
		until(t, command+" is undone", func() bool {
			list := w.nft("list", "table", "inet", "webknock")
			return ours.MatchString(list) && strings.Contains(list, aliceIP6+" counter") && !strings.Contains(list, malloryIP) && !strings.Contains(list, "fd20::3")
		})
		w.mustPass(w.alice, serverIP, 22, true)
		w.mustPass(w.mallory, serverIP, 22, false)
		w.mustPass(w.mallory, serverIP6, 22, false)
	}
	w.mustHold("ssh "+aliceIP, "ssh "+aliceIP6)
	w.must("close", "--all")
	w.mustPass(w.alice, serverIP, 22, false)
}

func TestNetworksAndBansOfOthersAreUndone(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(strings.Replace(standard, "doors:", "firewall: {allow: [10.20.0.2/32, \"fd20::2/128\"]}\nshield: {ban: {knocks: 5, within: 1m, for: 10m}}\ndoors:", 1))
	w.mustPass(w.alice, serverIP, 22, true)
	before := w.nft("-s", "list", "table", "inet", "webknock")
	for _, command := range []string{
		"add element inet webknock allow.4 { " + malloryIP + " }",
		"add element inet webknock allow.6 { fd20::3 }",
		"flush set inet webknock allow.4",
		"delete element inet webknock allow.6 { fd20::2 }",
		"flush set inet webknock exempt.4",
		"add element inet webknock banned.4 { " + malloryIP + " timeout 1h }",
	} {
		w.nft(command)
		until(t, command+" is undone", func() bool { return w.nft("-s", "list", "table", "inet", "webknock") == before })
	}
	w.mustPass(w.alice, serverIP, 22, true)
	w.mustPass(w.alice, serverIP6, 22, true)
	w.mustPass(w.mallory, serverIP, 22, false)
	w.mustPass(w.mallory, serverIP6, 22, false)
	if n := strings.Count(strings.Join(w.daemon.lines(), "\n"), "guard repaired"); n < 3 {
		t.Errorf("%d repairs in the log", n)
	}
}

// A grant whose count was deleted allows no further connection. A new knock restarts the count.
func TestAFlushedCountOfConnectionsGivesNoMore(t *testing.T) {
	for _, command := range []string{"flush set inet webknock ssh4.connections", "flush ruleset"} {
		t.Run(command, func(t *testing.T) {
			w := newWorld(t)
			w.listen(22)
			w.serve(with("connections: 2"))
			w.knock(w.alice, serverIP, "/a", "/b", "/c")
			w.mustBecome("ssh " + aliceIP)
			one, two := w.talk(w.alice, serverIP, 22), w.talk(w.alice, serverIP, 22)
			w.mustPass(w.alice, serverIP, 22, false)
			w.nft(command)
			w.daemon.wait(t, "guard repaired")
			for range 3 {
				w.mustPass(w.alice, serverIP, 22, false)
			}
			w.mustHold("ssh " + aliceIP)
			one.says("one")
			two.says("two")
			w.knock(w.alice, serverIP, "/a", "/b", "/c")
			until(t, "the grant is renewed", func() bool { return w.passes(w.alice, serverIP, 22) })
		})
	}
}

func TestAFullStateDirectoryKeepsNothingOpen(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	state := w.dir + "/full"
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", state, "tmpfs", 0, "size=64k,mode=700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(state, syscall.MNT_DETACH) })
	filler := filepath.Join(state, "filler")
	os.WriteFile(filler, make([]byte, 128<<10), 0o600) // until it is full
	w.serve(standard + "\nstate: " + state + "\n")
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	w.mustBecome("ssh " + aliceIP)
	w.must("close", "--all")
	w.mustPass(w.alice, serverIP, 22, false)
	if problems := w.problems(); !strings.Contains(problems, "closed grants (1) are not remembered") {
		t.Errorf("problems: %s", problems)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	until(t, "it is remembered", func() bool { return w.problems() == "" })
}

// The version before wrote down no ends. Its grants go on at the first start of
// this one, and at no later one.
func TestGrantsOfTheVersionBeforeGoOnOnce(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(standard)
	w.daemon.stop(t, syscall.SIGTERM)
	add := func(id string) {
		w.nft(fmt.Sprintf(`add element inet webknock ssh4 { %s timeout 25s comment "webknock1 id=%s at=%d seq=ssh" }`, aliceIP, id, time.Now().UnixMilli()))
	}
	add("abcd2345")
	if err := os.RemoveAll(w.dir + "/state"); err != nil { // as the version before left it
		t.Fatal(err)
	}
	w.serve(standard)
	w.mustHold("ssh " + aliceIP)
	if g := w.grants()[0]; g.ID != "abcd2345" || g.Remaining > 25 || g.Remaining < 10 {
		t.Errorf("grant %+v", g)
	}
	if list := w.nft("list", "set", "inet", "webknock", "ssh4"); !strings.Contains(list, "webknock2 ") {
		t.Errorf("the element is still as the version before wrote it:\n%s", list)
	}
	w.mustPass(w.alice, serverIP, 22, true)
	w.must("close", "--all")
	w.daemon.stop(t, syscall.SIGTERM)
	add("abcd2346")
	w.serve(standard)
	w.mustHold()
	w.mustPass(w.alice, serverIP, 22, false)
}

// What somebody else's element has let in does not live on, though its
// connection was labelled as one that began under a grant.
func TestASessionThatOthersLetInEnds(t *testing.T) {
	for name, command := range map[string]string{
		"a grant":             "add element inet webknock ssh4 { " + malloryIP + " timeout 1h }",
		"an address":          "add element inet webknock allow.4 { 10.20.0.3 }",
		"a network":           "add element inet webknock allow.4 { 10.20.0.3-10.20.0.9 }",
		"a rule that accepts": "insert rule inet webknock input tcp dport 22 accept",
		"a flush":             "flush ruleset",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.listen(22)
			w.serve(strings.Replace(standard, "doors:", "firewall: {allow: [192.0.2.0/24]}\ndoors:", 1))
			w.knock(w.alice, serverIP, "/a", "/b", "/c")
			w.mustBecome("ssh " + aliceIP)
			alice := w.talk(w.alice, serverIP, 22)
			right := w.listing()
			signal := func(s syscall.Signal) {
				if err := w.daemon.cmd.Process.Signal(s); err != nil {
					t.Fatal(err)
				}
			}
			signal(syscall.SIGSTOP) // so that there is time to get in
			w.nft(command)
			mallory := w.talk(w.mallory, serverIP, 22)
			signal(syscall.SIGCONT)
			until(t, "the table is right again", func() bool { return w.listing() == right })
			until(t, "the session is dead", func() bool { return !entry{conn: mallory.conn}.lives() })
			alice.says("still here")
			w.mustPass(w.mallory, serverIP, 22, false)
			w.mustPass(w.alice, serverIP, 22, true)
		})
	}
}
