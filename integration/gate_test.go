package integration

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestTheRightOrderOpensForThatClientAlone(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(standard)
	w.mustPass(w.alice, serverIP, 22, false)
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	w.mustBecome("ssh " + aliceIP)
	w.mustPass(w.alice, serverIP, 22, true)
	w.mustPass(w.mallory, serverIP, 22, false)
	w.mustPass(w.alice, serverIP6, 22, false)
	w.knock(w.alice, serverIP6, "/a", "/b", "/c")
	w.mustBecome("ssh "+aliceIP, "ssh "+aliceIP6)
	w.mustPass(w.alice, serverIP6, 22, true)
	for _, line := range w.daemon.lines() {
		for _, path := range []string{`"/a`, `"/b`, `"/c`} {
			if strings.Contains(line, path) {
				t.Errorf("a trigger path is in the log: %s", line)
			}
		}
	}
}

func TestWrongRequestsOpenNothing(t *testing.T) {
	w := newWorld(t)
	w.serve(standard)
	for _, order := range []string{"a c b", "b a c", "b c a", "c a b", "c b a", "a b", "b c", "a b z c", "a b c/", "a b //c", "a b z/../c", "A B C"} {
		var paths []string
		for _, p := range strings.Fields(order) {
			paths = append(paths, "/"+p)
		}
		w.knock(w.alice, serverIP, append(paths, "/wrong")...)
		w.mustHold()
	}
	// A stranger who finishes what another began.
	w.knock(w.alice, serverIP, "/a", "/b")
	w.knock(w.mallory, serverIP, "/c")
	w.mustHold()
	w.knock(w.alice, serverIP, "/c")
	w.mustBecome("ssh " + aliceIP)
}

func TestRepeatedRequestsAndIgnoredPathsDoNoHarm(t *testing.T) {
	w := newWorld(t)
	w.serve(standard)
	w.knock(w.alice, serverIP, "/a", "/a", "/favicon.ico", "/b", "/b", "/robots.txt", "/c")
	w.mustBecome("ssh " + aliceIP)
}

func TestAClientCompletesTwoSequencesAtOnce(t *testing.T) {
	w := newWorld(t)
	w.serve(standard)
	w.knock(w.alice, serverIP, "/a", "/b") // struck out of web, which is not strict
	w.knock(w.alice, serverIP, "/c")
	w.knock(w.alice, serverIP, "/x")
	w.mustBecome("ssh "+aliceIP, "web "+aliceIP)
}

func TestATooLongPauseStartsTheSequenceOver(t *testing.T) {
	w := newWorld(t)
	w.serve(strings.Replace(standard, "steps: [/a, /b, /c]", "steps: [/a, /b, /c]\n    within: 1s", 1))
	w.knock(w.mallory, serverIP, "/a", "/b")
	until(t, "the progress ends", func() bool {
		out, _, _ := w.webknock("clients", "-o", "json")
		return !strings.Contains(out, `"ssh"`)
	})
	w.knock(w.mallory, serverIP, "/c")
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	w.mustBecome("ssh " + aliceIP)
}

func TestADoorClosesOnTimeThoughTheDaemonIsKilled(t *testing.T) {
	w := newWorld(t)
	w.listen(8001)
	w.serve(standard)
	w.knock(w.alice, serverIP, "/a", "/x")
	w.mustBecome("web " + aliceIP)
	w.mustPass(w.alice, serverIP, 8001, true)
	w.daemon.stop(t, syscall.SIGKILL)
	until(t, "the kernel closes the door", func() bool { return !w.passes(w.alice, serverIP, 8001) })
	if list := w.nft("list", "set", "inet", "webknock", "web4"); strings.Contains(list, aliceIP) {
		t.Errorf("the grant is still there:\n%s", list)
	}
}

func TestANewDaemonAdoptsRunningGrants(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(standard)
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	w.mustBecome("ssh " + aliceIP)
	before := w.grants()[0]
	w.daemon.stop(t, syscall.SIGKILL) // leaves a stale socket
	w.serve(standard)
	after := w.grants()
	if len(after) != 1 || after[0].ID != before.ID || after[0].Sequence != "ssh" || after[0].Remaining > before.Remaining || after[0].Remaining < 1 {
		t.Errorf("adopted %+v, before %+v", after, before)
	}
	w.mustPass(w.alice, serverIP, 22, true)
}

