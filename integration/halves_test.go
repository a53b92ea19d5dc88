package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// knockAs has a client with one of many addresses knock. What it sees does not
// matter: the daemon may just be killed.
func (w *world) knockAs(address string, paths ...string) {
	w.alice.Do(func() error {
		for _, path := range paths {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}, Timeout: time.Second}
			conn, err := d.Dial("tcp", serverIP+":8080")
			if err != nil {
				return err
			}
			io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: h\r\n\r\n")
			conn.SetReadDeadline(time.Now().Add(time.Second))
			io.Copy(io.Discard, conn)
			conn.Close()
		}
		return nil
	})
}

// Either half is killed at random while a thousand clients knock. No grant that was
// given is lost or there twice, and none outlasts its time.
func TestEitherHalfMayEndAtAnyTime(t *testing.T) {
	const clients, atOnce = 1000, 25
	w := newWorld(t)
	for _, route := range [][]string{{"alice", "ip", "route", "add", "local", "10.64.0.0/16", "dev", "lo"}, {"server", "ip", "route", "add", "10.64.0.0/16", "via", aliceIP}} {
		host := w.alice
		if route[0] == "server" {
			host = w.server
		}
		if err := host.Run(route[1], route[2:]...); err != nil {
			t.Fatal(err)
		}
	}
	config := strings.Replace(standard, "    ttl: 30s", "    ttl: 2m\n    max_grants: 2000", 1) + "shield: {rate: 'off'}\n"
	w.serve(config)
	var log []string
	expires := map[string]time.Time{} // by what the log says
	read := func(lines []string) {
		for _, line := range lines {
			var record struct {
				Msg, Client, Door string
				Expires           time.Time
			}
			if json.Unmarshal([]byte(line), &record) == nil && record.Door == "ssh" && (record.Msg == "grant opened" || record.Msg == "grant extended") {
				expires[record.Client] = record.Expires
			}
		}
	}
	address := func(n int) string { return fmt.Sprintf("10.64.%d.%d", n/250, n%250+1) }
	var fronts, keepers int
	missing := func() (all []int) {
		held := map[string]int{}
		for _, g := range w.grants() {
			held[g.Client]++
		}
		for n := range clients {
			if held[address(n)] > 1 {
				t.Errorf("%s has %d grants", address(n), held[address(n)])
			}
			if held[address(n)] == 0 {
				all = append(all, n)
			}
		}
		return all
	}
	for round := 0; ; round++ {
		todo := missing()
		if len(todo) == 0 {
			break
		}
		if round == 20 {
			t.Fatalf("%d clients are not let in", len(todo))
		}
		for len(todo) > 0 {
			some := todo[:min(atOnce, len(todo))]
			todo = todo[len(some):]
			var knocking sync.WaitGroup
			knocking.Go(func() {
				for _, n := range some {
					w.knockAs(address(n), "/a", "/b", "/c")
				}
			})
			if round < 3 {
				time.Sleep(time.Duration(rand.IntN(10)) * time.Millisecond)
				if rand.IntN(4) > 0 {
					if pid, _, _, _ := w.process("front"); pid != 0 {
						fronts++
						syscall.Kill(pid, syscall.SIGKILL)
					}
				} else {
					keepers++
					w.daemon.stop(t, syscall.SIGKILL)
					log = w.daemon.lines()
					read(log)
					w.serve(config)
				}
			}
			knocking.Wait()
		}
	}
	read(w.daemon.lines())
	t.Logf("%d fronts and %d keepers were killed", fronts, keepers)
	if fronts < 10 || keepers < 3 {
		t.Error("too few were killed")
	}
	grants := w.grants()
	elements := strings.Count(w.nft("list", "set", "inet", "webknock", "ssh4"), " expires ")
	if len(grants) != clients || elements != clients {
		t.Errorf("%d grants, %d in the kernel, want %d", len(grants), elements, clients)
	}
	for _, g := range grants {
		end, ok := expires[g.Client]
		if left := time.Until(end).Seconds(); !ok { // the log of a killed keeper may lack its last lines
			if g.Remaining > 120 {
				t.Errorf("%s has %v seconds", g.Client, g.Remaining)
			}
		} else if g.Remaining > left+2 || g.Remaining < left-2 {
			t.Errorf("%s has %v seconds, and was given %v", g.Client, g.Remaining, left)
		}
	}
	until(t, "all is well", func() bool { // the next front may wait some seconds
		status, _, _ := w.webknock("status", "-o", "json")
		return strings.Contains(status, `"state": "ok"`)
	})
}

