package integration

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"webknock/integration/lab"
)

// reaches reports whether a host can connect to the listener.
func (w *world) reaches(from *lab.Host) bool { return w.passes(from, serverIP, 8080) }

// bans returns who is banned.
func (w *world) bans() (clients []string) {
	w.t.Helper()
	out := w.must("bans", "--output", "json")
	var list struct {
		Bans []struct {
			Client    string
			Remaining float64
		}
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		w.t.Fatalf("%v\n%s", err, out)
	}
	for _, b := range list.Bans {
		if b.Remaining <= 0 || b.Remaining > 600 {
			w.t.Errorf("ban %+v", b)
		}
		clients = append(clients, b.Client)
	}
	return clients
}

func (w *world) mustBan(want ...string) {
	w.t.Helper()
	until(w.t, fmt.Sprint("bans ", want), func() bool { return slices.Equal(w.bans(), want) })
}

func TestTheKernelLimitsEachClientByItself(t *testing.T) {
	w := newWorld(t)
	w.serve(standard + `
shield: {rate: 3/minute}
firewall: {allow: ["fd20::2/128"]}
`)
	count := func(from *lab.Host, to string) (accepted int) {
		for range 9 {
			err := from.Do(func() error {
				conn, err := net.DialTimeout("tcp", net.JoinHostPort(to, "8080"), 900*time.Millisecond)
				if err == nil {
					conn.Close()
				}
				return err
			})
			if err == nil {
				accepted++
			}
		}
		return accepted
	}
	if n := count(w.mallory, serverIP); n != 6 { // the burst
		t.Errorf("%d connections of mallory's, want 6", n)
	}
	if n := count(w.mallory, serverIP6); n != 6 {
		t.Errorf("%d connections of mallory's by IPv6, want 6", n)
	}
	if n := count(w.alice, serverIP6); n != 9 {
		t.Errorf("%d connections of an allowed client, want 9", n)
	}
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	w.mustBecome("ssh " + aliceIP)
}

func TestABanClosesListenersAndNotDoors(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	text := standard + "shield: {rate: 'off', ban: {knocks: 4}, decoys: [/wp-login.php]}\n"
	w.serve(text)
	w.knock(w.alice, serverIP, "/1", "/a", "/b", "/c", "/2", "/3", "/4") // a completion clears
	w.mustBecome("ssh " + aliceIP)
	if got := w.bans(); len(got) > 0 {
		t.Errorf("bans %q", got)
	}
	w.knock(w.alice, serverIP, "/a")
	w.mustBan(aliceIP)
	until(t, "the kernel's ban", func() bool { return !w.reaches(w.alice) })
	w.mustPass(w.alice, serverIP, 22, true)
	w.mustPass(w.mallory, serverIP, 8080, true)

	w.knock(w.mallory, serverIP6, "/wp-login.php?x=y")
	w.mustBan(aliceIP, "fd20::/64")
	until(t, "the kernel's ban of a network", func() bool { return !w.passes(w.alice, serverIP6, 8080) })

	w.daemon.stop(t, syscall.SIGKILL)
	w.serve(text)
	w.mustBan(aliceIP, "fd20::/64")
	repairs := func() int { return strings.Count(strings.Join(w.daemon.lines(), "\n"), "guard repaired") }
	w.nft("flush", "ruleset")
	until(t, "the repair", func() bool { return repairs() > 0 })
	if w.reaches(w.alice) || w.passes(w.mallory, serverIP6, 8080) {
		t.Error("a flush has lifted a ban")
	}
	w.must("unguard")
	w.must("reload")
	if w.reaches(w.alice) {
		t.Error("taking the guard away and putting it back has lifted a ban")
	}

	if _, stderr, code := w.webknock("unban", malloryIP); code != 1 || !strings.Contains(stderr, "not banned") {
		t.Errorf("unban of somebody else: exit %d, %s", code, stderr)
	}
	w.must("unban", "fd20::7") // a neighbour
	w.must("unban", aliceIP)
	w.mustBan()
	w.knock(w.alice, serverIP, "/a", "/b", "/c")

	w.knock(w.alice, serverIP, "/wp-login.php")
	w.mustBan(aliceIP)
	w.configure(text + "firewall: {allow: [" + aliceIP + "]}\n")
	w.must("reload")
	w.mustBan() // who is allowed is not banned
	w.knock(w.alice, serverIP, "/wp-login.php", "/1", "/2", "/3", "/4", "/5")
	w.mustBan()
}