func TestAFlushIsRepaired(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(standard)
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	w.mustBecome("ssh " + aliceIP)
	began := time.Now()
	w.nft("flush", "ruleset")
	w.daemon.wait(t, "guard repaired")
	t.Logf("repaired within %v of the start of nft flush ruleset", time.Since(began))
	w.mustHold("ssh " + aliceIP)
	w.mustPass(w.alice, serverIP, 22, true)
	w.mustPass(w.mallory, serverIP, 22, false)
}

func TestAReloadOfABrokenFileChangesNothing(t *testing.T) {
	w := newWorld(t)
	w.serve(standard)
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	w.mustBecome("ssh " + aliceIP)
	w.configure(strings.Replace(standard, "ttl: 30s", "ttl: 30", 1))
	if _, stderr, code := w.webknock("check"); code != 1 || !strings.Contains(stderr, "webknock.yaml:7:10: doors[0].ttl: 30 has no unit (write a duration like 30s)") {
		t.Errorf("check: exit %d, %s", code, stderr)
	}
	if err := w.daemon.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	w.daemon.wait(t, "not reloaded")
	w.mustHold("ssh " + aliceIP)
	w.knock(w.mallory, serverIP, "/a", "/b", "/c")
	w.mustBecome("ssh "+aliceIP, "ssh "+malloryIP)
	// A right one ends the grants of a door that is gone.
	w.configure(`
listeners: [{address: ":8080"}]
doors: [{name: web, ports: [8000/tcp]}]
sequences: [{name: web, steps: [/new], opens: [web]}]
`)
	if _, stderr, code := w.webknock("reload"); code != 0 {
		t.Fatalf("reload: exit %d, %s", code, stderr)
	}
	w.mustHold()
	w.knock(w.alice, serverIP, "/new")
	w.mustBecome("web " + aliceIP)
}

