package integration

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"webknock/integration/lab"
)

// homeName leads to the server over IPv4 and IPv6, home4Name and home6Name over
// one of them alone.
const homeName, home4Name, home6Name = "home.test", "home4.test", "home6.test"

const hostsFile = "127.0.0.1 localhost\n::1 localhost\n" +
	serverIP + " " + homeName + " " + home4Name + "\n" +
	serverIP6 + " " + homeName + " " + home6Name + "\n"

// client runs the program on a host, with a home of its own.
func (w *world) client(from *lab.Host, args ...string) (stdout, stderr string, code int) {
	return w.clientWith(from, nil, "", args...)
}

func (w *world) clientWith(from *lab.Host, env []string, stdin string, args ...string) (stdout, stderr string, code int) {
	w.t.Helper()
	cmd := from.Command(w.t.Context(), binary, args...)
	cmd.Env = append(append(os.Environ(), w.clientEnv()...), env...)
	cmd.Stdin = strings.NewReader(stdin)
	var o, e strings.Builder
	cmd.Stdout, cmd.Stderr = &o, &e
	err := cmd.Run()
	if cmd.ProcessState == nil {
		w.t.Fatal(err)
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

func (w *world) clientEnv() []string {
	return []string{"HOME=" + w.dir, "XDG_CONFIG_HOME=" + w.dir + "/config", "XDG_CACHE_HOME=" + w.dir + "/cache"}
}

// profile keeps a profile of the client.
func (w *world) profile(name, text string) {
	w.t.Helper()
	if out, errs, code := w.clientWith(w.alice, nil, text, "profile", "add", name, "--replace"); code != 0 {
		w.t.Fatalf("profile add: exit %d, %s%s", code, out, errs)
	}
}

// mustKnock knocks from alice and fails unless the port that is waited for opens
// or stays shut, as wanted.
func (w *world) mustKnock(open bool, args ...string) (stdout, stderr string) {
	w.t.Helper()
	stdout, stderr, code := w.client(w.alice, append([]string{"knock"}, args...)...)
	if want := map[bool]int{true: 0, false: 1}[open]; code != want {
		w.t.Fatalf("knock %v: exit %d, want %d\n%s%s", args, code, want, stdout, stderr)
	}
	return stdout, stderr
}

const plainProfile = "servers: [http://home.test:8080]\nsteps: [/a, /b, /c]\nwait: home.test:22\n"

func TestKnockOpensForBothFamilies(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(standard)
	w.profile("home", plainProfile)
	out, _ := w.mustKnock(true, "home")
	w.mustBecome("ssh "+aliceIP, "ssh "+aliceIP6)
	for _, want := range []string{aliceOver(serverIP), aliceOver(serverIP6), "home.test:22 is open"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	for _, secret := range []string{"/a", "/b", "/c"} {
		if strings.Contains(out, secret) {
			t.Errorf("the path %s is printed:\n%s", secret, out)
		}
	}
	w.mustPass(w.mallory, serverIP, 22, false)
}

// aliceOver is how a table begins a row of knocks that were reset.
func aliceOver(address string) string {
	return address + strings.Repeat(" ", len(serverIP)-min(len(address), len(serverIP)))
}

func TestKnockOverOneFamilyOpensForThatAlone(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(standard)
	w.profile("home", plainProfile)
	w.mustKnock(true, "home", "-4")
	w.mustHold("ssh " + aliceIP)
	if _, errs, code := w.client(w.alice, "knock", "home", "-4", "-6"); code != 2 || !strings.Contains(errs, "exclude each other") {
		t.Errorf("-4 -6: exit %d, %s", code, errs)
	}
	// Servers of one family alone.
	for name, want := range map[string]string{home4Name: aliceIP, home6Name: aliceIP6} {
		w.webknock("close", "--all")
		w.profile("one", strings.ReplaceAll(plainProfile, homeName, name))
		w.mustKnock(true, "one")
		w.mustHold("ssh " + want)
	}
	// The door is shut on the other family, and the reason is told.
	w.webknock("close", "--all")
	_, errs := w.mustKnock(false, "home", "-4", "--wait", home6Name+":22", "--timeout", "2s")
	if !strings.Contains(errs, "no knock went over ipv6") {
		t.Errorf("the other family is not named:\n%s", errs)
	}
}

func TestKnockRequestsURLs(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(standard)
	base := "http://" + net.JoinHostPort(serverIP, "8080")
	w.mustKnock(true, base+"/a", base+"/b", base+"/c", "--wait", serverIP+":22")
	w.webknock("close", "--all")
	_, errs := w.mustKnock(false, base+"/a", base+"/c", base+"/b", "--wait", serverIP+":22", "--timeout", "2s")
	if !strings.Contains(errs, "paths, their order or their times may be wrong") {
		t.Errorf("no reason is given:\n%s", errs)
	}
	if _, errs, code := w.client(w.alice, "knock", base+"/a", "http://other.test/b"); code != 2 || !strings.Contains(errs, "two servers") {
		t.Errorf("two servers: exit %d, %s", code, errs)
	}
}

func TestEachOfSeveralServersGetsEveryKnock(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(strings.Replace(standard, `- address: ":8080"`, `- address: "`+serverIP+`:8080"
  - address: "[`+serverIP6+`]:8081"`, 1))
	w.profile("home", "servers: [http://"+serverIP+":8080, 'http://["+serverIP6+"]:8081', http://"+serverIP+":9]\nsteps: [/a, /b, /c]\nwait: home.test:22\n")
	out, _ := w.mustKnock(true, "home") // although one of them cannot be reached
	// Where nothing is waited for, every server has to be reached.
	w.profile("all", "servers: [http://"+serverIP+":8080, http://"+serverIP+":9]\nsteps: [/a, /b, /c]\n")
	w.mustKnock(false, "all")
	w.mustBecome("ssh "+aliceIP, "ssh "+aliceIP6)
	for _, want := range []string{"http://" + serverIP + ":8080", "http://[" + serverIP6 + "]:8081", "refused"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
}

func TestKnockPrintsJSON(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(standard)
	w.profile("home", plainProfile)
	out, _ := w.mustKnock(true, "home", "-o", "json")
	var r struct {
		Open   bool
		Wait   string
		Knocks []struct {
			Server, Family, Address, Outcome string
			Step                             int
		}
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil || !r.Open || r.Wait != "home.test:22" || len(r.Knocks) != 6 || r.Knocks[0].Outcome != "reset" {
		t.Errorf("%v in\n%s", err, out)
	}
}

func TestKnockSaysWhyAServerCannotBeReached(t *testing.T) {
	w := newWorld(t)
	for name, tt := range map[string]struct{ url, want string }{
		"nobody listens": {"http://" + serverIP + ":9/a", "nobody listens where a knock went"},
		"no address":     {"http://nowhere.test/a", "has no address here"},
		"no route":       {"http://192.0.2.1/a", "no route to a server"},
	} {
		_, errs := w.mustKnock(false, tt.url, "--timeout", "3s")
		if !strings.Contains(errs, tt.want) {
			t.Errorf("%s: no %q in\n%s", name, tt.want, errs)
		}
	}
}

func TestAProfileThatOthersCanReadIsRefused(t *testing.T) {
	w := newWorld(t)
	w.profile("home", plainProfile)
	path := filepath.Join(w.dir, "config", "webknock", "profiles", "home.yaml")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, errs := w.mustKnock(false, "home"); !strings.Contains(errs, "can be read by others") || !strings.Contains(errs, "chmod 600") {
		t.Errorf("the error is\n%s", errs)
	}
}

const oneTimeSequences = onetimeDoors + `
  - {name: totp, steps: [/k, "/k/{totp}"], opens: [ssh]}
  - {name: ticket, steps: ["/t/{ticket}"], opens: [ssh, web]}
`

// enroll makes a profile on the server and keeps it on the client.
func (w *world) enroll(sequence string, more string, args ...string) {
	w.t.Helper()
	args = append([]string{"enroll", sequence, "--host", "http://" + homeName + ":8080"}, args...)
	out, errs, code := w.webknock(args...)
	if code != 0 {
		w.t.Fatalf("enroll: exit %d, %s", code, errs)
	}
	w.profile(sequence, out+more)
}

func TestAnEnrolledClientKnocksWithTickets(t *testing.T) {
	w := newWorld(t)
	k := newKeyring(w, "alice", "bob")
	w.listen(22)
	w.serve(oneTimeSequences + k.config)
	if _, errs, code := w.webknock("enroll", "ticket"); code != 1 || !strings.Contains(errs, "several users") {
		t.Errorf("enroll for nobody: exit %d, %s", code, errs)
	}
	w.enroll("ticket", "doors: [web]\nttl: 90s\n", "--user", "bob")
	w.mustKnock(false, "ticket", "--timeout", "2s") // it asks for web alone, and waits for ssh
	w.mustHold("web "+aliceIP, "web "+aliceIP6)
	for _, g := range w.grants() {
		if g.Remaining < 80 || g.Remaining > 90 {
			t.Errorf("%s runs for %v s, want 90", g.Client, g.Remaining)
		}
	}
	w.enroll("ticket", "", "--user", "bob")
	out, errs := w.mustKnock(true, "ticket")
	if strings.Contains(out+errs, k.secrets["bob"]) {
		t.Error("the secret is printed")
	}
}

func TestAnEnrolledClientKnocksPlainStepsAndHashes(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(strings.Replace(standard, "steps: [/a, /b, /c]", "steps: [/a, \"sha256:"+fmt.Sprintf("%x", sha256.Sum256([]byte("/b")))+"\", {path: /c, method: POST, query: {K: v}}]", 1))
	args := []string{"enroll", "ssh", "--host", "http://" + homeName + ":8080", "--config", w.config()}
	if _, errs, code := w.clientWith(w.server, nil, "/wrong\n", args...); code != 1 || !strings.Contains(errs, "step 2: that is not the path of the hash") {
		t.Errorf("another path: exit %d, %s", code, errs)
	}
	out, errs, code := w.clientWith(w.server, nil, "/b\n", args...)
	if code != 0 {
		t.Fatalf("enroll: exit %d, %s", code, errs)
	}
	w.profile("home", out)
	w.mustKnock(true, "home")
	w.mustHold("ssh "+aliceIP, "ssh "+aliceIP6)
}

func TestATOTPCodeIsSpentOnTheOtherFamilyOnlyIfNeedBe(t *testing.T) {
	w := newWorld(t)
	k := newKeyring(w, "alice")
	w.listen(22)
	w.serve(oneTimeSequences + k.config)
	w.enroll("totp", "")
	// What is waited for is reached over IPv4 alone, so the second family is
	// knocked as well, with the next code.
	w.mustKnock(true, "totp", "--wait", home4Name+":22")
	w.mustHold("ssh "+aliceIP, "ssh "+aliceIP6)
	// Each knock uses up at least one code, and at most two count at a time: one of
	// the next knocks, or the one after it if a new half minute has begun, has none.
	var errs string
	for range 4 {
		var code int
		if _, errs, code = w.client(w.alice, "knock", "totp", "--timeout", "1s"); code == 1 {
			break
		}
	}
	if !strings.Contains(errs, "the next one-time code counts only at") {
		t.Errorf("the codes do not run out: %s", errs)
	}
	if strings.Contains(errs, k.secrets["alice"]) {
		t.Error("the secret is printed")
	}
}

func TestATOTPCodeIsNotSpentOnTheOtherFamilyInVain(t *testing.T) {
	w := newWorld(t)
	k := newKeyring(w, "alice")
	w.listen(22)
	w.serve(oneTimeSequences + k.config)
	w.enroll("totp", "")
	w.mustKnock(true, "totp")
	w.mustHold("ssh " + aliceIP6)
}

func TestSSHThroughConnect(t *testing.T) {
	w := newWorld(t)
	w.sshd()
	w.serve(standard)
	w.profile("home", plainProfile)
	out, errs, code := w.client(w.alice, "ssh-config", "home")
	if code != 0 {
		t.Fatalf("ssh-config: exit %d, %s", code, errs)
	}
	config := filepath.Join(w.dir, "ssh_config")
	options := fmt.Sprintf("StrictHostKeyChecking no\nUserKnownHostsFile %s/known\nBatchMode yes\nIdentityFile %s/key\nUser root\nLogLevel ERROR\n", w.dir, w.dir)
	block, exec, _ := strings.Cut(out, "\n# Or,")
	exec = strings.ReplaceAll(exec[strings.Index(exec, "# Match"):], "# ", "")
	for name, text := range map[string]string{"ProxyCommand": block, "Match exec": strings.ReplaceAll(exec, "#  ", "  ")} {
		t.Run(name, func(t *testing.T) {
			w.webknock("close", "--all")
			if err := os.WriteFile(config, []byte(options+text), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, door := range []string{"shut", "open"} {
				cmd := w.alice.Command(t.Context(), "ssh", "-F", config, "home", "echo hello; cat")
				cmd.Env = append(append(os.Environ(), w.clientEnv()...), "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"))
				cmd.Stdin = strings.NewReader("and back")
				if out, err := cmd.CombinedOutput(); err != nil || string(out) != "hello\nand back" {
					t.Errorf("door %s: %v, %q\n%s", door, err, out, text)
				}
			}
		})
	}
	// Where the port answers already nobody knocks.
	w.mustBecome("ssh "+aliceIP, "ssh "+aliceIP6)
}

func TestConnectSaysWhyADoorDoesNotOpen(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(standard)
	w.profile("wrong", strings.Replace(plainProfile, "/c", "/x", 1))
	out, errs, code := w.client(w.alice, "connect", "wrong", homeName, "22", "--timeout", "2s")
	if code != 1 || out != "" || !strings.Contains(errs, "does not answer") || !strings.Contains(errs, "order") {
		t.Errorf("exit %d, %q, %s", code, out, errs)
	}
}

func TestKnockSaysThatTheClocksDiffer(t *testing.T) {
	w := newWorld(t)
	k := newKeyring(w, "alice")
	err := w.server.Do(func() error {
		l, err := net.Listen("tcp", ":8080")
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", time.Now().Add(7*time.Minute).UTC().Format(http.TimeFormat))
			w.WriteHeader(http.StatusNotFound)
		}))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	w.profile("home", "servers: [http://home4.test:8080]\nsteps: [\"/t/{ticket}\"]\nuser: alice\nwait: home4.test:22\nsecret: "+k.secrets["alice"]+"\n")
	if _, errs := w.mustKnock(false, "home", "--timeout", "2s"); !strings.Contains(errs, "clock differs from the server's by about 7m0s") {
		t.Errorf("the clocks are not named:\n%s", errs)
	}
}

// BenchmarkSSH measures the time until a command over ssh has printed its output: to a port
// without a guard, and with webknock connect to an open door and to a closed one.
func BenchmarkSSH(b *testing.B) {
	w := worldOf(b)
	w.sshd()
	config := filepath.Join(w.dir, "ssh_config")
	ssh := func(b *testing.B, before func(), proxy string) {
		text := fmt.Sprintf("StrictHostKeyChecking no\nUserKnownHostsFile %s/known\nBatchMode yes\nIdentityFile %s/key\nUser root\nLogLevel ERROR\nHostName %s\n%s\n", w.dir, w.dir, homeName, proxy)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			b.StopTimer()
			before()
			b.StartTimer()
			cmd := w.alice.Command(b.Context(), "ssh", "-F", config, "home", "true")
			cmd.Env = append(append(os.Environ(), w.clientEnv()...), "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"))
			if out, err := cmd.CombinedOutput(); err != nil {
				b.Fatalf("%v: %s", err, out)
			}
		}
	}
	w.profile("home", plainProfile)
	b.Run("plain", func(b *testing.B) { ssh(b, func() {}, "") })
	w.serve(standard)
	connect := "ProxyCommand webknock connect home %h %p"
	b.Run("connect to an open door", func(b *testing.B) {
		ssh(b, func() { w.knock(w.alice, serverIP6, "/a", "/b", "/c"); w.knock(w.alice, serverIP, "/a", "/b", "/c") }, connect)
	})
	b.Run("connect to a shut door", func(b *testing.B) { ssh(b, func() { w.webknock("close", "--all") }, connect) })
}

// proxies runs an HTTP proxy and a SOCKS proxy on mallory's host.
func (w *world) proxies() (http, socks string) {
	w.t.Helper()
	config := filepath.Join(w.dir, "tinyproxy.conf")
	text := "Port 8888\nListen " + malloryIP + "\nTimeout 20\nMaxClients 20\nConnectPort 8443\nAllow 10.20.0.0/24\nBasicAuth ann password\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.start(w.mallory.Command(w.t.Context(), "tinyproxy", "-d", "-c", config))
	w.start(w.mallory.Command(w.t.Context(), "/usr/sbin/sshd", "-D", "-e", "-f", filepath.Join(w.dir, "sshd_config"), "-p", "2222")).wait(w.t, "Server listening on 0.0.0.0")
	// ssh -D on alice's host is the SOCKS proxy, whose connections come from mallory's.
	w.start(w.alice.Command(w.t.Context(), "ssh", "-F", "none", "-N", "-D", "127.0.0.1:1080", "-p", "2222", "-i", filepath.Join(w.dir, "key"),
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile="+filepath.Join(w.dir, "known2"), "-o", "BatchMode=yes", "root@"+malloryIP))
	until(w.t, "the proxies listen", func() bool {
		return w.passes(w.alice, malloryIP, 8888) && w.passes(w.alice, "127.0.0.1", 1080)
	})
	return "http://ann:password@" + malloryIP + ":8888", "socks5://127.0.0.1:1080"
}

func TestKnockThroughProxies(t *testing.T) {
	w := newWorld(t)
	w.sshd()
	w.certificate("IP:" + serverIP)
	w.serve(strings.Replace(standard, `- address: ":8080"`, fmt.Sprintf(`- address: ":8080"
  - {address: ":8443", tls: {certificate: %[1]s/cert.pem, key: %[1]s/key.pem}}`, w.dir), 1))
	http, socks := w.proxies()
	for name, tt := range map[string]struct {
		server string
		env    []string
		more   string
	}{
		"plain, by an HTTP proxy":          {"http://" + serverIP + ":8080", []string{"http_proxy=" + http}, ""},
		"TLS, by an HTTP proxy":            {"https://" + serverIP + ":8443", []string{"HTTPS_PROXY=" + http}, "ca: " + w.dir + "/cert.pem\n"},
		"plain, by SOCKS":                  {"http://" + serverIP + ":8080", []string{"ALL_PROXY=" + socks}, ""},
		"TLS, by SOCKS":                    {"https://" + serverIP + ":8443", []string{"ALL_PROXY=" + socks}, "ca: " + w.dir + "/cert.pem\n"},
		"by the proxy of the profile":      {"http://" + serverIP + ":8080", nil, "proxy: " + socks + "\n"},
		"around the proxy, by NO_PROXY":    {"http://" + serverIP + ":8080", []string{"ALL_PROXY=" + socks, "NO_PROXY=" + serverIP}, ""},
		"around the proxy, by the profile": {"http://" + serverIP + ":8080", []string{"http_proxy=" + http}, "proxy: none\n"},
	} {
		t.Run(name, func(t *testing.T) {
			w.webknock("close", "--all")
			w.mustBecome()
			w.profile("home", "servers: ["+tt.server+"]\nsteps: [/a, /b, /c]\n"+tt.more)
			out, errs, code := w.clientWith(w.alice, tt.env, "", "knock", "home")
			if code != 0 {
				t.Fatalf("exit %d\n%s%s", code, out, errs)
			}
			want := "ssh " + malloryIP
			if strings.HasPrefix(name, "around") {
				want = "ssh " + aliceIP
			}
			w.mustBecome(want)
		})
	}
	_, errs, code := w.clientWith(w.alice, []string{"http_proxy=" + strings.Replace(http, "ann:password@", "", 1)}, "", "knock", "http://"+serverIP+":8080/a")
	if code != 1 || !strings.Contains(errs, "a proxy does not let the knock through") {
		t.Errorf("without the proxy's password: exit %d, %s", code, errs)
	}
	// What is waited for is not open for alice, and she is told why.
	w.profile("home", "servers: [http://"+serverIP+":8080]\nsteps: [/a, /b, /c]\nwait: "+serverIP+":22\n")
	w.webknock("close", "--all")
	_, errs, code = w.clientWith(w.alice, []string{"http_proxy=" + http}, "", "knock", "home", "--timeout", "2s")
	if code != 1 || !strings.Contains(errs, "the door opens for the proxy's address") {
		t.Errorf("exit %d, %s", code, errs)
	}
	_, errs, code = w.clientWith(w.alice, []string{"HTTPS_PROXY=" + http}, "", "knock", "https://"+serverIP+":9443/a", "--timeout", "4s")
	if code != 1 || !strings.Contains(errs, "a proxy does not let the knock through") {
		t.Errorf("a port that the proxy refuses: exit %d, %s", code, errs)
	}
}

func TestKnockTrustsAPinAlone(t *testing.T) {
	w := newWorld(t)
	w.certificate("IP:" + serverIP)
	w.listen(22)
	w.serve(strings.Replace(standard, `- address: ":8080"`, fmt.Sprintf(`- {address: ":8443", tls: {certificate: %[1]s/cert.pem, key: %[1]s/key.pem}}`, w.dir), 1))
	out, err := exec.Command("sh", "-c", "openssl x509 -in "+w.dir+"/cert.pem -pubkey -noout | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64").Output()
	if err != nil {
		t.Fatal(err)
	}
	profile := "servers: [https://" + serverIP + ":8443]\nsteps: [/a, /b, /c]\nwait: " + serverIP + ":22\n"
	w.profile("home", profile)
	if _, errs := w.mustKnock(false, "home", "--timeout", "3s"); !strings.Contains(errs, "certificate is not trusted") {
		t.Errorf("a certificate that nobody knows: %s", errs)
	}
	w.profile("home", profile+"pin: sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n")
	w.mustKnock(false, "home", "--timeout", "3s")
	w.mustHold()
	w.profile("home", profile+"pin: sha256//"+strings.TrimSpace(string(out))+"\n")
	w.mustKnock(true, "home")
}

func TestWatchKnocksAgainBeforeTheGrantEnds(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(strings.Replace(standard, "ttl: 30s", "ttl: 3s", 1))
	w.profile("home", plainProfile)
	cmd := w.alice.Command(t.Context(), binary, "knock", "home", "--watch", "--ttl", "3s", "-o", "json")
	cmd.Env = append(os.Environ(), w.clientEnv()...)
	w.start(cmd)
	w.mustBecome("ssh "+aliceIP, "ssh "+aliceIP6)
	for range 3 {
		w.daemon.wait(t, `"grant extended","door":"ssh","client":"`+aliceIP+`"`)
	}
	// A new address is knocked from at once.
	if err := w.alice.Run("ip", "address", "add", "10.20.0.77/24", "dev", "eth0"); err != nil {
		t.Fatal(err)
	}
	if err := w.alice.Run("ip", "route", "change", "10.20.0.0/24", "dev", "eth0", "src", "10.20.0.77"); err != nil {
		t.Fatal(err)
	}
	w.daemon.wait(t, `"grant opened","door":"ssh","client":"10.20.0.77"`)
}