func TestABanMayEndGrants(t *testing.T) {
	w := newWorld(t)
	w.serve(standard + "shield: {rate: 'off', ban: {knocks: 4, doors: true}}\n")
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	w.knock(w.mallory, serverIP, "/a", "/b", "/c")
	w.mustBecome("ssh "+aliceIP, "ssh "+malloryIP)
	w.knock(w.alice, serverIP, "/a", "/a", "/a", "/a") // sent again, as browsers do
	w.knock(w.alice, serverIP, "/a?1", "/a?2")
	w.mustBecome("ssh "+aliceIP, "ssh "+malloryIP)
	w.knock(w.alice, serverIP, "/a?3")
	w.mustBecome("ssh " + malloryIP)
}

// Behind a proxy the kernel sees the proxy alone, and must not ban it.
func TestABanBehindAProxyIsForTheClient(t *testing.T) {
	w := newWorld(t)
	w.serve(listener(`
address: ":8080"
proxies: [`+malloryIP+`, "fd20::3"]
client_address: x-forwarded-for
cover: {status: 404}`) + "shield: {ban: {knocks: 4}, decoys: [/wp-login.php]}\n")
	ask := func(client string, paths ...string) {
		t.Helper()
		for _, path := range paths {
			out, exit := w.curl(w.mallory, "-H", "X-Forwarded-For: "+client, "--write-out", "%{http_code}", "http://"+serverIP+":8080"+path)
			if exit != 0 || out != "404" {
				t.Errorf("curl %s: exit %d, %q", path, exit, out)
			}
		}
	}
	ask("192.0.2.7", "/1", "/2", "/3", "/a")
	w.mustBan("192.0.2.7")
	ask("192.0.2.7", "/a", "/b", "/c") // answered as ever, and not looked at
	ask("192.0.2.8", "/a", "/b", "/c")
	w.mustBecome("ssh 192.0.2.8")
	ask(malloryIP, "/wp-login.php") // the proxy's own address
	ask("nobody", "/wp-login.php")
	ask("192.0.2.9", "/wp-login.php")
	w.mustBan("192.0.2.7", "192.0.2.9")
	w.mustPass(w.mallory, serverIP, 8080, true)
	if set := w.nft("list", "set", "inet", "webknock", "banned.4"); strings.Contains(set, "192.0.2.") {
		t.Errorf("the kernel has the ban: %s", set)
	}
}

// Cookies of other ports can make a browser's head larger than it may be. Nobody
// sees that from outside, so the log has to tell.
func TestHeadsBeyondTheBoundsAreLoggedInSums(t *testing.T) {
	w := newWorld(t)
	w.serve(standard)
	for range 3 {
		w.curl(w.alice, "-H", "Cookie: "+strings.Repeat("x", 9000), "http://"+serverIP+":8080/a")
	}
	lines := []string{"http://" + serverIP + ":8080/a"}
	for range 100 {
		lines = append(lines, "-H", "X: y")
	}
	w.curl(w.alice, lines...)
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	w.mustBecome("ssh " + aliceIP)
	w.daemon.stop(t, syscall.SIGTERM)
	for text, count := range map[string]int{"over 8 KiB": 3, "over 100 lines": 1} {
		line := slices.IndexFunc(w.daemon.lines(), func(line string) bool { return strings.Contains(line, text) })
		if line < 0 || !strings.Contains(w.daemon.lines()[line], fmt.Sprintf(`"count":%d`, count)) {
			t.Errorf("no line with %s and %d in:\n%s", text, count, strings.Join(w.daemon.lines(), "\n"))
		}
	}
}
