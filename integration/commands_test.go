package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// script writes a script into the world's directory, where anybody may run it.
func (w *world) script(name, text string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	for _, dir := range []string{filepath.Dir(w.dir), w.dir} {
		if err := os.Chmod(dir, 0o755); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, []byte("#!/bin/bash\n"+text+"\n"), 0o755); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// written waits until a file is there and ends with a line, and returns it.
func (w *world) written(name, last string) string {
	w.t.Helper()
	var data []byte
	until(w.t, name, func() bool {
		data, _ = os.ReadFile(filepath.Join(w.dir, name))
		return strings.HasSuffix(string(data), last)
	})
	return string(data)
}

// running returns a configuration with one sequence that opens a door and runs commands.
func (w *world) running(ttl, run string) string {
	return fmt.Sprintf(`
listeners: [{address: ":8080"}]
doors: [{name: ssh, ports: [22/tcp], ttl: %s}]
sequences:
  - name: ssh
    steps: [{regex: "^/open"}]
    opens: [ssh]
    run: [%s]
state: %s/state
`, ttl, run, w.dir)
}

func TestACommandGetsTheRequestInItsEnvironment(t *testing.T) {
	w := newWorld(t)
	out, err := exec.Command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
		"-subj", "/CN=home.example.org", "-keyout", w.dir+"/key.pem", "-out", w.dir+"/cert.pem").CombinedOutput()
	if err != nil {
		t.Fatalf("openssl: %v\n%s", err, out)
	}
	if err := os.Chmod(w.dir+"/key.pem", 0o600); err != nil {
		t.Fatal(err)
	}
	tell := w.script("tell", `env -0 > "$1.$WEBKNOCK_EVENT"; printf 'end\0' >> "$1.$WEBKNOCK_EVENT"`)
	config := w.running("1h", fmt.Sprintf(`{on: complete, command: [%[1]s, %[2]s/out]}, {on: open, command: [%[1]s, "%[2]s/out"], environment: {K: "v w"}}, {on: close, command: [%[1]s, %[2]s/out]}`, tell, w.dir))
	w.serve(strings.Replace(config, `[{address: ":8080"}]`, `[{address: ":8080"}, {address: ":8443", tls: {certificate: cert.pem, key: key.pem}}]`, 1))
	environment := func(event string) map[string]string {
		t.Helper()
		env := map[string]string{}
		for _, v := range strings.Split(strings.TrimSuffix(w.written("out."+event, "end\x00"), "end\x00"), "\x00") {
			if name, value, found := strings.Cut(v, "="); found && name != "SHLVL" && name != "_" && name != "PWD" && name != "OLDPWD" { // the shell's own
				env[name] = value
			}
		}
		return env
	}
	mustEqual := func(what string, got, want map[string]string) {
		t.Helper()
		for name := range got {
			if _, ok := want[name]; !ok {
				t.Errorf("%s: %s=%q should not be there", what, name, got[name])
			}
		}
		for name, value := range want {
			if v, ok := got[name]; !ok || value != "*" && v != value {
				t.Errorf("%s: %s is %q (there: %v), want %q", what, name, v, ok, value)
			}
		}
	}
	w.curl(w.alice, "--data", "hello", "-H", "Host: home.example.org:8080", "-H", "X-Fine: it's $(id)", "-H", "Cookie: a=1", "-A", "curl", "-u", "alice:secret",
		"-H", "Proxy: http://mallory.example.org", "-H", "Proxy-Authorization: Basic x", "-H", "X_Fine: other", "-H", "X-Shell: () { :;}; touch "+w.dir+"/broken",
		"-H", "X-Tab: a\tb", "-H", "X-Long: "+strings.Repeat("x", 5000), "http://"+serverIP+":8080/open%20me?q=%0a&r=1")
	w.mustBecome("ssh " + aliceIP)
	g := w.grants()[0]
	want := map[string]string{
		"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "GATEWAY_INTERFACE": "CGI/1.1", "SERVER_SOFTWARE": "webknock/dev",
		"SERVER_NAME": "home.example.org", "SERVER_PORT": "8080", "SERVER_PROTOCOL": "HTTP/1.1", "REMOTE_ADDR": aliceIP, "REMOTE_PORT": "*",
		"REQUEST_METHOD": "POST", "REQUEST_URI": "/open%20me?q=%0a&r=1", "SCRIPT_NAME": "", "PATH_INFO": "/open me", "QUERY_STRING": "q=%0a&r=1",
		"CONTENT_TYPE": "application/x-www-form-urlencoded", "CONTENT_LENGTH": "5",
		"HTTP_HOST": "home.example.org:8080", "HTTP_USER_AGENT": "curl", "HTTP_ACCEPT": "*/*", "HTTP_COOKIE": "a=1", "HTTP_X_FINE": "it's $(id)",
		"WEBKNOCK_EVENT": "complete", "WEBKNOCK_SEQUENCE": "ssh", "WEBKNOCK_CLIENT": aliceIP,
	}
	mustEqual("complete", environment("complete"), want)
	for name, value := range map[string]string{"K": "v w", "WEBKNOCK_EVENT": "open", "WEBKNOCK_DOOR": "ssh", "WEBKNOCK_GRANT": g.ID, "WEBKNOCK_EXPIRES": "*"} {
		want[name] = value
	}
	open := environment("open")
	mustEqual("open", open, want)
	if expires, err := time.Parse(time.RFC3339, open["WEBKNOCK_EXPIRES"]); err != nil || time.Until(expires) < 50*time.Minute {
		t.Errorf("WEBKNOCK_EXPIRES %q", open["WEBKNOCK_EXPIRES"])
	}
	w.must("close", "--all")
	mustEqual("close", environment("close"), map[string]string{
		"PATH": want["PATH"], "REMOTE_ADDR": aliceIP, "WEBKNOCK_EVENT": "close", "WEBKNOCK_SEQUENCE": "ssh", "WEBKNOCK_CLIENT": aliceIP,
		"WEBKNOCK_DOOR": "ssh", "WEBKNOCK_GRANT": g.ID, "WEBKNOCK_EXPIRES": "*", "WEBKNOCK_REASON": "closed by an administrator",
	})
	// By TLS, and a path that is two lines.
	if err := os.Remove(w.dir + "/out.complete"); err != nil {
		t.Fatal(err)
	}
	w.curl(w.alice, "--insecure", "-A", "curl", "https://"+serverIP+":8443/open%0aHTTP_PROXY=x")
	mustEqual("by TLS", environment("complete"), map[string]string{
		"PATH": want["PATH"], "GATEWAY_INTERFACE": "CGI/1.1", "SERVER_SOFTWARE": "webknock/dev", "SERVER_NAME": serverIP, "SERVER_PORT": "8443", "SERVER_PROTOCOL": "HTTP/1.1",
		"REMOTE_ADDR": aliceIP, "REMOTE_PORT": "*", "HTTPS": "on", "REQUEST_METHOD": "GET", "REQUEST_URI": "/open%0aHTTP_PROXY=x", "SCRIPT_NAME": "", "QUERY_STRING": "",
		"HTTP_HOST": serverIP + ":8443", "HTTP_USER_AGENT": "curl", "HTTP_ACCEPT": "*/*",
		"WEBKNOCK_EVENT": "complete", "WEBKNOCK_SEQUENCE": "ssh", "WEBKNOCK_CLIENT": aliceIP,
	})
	if _, err := os.Stat(w.dir + "/broken"); err == nil {
		t.Error("a header was carried out")
	}
}