// When the keeper is killed the front ends too, at once, and answers nobody.
func TestTheFrontEndsWithItsKeeper(t *testing.T) {
	w := newWorld(t)
	w.serve(standard)
	front, _, _, _ := w.process("front")
	w.daemon.stop(t, syscall.SIGKILL)
	until(t, "the front has ended", func() bool {
		_, err := os.Stat(fmt.Sprintf("/proc/%d", front))
		return err != nil
	})
	if w.passes(w.alice, serverIP, 8080) {
		t.Error("somebody still listens")
	}
	w.serve(standard)
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	w.mustBecome("ssh " + aliceIP)
}

// Signals of a terminal reach both halves: the front leaves them to its keeper, which
// has it hand over what was knocked before.
func TestSignalsOfATerminalStopBothHalves(t *testing.T) {
	w := newWorld(t)
	w.configure(standard)
	cmd := w.server.Command(context.Background(), binary, "serve", "--config", w.config())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	w.daemon = w.start(cmd)
	w.daemon.wait(t, `"serving"`)
	front, _, _, _ := w.process("front")
	group := func(s syscall.Signal) {
		if err := syscall.Kill(-w.daemon.cmd.Process.Pid, s); err != nil {
			t.Fatal(err)
		}
	}
	group(syscall.SIGHUP)
	w.daemon.wait(t, `"reloaded"`)
	if pid, _, _, _ := w.process("front"); pid != front {
		t.Error("SIGHUP has ended the front")
	}
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	group(syscall.SIGINT)
	<-w.daemon.done
	log := strings.Join(w.daemon.lines(), "\n")
	if !strings.Contains(log, "grant opened") || strings.Contains(log, "the front has ended") || strings.Contains(log, "not stopped") {
		t.Errorf("the log:\n%s", log)
	}
}

// No connection is refused while a front is replaced.
func TestAnEndedFrontRefusesNoConnection(t *testing.T) {
	w := newWorld(t)
	w.serve(strings.Replace(standard, "steps: [/a, /b, /c]", "steps: [/a]", 1) + "shield: {rate: 'off'}\n")
	for range 5 {
		front, _, _, _ := w.process("front")
		if err := syscall.Kill(front, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := w.dial(w.alice, serverIP, 8080); err != nil {
			t.Errorf("refused: %v", err)
		}
		until(t, "another front", func() bool { pid, _, _, _ := w.process("front"); return pid != 0 && pid != front })
	}
	w.knock(w.alice, serverIP, "/a")
	w.mustBecome("ssh " + aliceIP)
	out, _, code := w.webknock("events", "-o", "json")
	if n := strings.Count(out, `"front.ended"`); code != 0 || n != 5 {
		t.Errorf("%d events of five crashes, exit %d", n, code)
	}
}

// In a user namespace that has one user, without more capabilities than it gives.
func TestInAContainerOfOneUser(t *testing.T) {
	w := newWorld(t)
	w.configure(standard)
	w.daemon = w.start(w.server.Command(context.Background(), "unshare", "--user", "--map-root-user", "--net", "--kill-child", "--fork", "sh", "-c",
		"ip link set lo up && exec setpriv --bounding-set -all,+net_admin --inh-caps -all "+binary+" serve --config "+w.config()))
	w.daemon.wait(t, `"serving"`)
	_, user, confined, warnings := w.process("front")
	if got := strings.Join(confined, " "); got != "capabilities no_new_privs rlimits landlock seccomp" || len(warnings) != 1 || !strings.Contains(warnings[0], "no user of its own") {
		t.Errorf("the front, %s, has given up %s, and warns %q", user, got, warnings)
	}
	if _, err := os.Stat(filepath.Join(w.dir, "webknock.sock")); err != nil {
		t.Error(err)
	}
}
