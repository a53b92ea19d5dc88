package integration

import (
	"encoding/base32"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"webknock/integration/lab"
)

// keyring is the users of a test.
type keyring struct {
	w       *world
	secrets map[string]string // base32, by name
	config  string            // users and state
}

func newKeyring(w *world, names ...string) *keyring {
	w.t.Helper()
	k := &keyring{w, map[string]string{}, "\nstate: " + w.dir + "/state\nusers:\n"}
	for _, name := range names {
		secret := base32.StdEncoding.EncodeToString([]byte(fmt.Sprintf("%-20s", name+" of this test")))
		k.secrets[name] = secret
		if err := os.WriteFile(k.file(name), []byte(secret+"\n"), 0o600); err != nil {
			w.t.Fatal(err)
		}
		k.config += fmt.Sprintf("  - {name: %s, totp_file: %s}\n", name, k.file(name))
	}
	return k
}

func (k *keyring) file(name string) string { return filepath.Join(k.w.dir, name+".totp") }

// code returns the code of a user, now.
func (k *keyring) code(name string) string {
	k.w.t.Helper()
	code, err := totp.GenerateCode(k.secrets[name], time.Now())
	if err != nil {
		k.w.t.Fatal(err)
	}
	return code
}

// ticket makes a ticket with the client of the recipes.
func (k *keyring) ticket(user string, args ...string) string {
	k.w.t.Helper()
	args = append([]string{"/usr/bin/python3", "../docs/recipes/ticket.py", "--print", "--user", user, "--secret", k.file(user)}, args...)
	out, err := k.w.alice.Command(k.w.t.Context(), args[0], args[1:]...).CombinedOutput()
	if err != nil {
		k.w.t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

const onetimeDoors = `
listeners: [{address: ":8080"}]
doors:
  - {name: ssh, ports: [22/tcp]}
  - {name: web, ports: [80/tcp], ttl: 60s, max_ttl: 120s}
  - {name: plain, ports: [81/tcp]}
sequences:
  - {name: plain, steps: [/plain], opens: [plain]}
`

// settled knocks a plain sequence from a host, and fails unless beside it
// nothing is open but want; then it closes everything. Each host's knocks are
// read in order, so that what came before is done.
func (w *world) settled(from *lab.Host, want ...string) {
	w.t.Helper()
	w.knock(from, serverIP, "/plain")
	address := map[*lab.Host]string{w.alice: aliceIP, w.mallory: malloryIP}[from]
	w.mustBecome(append([]string{"plain " + address}, want...)...)
	if _, errs, code := w.webknock("close", "--all"); code != 0 {
		w.t.Fatal(errs)
	}
	w.mustBecome()
}

func (w *world) again(signal syscall.Signal) {
	w.t.Helper()
	w.daemon.stop(w.t, signal)
	w.daemon = w.start(w.server.Command(w.t.Context(), binary, "serve", "--config", w.config()))
	w.daemon.wait(w.t, `"serving"`)
}

func (w *world) users() (all []string) {
	w.t.Helper()
	out, _, _ := w.webknock("grants", "-o", "json")
	var list struct {
		Grants []struct{ User string }
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		w.t.Fatal(err)
	}
	for _, g := range list.Grants {
		all = append(all, g.User)
	}
	return all
}

func TestACodeOpensOnceAtAnyStep(t *testing.T) {
	w := newWorld(t)
	k := newKeyring(w, "anna", "bert", "carl")
	w.serve(onetimeDoors + `
  - {name: only, steps: ["/only/{totp}"], opens: [ssh]}
  - {name: middle, steps: [/m, "/middle/{totp}/x", /n], opens: [ssh]}
  - {name: last, steps: [/l, "/last/{totp}"], opens: [ssh]}
` + k.config)
	sessions := [][]string{
		{"/only/" + k.code("anna")},
		{"/m", "/middle/" + k.code("bert") + "/x", "/n"},
		{"/l", "/last/" + k.code("carl")},
	}
	for i, session := range sessions {
		w.knock(w.alice, serverIP, session...)
		w.mustBecome("ssh " + aliceIP)
		if users := w.users(); len(users) != 1 || users[0] != []string{"anna", "bert", "carl"}[i] {
			t.Errorf("grants of %v", users)
		}
		if i == 0 { // who it was survives the daemon
			w.again(syscall.SIGKILL)
			if users := w.users(); len(users) != 1 || users[0] != "anna" {
				t.Errorf("after a restart grants of %v", users)
			}
		}
		w.settled(w.alice, "ssh "+aliceIP)
	}
	replay := func(hosts ...*lab.Host) {
		t.Helper()
		for _, from := range hosts {
			for _, session := range sessions {
				w.knock(from, serverIP, session...)
			}
			w.settled(from)
		}
	}
	replay(w.alice, w.mallory)
	w.again(syscall.SIGTERM)
	replay(w.alice, w.mallory)
	w.again(syscall.SIGKILL)
	replay(w.mallory, w.alice)
	log := strings.Join(w.daemon.lines(), "\n")
	for _, session := range sessions {
		for _, path := range session {
			if strings.Contains(log, path) {
				t.Error("a path is in the log")
			}
		}
	}
}

func TestAKilledDaemonOpensACodeAtMostOnce(t *testing.T) {
	w := newWorld(t)
	const rounds = 10
	var names []string
	for i := range rounds {
		names = append(names, fmt.Sprint("user", i))
	}
	k := newKeyring(w, names...)
	w.serve(onetimeDoors + `
  - {name: only, steps: ["/only/{totp}"], opens: [ssh]}
` + k.config)
	for _, name := range names {
		path := "/only/" + k.code(name)
		opened := 0
		for try := range 3 {
			if try < 2 { // the last look finds what came late
				w.knock(w.alice, serverIP, path)
			}
			if try == 0 { // killed at any point between receipt and opening
				for wait := time.Now().Add(time.Duration(rand.IntN(5000)) * time.Microsecond); time.Now().Before(wait); {
				}
				w.again(syscall.SIGKILL)
			}
			w.knock(w.alice, serverIP, "/plain")
			until(t, "the plain door opens", func() bool { return len(w.grants()) > 0 && w.grants()[0].Door == "plain" })
			for _, g := range w.grants() {
				if g.Door == "ssh" {
					opened++
				}
			}
			if _, errs, code := w.webknock("close", "--all"); code != 0 {
				t.Fatal(errs)
			}
		}
		if opened > 1 {
			t.Errorf("a code of %s has opened %d times", name, opened)
		}
	}
}

func TestACodeOpensOnlyForUsersOfTheSequenceAndOneUserARun(t *testing.T) {
	w := newWorld(t)
	k := newKeyring(w, "anna", "bert", "carl")
	w.serve(onetimeDoors + `
  - {name: annas, steps: [/a, "/annas/{totp}"], opens: [ssh], users: [anna]}
  - {name: two, steps: ["/one/{totp}", "/two/{ticket}"], opens: [ssh], within: 30s}
` + k.config)
	w.knock(w.alice, serverIP, "/annas/"+k.code("anna")) // nothing stands before it, so that it is not looked at
	w.knock(w.alice, serverIP, "/a", "/annas/"+k.code("bert"))
	w.settled(w.alice)
	w.knock(w.alice, serverIP, "/a", "/annas/"+k.code("anna"))
	w.mustBecome("ssh " + aliceIP)
	w.settled(w.alice, "ssh "+aliceIP)
	code := k.code("carl")
	w.knock(w.alice, serverIP, "/one/"+code, "/two/"+k.ticket("anna"))
	w.settled(w.alice)
	w.knock(w.alice, serverIP, "/one/"+code, "/two/"+k.ticket("carl"))
	w.settled(w.alice) // used before
}

func TestWrongCodesKeepOutOnlyTheirClient(t *testing.T) {
	w := newWorld(t)
	k := newKeyring(w, "anna", "bert")
	const sequences = onetimeDoors + `
  - {name: only, steps: ["/only/{totp}"], opens: [ssh]}
`
	w.serve(sequences + k.config)
	for i := range 5 { // the same one again would count as the same request
		w.knock(w.mallory, serverIP, fmt.Sprint("/only/wrong", i))
	}
	w.knock(w.mallory, serverIP, "/only/"+k.code("anna"))
	w.settled(w.mallory)
	annas := "/only/" + k.code("anna")
	w.knock(w.alice, serverIP, annas)
	w.mustBecome("ssh " + aliceIP)
	w.settled(w.alice, "ssh "+aliceIP)

	// A removed user has no valid codes. When the user is back, the used code stays used.
	reload := func(users string) {
		t.Helper()
		w.configure(sequences + users)
		if _, errs, code := w.webknock("reload"); code != 0 {
			t.Fatal(errs)
		}
	}
	reload(strings.Replace(k.config, "name: anna", "name: nora", 1))
	w.knock(w.alice, serverIP, annas)
	w.settled(w.alice)
	reload(strings.Replace(k.config, "name: bert", "name: ben", 1))
	w.knock(w.alice, serverIP, annas)
	w.settled(w.alice)
	w.knock(w.alice, serverIP, "/only/"+k.code("bert"))
	w.mustBecome("ssh " + aliceIP)
	if users := w.users(); fmt.Sprint(users) != "[ben]" {
		t.Errorf("grants of %v", users)
	}
}

func TestTicketsOfAClientInPython(t *testing.T) {
	w := newWorld(t)
	k := newKeyring(w, "anna", "bert")
	w.serve(onetimeDoors + `
  - {name: tickets, steps: ["/t/{ticket}"], opens: [ssh, web]}
  - {name: elsewhere, steps: [/e, "/e/{ticket}"], opens: [ssh], allow_address: true}
` + k.config)
	out, err := w.alice.Command(t.Context(), "/usr/bin/python3", "../docs/recipes/ticket.py", "--user", "anna", "--secret", k.file("anna"),
		"http://"+net.JoinHostPort(serverIP, "8080")+"/t/{ticket}").CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Fatalf("ticket.py: %v %s", err, out)
	}
	w.mustBecome("ssh "+aliceIP, "web "+aliceIP)
	if users := w.users(); fmt.Sprint(users) != "[anna anna]" {
		t.Errorf("grants of %v", users)
	}
	if _, errs, code := w.webknock("close", "--all"); code != 0 {
		t.Fatal(errs)
	}

	one := "/t/" + k.ticket("bert", "--door", "web", "--ttl", "7200")
	w.knock(w.alice, serverIP, one)
	w.mustBecome("web " + aliceIP)
	if r := w.grants()[0].Remaining; r < 90 || r > 120 {
		t.Errorf("%v s remain, want those of max_ttl", r)
	}
	if _, errs, code := w.webknock("close", "--all"); code != 0 {
		t.Fatal(errs)
	}
	w.knock(w.alice, serverIP, one)
	w.knock(w.mallory, serverIP, one)
	w.knock(w.alice, serverIP, "/t/"+k.ticket("anna", "--door", "plain"))
	w.knock(w.alice, serverIP, "/t/"+k.ticket("anna", "--address", malloryIP))
	w.knock(w.alice, serverIP, "/t/"+k.ticket("anna", "--time", fmt.Sprint(time.Now().Unix()-300)))
	w.settled(w.mallory)
	w.settled(w.alice)
	w.knock(w.alice, serverIP, "/e", "/e/"+k.ticket("anna", "--address", malloryIP))
	w.mustBecome("ssh " + malloryIP)
	w.daemon.wait(t, `"client":"`+aliceIP+`","user":"anna","address":"`+malloryIP+`"`)
	w.again(syscall.SIGKILL)
	w.settled(w.alice, "ssh "+malloryIP)
	w.knock(w.mallory, serverIP, one)
	w.settled(w.mallory)
}

func TestOneTimeStepsOpenNothingWhileTheStateCannotBeWritten(t *testing.T) {
	w := newWorld(t)
	k := newKeyring(w, "anna", "bert", "carl", "dora")
	state := filepath.Join(w.dir, "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", state, "tmpfs", 0, "size=64k,mode=700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(state, syscall.MNT_DETACH) })
	readOnly := func(flag uintptr) {
		t.Helper()
		until(t, "nothing is being written", func() bool {
			return syscall.Mount("tmpfs", state, "tmpfs", syscall.MS_REMOUNT|flag, "size=64k,mode=700") == nil
		})
	}
	full := filepath.Join(state, "full")
	if err := os.WriteFile(full, make([]byte, 1<<20), 0o600); err == nil {
		t.Fatal("the tmpfs is not full")
	}
	w.serve(onetimeDoors + `
  - {name: only, steps: ["/only/{totp}"], opens: [ssh]}
` + k.config)
	status := func() string {
		out, _, _ := w.webknock("status", "-o", "json")
		return out
	}
	degraded := func() bool {
		return strings.Contains(status(), `"degraded"`) && strings.Contains(status(), filepath.Join(state, "webknock.db"))
	}
	mended := func() bool { return strings.Contains(status(), `"ok"`) }
	for _, tt := range []struct {
		name, before, after string
		mend                func()
	}{
		{"full", "anna", "bert", func() {
			if err := os.Remove(full); err != nil {
				t.Fatal(err)
			}
		}},
		{"read-only", "carl", "dora", func() { readOnly(0) }},
	} {
		until(t, tt.name+": degraded", func() bool {
			if tt.name == "read-only" { // it is found out by the first code
				w.knock(w.mallory, serverIP, "/only/"+k.code(tt.before))
			}
			return degraded()
		})
		if tt.name == "full" {
			w.knock(w.alice, serverIP, "/only/"+k.code(tt.before))
		}
		w.daemon.wait(t, `"user":"`+tt.before+`"`)
		w.settled(w.alice)
		tt.mend()
		until(t, tt.name+": mended", mended)
		w.knock(w.alice, serverIP, "/only/"+k.code(tt.after))
		w.mustBecome("ssh " + aliceIP)
		w.settled(w.alice, "ssh "+aliceIP)
		if tt.name == "full" {
			readOnly(syscall.MS_RDONLY)
		}
	}
}

// Two daemons on two hosts, with one state.
func TestTwoDaemonsDoNotShareAState(t *testing.T) {
	w := newWorld(t)
	k := newKeyring(w, "anna", "bert")
	config := onetimeDoors + `
  - {name: only, steps: ["/only/{totp}"], opens: [ssh]}
` + k.config
	w.serve(config)
	file, socket := filepath.Join(w.dir, "second.yaml"), filepath.Join(w.dir, "second.sock")
	if err := os.WriteFile(file, []byte(config+"\nadmin: {socket: "+socket+"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	second := w.start(w.mallory.Command(t.Context(), binary, "serve", "--config", file))
	second.wait(t, `"serving"`)
	on := func(command string) string {
		out, _, _ := w.webknock(command, "-o", "json", "--socket", socket)
		return out
	}
	if status := on("status"); !strings.Contains(status, `"degraded"`) || !strings.Contains(status, "another webknock") {
		t.Errorf("the second says %s", status)
	}
	code := k.code("anna")
	w.knock(w.alice, malloryIP, "/only/"+code, "/plain")
	until(t, "the plain door of the second", func() bool { return strings.Contains(on("grants"), `"plain"`) })
	if strings.Contains(on("grants"), "anna") {
		t.Error("the second has opened by a code")
	}
	w.knock(w.alice, serverIP, "/only/"+code)
	w.mustBecome("ssh " + aliceIP)
	w.daemon.stop(t, syscall.SIGKILL)
	until(t, "the second has the state", func() bool { return strings.Contains(on("status"), `"ok"`) })
	w.knock(w.alice, malloryIP, "/only/"+code, "/only/"+k.code("bert"))
	until(t, "a new code opens", func() bool { return strings.Contains(on("grants"), "bert") })
	if strings.Contains(on("grants"), "anna") {
		t.Error("a used code has opened")
	}
}

// Pages reload themselves, and browsers send again what was reset.
func TestARepeatedCodeOfTheSameClientOpensNothingAndDoesNoHarm(t *testing.T) {
	w := newWorld(t)
	k := newKeyring(w, "anna")
	w.serve(onetimeDoors + `
  - {name: ticket, steps: ["/t/{ticket}"], opens: [ssh]}
  - {name: code, steps: [/a, "/k/{totp}", /b], opens: [web]}
` + k.config + "\nshield: {rate: 'off', ban: {knocks: 20}}\n")
	ticket, code := "/t/"+k.ticket("anna"), "/k/"+k.code("anna")
	w.knock(w.alice, serverIP, ticket)
	w.mustBecome("ssh " + aliceIP)
	w.settled(w.alice, "ssh "+aliceIP)
	for range 12 { // twice as many as are wrong codes that lock out, and more knocks than the ban
		w.knock(w.alice, serverIP, ticket, ticket)
	}
	w.knock(w.alice, serverIP, "/a", ticket, code, code, ticket, "/b", code)
	w.mustBecome("web " + aliceIP)
	w.settled(w.alice, "web "+aliceIP)
	w.knock(w.alice, serverIP, code, "/t/"+k.ticket("anna"))
	w.mustBecome("ssh " + aliceIP)
	if got := w.bans(); len(got) > 0 {
		t.Errorf("bans %q", got)
	}

	// From anywhere else it is wrong.
	w.settled(w.alice, "ssh "+aliceIP)
	w.knock(w.mallory, serverIP, ticket)
	w.settled(w.mallory)
	w.daemon.stop(t, syscall.SIGTERM)
	if log := strings.Join(w.daemon.lines(), "\n"); !strings.Contains(log, `"count":1`) || !strings.Contains(log, "codes or tickets that do not count") {
		t.Errorf("not one wrong code, mallory's:\n%s", log)
	}
}