const noCapabilities = "CapInh 0000000000000000 CapPrm 0000000000000000 CapEff 0000000000000000 CapAmb 0000000000000000"

// As root, and as an ordinary user whose capabilities are ambient.
func TestACommandHasItsUsersRightsAlone(t *testing.T) {
	w := newWorld(t)
	whoami := w.script("whoami", `echo I am $(id -u) $(id -g) $(id -G) $(awk '/^Cap(Inh|Prm|Eff|Amb)/ {sub(":", "", $1); print $1, $2}' /proc/self/status)`)
	as := func(user string) string {
		return w.running("1h", fmt.Sprintf(`{on: open, command: [%s]%s}`, whoami, user))
	}
	w.serve(as(", user: daemon"))
	w.knock(w.alice, serverIP, "/open")
	w.daemon.wait(t, "I am 1 1 1 "+noCapabilities)
	w.daemon.stop(t, syscall.SIGTERM)
	w.nft("flush", "ruleset")

	for _, path := range []string{w.dir, w.dir + "/webknock.sock.lock"} {
		if err := os.Chown(path, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	start := func(caps, text string) {
		t.Helper()
		w.configure(text)
		if err := os.Chown(w.config(), 65534, 65534); err != nil {
			t.Fatal(err)
		}
		w.daemon = w.start(w.server.Command(context.Background(), "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps", "-all,"+caps,
			"--ambient-caps", "-all,"+caps, "--bounding-set", "-all,"+caps, "--no-new-privs", binary, "serve", "--config", w.config()))
	}
	start("+net_admin", as(", user: daemon"))
	w.daemon.wait(t, "webknock needs CAP_SETUID and CAP_SETGID")
	<-w.daemon.done
	start("+net_admin", as(", user: nobody")) // itself
	w.daemon.wait(t, `"serving"`)
	w.knock(w.alice, serverIP, "/open")
	w.daemon.wait(t, "I am 65534 65534 65534 "+noCapabilities)
	w.configure(as(", user: daemon"))
	if _, stderr, code := w.webknock("reload"); code != 1 || !strings.Contains(stderr, "CAP_SETUID") {
		t.Errorf("reload: exit %d, %s", code, stderr)
	}
	w.daemon.stop(t, syscall.SIGTERM)
	w.nft("flush", "ruleset")
	start("+net_admin,+setuid,+setgid", as(", user: daemon"))
	w.daemon.wait(t, `"serving"`)
	w.knock(w.alice, serverIP, "/open")
	w.daemon.wait(t, "I am 1 1 1 "+noCapabilities)
}

// A command that hangs, with children, is killed as another user; one that
// cannot be started says why; and neither keeps a door closed.
func TestCommandsThatHangOrCannotStartDelayNoDoor(t *testing.T) {
	w := newWorld(t)
	hang := w.script("hang", fmt.Sprintf(`exec 9> %s/fifo
trap '' TERM
(trap '' TERM; while :; do sleep 1; done) &
while :; do sleep 1; done`, w.dir))
	flood := w.script("flood", `head -c 3000000 /dev/urandom; echo; yes | head -n 100000`)
	plain := w.script("plain", ``)
	if err := os.Chmod(plain, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.dir+"/interpreter", []byte("#!/nowhere/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(w.dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(w.dir+"/fifo", 65534, 65534); err != nil {
		t.Fatal(err)
	}
	fifo, err := os.OpenFile(w.dir+"/fifo", os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer fifo.Close()
	w.serve(w.running("1h", fmt.Sprintf(`{on: complete, command: [%s], user: nobody, timeout: 1s}, {on: open, command: [%s]}, {on: open, command: [%s]},
      {on: open, command: [%s/interpreter]}, {on: open, command: [/nowhere/hello]}`, hang, flood, plain, w.dir)))
	if _, stderr, _ := w.webknock("check"); !strings.Contains(stderr, "run[4].command: cannot be run now: stat /nowhere/hello") {
		t.Errorf("check: %s", stderr)
	}
	w.knock(w.alice, serverIP, "/open")
	w.mustBecome("ssh " + aliceIP)
	for _, want := range []string{`"command killed"`, "it takes longer than 1s", "permission denied", "the interpreter of its first line", `"lines_lost"`, "/nowhere/hello: no such file"} {
		w.daemon.wait(t, want)
	}
	fifo.SetReadDeadline(time.Now().Add(patience))
	if n, err := fifo.Read(make([]byte, 1)); n != 0 || err == nil || os.IsTimeout(err) {
		t.Errorf("a child lives: %d, %v", n, err)
	}
	if n := strings.Count(strings.Join(w.daemon.lines(), "\n"), `"output"`); n > 400 {
		t.Errorf("%d lines of output in the log", n)
	}
	// What runs when the daemon stops ends with it.
	w.configure(w.running("1h", fmt.Sprintf(`{on: complete, command: [%s]}`, hang)))
	w.must("reload")
	started := strings.Count(strings.Join(w.daemon.lines(), "\n"), "command started")
	w.knock(w.alice, serverIP, "/open")
	until(t, "the command", func() bool {
		return strings.Count(strings.Join(w.daemon.lines(), "\n"), "command started") > started
	})
	w.daemon.stop(t, syscall.SIGTERM)
	if !strings.Contains(strings.Join(w.daemon.lines(), "\n"), "webknock stops") {
		t.Error("the command was not killed")
	}
	if n, err := fifo.Read(make([]byte, 1)); n != 0 || err == nil || os.IsTimeout(err) {
		t.Errorf("a child lives: %d, %v", n, err)
	}
}

// More commands than may wait are counted, also by a daemon that stops, and
// delay no door.
func TestCommandsBeyondTheLimitAreCounted(t *testing.T) {
	w := newWorld(t)
	many := strings.Repeat("{on: complete, command: [/bin/sleep, '1000'], timeout: 1h}, ", 300)
	w.serve(w.running("1h", many+"{on: close, command: [/bin/true]}"))
	w.knock(w.alice, serverIP, "/open")
	w.mustBecome("ssh " + aliceIP)
	w.knock(w.mallory, serverIP, "/open")
	w.mustBecome("ssh "+aliceIP, "ssh "+malloryIP)
	until(t, "the first", func() bool { return strings.Count(strings.Join(w.daemon.lines(), "\n"), "command started") >= 8 })
	w.daemon.stop(t, syscall.SIGTERM)
	log := strings.Join(w.daemon.lines(), "\n")
	if n := strings.Count(log, "command started"); n != 8 {
		t.Errorf("%d run at once", n)
	}
	for _, lost := range []string{"commands not run: too many wait", "commands are not run: webknock stops"} {
		if !strings.Contains(log, lost) {
			t.Errorf("not told: %s", lost)
		}
	}
}

func TestACommandRunsAtEveryEndOfAGrant(t *testing.T) {
	w := newWorld(t)
	goodbye := w.script("goodbye", fmt.Sprintf(`echo "$WEBKNOCK_REASON" >> %s/reasons`, w.dir))
	config := w.running("1h", fmt.Sprintf(`{on: close, command: [%s]}`, goodbye)) + `
shield: {ban: {knocks: 1000, doors: true}, decoys: [/decoy]}
`
	config = strings.Replace(config, "sequences:\n", "sequences:\n  - {name: leave, steps: [/leave], closes: [ssh]}\n", 1)
	// Without the door, and the sequence.
	other := "listeners: [{address: ':8080'}]\ndoors: [{name: web, ports: [80/tcp]}]\nsequences: [{name: web, steps: [/web], opens: [web]}]\nstate: " + w.dir + "/state\n"
	reload := func(text string) func() { return func() { w.configure(text); w.must("reload") } }
	w.serve(config)
	for _, tt := range []struct {
		reason string
		end    func()
	}{
		{"closed by an administrator", func() { w.must("close", "--all") }},
		{"closed by a sequence", func() { w.knock(w.alice, serverIP, "/leave") }},
		{"its door was removed or changed", reload(other)},
		{"the guard was taken away", func() { w.must("unguard"); w.must("reload") }},
		{"its client was banned", func() { w.knock(w.alice, serverIP, "/decoy") }},
	} {
		w.knock(w.alice, serverIP, "/open")
		w.mustBecome("ssh " + aliceIP)
		tt.end()
		w.written("reasons", tt.reason+"\n")
		w.configure(config)
		w.must("reload")
	}
	if got := w.written("reasons", "\n"); strings.Count(got, "\n") != 5 {
		t.Errorf("reasons\n%s", got)
	}
}

// closings returns how often each grant's close command ran.
func (w *world) closings() map[string]int {
	data, _ := os.ReadFile(w.dir + "/closed")
	count := map[string]int{}
	for _, id := range strings.Fields(string(data)) {
		count[id]++
	}
	return count
}

func TestTheCommandForTheEndOfAGrantRunsAfterAKill(t *testing.T) {
	w := newWorld(t)
	goodbye := w.script("goodbye", fmt.Sprintf(`echo "$WEBKNOCK_GRANT" >> %[1]s/closed; echo "$WEBKNOCK_REASON"`, w.dir))
	config := w.running("2s", fmt.Sprintf(`{on: close, command: [%s]}`, goodbye))
	w.serve(config)
	w.knock(w.alice, serverIP, "/open")
	w.mustBecome("ssh " + aliceIP)
	id := w.grants()[0].ID
	until(t, "the journal", func() bool {
		data, _ := os.ReadFile(w.dir + "/state/webknock.db")
		return strings.Contains(string(data), id)
	})
	w.daemon.stop(t, syscall.SIGKILL)
	until(t, "the end of the grant", func() bool { return !strings.Contains(w.nft("list", "set", "inet", "webknock", "ssh4"), aliceIP) })
	for range 2 {
		w.serve(config)
		until(t, "the command", func() bool { return w.closings()[id] > 0 })
		w.daemon.stop(t, syscall.SIGTERM)
	}
	if n := w.closings()[id]; n != 1 {
		t.Errorf("ran %d times", n)
	}
	if info, err := os.Stat(w.dir + "/state"); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("state: %v, %v", info, err)
	}
}

// However a daemon is killed around the end of a grant, its command never runs
// twice.
func TestAKillAroundTheEndOfAGrantRunsNoCommandTwice(t *testing.T) {
	w := newWorld(t)
	goodbye := w.script("goodbye", fmt.Sprintf(`echo "$WEBKNOCK_GRANT" >> %s/closed`, w.dir))
	config := w.running("1s", fmt.Sprintf(`{on: close, command: [%s]}`, goodbye))
	opened := 0
	for range 15 {
		w.serve(config)
		w.knock(w.alice, serverIP, "/open")
		closed := make(chan struct{})
		if rand.IntN(2) == 0 { // by hand; else its time is over
			w.mustBecome("ssh " + aliceIP)
			cmd := w.server.Command(t.Context(), binary, "close", "--all", "--socket", w.dir+"/webknock.sock", "--config", w.config())
			go func() {
				defer close(closed)
				cmd.Run() // may be killed on the way
			}()
		} else {
			timer := time.NewTimer(970 * time.Millisecond)
			<-timer.C
			close(closed)
		}
		timer := time.NewTimer(time.Duration(rand.IntN(60)) * time.Millisecond)
		<-timer.C
		w.daemon.stop(t, syscall.SIGKILL)
		<-closed
		opened += strings.Count(strings.Join(w.daemon.lines(), "\n"), "grant opened")
	}
	w.serve(config)
	w.mustBecome()
	w.daemon.stop(t, syscall.SIGTERM)
	count := w.closings()
	for id, n := range count {
		if n != 1 {
			t.Errorf("grant %s: %d times", id, n)
		}
	}
	// A few may have been killed between the record of the start and the start.
	t.Logf("%d of %d grants had their command", len(count), opened)
	if len(count) < opened/2 {
		t.Errorf("only %d commands ran for %d grants", len(count), opened)
	}
}

// Where the journal cannot be written commands for the end of a grant wait, and
// others run.
func TestCommandsWaitWhileTheJournalCannotBeWritten(t *testing.T) {
	for name, tt := range map[string]struct{ break_, mend func(dir string) error }{
		"read-only": {
			func(dir string) error {
				return syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, "size=64k")
			},
			func(dir string) error { return syscall.Mount("", dir, "", syscall.MS_REMOUNT, "size=64k") },
		},
		"full": {
			func(dir string) error {
				exec.Command("dd", "if=/dev/zero", "of="+dir+"/full", "bs=1k", "count=1000").Run() // fails when it is
				return nil
			},
			func(dir string) error { return os.Remove(dir + "/full") },
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			state := w.dir + "/state"
			if err := os.Mkdir(state, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Mount("tmpfs", state, "tmpfs", 0, "size=64k"); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { syscall.Unmount(state, syscall.MNT_DETACH) })
			goodbye := w.script("goodbye", fmt.Sprintf(`echo "$WEBKNOCK_GRANT" >> %s/closed`, w.dir))
			if name == "full" { // before there is a file, which has room for some writes
				tt.break_(state)
			}
			w.serve(w.running("1h", fmt.Sprintf(`{on: open, command: [/bin/echo, welcome]}, {on: close, command: [%s]}`, goodbye)))
			until(t, "no write is on its way", func() bool { return tt.break_(state) == nil })
			w.knock(w.alice, serverIP, "/open")
			w.mustBecome("ssh " + aliceIP)
			id := w.grants()[0].ID
			w.daemon.wait(t, "welcome")
			w.must("close", "--all")
			w.mustHold()
			var status string
			until(t, "it is degraded", func() bool { status = w.must("status"); return strings.Contains(status, "degraded") })
			if !strings.Contains(status, state+"/webknock.db") {
				t.Errorf("status\n%s", status)
			}
			if n := len(w.closings()); n != 0 {
				t.Error("a command ran whose start is not written down")
			}
			if err := tt.mend(state); err != nil {
				t.Fatal(err)
			}
			until(t, "the command", func() bool { return w.closings()[id] > 0 })
			until(t, "it is well again", func() bool { return !strings.Contains(w.must("status"), "degraded") })
			if n := w.closings()[id]; n != 1 {
				t.Errorf("ran %d times", n)
			}
		})
	}
}

func TestADaemonStartsWithABrokenJournal(t *testing.T) {
	w := newWorld(t)
	if err := os.Mkdir(w.dir+"/state", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.dir+"/state/commands.json", []byte("{broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.serve(w.running("1h", `{on: close, command: [/bin/echo, goodbye]}`))
	w.daemon.wait(t, "set aside")
	if _, err := os.Stat(w.dir + "/state/commands.json.corrupt"); err != nil {
		t.Error(err)
	}
	w.knock(w.alice, serverIP, "/open")
	w.mustBecome("ssh " + aliceIP)
	w.must("close", "--all")
	w.daemon.wait(t, "goodbye")
}

// Versions before kept a file each for used codes, commands to come and closed grants.
func TestStateOfTheVersionBeforeIsTakenOver(t *testing.T) {
	w := newWorld(t)
	if err := os.Mkdir(w.dir+"/state", 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"onetime.json":  `{"version":1,"mark":5,"secrets":{}}`,
		"commands.json": `{"version":1,"grants":[{"grant":"gone","door":"ssh","client":"192.0.2.7/32","sequence":"ssh","expires":"2026-01-02T03:04:05Z"}]}`,
		"closed.json":   `{"version":1,"boot":"00000000","closed":{"other":5000}}`,
	} {
		if err := os.WriteFile(w.dir+"/state/"+name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	goodbye := w.script("goodbye", fmt.Sprintf(`echo "$WEBKNOCK_GRANT" >> %s/closed`, w.dir))
	k := newKeyring(w, "anna")
	config := w.running("1h", fmt.Sprintf(`{on: close, command: [%s]}`, goodbye)) + strings.Replace(k.config, "\nstate: "+w.dir+"/state\n", "", 1)
	w.serve(config)
	until(t, "the command", func() bool { return w.closings()["gone"] > 0 })
	for _, name := range []string{"onetime.json", "commands.json", "closed.json"} {
		if _, err := os.Stat(w.dir + "/state/" + name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
	w.again(syscall.SIGKILL)
	w.daemon.stop(t, syscall.SIGTERM)
	if n := w.closings()["gone"]; n != 1 {
		t.Errorf("the command ran %d times", n)
	}
}

// The recipe of docs/recipes, as it is there.
func TestTheRecipeForAModSecurityRuleWorks(t *testing.T) {
	recipe, err := os.ReadFile("../docs/recipes/mod-security.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(language string) string {
		_, text, found := strings.Cut(string(recipe), "```"+language+"\n")
		text, _, ended := strings.Cut(text, "```")
		if !found || !ended {
			t.Fatalf("no %s in the recipe", language)
		}
		return text
	}
	w := newWorld(t)
	if err := syscall.Mount("tmpfs", "/opt", "tmpfs", 0, "mode=755"); err != nil { // in the namespace of the tests
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount("/opt", syscall.MNT_DETACH) })
	if err := os.Mkdir("/opt/automation", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("/opt/automation/text-me", []byte(block("sh")), 0o755); err != nil {
		t.Fatal(err)
	}
	w.serve(block("yaml") + "state: " + w.dir + "/state\n")
	w.curl(w.alice, "-A", "phone", "http://"+serverIP+":8080/trigger.php?light=on")
	w.daemon.wait(t, `"message":"Automation triggered"`)
	w.daemon.wait(t, `"line":"automation complete by `+aliceIP+`: GET phone"`)
	w.knock(w.alice, serverIP, "/trigger2", "/triggerXphp")
	w.mustHold()
	w.knock(w.alice, serverIP, "/trigger1", "/trigger2")
	w.daemon.wait(t, `"line":"chained open by `+aliceIP)
	w.must("close", "--all")
	w.daemon.wait(t, `"line":"chained close by `+aliceIP+`:`)
}
