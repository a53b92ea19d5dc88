package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// anything is the program with a front that does whatever a client asks of it, as if
// that had taken it over.
var anything = sync.OnceValues(func() (string, error) {
	path := filepath.Join(filepath.Dir(binary), "webknock-anything")
	build := exec.Command("go", "build", "-tags", "anything", "-o", path, "../cmd/webknock")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return path, err
})

// taken is a world whose front alice has taken over.
type taken struct {
	*world
	acts int
}

const takenConfig = `
listeners:
  - address: ":8080"
doors:
  - name: ssh
    ports: [22/tcp]
    ttl: 30s
    max_ttl: 1m
    max_grants: 20
  - name: web
    ports: [8000/tcp]
  - name: closed
    ports: [8001/tcp]
users:
  - {name: anna, totp_file: SECRET}
sequences:
  - {name: anything, steps: [{regex: '^/do/'}], message: done}
  - name: ssh
    steps: [/a, /b, /c]
    opens: [ssh]
    run: [{on: open, command: [/usr/bin/touch, DIR/configured]}]
  - {name: ticket, steps: ["/t/{ticket}"], opens: [web], users: [anna]}
firewall: {allow: [10.20.0.3]}
shield: {ban: {knocks: 1000, within: 1m}, rate: 'off'}
`