func TestNoRequestIsAnsweredWithAByte(t *testing.T) {
	w := newWorld(t)
	w.serve(standard)
	for name, sent := range map[string]string{
		"hit":           "GET /a HTTP/1.1\r\nHost: h\r\n\r\n",
		"miss":          "GET /zzz HTTP/1.1\r\nHost: h\r\n\r\n",
		"POST":          "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
		"garbage":       "\x16\x03\x01\x00\xff\n\n",
		"64 KiB header": "GET /a HTTP/1.1\r\nHost: h\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n",
		"no Host":       "GET /a HTTP/1.1\r\n\r\n",
		"bare connect":  "",
	} {
		err := w.mallory.Do(func() error {
			conn, err := net.Dial("tcp", serverIP+":8080")
			if err != nil {
				return err
			}
			defer conn.Close()
			go io.WriteString(conn, sent)
			conn.SetReadDeadline(time.Now().Add(patience))
			got, err := io.ReadAll(conn)
			if len(got) > 0 || !errors.Is(err, syscall.ECONNRESET) {
				return fmt.Errorf("got %q, %v; want a reset", got, err)
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestASessionFromBeforeTheGuardLivesAndScansMeetSilence(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	var session net.Conn
	err := w.alice.Do(func() (err error) {
		session, err = net.Dial("tcp", serverIP+":22")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	echo := func(text string) {
		t.Helper()
		session.SetDeadline(time.Now().Add(patience))
		buf := make([]byte, len(text))
		if _, err := io.WriteString(session, text); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(session, buf); err != nil || string(buf) != text {
			t.Fatalf("the session has died: %q, %v", buf, err)
		}
	}
	echo("before")
	w.serve(standard)
	echo("guarded")
	w.silentToScans(w.mallory, "22")
	for _, to := range [][]string{{serverIP}, {"-6", serverIP6}} {
		args := append([]string{"-n", "-Pn", "--disable-arp-ping", "--max-retries", "1", "-sU", "-p", "5000"}, to...)
		out, err := w.mallory.Command(t.Context(), "nmap", args...).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "filtered") {
			t.Errorf("nmap %v: %v\n%s", args, err, out)
		}
	}
	echo("scanned")
}

func TestASSHSessionLivesOnAfterTheDoorCloses(t *testing.T) {
	w := newWorld(t)
	w.sshd()
	w.serve(strings.Replace(standard, "ttl: 30s", "ttl: 3s", 1))
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	w.mustBecome("ssh " + aliceIP)
	ssh := w.alice.Command(t.Context(), "ssh", "-F", "none", "-i", filepath.Join(w.dir, "key"), "-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile="+filepath.Join(w.dir, "known"), "-o", "BatchMode=yes", "root@"+serverIP, "cat")
	in, err := ssh.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := ssh.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	w.start(ssh)
	echo := func(text string) {
		t.Helper()
		io.WriteString(in, text)
		buf := make([]byte, len(text))
		if _, err := io.ReadFull(out, buf); err != nil || string(buf) != text {
			t.Fatalf("over ssh came %q, %v", buf, err)
		}
	}
	echo("open")
	w.mustBecome()
	w.mustPass(w.alice, serverIP, 22, false)
	echo("closed, and I am still here")
}

// sshd runs a real sshd on the server, with a key that is let in.
func (w *world) sshd() { w.sshdWith("") }

func (w *world) sshdWith(more string) {
	w.t.Helper()
	for _, name := range []string{"key", "host"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(w.dir, name)).CombinedOutput(); err != nil {
			w.t.Fatalf("ssh-keygen: %v\n%s", err, out)
		}
	}
	config := fmt.Sprintf("HostKey %s/host\nAuthorizedKeysFile %s/key.pub\nStrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\n", w.dir, w.dir) + more
	if err := os.WriteFile(filepath.Join(w.dir, "sshd_config"), []byte(config), 0o600); err != nil {
		w.t.Fatal(err)
	}
	sshd := w.start(w.server.Command(w.t.Context(), "/usr/sbin/sshd", "-D", "-e", "-f", filepath.Join(w.dir, "sshd_config")))
	sshd.wait(w.t, "Server listening on 0.0.0.0")
}

func TestStoppingLeavesDoorsGuardedAndUnguardOpensThem(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(standard)
	w.daemon.stop(t, syscall.SIGTERM)
	w.mustPass(w.alice, serverIP, 22, false)
	if _, stderr, code := w.webknock("status"); code != 1 || !strings.Contains(stderr, "is webknock serve running?") {
		t.Errorf("status without a daemon: exit %d, %s", code, stderr)
	}
	if _, stderr, code := w.webknock("unguard"); code != 0 {
		t.Fatalf("unguard without a daemon: exit %d, %s", code, stderr)
	}
	w.mustPass(w.alice, serverIP, 22, true)
	w.serve(standard)
	w.mustPass(w.alice, serverIP, 22, false)
	if _, stderr, code := w.webknock("unguard"); code != 0 {
		t.Fatalf("unguard: exit %d, %s", code, stderr)
	}
	w.mustPass(w.alice, serverIP, 22, true)
	if out, _, _ := w.webknock("status"); !strings.Contains(out, "degraded") {
		t.Errorf("unguarded, and the status is\n%s", out)
	}
	if _, stderr, code := w.webknock("reload"); code != 0 {
		t.Fatalf("reload: exit %d, %s", code, stderr)
	}
	w.mustPass(w.alice, serverIP, 22, false)
}

func TestAdministratorsOpenAndClose(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(standard)
	if _, stderr, code := w.webknock("open", "ssh", aliceIP, "--for", "10s"); code != 0 {
		t.Fatalf("open: exit %d, %s", code, stderr)
	}
	w.mustPass(w.alice, serverIP, 22, true)
	if _, stderr, code := w.webknock("close", "--client", aliceIP); code != 0 {
		t.Fatalf("close: exit %d, %s", code, stderr)
	}
	w.mustPass(w.alice, serverIP, 22, false)
	for _, tt := range []struct {
		args string
		code int
		want string
	}{
		{"close --all", 0, ""},
		{"close abcd2345", 1, "there is no grant"},
		{"open ssh 127.0.0.1", 1, "address of no client"},
		{"open ssh ::ffff:224.0.0.1", 1, "address of no client"},
		{"open ssh " + aliceIP + " --for 23h59m", 1, "max_ttl"},
		{"close", 2, "exactly one"},
		{"open cellar " + aliceIP, 1, "there is no door"},
		{"open ssh nonsense", 2, "not an IP address"},
		{"open ssh", 2, "arg"},
		{"status --nonsense", 2, "unknown flag"},
		{"nonsense", 2, "nonsense"},
		{"status -o xml", 2, "table or json"},
	} {
		if _, stderr, code := w.webknock(strings.Fields(tt.args)...); code != tt.code || !strings.Contains(stderr, tt.want) {
			t.Errorf("%s: exit %d, %s; want %d and %q", tt.args, code, stderr, tt.code, tt.want)
		}
	}
}

func TestAStartThatFailsSaysWhy(t *testing.T) {
	w := newWorld(t)
	w.serve(standard)
	held := fmt.Sprintf("table webknock: another webknock keeps this table: process %d (%s serve --config %s)", w.daemon.cmd.Process.Pid, binary, w.config())
	if _, stderr, code := w.webknock("serve"); code != 1 || !strings.Contains(stderr, held) {
		t.Errorf("second start: exit %d, %s; want %s", code, stderr, held)
	}
	if _, stderr, code := w.webknock("serve", "--dry-run"); code != 1 || !strings.Contains(stderr, "another webknock serves here") {
		t.Errorf("second socket: exit %d, %s", code, stderr)
	}
	if _, stderr, code := w.webknock("serve", "--dry-run", "--socket", w.dir+"/other.sock"); code != 1 || !strings.Contains(stderr, "another program listens there") {
		t.Errorf("port in use: exit %d, %s", code, stderr)
	}
	w.daemon.stop(t, syscall.SIGTERM)
	out, err := w.server.Command(t.Context(), "setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin", binary, "serve", "--config", w.config()).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "CAP_NET_ADMIN") {
		t.Errorf("without the privilege: %v, %s", err, out)
	}
}

func TestSystemdIsNotifiedOfTheState(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(w.dir, "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	expect := func(want string) {
		t.Helper()
		buf := make([]byte, 512)
		socket.SetReadDeadline(time.Now().Add(patience))
		for {
			n, err := socket.Read(buf)
			if err != nil {
				t.Fatalf("no %s: %v", want, err)
			}
			if strings.HasPrefix(string(buf[:n]), want) {
				return
			}
		}
	}
	w.configure(standard)
	cmd := w.server.Command(t.Context(), "env", "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=200000", binary, "serve", "--config", w.config())
	w.daemon = w.start(cmd)
	expect("READY=1")
	expect("WATCHDOG=1")
	cmd.Process.Signal(syscall.SIGHUP)
	expect("RELOADING=1\nMONOTONIC_USEC=")
	expect("READY=1")
	cmd.Process.Signal(syscall.SIGTERM)
	expect("STOPPING=1")
}

func TestAStrangerIsRefusedOnTheAdminSocket(t *testing.T) {
	w := newWorld(t)
	w.serve(standard)
	for _, dir := range []string{filepath.Dir(w.dir), w.dir} {
		os.Chmod(dir, 0o755)
	}
	os.Chmod(w.dir+"/webknock.sock", 0o666) // even if the file would let them
	out, err := w.server.Command(t.Context(), "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups",
		"curl", "--silent", "--show-error", "--unix-socket", w.dir+"/webknock.sock", "http://webknock/v1/status").CombinedOutput()
	if err == nil || strings.Contains(string(out), "version") {
		t.Errorf("a stranger gets %s, %v", out, err)
	}
	w.daemon.wait(t, "refused on the admin socket")
}

func TestADryRunTouchesNothing(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.configure(standard)
	w.daemon = w.start(w.server.Command(t.Context(), binary, "serve", "--dry-run", "--config", w.config()))
	w.daemon.wait(t, "DRY RUN")
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	w.mustBecome("ssh " + aliceIP)
	w.mustPass(w.mallory, serverIP, 22, true)
	if list := w.nft("list", "ruleset"); list != "" {
		t.Errorf("the firewall has\n%s", list)
	}
}