// takeOver starts a daemon whose front is taken over; as says as whom.
func takeOver(t *testing.T, as ...string) *taken {
	t.Helper()
	w := newWorld(t)
	program, err := anything()
	if err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(w.dir, "anna.totp")
	if err := os.WriteFile(secret, []byte("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.configure(strings.NewReplacer("SECRET", secret, "DIR", w.dir).Replace(takenConfig))
	if len(as) > 0 { // everything is nobody's
		w.own(65534)
	}
	args := append(slices.Clone(as), program, "serve", "--config", w.config())
	w.daemon = w.start(w.server.Command(context.Background(), args[0], args[1:]...))
	w.daemon.wait(t, `"serving"`)
	return &taken{world: w}
}

// own gives the world's files to a user.
func (w *world) own(uid int) {
	w.t.Helper()
	for dir := w.dir; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			w.t.Fatal(err)
		}
	}
	err := filepath.WalkDir(w.dir, func(path string, _ os.DirEntry, err error) error {
		if err == nil {
			err = os.Chown(path, uid, uid)
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// do has the front act, and returns what came of it.
func (w *taken) do(act string, arguments ...string) string {
	w.t.Helper()
	w.acts++
	query := url.Values{"number": {fmt.Sprint(w.acts)}}
	for i := 0; i < len(arguments); i += 2 {
		query.Set(arguments[i], arguments[i+1])
	}
	w.knock(w.alice, serverIP, "/do/"+act+"?"+query.Encode())
	line := regexp.MustCompile(fmt.Sprintf(`"act":%q,"number":"%d","result":(".*")`, act, w.acts))
	var result string
	until(w.t, "the front has done "+act, func() bool {
		found := line.FindStringSubmatch(strings.Join(w.daemon.lines(), "\n"))
		if found == nil {
			return false
		}
		if err := json.Unmarshal([]byte(strings.TrimSuffix(found[1], "}")), &result); err != nil {
			w.t.Fatal(err, found[1])
		}
		return true
	})
	return result
}

// refused has the front act, which must fail.
func (w *taken) refused(act string, arguments ...string) {
	w.t.Helper()
	if result := w.do(act, arguments...); !strings.HasPrefix(result, "refused: ") {
		w.t.Errorf("%s %q: %q", act, arguments, result)
	}
}

// process is one that the status names.
func (w *world) process(name string) (pid int, user string, confined, warnings []string) {
	w.t.Helper()
	out, errs, code := w.webknock("status", "-o", "json")
	var status struct {
		Processes []struct {
			Name, User         string
			PID                int
			Confined, Warnings []string
		}
	}
	if err := json.Unmarshal([]byte(out), &status); err != nil || code != 0 {
		w.t.Fatalf("status: %v, exit %d\n%s%s", err, code, out, errs)
	}
	for _, p := range status.Processes {
		if p.Name == name {
			return p.PID, p.User, p.Confined, p.Warnings
		}
	}
	return 0, "", nil, nil
}

// ordinary is a command as user nobody with one capability.
var ordinary = []string{
	"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps", "-all,+net_admin", "--ambient-caps", "-all,+net_admin",
	"--bounding-set", "-all,+net_admin", "--no-new-privs",
}

// Whoever takes the front over cannot leave it, neither with a keeper that is root nor
// with one that is the same user.
func TestAFrontThatWasTakenOverIsConfined(t *testing.T) {
	for name, as := range map[string][]string{"root": nil, "an ordinary user": ordinary} {
		t.Run(name, func(t *testing.T) {
			w := takeOver(t, as...)
			w.listenOn(w.mallory, 7000)
			keeper, _, _, _ := w.process("keeper")
			front, user, confined, _ := w.process("front")
			t.Logf("process %d runs as %s, confined: %q", front, user, confined)
			pwned := filepath.Join(w.dir, "pwned")
			shell := []string{"path", "/bin/sh", "args", "-c >" + pwned}
			for _, act := range [][]string{
				append([]string{"execute"}, shell...), append([]string{"become"}, shell...), {"execute", "path", "/proc/self/exe", "args", "version"},
				{"read", "path", "/etc/shadow"}, {"read", "path", "/etc/passwd"}, {"read", "path", w.config()}, {"read", "path", w.dir + "/anna.totp"},
				{"list", "path", w.dir}, {"list", "path", "/"}, {"write", "path", pwned}, {"write", "path", "/tmp/pwned"},
				{"read", "path", fmt.Sprintf("/proc/%d/environ", keeper)}, {"read", "path", fmt.Sprintf("/proc/%d/mem", keeper)}, {"read", "path", "/proc/self/environ"},
				{"netlink"}, {"packet"}, {"listen", "port", "7001"}, {"listen-raw"}, {"connect", "to", malloryIP + ":7000"}, {"send", "to", malloryIP + ":7000"},
				{"unix", "path", w.dir + "/webknock.sock"}, {"trace"}, {"signal", "signal", "9"}, {"signal", "signal", "1"}, {"signal-thread", "signal", "9"},
				{"namespace"}, {"code"},
			} {
				w.refused(act[0], act[1:]...)
			}
			if _, err := os.Stat(pwned); err == nil {
				t.Error("a file has been made")
			}
			if w.passes(w.alice, serverIP, 7001) {
				t.Error("another port is listened on")
			}
			if pid, _, _, _ := w.process("keeper"); pid != keeper {
				t.Errorf("the keeper was %d and is %d", keeper, pid)
			}
			if pid, _, _, _ := w.process("front"); pid != front {
				t.Errorf("the front was %d and is %d", front, pid)
			}
			if log := strings.Join(w.daemon.lines(), "\n"); strings.Contains(log, "reloaded") {
				t.Error("the keeper got a signal")
			}
		})
	}
}

// What the front asks for over the seam is no more than the configuration allows.
func TestAFrontThatWasTakenOverOpensNoMoreThanIsConfigured(t *testing.T) {
	w := takeOver(t)
	w.listen(8000)
	w.listen(8001)
	none := func(what string) {
		t.Helper()
		w.settledOver()
		if got := w.grants(); len(got) > 0 {
			t.Errorf("%s opens %+v", what, got)
			w.must("close", "--all")
		}
	}
	ask := func(arguments ...string) {
		t.Helper()
		w.do("complete", append([]string{"client", malloryIP}, arguments...)...)
	}
	ask("sequence", "none")
	none("a sequence that there is not")
	ask("sequence", "ticket", "user", "anna", "doors", "closed")
	none("a door that the sequence does not open")
	ask("sequence", "ticket", "user", "anna", "doors", "web", "address", aliceIP)
	none("another address, which the sequence does not allow")
	ask("sequence", "ticket", "user", "bob")
	none("a user that there is not")
	ask("sequence", "ticket")
	none("a one-time sequence without a user")
	for _, address := range []string{"224.0.0.1", "0.0.0.0", "::", "ff02::1", "255.255.255.255", ""} {
		w.do("complete", "client", address, "sequence", "ssh")
		none("an address that is nobody's, " + address)
	}
	w.mustPass(w.mallory, serverIP, 8001, true) // firewall.allow

	ask("sequence", "ticket", "user", "anna", "doors", "web")
	none("a ticket that nobody has burnt")
	ask("sequence", "ssh", "ttl", "12h", "doors", "ssh,web,closed", "address", aliceIP)
	w.settledOver()
	for _, g := range w.grants() {
		if g.Door != "ssh" || g.Client != malloryIP || g.Remaining > 30 {
			t.Errorf("a sequence without tickets opens %+v", g)
		}
	}
	w.must("close", "--all")

	w.do("flood", "sequence", "ssh", "client", "198.18.0.1", "count", "2000")
	w.settledOver()
	if n := len(w.grants()); n > 20 {
		t.Errorf("%d grants, and max_grants is 20", n)
	}
	w.must("close", "--all")

	w.do("ban", "client", malloryIP, "bits", "32") // exempt
	w.do("ban", "client", "10.0.0.0", "bits", "8") // of everybody
	w.do("ban", "client", "0.0.0.0", "bits", "0")
	w.settledOver()
	w.mustPass(w.mallory, serverIP, 8080, true)
	w.mustPass(w.alice, serverIP, 8080, true)
	if got := w.bans(); len(got) > 0 {
		t.Errorf("bans %q", got)
	}
}

// settledOver returns when the keeper has done what the front has asked for before.
func (w *taken) settledOver() {
	w.t.Helper()
	w.do("used")
	w.grants()
}

// The listening sockets are the keeper's as well: what a front does to them must not
// outlast it.
func TestAFrontThatWasTakenOverLeavesTheListeningSocketsAsTheyWere(t *testing.T) {
	for _, by := range []string{"shutdown", "half a shutdown", "disconnect", "filter", "device", "hops", "linger", "block", "connect"} {
		t.Run(by, func(t *testing.T) {
			w := takeOver(t)
			w.listenOn(w.mallory, 7000)
			t.Log(w.do("spoil", "by", by, "to", malloryIP+":7000"))
			before, _, _, _ := w.process("front")
			syscall.Kill(before, syscall.SIGKILL)
			until(t, "another front", func() bool {
				pid, _, _, _ := w.process("front")
				return pid != 0 && pid != before
			})
			w.knock(w.alice, serverIP, "/a", "/b", "/c")
			w.mustBecome("ssh " + aliceIP)
		})
	}
}

// A front that hangs is noticed without a watchdog, and replaced.
func TestAFrontThatHangsIsReplaced(t *testing.T) {
	w := takeOver(t)
	before, _, _, _ := w.process("front")
	if err := syscall.Kill(before, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	w.daemon.wait(t, "it did not answer, and was killed")
	until(t, "another front", func() bool {
		pid, _, _, _ := w.process("front")
		return pid != 0 && pid != before
	})
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	w.mustBecome("ssh " + aliceIP)
}

// A front that breaks the rules of the seam is ended, and another one takes its place.
func TestAFrontThatBreaksTheRulesIsReplaced(t *testing.T) {
	w := takeOver(t)
	for _, act := range [][]string{{"garbage", "count", "1000"}, {"crash"}} {
		before, _, _, _ := w.process("front")
		w.acts++
		w.knock(w.alice, serverIP, fmt.Sprintf("/do/%s?number=%d&%s", act[0], w.acts, strings.Join(act[1:], "=")))
		until(t, act[0]+" has it replaced", func() bool {
			pid, _, _, _ := w.process("front")
			return pid != 0 && pid != before
		})
	}
	w.knock(w.alice, serverIP, "/a", "/b", "/c")
	w.mustBecome("ssh " + aliceIP)
	log := strings.Join(w.daemon.lines(), "\n")
	if n := strings.Count(log, "the front has ended"); n != 2 {
		t.Errorf("%d ends are told", n)
	}
	if !strings.Contains(log, "panic: taken over") {
		t.Error("the log does not say why it crashed")
	}
}

// Both processes, as the kernel shows them.
func TestTheProcessesAreConfinedAsTheStatusSays(t *testing.T) {
	shown := func(t *testing.T, pid int, name string) string {
		t.Helper()
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		return regexp.MustCompile(`(?m)^` + name + `:\t(.*)$`).FindStringSubmatch(string(text))[1]
	}
	for name, as := range map[string][]string{"root": nil, "an ordinary user": ordinary} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.configure(standard)
			if as != nil {
				w.own(65534)
			}
			args := append(slices.Clone(as), binary, "serve", "--config", w.config())
			w.daemon = w.start(w.server.Command(context.Background(), args[0], args[1:]...))
			w.daemon.wait(t, `"serving"`)
			pid, user, confined, warnings := w.process("front")
			want := []string{"user", "capabilities", "no_new_privs", "rlimits", "landlock", "seccomp"}
			bounding := "0000000000000000"
			if as != nil {
				want, bounding = want[1:], "0000000000001000" // without CAP_SETPCAP
			}
			if !slices.Equal(confined, want) {
				t.Errorf("confined %q, want %q", confined, want)
			}
			for _, warning := range warnings { // tests run where there is no such user
				if !strings.Contains(warning, "there is no user webknock") || as != nil {
					t.Errorf("warning: %s", warning)
				}
			}
			for name, want := range map[string]string{
				"CapInh": "0000000000000000", "CapPrm": "0000000000000000", "CapEff": "0000000000000000", "CapAmb": "0000000000000000", "CapBnd": bounding,
				"NoNewPrivs": "1", "Seccomp": "2", "Groups": " ",
			} {
				if got := shown(t, pid, name); got != want && strings.TrimSpace(got) != strings.TrimSpace(want) {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
			if uid := strings.Fields(shown(t, pid, "Uid")); slices.Contains(uid, "0") {
				t.Errorf("the front, %s, has the user IDs %q", user, uid)
			}
			w.knock(w.alice, serverIP, "/a", "/b", "/c")
			w.mustBecome("ssh " + aliceIP)
			out, _, _ := w.webknock("doctor", "-o", "json")
			if !strings.Contains(out, `"process"`) {
				t.Error("the doctor says nothing of processes")
			}
			w.daemon.stop(t, syscall.SIGTERM)
			if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil {
				t.Error("the front has outlived the keeper")
			}
		})
	}
}

// The front has no descriptor that the keeper was started with, and ends with the keeper
// whatever it does: also if the program's file has capabilities, for which the kernel
// forgets whose end a process is to share.
func TestTheFrontInheritsNothingAndOutlivesNobody(t *testing.T) {
	w := newWorld(t)
	w.configure(standard)
	program := filepath.Join(w.dir, "webknock")
	for _, args := range [][]string{{"cp", binary, program}, {"chmod", "755", program}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v %s", args, err, out)
		}
	}
	w.own(65534)
	if out, err := exec.Command("setcap", "cap_net_admin=ep", program).CombinedOutput(); err != nil {
		t.Fatalf("setcap: %v %s", err, out)
	}
	shell := fmt.Sprintf("exec 9</etc/passwd; exec setpriv --reuid 65534 --regid 65534 --clear-groups --ambient-caps -all --inh-caps -all %s serve --config %s", program, w.config())
	w.daemon = w.start(w.server.Command(context.Background(), "sh", "-c", shell))
	w.daemon.wait(t, `"serving"`)
	keeper, _, _, _ := w.process("keeper")
	front, _, _, _ := w.process("front")
	if name, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/9", keeper)); name != "/etc/passwd" {
		t.Fatalf("descriptor 9 of the keeper is %q", name)
	}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", front))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if name, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", front, file.Name())); name == "/etc/passwd" {
			t.Errorf("descriptor %s of the front is %s", file.Name(), name)
		}
	}
	for _, kill := range []struct {
		pid    int
		signal syscall.Signal
	}{{front, syscall.SIGSTOP}, {keeper, syscall.SIGKILL}} { // a front that stands still does not end by itself
		if err := syscall.Kill(kill.pid, kill.signal); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "the front has ended", func() bool {
		_, err := os.Stat(fmt.Sprintf("/proc/%d", front))
		return os.IsNotExist(err)
	})
}
